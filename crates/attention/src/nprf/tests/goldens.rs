use burn::{
    module::Module,
    tensor::{Bool, Tensor},
};
use regard_testkit::{Case, run};

use crate::{
    LayerPlace, SequenceMixer,
    blocks::{Mlp, MlpConfig, MlpKind, Norm, NormKind},
    nprf::{FavorOptions, Nprf, NprfAlgorithm, NprfConfig, NprfOptions, favor_plus, nprf, nprf_grid, reference},
};

#[test]
fn goldens_of_kernelised_attention_pass_through_definition_and_operation() {
    run(
        "nprf",
        &["op.", "layer."],
        &[("op.nprf", golden_line), ("op.nprf_2d", golden_grid), ("op.favor_plus", golden_favor_plus), ("layer.nprf_block", golden_block)],
    );
}

const ALGORITHMS: [NprfAlgorithm; 3] = [NprfAlgorithm::Auto, NprfAlgorithm::Dense, NprfAlgorithm::Fft];

fn golden_options(case: &Case, algorithm: NprfAlgorithm) -> NprfOptions {
    assert_eq!(case.text("feature"), "prf");
    NprfOptions {
        causal: case.flag("causal"),
        normalised: case.flag("normalised"),
        key_mask: key_mask(case),
        algorithm,
        ..NprfOptions::default()
    }
}

fn key_mask(case: &Case) -> Option<Tensor<2, Bool>> {
    case.flag("masked").then(|| case.int::<2>("in.mask").equal_elem(0))
}

/// Which pairs are hidden by the case. `[B or 1, 1, N, N]`
fn hidden_pairs(case: &Case, n: usize) -> Tensor<4, Bool> {
    let later = Tensor::<2, Bool>::tril_mask([n, n], 0, case.device()).reshape([1, 1, n, n]);
    let later = if case.flag("causal") { later } else { Tensor::<4>::zeros([1, 1, n, n], case.device()).equal_elem(1) };
    match key_mask(case) {
        Some(mask) => {
            let b = mask.dims()[0];
            later.expand([b, 1, n, n]).bool_or(mask.reshape([b, 1, 1, n]).expand([b, 1, n, n]))
        }
        None => later,
    }
}

fn check_definition(case: &Case, bias: &Tensor<4>) {
    let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| case.float::<4>(name));
    let hidden = hidden_pairs(case, q.dims()[2]);
    let normalised = case.flag("normalised");
    case.output("exact", reference::exact(q.clone(), k.clone(), v.clone(), Some(bias.clone()), Some(hidden.clone()), normalised));
    let (o, den) = reference::dense(q, k, v, case.float("in.W"), Some(bias.clone()), Some(hidden), normalised);
    case.output("o", o);
    case.output("den", den);
    case.again();
}

fn golden_line(case: &Case) {
    check_definition(case, &reference::bias_matrix(case.float("in.b")));
    for algorithm in ALGORITHMS {
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| case.float::<4>(name));
        let options = golden_options(case, algorithm);
        let (o, lse) = nprf(q, k, v, case.float("in.W"), Some(case.float("in.b")), &options).unwrap();
        case.output("o", o);
        case.output("den", lse.exp());
        case.again();
    }
}

fn golden_grid(case: &Case) {
    let class = || case.flag("class_token").then(|| case.float("in.b_cls"));
    check_definition(case, &reference::grid_bias_matrix(case.float("in.b"), class()));
    for algorithm in ALGORITHMS {
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| case.float::<4>(name));
        let options = golden_options(case, algorithm);
        let (o, lse) = nprf_grid(q, k, v, case.float("in.W"), case.float("in.b"), class(), &options).unwrap();
        case.output("o", o);
        case.output("den", lse.exp());
        case.again();
    }
}

fn golden_favor_plus(case: &Case) {
    let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| case.float::<4>(name));
    let options =
        FavorOptions { causal: case.flag("causal"), eps: case.number("eps"), causal_eps: case.number("causal_eps"), key_mask: None };
    let out = favor_plus(q, k, v, case.float("in.W"), &options).unwrap();
    case.output("o", out.o);
    case.output("phi_q", out.phi_q);
    case.output("phi_k", out.phi_k);
}

/// `x + attention(ln1(x))`, then `x + mlp(ln2(x))`.
#[derive(Module, Debug)]
struct Block {
    ln1: Norm,
    mixer: Nprf,
    ln2: Norm,
    mlp: Mlp,
}

fn golden_block(case: &Case) {
    assert_eq!((case.text("norm"), case.text("activation"), case.text("feature")), ("pre", "gelu_erf", "prf"));
    let (d_model, n) = (case.size("embed_dim"), case.size("n"));
    for algorithm in ALGORITHMS {
        let config = NprfConfig {
            features: Some(case.size("m")),
            normalised: case.flag("normalised"),
            farthest: n - 1,
            algorithm,
            ..NprfConfig::new(case.size("heads"))
        };
        let norm = || NormKind::Layer.init(d_model, case.number("ln_eps"), case.device());
        let mlp = MlpConfig { kind: MlpKind::Gelu, d_model, d_ff: case.size("ffn"), bias: true };
        let mixer = config.init(d_model, LayerPlace::ONLY, case.device()).unwrap();
        let block = Block { ln1: norm(), mixer, ln2: norm(), mlp: mlp.init(case.device()).unwrap() };
        let mut block = case.load(block, &[("mixer.", ""), ("mlp.up", "fc1"), ("mlp.down", "fc2")]);
        block.mixer.projection = case.float("in.W");
        let x = case.float::<3>("in.x");
        let normed = block.ln1.forward(x.clone());
        let mixed = if case.flag("causal") { block.mixer.forward(normed, None) } else { block.mixer.attend(normed, None).unwrap() };
        let x = x + mixed;
        case.output("y", x.clone() + block.mlp.forward(block.ln2.forward(x)));
        case.again();
    }
}
