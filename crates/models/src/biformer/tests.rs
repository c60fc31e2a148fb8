use burn::tensor::Tensor;
use regard::bi_level_routing::{RoutedPadding, RoutedScale};
use regard_testkit::{Case, assert_close, cpu, run};

use super::{BiFormerConfig, BiFormerLayout, BiFormerNames, read_weights};
use crate::{
    vision::{
        freeze_statistics,
        testing::{images, is_empty, load, round_trip, sizes},
        trained_weights,
    },
    weights::write,
};

#[test]
fn goldens_of_the_model() {
    run("biformer", &["model."], &[("model.biformer", golden)]);
}

fn golden(case: &Case) {
    assert_eq!((case.text("bn"), case.text("gelu")), ("eval", "erf"));
    assert!(matches!(case.text("pad_mode"), "none" | "input"));
    let list = |key: &str| case.config()[key].as_array().expect("a list").clone();
    let topk = |k: &serde_json::Value| match k.as_i64() {
        Some(-2) => 0,
        Some(k) if k > 0 => k as usize,
        other => panic!("topk {other:?}"),
    };
    let config = BiFormerConfig {
        widths: sizes(case, "embed_dim"),
        depths: sizes(case, "depths"),
        topk: list("topks").iter().map(topk).collect(),
        regions: case.size("n_win"),
        head_width: case.size("head_dim"),
        full_heads: case.size("full_attn_heads"),
        local: case.size("lce_kernel"),
        conv: case.size("pos_dwconv"),
        mlp_ratio: case.number("mlp_ratio"),
        norm_epsilon: case.number("ln_eps"),
        batch_epsilon: case.number("bn_eps"),
        ..BiFormerConfig::new([1; 4], [1; 4], case.size("num_classes"))
    };
    let model = config.init(case.device()).unwrap();
    let layout = BiFormerNames::of(&model);
    let model = load(case, freeze_statistics(model), &layout);
    case.output("logits", model.forward(case.float("in.x")).unwrap());
}

#[test]
fn named_networks_have_the_published_number_of_weights_and_operations_and_none_is_made() {
    // Weights, and 10⁹ multiply-adds at 224 × 224.
    let table = [
        ("biformer_tiny", 13_142_760, 2.2),
        ("biformer_small", 25_536_232, 4.5),
        ("biformer_base", 56_804_968, 9.8),
        ("biformer_stl", 28_372_552, 4.6),
    ];
    assert_eq!(table.map(|(name, ..)| name), BiFormerConfig::NAMES);
    for (name, weights, giga) in table {
        let model = BiFormerConfig::named(name).expect(name).skeleton(&cpu()).unwrap();
        assert_eq!(trained_weights(&model), weights, "{name}");
        let counted = model.multiply_adds([224, 224]).unwrap() / 1e9;
        assert!((counted - giga).abs() < 0.05, "{name}: {counted}");
        assert!(is_empty(&model), "{name}");
    }
    assert_eq!(BiFormerConfig::named("biformer_huge"), None);
}

fn tiny() -> BiFormerConfig {
    BiFormerConfig {
        regions: 2,
        topk: vec![1, 2, 4, 0],
        head_width: 4,
        full_heads: 4,
        ..BiFormerConfig::new([8, 8, 16, 16], [1, 1, 2, 1], 5)
    }
}

#[test]
fn features_have_the_sides_of_their_strides_for_images_of_any_size() {
    for (layout, conv) in [(BiFormerLayout::Overlapping, 3), (BiFormerLayout::Patches, 0)] {
        let model = BiFormerConfig { conv, layout, ..tiny() }.init(&cpu()).unwrap();
        for sides in [[64, 32], [75, 41]] {
            let maps = model.features(images([2, 3, sides[0], sides[1]])).unwrap();
            for ((map, stride), width) in maps.iter().zip([4, 8, 16, 32]).zip([8, 8, 16, 16]) {
                let [y, x] = sides.map(|side: usize| side.div_ceil(stride));
                assert_eq!(map.dims(), [2, y, x, width], "{layout:?} {sides:?}");
            }
        }
    }
}

#[test]
fn convolutions_beside_attention_may_be_left_out_in_all_stages() {
    let [with, without] = [5, 0].map(|local| BiFormerConfig { local, conv: 0, ..tiny() }.init(&cpu()).unwrap());
    // 25 taps and a bias for each channel of each block.
    let channels: usize = tiny().widths.iter().zip(&tiny().depths).map(|(width, depth)| width * depth).sum();
    assert_eq!(trained_weights(&with) - trained_weights(&without), 26 * channels);
    let (_, names) = round_trip(&without, without.clone(), &BiFormerNames::of(&without));
    assert!(!names.iter().any(|name| name.contains("lepe") || name.contains("pos_embed")), "{names:#?}");
    assert_eq!(without.forward(images([2, 3, 64, 64])).unwrap().dims(), [2, 5]);
}

#[test]
fn no_images_give_no_logits() {
    assert_eq!(tiny().init(&cpu()).unwrap().forward(images([0, 3, 64, 64])).unwrap().dims(), [0, 5]);
}

