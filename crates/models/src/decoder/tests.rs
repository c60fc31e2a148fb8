use burn::{
    module::{ModuleVisitor, Param},
    tensor::{Gradients, Int, Tensor, TensorData},
};
use regard::{MixerConfig, blocks::MoeConfig};
use regard_testkit::{assert_close, cpu};

use super::{DecoderConfig, DecoderState, Positions};

fn config(kind: &str) -> DecoderConfig {
    let mixer = MixerConfig::named(kind, 2).expect("a kind of the list");
    DecoderConfig::new(17, 16, 2, vec![mixer], 32)
}

fn ids(values: &[i64]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &cpu())
}

#[test]
fn prefill_and_steps_give_the_logits_of_the_whole_sequence() {
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5];
    for kind in MixerConfig::KINDS {
        for positions in [Positions::None, Positions::Learned] {
            let model = DecoderConfig { positions, ..config(kind) }.init(&cpu()).unwrap();
            let want = model.forward(ids(&tokens), None);
            let mut state = model.state(1);
            let mut parts = vec![model.prefill(ids(&tokens[..4]), &mut state).unwrap()];
            for &token in &tokens[4..] {
                let id = Tensor::from_data([token], &cpu());
                parts.push(model.step(id, &mut state).unwrap().unsqueeze_dim(1));
            }
            assert_eq!(state.position, tokens.len());
            assert_close(kind, &Tensor::cat(parts, 1), &want, 1e-4);
        }
    }
}

#[test]
fn decoding_past_the_learned_positions_is_an_error() {
    let model = DecoderConfig { positions: Positions::Learned, context: 4, ..config("softmax") }.init(&cpu()).unwrap();
    let mut state = model.state(1);
    let error = model.prefill(ids(&[1, 2, 3, 4, 5]), &mut state).unwrap_err();
    assert_eq!(error.to_string(), "decoder: `ids` must be within the 4 learned positions, got 5 tokens");
}

#[test]
fn ids_outside_the_vocabulary_are_errors_and_leave_the_state_alone() {
    let model = config("flow").init(&cpu()).unwrap();
    let mut state = model.state(1);
    for (wrong, shown) in [(17, "17"), (-1, "-1")] {
        let want = format!("decoder: `ids` must be below the 17 tokens of the vocabulary, got {shown}");
        assert_eq!(model.prefill(ids(&[3, wrong, 5]), &mut state).unwrap_err().to_string(), want);
        assert_eq!(model.step(Tensor::from_data([wrong], &cpu()), &mut state).unwrap_err().to_string(), want);
    }
    assert_eq!(state.position, 0);
    model.prefill(ids(&[0, 16]), &mut state).unwrap();
}

#[test]
fn a_state_of_another_batch_or_model_is_an_error() {
    let model = config("flow").init(&cpu()).unwrap();
    let mut state = model.state(3);
    let error = model.prefill(ids(&[1]), &mut state).unwrap_err().to_string();
    assert_eq!(error, "decoder: `state` must be that of 1 sequences, as `ids`, got that of 3");
    let mut one = state.select(&Tensor::from_data([2], &cpu()));
    model.prefill(ids(&[1]), &mut one).unwrap();
    let mut foreign = config("softmax").init(&cpu()).unwrap().state(1);
    let error = model.step(Tensor::from_data([1], &cpu()), &mut foreign).unwrap_err().to_string();
    assert_eq!(error, "decoder: `state` must be of layers flow, flow, got of layers softmax, softmax");
}

