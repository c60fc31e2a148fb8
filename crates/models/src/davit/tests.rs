use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use regard::channel_attention::ChannelOrder;
use regard_testkit::{Case, assert_close, cpu, relative_error, run};

use super::{DavitAttention, DavitConfig, DavitDialect, DavitNames, read_weights, write_weights};
use crate::vision::testing::{images, is_empty, load, round_trip, sizes};

#[test]
fn goldens_of_the_model() {
    run("davit", &["model."], &[("model.davit", golden)]);
}

fn golden(case: &Case) {
    assert_eq!(case.text("gelu"), "erf");
    let config = DavitConfig {
        patch: case.size("patch_size"),
        window: case.size("window_size"),
        mlp_ratio: case.number("mlp_ratio"),
        qkv_bias: case.flag("qkv_bias"),
        overlapped: case.flag("overlapped"),
        conv_gelu: case.flag("cpe_act"),
        norm_epsilon: case.number("ln_eps"),
        ..DavitConfig::new(sizes(case, "embed_dims"), sizes(case, "depths"), sizes(case, "num_heads"), case.size("num_classes"))
    };
    let model = config.init(case.device()).unwrap();
    let names = DavitNames::of(&model, DavitDialect::Authors);
    let model = load(case, model, &names);
    let x = case.float::<4>("in.x");
    assert_eq!(x.dims()[2..], sizes(case, "img"));
    case.output("logits", model.forward(x).unwrap());
}

/// Weights, side of the images, and multiply-adds in units of 10⁹ as published, with what may be lost by rounding.
const PUBLISHED: [(&str, usize, usize, f64, f64); 6] = [
    ("davit_tiny", 28_360_168, 224, 4.5, 0.05),
    ("davit_small", 49_745_896, 224, 8.8, 0.05),
    ("davit_base", 87_954_408, 224, 15.5, 0.05),
    ("davit_large", 196_811_752, 384, 103.0, 0.5),
    // 334.3: the window of the published figure is not known.
    ("davit_huge", 362_685_416, 512, 335.0, 1.0),
    ("davit_giant", 1_437_435_880, 512, 1038.0, 0.5),
];

#[test]
fn named_networks_have_the_published_numbers_of_weights_and_operations_and_none_is_made() {
    for (name, weights, side, published, rounding) in PUBLISHED {
        let model = DavitConfig::named(name).expect(name).skeleton(&cpu()).unwrap();
        assert_eq!(model.num_params(), weights, "{name}");
        assert!(is_empty(&model), "{name}");
        let counted = model.multiply_adds([side; 2]).unwrap() / 1e9;
        assert!((counted - published).abs() < rounding, "{name}: {counted} for {published}");
    }
    for (name, weights) in [("davit_huge", 348_922_856), ("davit_giant", 1_406_470_120)] {
        let smaller = DavitConfig { overlapped: false, ..DavitConfig::named(name).unwrap() };
        assert_eq!(smaller.skeleton(&cpu()).unwrap().num_params(), weights, "{name} of patches side by side");
    }
    for (name, weights) in [("davit_base_florence2", 90_368_000), ("davit_huge_florence2", 360_632_320)] {
        assert_eq!(DavitConfig::named(name).unwrap().skeleton(&cpu()).unwrap().num_params(), weights, "{name}");
    }
    for &name in DavitConfig::NAMES {
        DavitConfig::named(name).expect(name).skeleton(&cpu()).unwrap().multiply_adds([224; 2]).expect(name);
    }
    assert_eq!(DavitConfig::named("davit_nano"), None);
}

/// `12 C² + 33 C` for each block of width C.
#[test]
fn blocks_of_either_attention_have_equally_many_weights() {
    use DavitAttention::{Channel, Spatial};
    let weights = |attention| tiny(attention).skeleton(&cpu()).unwrap().num_params();
    let dual = weights(vec![Spatial, Channel]);
    assert_eq!([weights(vec![Spatial; 2]), weights(vec![Channel; 2])], [dual; 2]);
    let blocks = 2 * (12 * 8 * 8 + 33 * 8) + 2 * 2 * (12 * 12 * 12 + 33 * 12);
    let rest = (3 * 49 * 8 + 8 + 16) + (16 + 4 * 8 * 12 + 12) + (24 + 12 * 5 + 5);
    assert_eq!(dual, blocks + rest);
}

fn tiny(attention: Vec<DavitAttention>) -> DavitConfig {
    DavitConfig { attention, window: 3, ..DavitConfig::new([8, 12], [1, 2], [2, 3], 5) }
}

fn dual() -> DavitConfig {
    tiny(vec![DavitAttention::Spatial, DavitAttention::Channel])
}

