use burn::{
    module::Module,
    tensor::{Bool, Int, Tensor, TensorData},
};
use regard_testkit::{Draw, Sampler, assert_close, cpu, relative_error, three_way};

use crate::{
    LayerPlace, MixerMemory, SequenceMixer,
    blocks::NormKind,
    lightning_attention::{Activation, DecayRule, GateKind, Lightning, LightningConfig, LrpeConfig, PositionPolicy},
};

const FIRST: LayerPlace = LayerPlace { index: 0, count: 3 };
const SECOND: LayerPlace = LayerPlace { index: 1, count: 3 };

fn configs() -> Vec<LightningConfig> {
    let base = || LightningConfig { block: 4, ..LightningConfig::new(2) };
    let mut configs = vec![
        base(),
        LightningConfig { width: Some(10), ..base() },
        LightningConfig { gate: GateKind::LowRank { width: 3, sigmoid: false }, ..base() },
        LightningConfig { gate: GateKind::None, bias: true, ..base() },
        LightningConfig { decay: DecayRule::Paper, ..base() },
        LightningConfig { decay_by_layer: false, ..base() },
        // The example module of the operation's repository.
        LightningConfig {
            gate: GateKind::LowRank { width: 8, sigmoid: true },
            value_activation: Activation::Silu,
            norm: NormKind::Layer,
            positions: PositionPolicy::Decay,
            ..base()
        },
    ];
    for positions in [PositionPolicy::LrpeDecay, PositionPolicy::Lrpe, PositionPolicy::Decay, PositionPolicy::None] {
        configs.push(LightningConfig { positions, ..base() });
    }
    for activation in [Activation::OnePlusElu, Activation::None] {
        configs.push(LightningConfig { activation, ..base() });
    }
    configs
}

fn input(seed: u64, shape: [usize; 3]) -> Tensor<3> {
    let draw: Draw<3> = Sampler::new(seed).tensor(shape, -1.0, 1.0);
    draw.f32(&cpu())
}

fn layer(place: LayerPlace) -> Lightning {
    LightningConfig { block: 4, ..LightningConfig::new(2) }.init(16, place, &cpu()).unwrap()
}

#[test]
fn forward_prefill_and_steps_agree_in_every_configuration() {
    let x = input(1, [2, 13, 16]);
    for config in configs() {
        for place in [FIRST, SECOND] {
            let layer = config.init(16, place, &cpu()).unwrap();
            three_way(
                &format!("{config:?}"),
                &x,
                1e-4,
                |x| layer.forward(x, None),
                || layer.state(2),
                |x, state| layer.prefill(x, state),
                |x, state| layer.step(x, state),
            );
        }
    }
}

#[test]
fn the_number_of_weights_is_known_before_the_layer_exists() {
    for config in configs() {
        for place in [FIRST, SECOND] {
            assert_eq!(config.params(16, place), config.init(16, place, &cpu()).unwrap().num_params(), "{config:?}");
        }
    }
}

#[test]
fn no_tokens_give_no_outputs_and_leave_the_state() {
    let layer = layer(FIRST);
    let none = || Tensor::<3>::zeros([2, 0, 16], &cpu());
    let mut state = layer.state(2);
    assert_eq!(layer.forward(none(), None).dims(), [2, 0, 16]);
    assert_eq!(layer.prefill(none(), &mut state).dims(), [2, 0, 16]);
    assert_eq!(state.position, 0);
}

#[test]
fn only_the_first_layer_encodes_positions_by_default() {
    assert!(layer(FIRST).lrpe.is_some());
    assert!(layer(SECOND).lrpe.is_none());
    assert_eq!(layer(FIRST).state(3).kv.dims(), [3, 2, 16, 8]);
    assert_eq!(layer(SECOND).state(3).kv.dims(), [3, 2, 8, 8]);
}

#[test]
fn outputs_do_not_depend_on_later_tokens() {
    let x = input(2, [1, 12, 16]);
    let changed = Tensor::cat(vec![x.clone().narrow(1, 0, 7), input(3, [1, 5, 16])], 1);
    let layer = layer(FIRST);
    let [a, b] = [x, changed].map(|x| layer.forward(x, None));
    assert_close("before the change", &b.clone().narrow(1, 0, 7), &a.clone().narrow(1, 0, 7), 0.0);
    assert!(relative_error(&b, &a) > 0.01);
}

