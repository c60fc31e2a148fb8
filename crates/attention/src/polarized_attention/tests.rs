use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Gradients, Tensor, TensorData},
};
use regard_testkit::{Case, Errors, cpu, run, sweep};

use super::{Flavour, Layout, PolarizedAttention, PolarizedAttentionConfig, reference};
use crate::SpatialMixer;

#[test]
fn goldens_of_polarized_attention_pass_through_definition_and_layer() {
    run(
        "polarized-self-attention",
        &["layer."],
        &[("layer.psa_paper", golden), ("layer.psa_official_parallel", golden), ("layer.psa_official_sequential", golden)],
    );
}

const PAPER: [(&str, &str); 6] =
    [("q.", "ch_wq."), ("v.", "ch_wv."), ("gate.up.", "ch_wz."), ("gate.norm.", "ln."), ("sp_q.", "sp_wq."), ("sp_v.", "sp_wv.")];
const OFFICIAL: [(&str, &str); 5] =
    [("q.", "conv_q_right."), ("v.", "conv_v_right."), ("gate.up.", "conv_up."), ("sp_q.", "conv_q_left."), ("sp_v.", "conv_v_left.")];
const BOTTLENECK: [(&str, &str); 7] = [
    ("q.", "conv_q_right."),
    ("v.", "conv_v_right."),
    ("gate.up.", "conv_up.0."),
    ("gate.norm.", "conv_up.1."),
    ("gate.last.", "conv_up.3."),
    ("sp_q.", "conv_q_left."),
    ("sp_v.", "conv_v_left."),
];

fn golden(case: &Case) {
    let layout = if case.text("layout") == "parallel" { Layout::Parallel } else { Layout::Sequential };
    let (flavour, renames): (_, &[_]) = match case.text("flavour") {
        "paper" => (Flavour::Paper, &PAPER),
        "official-parallel" => (Flavour::Official, &OFFICIAL),
        "official-sequential" => (Flavour::Official, &BOTTLENECK),
        other => panic!("flavour {other}"),
    };
    let config = PolarizedAttentionConfig { flavour, layout, allow_odd: false };
    let c = case.size("channels");
    let layer = || case.load(config.init(c, case.device()).unwrap(), renames);
    let x = || case.float::<4>("in.x").permute([0, 2, 3, 1]);
    case.output("y", layer().forward(x()).permute([0, 3, 1, 2]));
    case.again();
    let x = x();
    let [b, y, columns, _] = x.dims();
    let direct = reference::direct(&layer(), x.reshape([b, y * columns, c]));
    case.output("y", direct.reshape([b, y, columns, c]).permute([0, 3, 1, 2]));
}

/// All gradients, of the input and of the weights in the order of the module.
fn solve(layer: &PolarizedAttention, x: &Tensor<3>, f: impl Fn(&PolarizedAttention, Tensor<3>) -> Tensor<3>) -> Vec<TensorData> {
    struct Collect<'a>(&'a Gradients, Vec<TensorData>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let zeros = || param.val().inner().zeros_like();
            self.1.push(param.val().grad(self.0).unwrap_or_else(zeros).into_data());
        }
    }
    let x = Tensor::<3>::from_data(x.to_data(), (&cpu().autodiff(), DType::F64)).require_grad();
    let y = f(layer, x.clone());
    let grads = (y.clone() * y.clone()).sum().backward();
    let mut collect = Collect(&grads, vec![y.into_data(), x.grad(&grads).unwrap().into_data()]);
    layer.visit(&mut collect);
    collect.1
}

/// Weights in f64: in f32 the norm over a bottleneck of one or two channels would magnify rounding.
struct Double;

impl ModuleMapper for Double {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(param.val().into_data(), (&cpu().autodiff(), DType::F64)))
    }
}

