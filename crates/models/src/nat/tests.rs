use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use regard::blocks::project;
use regard_testkit::{Case, Sampler, assert_close, cpu, relative_error, run};

use super::{NatConfig, NatDownsample, NatLayout, NatNames, read_weights, write_weights};
use crate::vision::testing::{images, is_empty, load, round_trip, sizes};

#[test]
fn goldens_of_the_model() {
    run("neighborhood-attention", &["model."], &[("model.nat", golden)]);
}

fn golden(case: &Case) {
    assert_eq!(case.text("gelu"), "erf");
    let list = case.config()["dilations"].as_array().expect("config.dilations");
    let dilations = list.iter().map(|level| level.as_array().expect("a list").iter().map(|d| d.as_u64().unwrap() as usize).collect());
    let config = NatConfig {
        window: case.size("kernel_size"),
        dilations: dilations.collect(),
        mlp_ratio: case.number("mlp_ratio"),
        qkv_bias: case.flag("qkv_bias"),
        relative_bias: case.flag("rpb"),
        layer_scale: case.flag("layer_scale").then_some(1e-5),
        norm_epsilon: case.number("ln_eps"),
        ..NatConfig::new(case.size("embed_dim"), sizes(case, "depths"), sizes(case, "num_heads"), case.size("num_classes"))
    };
    let model = config.init(case.device()).unwrap();
    let names = NatNames::of(&model);
    let model = load(case, model, &names);
    let x = case.float::<4>("in.x");
    assert_eq!(x.dims()[2..], sizes(case, "img"));
    case.output("logits", model.forward(x).unwrap());
}

/// Weights, side of the images, and multiply-adds in units of 10⁹ as published.
const PUBLISHED: [(&str, usize, Option<(usize, f64)>); 22] = [
    ("nat_mini", 19_984_174, Some((224, 2.7))),
    ("nat_tiny", 27_901_582, Some((224, 4.3))),
    ("nat_small", 50_743_297, Some((224, 7.8))),
    ("nat_base", 89_769_652, Some((224, 13.7))),
    ("dinat_mini", 19_984_174, Some((224, 2.7))),
    ("dinat_tiny", 27_901_582, Some((224, 4.3))),
    ("dinat_small", 50_719_681, Some((224, 7.8))),
    ("dinat_base", 89_769_652, Some((224, 13.7))),
    ("dinat_large", 200_943_514, Some((224, 30.6))),
    ("dinat_large_384", 200_943_514, Some((384, 89.7))),
    ("dinat_large_11x11_384", 201_144_250, Some((384, 92.4))),
    ("dinat_s_tiny", 28_288_354, None),
    ("dinat_s_small", 49_606_258, None),
    ("dinat_s_base", 87_768_224, None),
    ("dinat_s_large", 196_532_476, None),
    ("dinat_s_large_384", 196_532_476, None),
    ("nat_isotropic_small", 21_999_736, None),
    ("nat_isotropic_base", 86_465_800, None),
    ("dinat_isotropic_small", 21_999_736, None),
    ("dinat_isotropic_base", 86_465_800, None),
    ("vitrpb_small", 22_080_376, None),
    ("vitrpb_base", 86_627_080, None),
];

#[test]
fn named_networks_have_the_published_numbers_of_weights_and_operations_and_none_is_made() {
    assert!(NatConfig::NAMES.iter().eq(PUBLISHED.iter().map(|(name, ..)| name)));
    for (name, weights, operations) in PUBLISHED {
        let model = NatConfig::named(name).expect(name).skeleton(&cpu()).unwrap();
        assert_eq!(model.num_params(), weights, "{name}");
        assert!(is_empty(&model), "{name}");
        if let Some((side, published)) = operations {
            let counted = model.multiply_adds([side; 2]).unwrap() / 1e9;
            // Published are sums of five operations for each number of a norm and one for each bias by position too, rounded.
            assert!(counted < published + 0.05 && counted > 0.995 * published - 0.05, "{name}: {counted} for {published}");
        }
    }
    assert_eq!(NatConfig::named("nat_huge"), None);
}

