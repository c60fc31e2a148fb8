use burn::{module::Module, tensor::Tensor};
use regard_testkit::{assert_close, cpu, relative_error};

use super::{VitConfig, VitNames};
use crate::vision::testing::{images, is_empty, round_trip};

#[test]
fn named_networks_have_the_published_numbers_of_weights_and_operations_and_none_is_made() {
    for (name, weights, operations) in [("deit_tiny", 5_717_416, 1.3), ("deit_small", 22_050_664, 4.6), ("deit_base", 86_567_656, 17.6)] {
        let model = VitConfig::named(name).expect(name).skeleton(&cpu()).unwrap();
        assert_eq!(model.num_params(), weights, "{name}");
        assert!(is_empty(&model), "{name}");
        let counted = model.multiply_adds() / 1e9;
        assert!((counted - operations).abs() < 0.05, "{name}: {counted}");
    }
    assert_eq!(VitConfig::NAMES.len(), 3);
    assert_eq!(VitConfig::named("deit_huge"), None);
}

fn tiny() -> VitConfig {
    VitConfig { patch: 4, ..VitConfig::new(12, 8, 2, 2, 5) }
}

#[test]
fn weights_come_back_under_timms_names() {
    let model = tiny().init(&cpu()).unwrap();
    let (back, names) = round_trip(&model, tiny().skeleton(&cpu()).unwrap(), &VitNames);
    let of_block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];
    let blocks = (0..2).flat_map(|i| of_block.map(|part| format!("blocks.{i}.{part}")));
    let layers = blocks.chain(["patch_embed.proj", "norm", "head"].map(Into::into));
    let mut want: Vec<String> = layers.flat_map(|layer| ["weight", "bias"].map(|field| format!("{layer}.{field}"))).collect();
    want.extend(["cls_token".into(), "pos_embed".into()]);
    want.sort();
    assert_eq!(names, want);
    let x = images([2, 3, 12, 12]);
    assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 0.0);
}

/// Tokens are told apart by their positions alone: without them, patches may change places.
#[test]
fn patches_may_change_places_unless_there_are_position_vectors() {
    let mut model = tiny().init(&cpu()).unwrap();
    let x = images([1, 3, 12, 12]);
    let turned = x.clone().narrow(2, 0, 4);
    let turned = Tensor::cat(vec![x.clone().narrow(2, 4, 8), turned], 2);
    let moved = |model: &super::Vit| relative_error(&model.forward(turned.clone()).unwrap(), &model.forward(x.clone()).unwrap());
    assert!(moved(&model) > 1e-4);
    model.pos_embed = model.pos_embed.map(|vectors| vectors.zeros_like());
    assert!(moved(&model) < 1e-5);
}

#[test]
fn the_features_are_the_tokens_of_the_patches() {
    let model = VitConfig { classes: 0, ..tiny() }.init(&cpu()).unwrap();
    let x = images([2, 3, 12, 12]);
    assert_eq!(model.features(x.clone()).unwrap().iter().map(Tensor::dims).collect::<Vec<_>>(), [[2, 3, 3, 8]]);
    assert_eq!(model.forward(x).unwrap().dims(), [2, 8]);
    assert_eq!(model.forward(images([0, 3, 12, 12])).unwrap().dims(), [0, 8]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let message = |config: VitConfig| config.init(&cpu()).unwrap_err().to_string();
    assert_eq!(message(VitConfig { layers: 0, ..tiny() }), "vit: `layers` must be at least 1, got 0");
    assert_eq!(message(VitConfig { image: 13, ..tiny() }), "vit: `image` must be a multiple of patch = 4, got 13");
    assert_eq!(message(VitConfig { heads: 3, ..tiny() }), "full_attention: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(message(VitConfig { mlp_ratio: 0.0, ..tiny() }), "vit: `mlp_ratio` must be positive and finite, got 0");
    assert_eq!(message(VitConfig { drop_path: 2.0, ..tiny() }), "vit: `drop_path` must be in [0, 1), got 2");
    let error = tiny().init(&cpu()).unwrap().forward(images([1, 3, 12, 16])).unwrap_err().to_string();
    assert_eq!(error, "vit: `images` must be of shape [B, 3, 12, 12], got [1, 3, 12, 16]");
}