#[test]
fn a_state_of_other_widths_or_types_is_an_error_before_it_is_touched() {
    let token = || Tensor::from_data([1], &cpu());
    for kind in MixerConfig::KINDS {
        let model = config(kind).init(&cpu()).unwrap();
        let mut own = model.state(1);
        model.step(token(), &mut own).unwrap();
        let (twice, heads) = (DecoderConfig { d_model: 32, ..config(kind) }, vec![MixerConfig::named(kind, 4).unwrap()]);
        for other in [twice, DecoderConfig { mixers: heads, ..config(kind) }] {
            let other = other.init(&cpu()).unwrap();
            let mut foreign = other.state(1);
            other.prefill(ids(&[1, 2]), &mut foreign).unwrap();
            let layouts: Vec<_> = [&own, &foreign].map(|state| state.layers[0].layout()).into();
            let want = format!("decoder: `state` must be of tensors {} in layer 0 ({kind}), got {}", layouts[0], layouts[1]);
            assert_eq!(model.step(token(), &mut foreign).unwrap_err().to_string(), want);
            assert_eq!(model.prefill(ids(&[3, 4]), &mut foreign).unwrap_err().to_string(), want);
            other.step(token(), &mut foreign).unwrap();
        }
        // As of a state whose layers were put together by hand.
        let mut mixed = DecoderState { layers: model.state(2).layers, ..own.clone() };
        let error = model.step(token(), &mut mixed).unwrap_err().to_string();
        assert!(error.contains("must be of tensors [1, ") && error.contains("got [2, "), "{error}");
        model.step(token(), &mut own).unwrap();
    }
}

#[test]
fn a_config_without_mixers_is_an_error() {
    let error = DecoderConfig { mixers: vec![], ..config("softmax") }.init(&cpu()).unwrap_err();
    assert_eq!(error.to_string(), "decoder: `mixers` must be a list of at least one mixer, got []");
}

#[test]
fn numbers_outside_their_range_are_errors() {
    let error = |config: DecoderConfig| config.init(&cpu()).unwrap_err().to_string();
    let own = || config("softmax");
    assert_eq!(error(DecoderConfig { init_std: f64::NAN, ..own() }), "decoder: `init_std` must be a number of at least 0, got NaN");
    assert_eq!(error(DecoderConfig { init_std: -0.1, ..own() }), "decoder: `init_std` must be a number of at least 0, got -0.1");
    assert_eq!(error(DecoderConfig { norm_epsilon: 0.0, ..own() }), "decoder: `norm_epsilon` must be a positive number, got 0");
    assert_eq!(error(DecoderConfig { dropout: 1.0, ..own() }), "decoder: `dropout` must be in [0, 1), got 1");
}

#[test]
fn residual_projections_start_smaller() {
    let model = DecoderConfig { d_model: 64, d_ff: 256, ..config("softmax") }.init(&cpu()).unwrap();
    let std = |t: Tensor<2>| t.flatten::<1>(0, 1).var(0).sqrt().into_scalar::<f32>();
    let mlp = model.blocks[0].mlp.dense().unwrap();
    let (up, down) = (std(mlp.up.weight.val()), std(mlp.down.weight.val()));
    assert!((up - 0.02).abs() < 0.001, "std of an inner projection: {up}");
    assert!((down - 0.01).abs() < 0.001, "std of a residual projection with two layers: {down}");
}

#[test]
fn every_weight_gets_a_gradient() {
    struct Count<'a>(&'a Gradients, usize, usize);
    impl ModuleVisitor for Count<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1 += 1;
            self.2 += usize::from(param.val().grad(self.0).is_some());
        }
    }
    for kind in MixerConfig::KINDS {
        let config = DecoderConfig { positions: Positions::Learned, tied: false, bias: true, ..config(kind) };
        let model = config.init(&cpu().autodiff()).unwrap();
        let tokens = Tensor::from_data([[3, 1, 4, 1, 5]], &cpu().autodiff());
        let grads = model.loss(tokens.clone(), tokens, None).backward();
        let mut count = Count(&grads, 0, 0);
        burn::module::Module::visit(&model, &mut count);
        assert!(count.1 > 0);
        assert_eq!(count.1, count.2, "{kind}: weights and weights with a gradient");
    }
}