#[test]
fn every_named_network_takes_images_of_its_size_and_says_why_it_refuses_smaller_ones() {
    for &name in NatConfig::NAMES {
        let side = if name.ends_with("_384") { 384 } else { 224 };
        let model = NatConfig::named(name).unwrap().skeleton(&cpu()).unwrap();
        model.multiply_adds([side; 2]).expect(name);
        assert!(model.multiply_adds([side, side / 4]).is_err(), "{name}");
    }
    let model = NatConfig::named("dinat_mini").unwrap().skeleton(&cpu()).unwrap();
    let message = model.multiply_adds([224, 192]).unwrap_err().to_string();
    let want = "neighborhood: `window` must be such that window · dilation is at most the length 48 of axis 1, got 7 · 8";
    assert_eq!(message, want);
}

fn tiny(layout: NatLayout) -> NatConfig {
    let config = NatConfig { layout, window: 3, layer_scale: Some(0.5), mlp_ratio: 2.0, ..NatConfig::new(8, [1, 2], [2, 4], 5) };
    config.with_dilations([1, 2])
}

#[test]
fn weights_come_back_under_the_authors_names() {
    let isotropic = NatConfig { depths: vec![2], heads: vec![2], dilations: vec![vec![1, 2]], ..tiny(NatLayout::Patches(4)) };
    let cases = [
        (tiny(NatLayout::Overlapping), ["patch_embed.proj.1.bias", "levels.1.blocks.1.gamma2", "levels.0.downsample.reduction.weight"]),
        (tiny(NatLayout::Patches(4)), ["patch_embed.proj.weight", "layers.1.blocks.1.attn.rpb", "layers.0.downsample.norm.bias"]),
        (isotropic, ["patch_embed.norm.weight", "layers.1.mlp.fc2.bias", "layers.0.norm1.weight"]),
    ];
    for (config, some) in cases {
        let model = config.init(&cpu()).unwrap();
        let (back, names) = round_trip(&model, config.skeleton(&cpu()).unwrap(), &NatNames::of(&model));
        assert!(some.iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
        let x = images([2, 3, 48, 52]);
        assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 0.0);
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused_and_none_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = tiny(NatLayout::Overlapping).init(&cpu()).unwrap();
    write_weights(&model, &path).unwrap();
    assert!(write_weights(&model, &path).unwrap_err().to_string().ends_with("it exists already"));
    let plain = NatConfig { layer_scale: None, ..tiny(NatLayout::Overlapping) };
    let (_, report) = read_weights(plain.skeleton(&cpu()).unwrap(), &path).unwrap();
    assert_eq!(report.extra.len(), 6, "{report}");
    let wide = NatConfig { d_model: 16, ..plain };
    assert!(read_weights(wide.skeleton(&cpu()).unwrap(), &path).is_err());
}

#[test]
fn the_features_are_the_maps_of_the_levels_and_the_last_gives_the_logits() {
    for layout in [NatLayout::Overlapping, NatLayout::Patches(4)] {
        let model = tiny(layout).init(&cpu()).unwrap();
        let x = images([2, 3, 41, 50]);
        let maps = model.features(x.clone()).unwrap();
        let shapes: Vec<_> = maps.iter().map(Tensor::dims).collect();
        assert_eq!(shapes, [[2, 11, 13, 8], [2, 6, 7, 16]]);
        let mean = model.norm.forward(maps[1].clone()).reshape([2, 42, 16]).mean_dim(1).squeeze_dim::<2>(1);
        let logits = project(model.head.as_ref().unwrap(), mean.clone());
        assert_close("logits", &model.forward(x.clone()).unwrap(), &logits, 1e-6);
        let without = NatConfig { classes: 0, ..tiny(layout) }.skeleton(&cpu()).unwrap();
        let headless = super::Nat { head: None, ..model };
        assert_close("mean", &headless.forward(x).unwrap(), &mean, 1e-6);
        assert!(without.head.is_none());
    }
}

/// A token of a merged map depends on its own four, in the order (0, 0), (1, 0), (0, 1), (1, 1).
#[test]
fn patches_are_merged_column_by_column_and_the_rest_with_zeros() {
    let NatDownsample::Merge(mut merge) = tiny(NatLayout::Patches(4)).init(&cpu()).unwrap().levels[0].downsample.clone().unwrap() else {
        panic!("layout of patches")
    };
    // Each output copies one of the first 16 inputs.
    merge.reduction.weight = Param::from_tensor(Tensor::cat(vec![Tensor::eye(16, &cpu()), Tensor::zeros([16, 16], &cpu())], 0));
    let x = Sampler::new(3).tensor([1, 3, 4, 8], -1.0, 1.0).f32(&cpu());
    let y = NatDownsample::Merge(merge.clone()).forward(x.clone());
    assert_eq!(y.dims(), [1, 2, 2, 16]);
    let at = |row: usize, column: usize| x.clone().narrow(1, row, 1).narrow(2, column, 1);
    let zero = at(0, 0).zeros_like();
    for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let token = |down: usize, right: usize| {
            if 2 * row + down < 3 { at(2 * row + down, 2 * column + right) } else { zero.clone() }
        };
        let whole = Tensor::cat(vec![token(0, 0), token(1, 0), token(0, 1), token(1, 1)], 3);
        let want = merge.norm.forward(whole).narrow(3, 0, 16);
        assert_close("merged", &y.clone().narrow(1, row, 1).narrow(2, column, 1), &want, 1e-6);
    }
}

