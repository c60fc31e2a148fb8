use burn::tensor::{DType, Tensor};
use regard_testkit::{Sampler, assert_close, cpu, sweep};

use super::{Inputs, assert_all_close, with_gradients};
use crate::nprf::{FavorOptions, favor_plus};

/// Token by token from the features that the operation gives.
fn by_features(x: &Inputs, options: &FavorOptions) -> (Tensor<4>, Tensor<4>) {
    let out = favor_plus(x.q.clone(), x.k.clone(), x.v.clone(), x.projection.clone().narrow(0, 0, 1).squeeze_dim(0), options).unwrap();
    let n = x.q.dims()[2];
    let rows = (0..n)
        .map(|i| {
            let seen = if options.causal { i + 1 } else { n };
            let (q, k, v) = (out.phi_q.clone().narrow(2, i, 1), out.phi_k.clone().narrow(2, 0, seen), x.v.clone().narrow(2, 0, seen));
            let weights = q.clone().matmul(k.swap_dims(2, 3));
            let constant = if options.causal { q.sum_dim(3) * options.causal_eps } else { q.sum_dim(3) * 0.0 };
            weights.clone().matmul(v) / (weights.sum_dim(3) + constant)
        })
        .collect();
    (out.o, Tensor::cat(rows, 2))
}

#[test]
fn outputs_are_the_ratio_of_sums_of_the_features_in_both_forms() {
    let mut s = Sampler::new(1);
    for causal in [false, true] {
        let x = Inputs::draw(&mut s, [2, 3, 70, 4, 3, 6]);
        // A constant that shows.
        let options = FavorOptions { causal, causal_eps: 0.1, ..FavorOptions::default() };
        let (got, want) = by_features(&x, &options);
        assert_close("o", &got, &want, 1e-11);
    }
}

#[test]
fn outputs_and_gradients_are_those_of_the_sums_over_odd_shapes() {
    sweep("favor_plus", 40, |s| {
        let (b, h, n) = (s.size(1, 3), s.size(1, 3), s.pick(&[1, 2, 3, 7, 33, 64, 65, 100]));
        let inputs = Inputs::any(s, [b, h, n]);
        let options = FavorOptions { causal: s.flip(), causal_eps: s.pick(&[1e-6, 0.1]), ..FavorOptions::default() };
        let seed = s.size(0, 1000) as u64;
        let no_log = |o: Tensor<4>| {
            let log = o.clone().detach().narrow(3, 0, 1).squeeze_dim::<3>(3) * 0.0;
            (o, log)
        };
        let want = with_gradients(&inputs, seed, |x| no_log(by_features(&x, &options).1));
        assert_all_close("in f64", &with_gradients(&inputs, seed, |x| no_log(by_features(&x, &options).0)), &want, 1e-9);
        let want = by_features(&inputs, &options).1;
        assert_close("in f32", &by_features(&inputs.f32(), &options).0, &want.cast(DType::F32), 3e-5);
    });
}

#[test]
fn hidden_keys_do_not_count() {
    let mut s = Sampler::new(2);
    let x = Inputs::draw(&mut s, [1, 2, 6, 4, 3, 5]);
    let mask = Tensor::from_data([[false, false, false, false, true, true]], &cpu());
    let w = x.projection.clone().narrow(0, 0, 1).squeeze_dim::<2>(0);
    let options = FavorOptions { key_mask: Some(mask), ..FavorOptions::default() };
    let got = favor_plus(x.q.clone(), x.k.clone(), x.v.clone(), w.clone(), &options).unwrap().o;
    let cut = |x: Tensor<4>| x.narrow(2, 0, 4);
    let want = favor_plus(x.q, cut(x.k), cut(x.v), w, &FavorOptions::default()).unwrap().o;
    assert_close("four keys", &got, &want, 1e-12);
}

#[test]
fn empty_inputs_give_empty_outputs() {
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &cpu());
    let w = Tensor::zeros([5, 3], &cpu());
    let out = favor_plus(zeros([2, 1, 0, 3]), zeros([2, 1, 0, 3]), zeros([2, 1, 0, 4]), w, &FavorOptions::default()).unwrap();
    assert_eq!((out.o.dims(), out.phi_q.dims(), out.phi_k.dims()), ([2, 1, 0, 4], [2, 1, 0, 5], [2, 1, 0, 5]));
}