#[test]
fn the_layer_is_its_definition_over_random_maps_with_all_gradients() {
    const NAMES: [&str; 16] = ["y", "dx", "", "", "", "", "", "", "", "", "", "", "", "", "", ""];
    for (flavour, layout) in [
        (Flavour::Paper, Layout::Parallel),
        (Flavour::Paper, Layout::Sequential),
        (Flavour::Official, Layout::Parallel),
        (Flavour::Official, Layout::Sequential),
    ] {
        let what = format!("polarized attention, {flavour:?} {layout:?}");
        let errors = Errors::new(&what, &NAMES, 1e-11);
        sweep(&what, 130, |s| {
            let c = 2 * s.size(4, 12);
            let (b, n) = (s.size(1, 3), s.size(1, 60));
            let size = s.pick(&[1.0, 1.0, 20.0]);
            let x = s.tensor([b, n, c], -size, size).f64(&cpu());
            let layer = PolarizedAttentionConfig { flavour, layout, allow_odd: false }.init(c, &cpu().autodiff()).unwrap();
            let layer = layer.map(&mut Double);
            let got = || solve(&layer, &x, PolarizedAttention::attend);
            errors.add(&format!("{:?}", [b, n, c]), got(), got(), solve(&layer, &x, reference::direct));
        });
        errors.finish();
    }
}

#[test]
fn weights_are_as_many_as_published() {
    let count =
        |flavour, layout, c: usize| PolarizedAttentionConfig { flavour, layout, allow_odd: false }.init(c, &cpu()).unwrap().num_params();
    for (c, paper, parallel, sequential) in
        [(64, 8545, 8256, 7064), (128, 33_473, 32_896, 27_952), (256, 132_481, 131_328, 111_200), (512, 527_105, 524_800, 443_584)]
    {
        assert_eq!(count(Flavour::Paper, Layout::Parallel, c), paper);
        assert_eq!(count(Flavour::Paper, Layout::Sequential, c), paper);
        assert_eq!(count(Flavour::Official, Layout::Parallel, c), parallel);
        assert_eq!(count(Flavour::Official, Layout::Sequential, c), sequential);
    }
}

#[test]
fn widths_that_fit_nowhere_are_refused() {
    let message = |config: PolarizedAttentionConfig, c| config.init(c, &cpu()).unwrap_err().to_string();
    let paper = PolarizedAttentionConfig::default();
    assert_eq!(message(paper, 0), "polarized: `d_model` must be at least 2, got 0");
    assert_eq!(message(paper, 7), "polarized: `d_model` must be even, unless `allow_odd` is set, got 7");
    assert_eq!(PolarizedAttentionConfig { allow_odd: true, ..paper }.init(7, &cpu()).unwrap().v.weight.dims(), [7, 3]);
    let official = PolarizedAttentionConfig { flavour: Flavour::Official, layout: Layout::Sequential, ..paper };
    assert_eq!(message(official, 6), "polarized: `d_model` must be at least 8 for the official sequential form, got 6");
}

#[test]
fn one_token_and_one_row_are_taken() {
    for (flavour, layout) in [(Flavour::Paper, Layout::Sequential), (Flavour::Official, Layout::Parallel)] {
        let layer = PolarizedAttentionConfig { flavour, layout, allow_odd: false }.init(8, &cpu()).unwrap();
        for map in [[1, 1], [1, 5], [4, 1]] {
            let x = Tensor::<4>::ones([2, map[0], map[1], 8], &cpu());
            let y = layer.forward(x.clone());
            assert!(y.clone().into_data().iter::<f32>().all(f32::is_finite));
            if (flavour, map) == (Flavour::Official, [1, 1]) {
                // The softmax over one token is 1.
                let channels = layer.gate.forward(crate::blocks::project(&layer.v, Tensor::ones([2, 1, 8], &cpu())));
                let want = channels.reshape([2, 1, 1, 8]) + 1.0 / (1.0 + (-1.0_f64).exp());
                regard_testkit::assert_close("y", &y, &want, 1e-6);
            }
        }
        assert_eq!(layer.forward(Tensor::zeros([0, 3, 3, 8], &cpu())).dims(), [0, 3, 3, 8]);
    }
}