#[test]
fn no_image_gives_no_logits() {
    for layout in [NatLayout::Overlapping, NatLayout::Patches(4)] {
        let model = tiny(layout).init(&cpu()).unwrap();
        assert_eq!(model.forward(images([0, 3, 48, 48])).unwrap().dims(), [0, 5]);
    }
}

/// On a device without automatic differentiation nothing is left out; with it, something is.
#[test]
fn branches_are_left_out_in_training_alone() {
    let config = NatConfig { drop_path: 0.9, ..tiny(NatLayout::Overlapping) };
    let device = cpu().autodiff();
    let (model, x) = (config.init(&cpu()).unwrap(), images([4, 3, 48, 48]));
    let still = |a: Tensor<2>, b: Tensor<2>| relative_error(&a, &b) == 0.0;
    assert!(still(model.forward(x.clone()).unwrap(), model.forward(x.clone()).unwrap()));
    let (model, x) = (model.train(), Tensor::from_data(x.into_data(), &device));
    device.seed(1);
    let [a, b] = [0, 1].map(|_| model.forward(x.clone()).unwrap());
    assert!(!still(a, b), "two draws of what is left out");
}

#[test]
fn configurations_that_do_not_fit_are_errors() {
    let message = |change: &dyn Fn(&mut NatConfig)| {
        let mut config = tiny(NatLayout::Overlapping);
        change(&mut config);
        config.init(&cpu()).unwrap_err().to_string()
    };
    assert_eq!(message(&|c| c.channels = 0), "nat: `channels` must be at least 1, got 0");
    assert_eq!(message(&|c| c.depths = vec![0, 0]), "nat: `depths` must be at least 1, got 0");
    assert_eq!(message(&|c| c.heads = vec![1]), "nat: `heads` must be one for each of 2 levels, got 1");
    assert_eq!(message(&|c| c.dilations[1] = vec![1]), "nat: `dilations` must be one for each block of [1, 2], got [1, 1]");
    assert_eq!(message(&|c| c.heads[0] = 3), "neighborhood: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(message(&|c| c.mlp_ratio = -1.0), "nat: `mlp_ratio` must be positive and finite, got -1");
    assert_eq!(message(&|c| c.mlp_ratio = 0.1), "mlp: `d_ff` must be at least 1, got 0");
    assert_eq!(message(&|c| c.drop_path = 1.0), "nat: `drop_path` must be in [0, 1), got 1");
    assert_eq!(message(&|c| c.layout = NatLayout::Patches(0)), "nat: `layout.patches` must be at least 1, got 0");
    assert_eq!(message(&|c| (c.d_model, c.heads) = (1, vec![1, 1])), "nat: `d_model` must be at least 2, got 1");
    let model = tiny(NatLayout::Overlapping).init(&cpu()).unwrap();
    let error = model.forward(images([1, 4, 32, 32])).unwrap_err().to_string();
    assert_eq!(error, "nat: `images` must be of shape [B, 3, Y, X] with pixels, got [1, 4, 32, 32]");
}