#[test]
#[should_panic(expected = "decoder: `ids` must be within the 4 learned positions, got 5 tokens")]
fn a_sequence_longer_than_the_learned_positions_says_so() {
    let model = DecoderConfig { positions: Positions::Learned, context: 4, ..config("softmax") }.init(&cpu()).unwrap();
    model.forward(ids(&[1, 2, 3, 4, 5]), None);
}

#[test]
fn a_skeleton_makes_no_weight_and_has_the_count_of_the_network() {
    struct Made(usize);
    impl ModuleVisitor for Made {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 += usize::from(param.is_initialized());
        }
    }
    for kind in MixerConfig::KINDS {
        let config = DecoderConfig { positions: Positions::Learned, tied: false, ..config(kind) };
        let skeleton = config.skeleton(&cpu()).unwrap();
        let mut made = Made(0);
        burn::module::Module::visit(&skeleton, &mut made);
        assert_eq!(made.0, 0, "{kind}");
        let model = config.init(&cpu()).unwrap();
        assert_eq!(skeleton.params(), model.params(), "{kind}");
        assert_eq!(model.active_params(), model.params() - 17 * 16, "{kind}: the embedding is looked up");
    }
}

#[test]
fn experts_stand_behind_the_dense_layers_and_start_as_other_weights_do() {
    let moe = MoeConfig { shared: 1, ..MoeConfig::new(4, 2, 128) };
    let config = DecoderConfig { layers: 3, d_model: 64, dense_layers: 1, moe: Some(moe), ..config("softmax") };
    let model = config.init(&cpu().autodiff()).unwrap();
    let kinds: Vec<_> = model.blocks.iter().map(|b| b.mlp.moe().is_some()).collect();
    assert_eq!(kinds, [false, true, true]);
    let experts = &model.blocks[1].mlp.moe().unwrap().experts;
    let std = |t: Tensor<3>| t.inner().flatten::<1>(0, 2).var(0).sqrt().into_scalar::<f32>();
    let (up, down) = (std(experts.gate_up_proj.val()), std(experts.down_proj.val()));
    assert!((up - 0.02).abs() < 0.001, "{up}");
    assert!((down - 0.02 / 6.0_f32.sqrt()).abs() < 0.001, "{down}");

    let idle = 2 * (2 * 3 * 64 * 128);
    assert_eq!(model.active_params(), model.params() - idle);
    let tokens = Tensor::from_data([[3, 1, 4, 1, 5]], &cpu().autodiff());
    let grads = model.loss(tokens.clone(), tokens, None).backward();
    assert!(experts.gate_up_proj.val().grad(&grads).is_some());
    let router = &model.blocks[1].mlp.moe().unwrap().gate;
    assert!(router.weight.val().grad(&grads).is_some());
    assert!(router.e_score_correction_bias.val().grad(&grads).is_none());
}

#[test]
fn bad_tokens_and_masks_are_errors_before_they_are_read() {
    let model = DecoderConfig { positions: Positions::Learned, context: 4, ..config("softmax") }.init(&cpu()).unwrap();
    let error = |values: &[i64], padding: Option<[usize; 2]>| {
        let padding = padding.map(|shape| Tensor::<2>::zeros(shape, &cpu()).equal_elem(1));
        model.try_forward(ids(values), padding).unwrap_err().to_string()
    };
    assert_eq!(error(&[1; 5], None), "decoder: `ids` must be within the 4 learned positions, got 5 tokens");
    assert_eq!(error(&[1, 17], None), "decoder: `ids` must be below the 17 tokens of the vocabulary, got 17");
    assert_eq!(error(&[1, -1], None), "decoder: `ids` must be below the 17 tokens of the vocabulary, got -1");
    assert_eq!(error(&[1, 2], Some([1, 3])), "decoder: `ids` and `padding` must agree in batch and tokens, got [1, 2] and [1, 3]");
    let got = model.try_forward(ids(&[3, 1, 4, 1]), None).unwrap();
    assert_close("the same logits", &got, &model.forward(ids(&[3, 1, 4, 1]), None), 0.0);
}
