use burn::tensor::{DType, Tensor, activation};
use regard_testkit::{Draw, Sampler, assert_close, cpu, gradcheck, relative_error};

use crate::neighborhood_attention::{NeighborhoodOptions, WindowAxis, merge_attentions, neighborhood_attention};

fn draw<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    Sampler::new(seed).tensor(shape, -1.0, 1.0).f32(&cpu())
}

fn plain<const N: usize>(q: &Tensor<N>, k: &Tensor<N>, v: &Tensor<N>, axes: &[WindowAxis]) -> Tensor<N> {
    neighborhood_attention(q.clone(), k.clone(), v.clone(), axes, NeighborhoodOptions::default()).unwrap().0
}

/// Softmax attention of all tokens `[B, N, H, K]` to all.
fn full(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let scale = 1.0 / (q.dims()[3] as f64).sqrt();
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(1, 2));
    activation::softmax((q * scale).matmul(k.swap_dims(2, 3)), 3).matmul(v).swap_dims(1, 2)
}

#[test]
fn a_window_of_one_gives_the_values() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [2, 9, 11, 3, 8]));
    assert_close("values", &plain(&q, &k, &v, &[WindowAxis::new(1); 2]), &v, 1e-6);
}

#[test]
fn windows_of_the_whole_grid_are_full_attention() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [2, 9, 11, 3, 8]));
    let flat = |x: &Tensor<5>| x.clone().reshape([2, 99, 3, 8]);
    let want = full(flat(&q), flat(&k), flat(&v));
    assert_close("full", &flat(&plain(&q, &k, &v, &[WindowAxis::new(9), WindowAxis::new(11)])), &want, 1e-5);
}

#[test]
fn a_stride_of_the_window_is_attention_in_blocks() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [1, 12, 10, 2, 8]));
    let blocks = |x: &Tensor<5>| x.clone().reshape([3, 4, 2, 5, 2, 8]).swap_dims(1, 2).reshape([6, 20, 2, 8]);
    let got = plain(&q, &k, &v, &[WindowAxis::blocks(4), WindowAxis::blocks(5)]);
    assert_close("blocks", &blocks(&got), &full(blocks(&q), blocks(&k), blocks(&v)), 1e-5);
}

#[test]
fn dilation_is_attention_within_each_group_of_tokens() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [2, 23, 2, 8]));
    let got = plain(&q, &k, &v, &[WindowAxis { dilation: 3, ..WindowAxis::new(5) }]);
    for group in 0..3 {
        let part = |x: &Tensor<4>| x.clone().slice([burn::tensor::s![..], burn::tensor::s![group..;3]]);
        let want = plain(&part(&q), &part(&k), &part(&v), &[WindowAxis::new(5)]);
        assert_close("group", &part(&got), &want, 1e-6);
    }
}

#[test]
fn tokens_outside_of_the_neighborhood_have_no_influence() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [1, 20, 20, 2, 8]));
    let axes = [WindowAxis::new(5); 2];
    let before = plain(&q, &k, &v, &axes);
    let far = |x: &Tensor<5>| x.clone().slice_assign([0..1, 12..20, 0..20, 0..2, 0..8], Tensor::full([1, 8, 20, 2, 8], 1e3, &cpu()));
    let after = plain(&q, &far(&k), &far(&v), &axes);
    let first = |x: &Tensor<5>| x.clone().narrow(1, 0, 10);
    assert_eq!(first(&before).into_data(), first(&after).into_data());
    let near = |x: &Tensor<5>| x.clone().slice_assign([0..1, 12..20, 0..20, 0..2, 0..8], Tensor::full([1, 8, 20, 2, 8], 3.0, &cpu()));
    let last = |x: &Tensor<5>| x.clone().narrow(1, 10, 1);
    assert!(relative_error(&last(&plain(&q, &near(&k), &near(&v), &axes)), &last(&before)) > 0.1);
}