#[test]
fn weights_come_back_in_every_dialect_which_is_recognised() {
    let model = dual().init(&cpu()).unwrap();
    let x = images([1, 3, 30, 37]);
    let want = model.forward(x.clone()).unwrap();
    let cases = [
        (DavitDialect::Authors, ["main_blocks.1.1.0.cpe.1.proj.weight", "patch_embeds.1.norm.bias", "norms.weight", "head.bias"]),
        (DavitDialect::Timm, ["stages.1.blocks.1.0.cpe2.proj.weight", "stages.1.downsample.norm.bias", "stem.conv.bias", "head.fc.bias"]),
        (
            DavitDialect::TimmNamed,
            [
                "stages.1.blocks.1.channel_block.attn.qkv.bias",
                "stages.0.blocks.0.spatial_block.mlp.fc1.weight",
                "head.norm.bias",
                "stem.norm.bias",
            ],
        ),
        (
            DavitDialect::Florence2,
            [
                "vision_tower.blocks.1.0.channel_block.channel_attn.fn.proj.weight",
                "vision_tower.blocks.0.0.spatial_block.ffn.fn.net.fc2.bias",
                "vision_tower.blocks.1.1.spatial_block.conv1.fn.dw.weight",
                "vision_tower.convs.1.proj.weight",
            ],
        ),
    ];
    for (dialect, some) in cases {
        let (back, names) = round_trip(&model, dual().skeleton(&cpu()).unwrap(), &DavitNames::of(&model, dialect));
        assert!(some.iter().all(|name| names.iter().any(|n| n == name)), "{dialect:?}: {names:?}");
        assert_close("logits", &back.forward(x.clone()).unwrap(), &want, 0.0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_weights(&model, dialect, &path).unwrap();
        let (back, report) = read_weights(dual().skeleton(&cpu()).unwrap(), folder.path()).unwrap();
        assert!(report.extra.is_empty(), "{report}");
        assert_close("logits", &back.forward(x.clone()).unwrap(), &want, 0.0);
    }
}

#[test]
fn an_encoder_without_classes_needs_no_head_and_leaves_that_of_a_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = dual().init(&cpu()).unwrap();
    write_weights(&model, DavitDialect::Florence2, &path).unwrap();
    let encoder = DavitConfig { classes: 0, ..dual() }.skeleton(&cpu()).unwrap();
    let (encoder, report) = read_weights(encoder, &path).unwrap();
    assert!(report.extra.is_empty(), "{report}");
    let x = images([2, 3, 16, 24]);
    let maps = encoder.features(x.clone()).unwrap();
    assert_eq!(maps.iter().map(Tensor::dims).collect::<Vec<_>>(), [[2, 4, 6, 8], [2, 2, 3, 12]]);
    let mean = maps[1].clone().reshape([2, 6, 12]).mean_dim(1).squeeze_dim::<2>(1);
    assert_close("mean", &encoder.forward(x).unwrap(), &mean, 1e-6);
}

#[test]
fn images_of_any_size_run_through_the_same_weights() {
    for overlapped in [false, true] {
        let config = DavitConfig { overlapped, channel_order: ChannelOrder::QueriesKeys, ..dual() };
        let model = config.init(&cpu()).unwrap();
        for [y, x] in [[1, 1], [3, 5], [32, 33], [7, 60]] {
            let logits = model.forward(images([2, 3, y, x])).unwrap();
            assert!(logits.into_data().iter::<f32>().all(f32::is_finite), "{y} × {x}");
        }
        assert_eq!(model.forward(images([0, 3, 32, 32])).unwrap().dims(), [0, 5]);
    }
}

/// Whether the last corner of the first stage's map depends on the first pixel of the image.
fn reaches_across(attention: DavitAttention) -> bool {
    let config = DavitConfig { attention: vec![attention], ..DavitConfig::new([8], [1], [2], 5) };
    let model = config.init(&cpu()).unwrap();
    let x = images([1, 3, 128, 128]);
    let mut values: Vec<f32> = x.clone().into_data().iter::<f32>().collect();
    values[0] += 1.0;
    let changed = Tensor::from_data(TensorData::new(values, x.dims()), &cpu());
    let corner = |x| model.features(x).unwrap().remove(0).narrow(1, 31, 1).narrow(2, 31, 1);
    relative_error(&corner(changed), &corner(x)) > 0.0
}

#[test]
fn channels_carry_across_the_image_what_windows_do_not() {
    assert!(reaches_across(DavitAttention::Channel));
    assert!(!reaches_across(DavitAttention::Spatial));
}

#[test]
fn configurations_that_do_not_fit_are_errors() {
    let message = |change: &dyn Fn(&mut DavitConfig)| {
        let mut config = dual();
        change(&mut config);
        config.init(&cpu()).unwrap_err().to_string()
    };
    assert_eq!(message(&|c| c.channels = 0), "davit: `channels` must be at least 1, got 0");
    assert_eq!(message(&|c| c.patch = 0), "davit: `patch` must be at least 1, got 0");
    assert_eq!(message(&|c| c.widths.clear()), "davit: `widths` must be at least 1, got 0");
    assert_eq!(message(&|c| c.widths[1] = 0), "davit: `widths` must be at least 1, got 0");
    assert_eq!(message(&|c| c.depths = vec![0, 0]), "davit: `depths` must be at least 1, got 0");
    assert_eq!(message(&|c| c.depths = vec![1]), "davit: `depths` must be one for each of 2 stages, got 1");
    assert_eq!(message(&|c| c.heads = vec![1; 3]), "davit: `heads` must be one for each of 2 stages, got 3");
    assert_eq!(message(&|c| c.heads = vec![3; 2]), "window: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(message(&|c| c.attention.clear()), "davit: `attention` must be at least 1, got 0");
    assert_eq!(message(&|c| c.window = 0), "window: `window` must be at least 1, got 0");
    assert_eq!(message(&|c| c.mlp_ratio = f64::NAN), "davit: `mlp_ratio` must be positive and finite, got NaN");
    assert_eq!(message(&|c| c.drop_path = 1.5), "davit: `drop_path` must be in [0, 1), got 1.5");
    let error = dual().init(&cpu()).unwrap().forward(images([1, 1, 32, 32])).unwrap_err().to_string();
    assert_eq!(error, "davit: `images` must be of shape [B, 3, Y, X] with pixels, got [1, 1, 32, 32]");
}
