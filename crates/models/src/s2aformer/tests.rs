use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Distribution, Tensor},
};
use regard_testkit::{Case, assert_close, cpu, run};

use super::{NAMES, S2aFormerConfig};
use crate::vision::{
    freeze_statistics,
    testing::{images, is_empty, load, round_trip, sizes},
    trained_weights,
};

#[test]
fn goldens_of_the_model() {
    run("s2aformer", &["model."], &[("model.s2aformer", golden)]);
}

fn golden(case: &Case) {
    assert_eq!((case.text("bn"), case.text("gelu")), ("eval", "erf"));
    let strip = case.size("qk_width");
    assert!((case.number("scale") - 1.0 / (strip as f64).sqrt()).abs() < 1e-12, "the usual scale");
    for interpolate in [None, Some(1e-6)] {
        let config = S2aFormerConfig {
            widths: sizes(case, "dims"),
            depths: sizes(case, "depths"),
            heads: sizes(case, "heads"),
            reductions: sizes(case, "sr"),
            strip,
            interpolate,
            mlp_ratio: case.number("mlp_ratio"),
            head_width: case.size("head_dim"),
            norm_epsilon: case.number("ln_eps"),
            batch_epsilon: case.number("bn_eps"),
            ..S2aFormerConfig::new([2; 4], [1; 4], case.size("classes"))
        };
        let model = load(case, freeze_statistics(config.init(case.device()).unwrap()), &NAMES);
        case.output("logits", model.forward(case.float("in.x")).unwrap());
        case.again();
    }
}

#[test]
fn variants_have_the_number_of_weights_and_operations_of_the_table_and_no_weight_is_made() {
    // Weights and 10⁹ multiply-adds at 224 × 224 as counted; the same as published, in 10⁶.
    let table = [
        ("s2aformer_mini", 4_986_838, 0.443, 5.02, 0.43),
        ("s2aformer_t", 5_826_900, 0.654, 5.80, 0.655),
        ("s2aformer_xs", 6_551_340, 0.780, 6.54, 0.786),
        ("s2aformer_s", 10_713_874, 1.362, 10.69, 1.38),
        ("s2aformer_m", 25_176_118, 4.125, 24.87, 4.12),
    ];
    assert_eq!(table.map(|(name, ..)| name), S2aFormerConfig::NAMES);
    for (name, weights, giga, published_weights, published_giga) in table {
        let model = S2aFormerConfig::named(name).expect(name).skeleton(&cpu()).unwrap();
        assert_eq!(trained_weights(&model), weights, "{name}");
        let counted = model.multiply_adds([224, 224]) / 1e9;
        assert!((counted - giga).abs() < 0.0005, "{name}: {counted}");
        assert!((weights as f64 / 1e6 / published_weights - 1.0).abs() < 0.013, "{name}: within 1.3 % of the published weights");
        assert!((counted / published_giga - 1.0).abs() < 0.035, "{name}: within 3.5 % of the published operations");
        assert!(is_empty(&model), "{name}");
    }
    assert_eq!(S2aFormerConfig::named("s2aformer_l"), None);
}

fn tiny() -> S2aFormerConfig {
    let config = S2aFormerConfig::new([8, 8, 12, 16], [1, 1, 2, 1], 5);
    S2aFormerConfig { heads: vec![1, 2, 3, 4], reductions: vec![4, 2, 2, 1], head_width: 24, ..config }
}

#[test]
fn features_have_the_sides_of_their_strides_for_images_of_any_size() {
    let model = tiny().init(&cpu()).unwrap();
    for sides in [[64, 32], [50, 41], [1, 1]] {
        let maps = model.features(images([2, 3, sides[0], sides[1]])).unwrap();
        for ((map, stride), width) in maps.iter().zip([4, 8, 16, 32]).zip([8, 8, 12, 16]) {
            let [y, x] = sides.map(|side: usize| side.div_ceil(stride));
            assert_eq!(map.dims(), [2, y, x, width], "{sides:?}");
        }
    }
    let small = S2aFormerConfig { stem_strides: vec![1, 1, 1], ..tiny() }.init(&cpu()).unwrap();
    assert_eq!(small.features(images([2, 3, 32, 32])).unwrap()[0].dims(), [2, 16, 16, 8]);
    assert_eq!(model.forward(Tensor::zeros([0, 3, 32, 32], &cpu())).unwrap().dims(), [0, 5]);
}