#[test]
fn extra_keys_are_what_merging_two_attentions_gives() {
    let [q, k, v] = [1, 2, 3].map(|seed| draw(seed, [2, 9, 8, 4, 6]));
    let [extra_k, extra_v] = [4, 5].map(|seed| draw::<4>(seed, [2, 5, 4, 6]));
    let axes = [WindowAxis::new(3), WindowAxis::new(4)];
    let options = NeighborhoodOptions { extra: Some([extra_k.clone(), extra_v.clone()]), ..Default::default() };
    let (o, lse) = neighborhood_attention(q.clone(), k.clone(), v.clone(), &axes, options).unwrap();
    let inside = neighborhood_attention(q.clone(), k, v, &axes, NeighborhoodOptions::default()).unwrap();
    let [keys, values] = [extra_k, extra_v].map(|x| x.swap_dims(1, 2)); // [B, H, M, K]
    let scores = (q.reshape([2, 72, 4, 6]).swap_dims(1, 2) / 6f64.sqrt()).matmul(keys.swap_dims(2, 3));
    let sum = scores.clone().exp().sum_dim(3);
    let on_grid = |x: Tensor<4>| {
        let width = x.dims()[3];
        x.swap_dims(1, 2).reshape([2, 9, 8, 4, width])
    };
    let outside = (on_grid(activation::softmax(scores, 3).matmul(values)), on_grid(sum.log()));
    let merged = merge_attentions(vec![inside, outside]).unwrap();
    assert_close("o", &merged.0, &o, 1e-5);
    assert_close("lse", &merged.1, &lse, 1e-5);
}

#[test]
fn merging_nothing_seen_gives_zeros_and_gradients_flow_through_both() {
    let never = Tensor::<2>::full([1, 1], f64::NEG_INFINITY, &cpu());
    let (o, lse) = merge_attentions(vec![(draw(1, [1, 3]), never.clone()), (draw(2, [1, 3]), never)]).unwrap();
    assert!(o.into_data().iter::<f32>().all(|x| x == 0.0));
    assert_eq!(lse.into_scalar::<f32>(), f32::NEG_INFINITY);
    let mut s = Sampler::new(3);
    let inputs: [Draw<2>; 4] = [[2, 3], [2, 1], [2, 3], [2, 1]].map(|shape| s.tensor(shape, -1.0, 1.0));
    gradcheck("merge_attentions", &inputs, 1e-8, |x| {
        let (o, lse) = merge_attentions(vec![(x[0].clone(), x[1].clone()), (x[2].clone(), x[3].clone())]).unwrap();
        (o.powf_scalar(3.0)).sum() + lse.square().sum()
    });
}

#[test]
fn tensors_that_lie_in_memory_in_any_way_are_read_as_they_lie() {
    let x = draw(1, [2, 9, 3 * 4, 10, 8]);
    let parts = |x: &Tensor<5>| [0, 1, 2].map(|i| x.clone().narrow(2, 4 * i, 4).swap_dims(2, 3));
    let [q, k, v] = parts(&x);
    let axes = [WindowAxis::new(5), WindowAxis { dilation: 2, ..WindowAxis::new(3) }];
    let copies = parts(&x).map(|x| Tensor::<5>::from_data(x.into_data(), &cpu()));
    assert_eq!(plain(&q, &k, &v, &axes).into_data(), plain(&copies[0], &copies[1], &copies[2], &axes).into_data());
    let flipped = [q, k, v].map(|x| x.flip([1]));
    let copies = flipped.clone().map(|x| Tensor::<5>::from_data(x.into_data(), &cpu()));
    let [q, k, v] = flipped;
    assert_eq!(plain(&q, &k, &v, &axes).into_data(), plain(&copies[0], &copies[1], &copies[2], &axes).into_data());
}

#[test]
fn half_precision_is_computed_in_f32() {
    let half: [Tensor<5>; 3] = [1, 2, 3].map(|seed| draw(seed, [1, 9, 8, 2, 8]).cast(DType::BF16));
    let [q, k, v] = half.clone().map(|x| x.cast(DType::F32));
    let axes = [WindowAxis::new(3); 2];
    let want = plain(&q, &k, &v, &axes);
    let [q, k, v] = half;
    let (o, lse) = neighborhood_attention(q, k, v, &axes, NeighborhoodOptions::default()).unwrap();
    assert_eq!((o.dtype(), lse.dtype()), (DType::BF16, DType::F32));
    assert_close("o", &o.cast(DType::F32), &want, 1.0 / 256.0);
}

#[test]
fn no_images_and_values_without_numbers_give_empty_outputs() {
    let axes = [WindowAxis::new(3); 2];
    let none: Tensor<5> = Tensor::zeros([0, 9, 8, 2, 8], &cpu());
    assert_eq!(plain(&none, &none, &none, &axes).dims(), [0, 9, 8, 2, 8]);
    let q = draw(1, [1, 9, 8, 2, 8]);
    assert_eq!(plain(&q, &q, &Tensor::zeros([1, 9, 8, 2, 0], &cpu()), &axes).dims(), [1, 9, 8, 2, 0]);
}