#[test]
fn a_batch_mate_of_nans_changes_nothing() {
    let x = input(4, [1, 9, 16]);
    let layer = layer(FIRST);
    let both = Tensor::cat(vec![x.clone(), Tensor::full([1, 9, 16], f32::NAN, &cpu())], 0);
    assert_close("beside NaN", &layer.forward(both, None).narrow(0, 0, 1), &layer.forward(x, None), 1e-6);
}

/// `true` at the hidden positions of one sequence.
fn padding(hidden: &[bool]) -> Tensor<2, Bool> {
    Tensor::from_data(TensorData::new(hidden.to_vec(), [1, hidden.len()]), &cpu())
}

#[test]
fn padding_on_either_side_leaves_the_tokens_alone() {
    let x = input(5, [1, 9, 16]);
    let junk = input(6, [1, 4, 16]) * 10.0;
    for place in [FIRST, SECOND] {
        let layer = layer(place);
        let want = layer.forward(x.clone(), None);
        let right =
            layer.forward(Tensor::cat(vec![x.clone(), junk.clone()], 1), Some(padding(&[[false; 9].as_slice(), &[true; 4]].concat())));
        assert_close("right", &right.narrow(1, 0, 9), &want, 1e-5);
        let left =
            layer.forward(Tensor::cat(vec![junk.clone(), x.clone()], 1), Some(padding(&[[true; 4].as_slice(), &[false; 9]].concat())));
        assert_close("left", &left.narrow(1, 4, 9), &want, 1e-4);
    }
}

#[test]
fn a_sequence_without_tokens_gives_zeros_and_finite_gradients() {
    let device = cpu().autodiff();
    let layer = LightningConfig::new(2).init(16, FIRST, &device).unwrap();
    let x = Tensor::<3>::from_data(input(7, [1, 5, 16]).into_data(), &device).require_grad();
    let hidden = Tensor::<2, Bool>::from_data(TensorData::new(vec![true; 5], [1, 5]), &device);
    let y = layer.forward(x.clone(), Some(hidden));
    assert!(y.clone().into_data().iter::<f32>().all(|y| y == 0.0));
    let gradient = x.grad(&y.sum().backward()).unwrap();
    assert!(gradient.into_data().iter::<f32>().all(f32::is_finite));
}

#[test]
fn the_state_keeps_its_size_and_follows_its_sequences() {
    let layer = layer(FIRST);
    let x = input(8, [3, 20, 16]);
    let mut state = layer.state(3);
    let bytes = state.bytes();
    assert_eq!(bytes, 3 * 2 * 16 * 8 * 4);
    layer.prefill(x.clone().narrow(1, 0, 19), &mut state);
    let order = Tensor::<1, Int>::from_data([2, 0], &cpu());
    let mut picked = state.select(&order);
    let next = x.clone().narrow(1, 19, 1).squeeze_dim::<2>(1);
    let all = layer.step(next.clone(), &mut state);
    assert_eq!((state.bytes(), state.position), (bytes, 20));
    assert_close("reordered", &layer.step(next.select(0, order.clone()), &mut picked), &all.select(0, order), 1e-6);
}

#[test]
fn two_generations_with_one_layer_do_not_disturb_one_another() {
    let layer = layer(FIRST);
    let [a, b] = [9, 10].map(|seed| input(seed, [1, 8, 16]));
    let want = layer.forward(a.clone(), None);
    let (mut state_a, mut state_b) = (layer.state(1), layer.state(1));
    let mut got = Vec::new();
    for i in 0..8 {
        let token = |x: &Tensor<3>| x.clone().narrow(1, i, 1).squeeze_dim::<2>(1);
        got.push(layer.step(token(&a), &mut state_a).unsqueeze_dim::<3>(1));
        layer.step(token(&b), &mut state_b);
    }
    assert_close("interleaved", &Tensor::cat(got, 1), &want, 1e-4);
}

#[test]
fn encoded_products_depend_on_the_distance_alone_even_far_out() {
    let lrpe = LrpeConfig::new(2, 4).init(&cpu()).unwrap();
    let draw = |seed| -> Tensor<4> { Sampler::new(seed).tensor([1, 2, 70, 4], -1.0, 1.0).f32(&cpu()) };
    let (q, k) = (draw(11), draw(12));
    let products = |position| {
        let (q, k) = lrpe.forward_pair(q.clone(), k.clone(), position);
        q.matmul(k.transpose())
    };
    assert_close("at 200 000", &products(200_000), &products(0), 1e-6);
}