#[test]
fn weights_come_back_under_the_names_of_the_golden_files() {
    let model = tiny().init(&cpu()).unwrap();
    let (back, names) = round_trip(&model, tiny().skeleton(&cpu()).unwrap(), &NAMES);
    for name in ["stem.2.weight", "stem_bn.0.running_var", "stages.0.0.ssa.reduce_norm.bias", "stages.2.1.mlp.fc2.weight", "pre_head.bias"]
    {
        assert!(names.iter().any(|known| known == name), "{name} is not among {names:#?}");
    }
    let x = images([2, 3, 64, 32]);
    assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 0.0);
}

/// Norms of other means, variances and factors than those of a new network.
struct Trained;

impl ModuleMapper for Trained {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| if D == 1 { x.random_like(Distribution::Uniform(0.5, 1.5)) } else { x })
    }
}

#[test]
fn norms_that_are_part_of_convolutions_change_nothing_but_rounding() {
    let model = tiny().init(&cpu()).unwrap().map(&mut Trained);
    let fused = model.clone().fuse();
    let statistics = |model: &super::S2aFormer| model.stages.iter().flatten().filter(|block| block.ssa.reduce_norm.is_some()).count();
    assert_eq!((model.stem_bn.len(), statistics(&model)), (3, 4));
    assert_eq!((fused.stem_bn.len(), statistics(&fused)), (0, 0));
    for sides in [[64, 32], [50, 41]] {
        let x = images([2, 3, sides[0], sides[1]]);
        assert_close("logits", &fused.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 1e-5);
    }
}

#[test]
fn configurations_and_images_that_do_not_fit_are_errors() {
    let with = |f: &dyn Fn(&mut S2aFormerConfig)| {
        let mut config = tiny();
        f(&mut config);
        config.init(&cpu()).unwrap_err().to_string()
    };
    assert_eq!(with(&|c| c.classes = 0), "s2aformer: `classes` must be at least 1, got 0");
    assert_eq!(with(&|c| c.depths = vec![1]), "s2aformer: `depths` must be one for each of 4 stages, got 1");
    assert_eq!(with(&|c| c.heads = vec![1]), "s2aformer: `heads` must be one for each of 4 stages, got 1");
    assert_eq!(with(&|c| c.reductions = vec![1]), "s2aformer: `reductions` must be one for each of 4 stages, got 1");
    assert_eq!(with(&|c| c.heads[1] = 3), "strip: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(with(&|c| c.reductions[1] = 0), "strip: `reduction` must be at least 1, got 0");
    assert_eq!(with(&|c| c.strip = 0), "strip: `strip` must be at least 1, got 0");
    assert_eq!(with(&|c| c.widths[0] = 1), "s2aformer: `widths` must be at least 1 each, and 2 in the first stage, got [1, 8, 12, 16]");
    assert_eq!(with(&|c| c.drop_path = -0.1), "s2aformer: `drop_path` must be in [0, 1), got -0.1");
    assert_eq!(with(&|c| c.mlp_ratio = f64::NAN), "s2aformer: `mlp_ratio` must be positive and finite, got NaN");
    let model = tiny().init(&cpu().autodiff()).unwrap();
    let one = Tensor::zeros([1, 3, 32, 32], &cpu().autodiff());
    let error = model.forward(one).unwrap_err().to_string();
    let want = "large or many enough for batch norms in training to see more than one token";
    assert_eq!(error, format!("s2aformer: `images` must be {want}, got [1, 3, 32, 32]"));
    assert!(model.forward(Tensor::from_inner(images([2, 3, 32, 32]))).is_ok());
}
