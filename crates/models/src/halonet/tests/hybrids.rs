//! Hybrids beside timm's: `timm_hybrid_*.pt` hold the weights of small networks of timm 1.0.31 (`ByobNet`), an image, and the logits that
//! timm computes in f64.

use std::path::{Path, PathBuf};

use burn::{
    store::{ModuleStore, PytorchStore, bridge},
    tensor::Tensor,
};
use regard::halo_attention::HaloAttentionConfig;
use regard_testkit::{assert_close, cpu};

use crate::{
    halonet::{GateKind, HaloMixer, HaloNetConfig, HaloStageConfig, NAMES},
    vision::Activation,
    weights::{Checkpoint, read},
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/halonet/tests/timm_hybrid_{name}.pt"))
}

fn tensor<const D: usize>(path: &Path, name: &str) -> Tensor<D> {
    let mut store = PytorchStore::from_file(path);
    let stored = store.get_tensor(name).unwrap().expect(name).clone();
    Tensor::from_data(bridge::to_data(&stored).unwrap(), &cpu())
}

/// Three stages: a convolution; a convolution and attention; attention.
fn config(groups: usize, attention: &HaloAttentionConfig) -> HaloNetConfig {
    let stage = |width: usize, stride, blocks| HaloStageConfig {
        stride,
        blocks,
        groups,
        attention: attention.clone(),
        ..HaloStageConfig::new(width, width / 2, 1, attention.heads)
    };
    let stages = vec![
        stage(16, 1, vec![HaloMixer::Conv]),
        stage(32, 2, vec![HaloMixer::Conv, HaloMixer::Attention]),
        stage(32, 2, vec![HaloMixer::Attention]),
    ];
    let config = HaloNetConfig::new(16, stages, 5);
    HaloNetConfig { stem: vec![6, 8, 16], stem_kernel: 3, activation: Activation::Silu, ..config }
}

fn check(name: &str, config: &HaloNetConfig) {
    let path = file(name);
    let (model, report) = read(config.init(&cpu()).unwrap(), &NAMES, &Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(report.extra, ["x", "y"], "every tensor of the network is used");
    assert_close("logits", &model.forward(tensor(&path, "x")).unwrap(), &tensor(&path, "y"), 1e-5);
}

#[test]
fn a_hybrid_with_squeeze_and_excitation_computes_what_timms_does() {
    let attention = HaloAttentionConfig { block: 4, halo: 1, ..HaloAttentionConfig::new(4) };
    check("se", &HaloNetConfig { stem_pool: false, gate: GateKind::SqueezeExcite, features: 24, ..config(1, &attention) });
}

#[test]
fn a_hybrid_with_efficient_channel_attention_computes_what_timms_does() {
    let attention = HaloAttentionConfig { block: 4, halo: 1, qkv_bias: true, scaled_positions: true, ..HaloAttentionConfig::new(2) };
    let mut config = HaloNetConfig { gate: GateKind::Efficient, ..config(1, &attention) };
    for stage in &mut config.stages {
        // Groups of four channels, as timm counts them.
        (stage.groups, stage.key) = (stage.inner / 4, Some(3));
    }
    check("eca", &config);
}
