use burn::{
    module::Param,
    nn::BatchNorm,
    tensor::{Tensor, TensorData},
};
use regard_testkit::{Case, run};

use crate::{
    SpatialMixer,
    strip_attention::{HybridPerceptionConfig, LocalInteractionConfig, StripAttention, StripAttentionConfig},
};

#[test]
fn goldens_of_s2aformer_pass() {
    run("s2aformer", &["layer."], &[("layer.ssa", golden_attention), ("layer.lim", golden_interaction), ("layer.hpb", golden_block)]);
}

/// Files hold channels first.
fn map(case: &Case) -> Tensor<4> {
    case.float::<4>("in.x").permute([0, 2, 3, 1])
}

fn check(case: &Case, y: Tensor<4>) {
    case.output("y", y.permute([0, 3, 1, 2]));
}

/// With the statistics of the file, which are those of training.
fn evaluating(case: &Case, norm: &mut BatchNorm) {
    assert_eq!(case.text("bn"), "eval");
    assert!((norm.epsilon - case.number("bn_eps")).abs() < 1e-12);
    norm.training = Param::from_bool(false);
}

fn config(case: &Case) -> StripAttentionConfig {
    let strip = case.size("qk_width");
    assert!((case.number("scale") - 1.0 / (strip as f64).sqrt()).abs() < 1e-12, "the usual scale");
    StripAttentionConfig { strip, reduction: case.size("sr"), ..StripAttentionConfig::new(case.size("heads")) }
}

fn golden_attention(case: &Case) {
    for interpolate in [None, Some(1e-6)] {
        let layer = StripAttentionConfig { interpolate, ..config(case) }.init(case.size("dim"), case.device()).unwrap();
        let mut layer: StripAttention = case.load(layer, &[]);
        if let Some(norm) = &mut layer.reduce_norm {
            evaluating(case, norm);
        }
        check(case, layer.forward(map(case)));
        case.again();
    }
}

fn golden_interaction(case: &Case) {
    let module = LocalInteractionConfig { channels: case.size("dim") }.init(case.device()).unwrap();
    let mut module = case.load(module, &[]);
    evaluating(case, &mut module.bn);
    check(case, module.forward(map(case)));
}

fn golden_block(case: &Case) {
    let dim = case.size("dim");
    let config = HybridPerceptionConfig {
        d_ff: (case.number("mlp_ratio") * dim as f64) as usize,
        norm_epsilon: case.number("ln_eps"),
        ..HybridPerceptionConfig::new(config(case), dim)
    };
    let mut block = case.load(config.init(dim, case.device()).unwrap(), &[("mlp.up.", "mlp.fc1."), ("mlp.down.", "mlp.fc2.")]);
    evaluating(case, &mut block.lim.bn);
    if let Some(norm) = &mut block.ssa.reduce_norm {
        evaluating(case, norm);
    }
    check(case, block.forward(map(case)));
}

#[test]
fn a_map_of_one_key_gives_the_same_everywhere_and_no_gradient_to_queries() {
    let device = regard_testkit::cpu().autodiff();
    let layer = StripAttentionConfig { reduction: 4, ..StripAttentionConfig::new(2) }.init(4, &device).unwrap();
    let values: Vec<f32> = (0..36).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Tensor::<4>::from_data(TensorData::new(values, [1, 3, 3, 4]), &device);
    // One token in the batch of the norm has no variance: statistics as of training.
    let mut layer = layer;
    layer.reduce_norm.as_mut().unwrap().training = Param::from_bool(false);
    let y = layer.forward(x);
    let first = y.clone().narrow(1, 0, 1).narrow(2, 0, 1).expand([1, 3, 3, 4]);
    assert!((y.clone() - first).abs().max().into_scalar::<f32>() < 1e-6);
    let grads = y.square().sum().backward();
    let gradient = layer.q.weight.val().grad(&grads).unwrap();
    assert!(gradient.abs().max().into_scalar::<f32>() < 1e-6);
}
