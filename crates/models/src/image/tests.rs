use burn::{
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use regard::{ImageMixerConfig, MixerConfig};
use regard_testkit::{assert_close, cpu, relative_error};

use super::*;
use crate::ModelConfig;

fn named(kinds: &[&str]) -> Vec<MapMixerConfig> {
    kinds.iter().map(|kind| MapMixerConfig::named(kind, 2).unwrap()).collect()
}

/// A network whose mixers matter: their weights are drawn large.
fn config(kinds: &[&str]) -> ImageConfig {
    ImageConfig { init_std: Some(0.3), d_ff: 16, ..ImageConfig::new([3, 18, 21], 16, 2, named(kinds), 5) }
}

fn images(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

#[test]
fn every_kind_of_mixer_is_trained_in_it_and_tells_of_every_corner() {
    let device = cpu().autodiff();
    for kind in MapMixerConfig::KINDS {
        device.seed(1);
        let model = config(&[kind]).init(&device).unwrap();
        let x = images([2, 3, 18, 21], &device).require_grad();
        let logits = model.forward(x.clone()).unwrap();
        assert_eq!(logits.dims(), [2, 5], "{kind}");
        let grads = (logits.clone() * logits.detach()).sum().backward();
        let grad = x.grad(&grads).unwrap();
        for [row, column] in [[0, 0], [17, 20], [0, 20], [17, 0]] {
            let corner = grad.clone().narrow(2, row, 1).narrow(3, column, 1).abs().sum().into_scalar::<f32>();
            assert!(corner > 0.0 && corner.is_finite(), "{kind}: the pixel {row}, {column} has no influence");
        }
    }
}

#[test]
fn stages_and_stems_halve_maps_alike() {
    for (stem, kinds) in [(StemKind::Patch, &["halo", "conv"]), (StemKind::Conv, &["conv", "strip"])] {
        let device = cpu();
        device.seed(2);
        let config = ImageConfig { stem, patch: 4, widths: vec![8, 12, 16], depths: vec![1, 2, 1], ..config(kinds) };
        let model = config.init(&device).unwrap();
        assert_eq!(model.positions.as_ref().unwrap().dims(), [5, 6, 8]);
        assert_eq!(model.forward(images([1, 3, 18, 21], &device)).unwrap().dims(), [1, 5]);
        let ModelConfig::Image(again) = serde_json::from_str(&serde_json::to_string(&ModelConfig::from(config.clone())).unwrap()).unwrap()
        else {
            panic!("another kind")
        };
        assert_eq!(again, config);
    }
}

#[test]
fn a_row_of_sequence_layers_that_are_causal_only_sees_both_ways() {
    let device = cpu();
    for kind in ["lightning", "kimi_delta"] {
        device.seed(3);
        let moved = |layers| {
            let model = ImageConfig { depths: vec![layers], ..config(&[kind]) }.init(&device).unwrap();
            let x = images([1, 3, 18, 21], &device);
            let mut tokens = model.stem.forward(x);
            let last = tokens.clone();
            let mut other = last.clone().slice_assign([0..1, 8..9, 10..11, 0..16], Tensor::ones([1, 1, 1, 16], &device));
            for block in &model.stages[0].blocks {
                let ImageBlock::Mixer(block) = block else { unreachable!() };
                (tokens, other) = (block.forward(tokens), block.forward(other));
            }
            // The tokens of the last row before the one that is another.
            let before = |x: Tensor<4>| x.narrow(1, 8, 1).narrow(2, 0, 10);
            relative_error(&before(other), &before(tokens))
        };
        assert!(moved(1) < 2e-5, "{kind}: the first layer goes forwards");
        assert!(moved(2) > 1e-3, "{kind}: the second goes backwards");
    }
}

#[test]
fn batch_norms_use_the_batch_in_training_and_what_they_remember_otherwise_and_count_no_memory_as_weights() {
    let device = cpu().autodiff();
    device.seed(4);
    let model = ImageConfig { positions: MapPositions::None, ..config(&["conv"]) }.init(&device).unwrap();
    let weights = |side: usize, from: usize, to: usize| side * side * from * to;
    let block = 2 * weights(3, 16, 16) + 4 * 16;
    assert_eq!(model.params(), weights(2, 3, 16) + 16 + 2 * block + 2 * 16 + 16 * 5 + 5);
    let x = images([4, 3, 18, 21], &device) * 3.0 + 1.0;
    let first = model.valid().forward(x.clone().inner()).unwrap();
    let trained = model.forward(x.clone()).unwrap().inner();
    assert!(relative_error(&first, &trained) > 1e-2, "the statistics before training are others");
    for _ in 0..200 {
        model.forward(x.clone()).unwrap();
    }
    let remembered = model.valid().forward(x.inner()).unwrap();
    assert_close("after many batches", &remembered, &trained, 0.05);
}

#[test]
fn what_does_not_go_together_is_said() {
    let message = |config: ImageConfig| config.init(&Device::flex()).unwrap_err().to_string();
    assert_eq!(message(ImageConfig::open(16, 1, named(&["halo"]))), "image: `image` must be at least 1, got 0");
    let small = ImageConfig::new([1, 10, 10], 16, 1, named(&["neighborhood"]), 2);
    let map = message(ImageConfig { patch: 2, ..small.clone() });
    assert!(map.starts_with("neighborhood: `") && map.contains('5'), "{map}");
    let heads = vec![MapMixerConfig::named("window", 3).unwrap()];
    assert_eq!(message(ImageConfig { mixers: heads, ..small.clone() }), "window: `heads` must be a divisor of d_model = 16, got 3");
    assert_eq!(message(ImageConfig { depths: vec![1, 1], ..small.clone() }), "image: `depths` must be one for each of 1 stages, got 2");
    let stem = ImageConfig { stem: StemKind::Conv, patch: 3, ..config(&["channel"]) };
    assert_eq!(message(stem), "image: `patch` must be a power of two for a stem of convolutions, got 3");
    let even = ImageConfig { mixers: vec![MapMixerConfig::Conv(ConvConfig { kernel: 4 })], ..small.clone() };
    assert_eq!(message(even), "conv: `kernel` must be odd, got 4");
    let model = config(&["channel"]).init(&cpu()).unwrap();
    let error = model.forward(images([1, 1, 18, 21], &cpu())).unwrap_err().to_string();
    assert_eq!(error, "image: `images` must be of shape [B, 3, 18, 21], got [1, 1, 18, 21]");
}

#[test]
fn kinds_of_mixers_are_read_by_name() {
    for kind in MapMixerConfig::KINDS {
        let config = MapMixerConfig::named(kind, 2).unwrap();
        assert_eq!(config.kind(), *kind);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MapMixerConfig>(&text).unwrap(), config);
    }
    assert_eq!(MapMixerConfig::KINDS.len(), ImageMixerConfig::KINDS.len() + MixerConfig::KINDS.len() + 1);
    let message = |text| serde_json::from_str::<MapMixerConfig>(text).unwrap_err().to_string();
    assert!(message(r#"{"kind": "hallo"}"#).starts_with("unknown variant `hallo`, expected one of `bi_level_routing`, `channel`"));
    assert_eq!(message(r#"{"heads": 2}"#), "missing field `kind`");
    assert!(message(r#"{"kind": "conv", "heads": 2}"#).starts_with("unknown field `heads`"));
    assert!(message(r#"{"kind": "window", "heads": "x"}"#).starts_with("`heads`: invalid type"));
}

#[test]
fn the_usual_patch_leaves_at_most_16_rows_and_columns() {
    for (side, patch) in [(1, 1), (16, 1), (17, 2), (28, 2), (32, 2), (33, 4), (64, 4), (224, 16)] {
        assert_eq!(ImageConfig::usual_patch([side, 1]), patch, "{side}");
    }
}
