use burn::tensor::{Int, Tensor, TensorData};
use regard::{
    Mixer,
    nprf::{NprfAlgorithm, NprfConfig},
};
use regard_testkit::{Case, assert_close, cpu, run};

use super::NprfLmConfig;

#[test]
fn goldens_of_the_model() {
    run("nprf", &["model."], &[("model.nprf_lm", model)]);
}

fn model(case: &Case) {
    for algorithm in [NprfAlgorithm::Auto, NprfAlgorithm::Dense, NprfAlgorithm::Fft] {
        by(case, algorithm);
        case.again();
    }
}

fn by(case: &Case, algorithm: NprfAlgorithm) {
    assert_eq!((case.text("norm"), case.text("activation"), case.text("feature")), ("pre", "gelu_erf", "prf"));
    assert!(case.flag("causal"), "a language model is causal");
    let (n, layers) = (case.size("n"), case.size("layers"));
    let new = NprfLmConfig::new(case.size("vocab"), case.size("embed_dim"), layers, case.size("heads"), n);
    let mixer = NprfConfig { features: Some(case.size("m")), normalised: case.flag("normalised"), algorithm, ..new.mixer.clone() };
    let config =
        NprfLmConfig { d_ff: case.size("ffn"), mixer, norm_epsilon: case.number("ln_eps"), tied: case.flag("tied_embedding"), ..new };
    let model = config.init(case.device()).unwrap();
    assert_eq!((config.params(), model.params()), (case.size("params"), case.size("params")));
    let names =
        [("mixer_norm.", "ln1."), ("mixer.Nprf.", ""), ("mlp_norm.", "ln2."), ("mlp.Dense.up.", "fc1."), ("mlp.Dense.down.", "fc2.")];
    let mut renames = vec![("embedding.".to_string(), "tok_emb.".to_string()), ("norm.".into(), "ln_f.".into())];
    for layer in 0..layers {
        renames.extend(names.map(|(here, there)| (format!("blocks.{layer}.{here}"), format!("blocks.{layer}.{there}"))));
    }
    let renames: Vec<_> = renames.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let mut model = case.load(model, &renames);
    for (layer, block) in model.blocks.iter_mut().enumerate() {
        let Mixer::Nprf(mixer) = &mut block.mixer else { panic!("layer {layer} is of another kind") };
        mixer.projection = case.float(&format!("in.W.{layer}"));
    }
    let tokens = case.int::<2>("in.tokens");
    let (ids, targets) = (tokens.clone().narrow(1, 0, n), tokens.narrow(1, 1, n));
    case.output("logits", model.forward(ids.clone(), None));
    case.output("loss", model.loss(ids, targets, None));
}

#[test]
fn the_byte_level_network_has_the_weights_of_the_specification() {
    let config = NprfLmConfig::byte_lm();
    assert_eq!(config.params(), 834_288);
    assert_eq!(config.init(&cpu()).unwrap().params(), 834_288);
    let without = NprfLmConfig { mixer: NprfConfig { rpe: false, ..config.mixer.clone() }, ..config };
    assert_eq!((without.params(), without.init(&cpu()).unwrap().params()), (826_112, 826_112));
}

fn ids(values: &[i64]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &cpu())
}

#[test]
fn a_sequence_longer_than_the_context_is_read_and_decoded_alike() {
    let model = NprfLmConfig::new(11, 16, 2, 2, 4).init(&cpu()).unwrap();
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5];
    let want = model.forward(ids(&tokens), None);
    let mut state = model.state(1);
    let mut logits = vec![model.prefill(ids(&tokens[..3]), &mut state).unwrap()];
    for &token in &tokens[3..] {
        logits.push(model.step(Tensor::from_data([token], &cpu()), &mut state).unwrap().unsqueeze_dim(1));
    }
    assert_close("logits", &Tensor::cat(logits, 1), &want, 1e-5);
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let error = |config: NprfLmConfig| config.init(&cpu()).unwrap_err().to_string();
    assert_eq!(error(NprfLmConfig::new(11, 16, 2, 3, 4)), "nprf: `heads` must be a divisor of d_model = 16, got 3");
    assert_eq!(error(NprfLmConfig::new(11, 16, 0, 2, 4)), "decoder: `layers` must be at least 1, got 0");
    assert_eq!(error(NprfLmConfig::new(11, 16, 2, 2, 0)), "decoder: `context` must be at least 1, got 0");
}