#[test]
fn weights_come_back_under_the_authors_names() {
    let x = images([2, 3, 64, 64]);
    for (layout, conv) in [(BiFormerLayout::Overlapping, 3), (BiFormerLayout::Patches, 0)] {
        let config = BiFormerConfig { conv, layout, ..tiny() };
        let (model, empty) = (config.init(&cpu()).unwrap(), config.skeleton(&cpu()).unwrap());
        let (back, names) = round_trip(&model, empty, &BiFormerNames::of(&model));
        let some: &[&str] = match layout {
            BiFormerLayout::Overlapping => &["downsample_layers.0.4.running_var", "downsample_layers.1.0.bias", "stages.2.1.mlp.3.bias"],
            BiFormerLayout::Patches => &["downsample_layers.0.1.running_var", "downsample_layers.1.1.bias", "stages.2.blocks.1.mlp.2.bias"],
        };
        assert!(some.iter().all(|name| names.iter().any(|known| known == name)), "{names:#?}");
        assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x.clone()).unwrap(), 0.0);
    }
}

#[test]
fn of_a_file_of_the_training_program_the_weights_are_taken() {
    let model = tiny().init(&cpu()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let x = images([2, 3, 64, 64]);
    for (file, names) in [("plain", BiFormerNames::of(&model)), ("wrapped", BiFormerNames::of(&model).in_training_file())] {
        let path = folder.path().join(format!("{file}.safetensors"));
        write(&model, &names, &path).unwrap();
        let (back, report) = read_weights(tiny().skeleton(&cpu()).unwrap(), &path).unwrap();
        assert!(report.extra.is_empty(), "{report}");
        assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x.clone()).unwrap(), 0.0);
    }
    let missing = folder.path().join("none.safetensors");
    assert!(read_weights(tiny().skeleton(&cpu()).unwrap(), &missing).is_err(), "no file");
}

#[test]
fn all_regions_see_all_where_topk_is_their_number() {
    // With one region the layer is attention of all tokens to all, whatever the map is cut into.
    let all = |regions: usize| BiFormerConfig { regions, topk: vec![regions * regions; 4], ..tiny() };
    let model = all(1).init(&cpu()).unwrap();
    let other = all(2).init(&cpu()).unwrap();
    let record = burn::module::Module::into_record(model.clone());
    let other = burn::module::Module::load_record(other, record);
    let x = images([2, 3, 64, 64]);
    assert_close("logits", &other.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 1e-4);
}

#[test]
fn configurations_and_images_that_do_not_fit_are_errors() {
    let with = |f: &dyn Fn(&mut BiFormerConfig)| {
        let mut config = tiny();
        f(&mut config);
        config.init(&cpu()).unwrap_err().to_string()
    };
    assert_eq!(with(&|c| c.classes = 0), "biformer: `classes` must be at least 1, got 0");
    assert_eq!(with(&|c| c.depths = vec![1]), "biformer: `depths` must be one for each of 4 stages, got 1");
    assert_eq!(with(&|c| c.topk = vec![1]), "biformer: `topk` must be one for each of 4 stages, got 1");
    assert_eq!(with(&|c| c.topk[1] = 5), "bi_level_routing: `topk` must be from 1 to the number of regions, 4, got 5");
    assert_eq!(with(&|c| c.head_width = 3), "biformer: `head_width` must be a divisor of the width 8, got 3");
    assert_eq!(with(&|c| c.full_heads = 3), "full_attention: `heads` must be a divisor of d_model = 16, got 3");
    assert_eq!(with(&|c| c.conv = 2), "biformer: `conv` must be odd, or 0, got 2");
    assert_eq!(with(&|c| c.local = 2), "bi_level_routing: `local` must be odd, or 0, got 2");
    assert_eq!(with(&|c| c.mlp_ratio = 0.0), "biformer: `mlp_ratio` must be positive and finite, got 0");
    assert_eq!(with(&|c| c.drop_path = 1.0), "biformer: `drop_path` must be in [0, 1), got 1");
    assert_eq!(with(&|c| c.mlp_ratio = 0.01), "mlp: `d_ff` must be at least 1, got 0");
    assert_eq!(with(&|c| c.widths[2] = 0), "biformer: `widths` must be at least 1 each, got 0");
    assert_eq!(with(&|c| c.widths[0] = 1), "biformer: `widths` must be at least 2 in the first stage, got 1");

    let masked = BiFormerConfig { padding: RoutedPadding::Mask, scale: RoutedScale::Head, ..tiny() }.init(&cpu()).unwrap();
    let error = masked.forward(images([2, 3, 16, 64])).unwrap_err().to_string();
    assert_eq!(error, "bi_level_routing: `regions` must be from 1 to the shorter side of the map, 1, got 2");
    assert!(masked.forward(images([2, 3, 40, 64])).is_ok());
    let error = masked.forward(Tensor::zeros([1, 1, 64, 64], &cpu())).unwrap_err().to_string();
    assert_eq!(error, "biformer: `images` must be of shape [B, 3, Y, X] with pixels, got [1, 1, 64, 64]");
}
