use burn::tensor::{Bool, DType, Distribution, Tensor, TensorData};
use regard_testkit::{Sampler, assert_close, cpu, gradcheck};

use crate::softmax_attention::{SoftmaxOptions, reference, softmax_attention};

fn random(shape: [usize; 4], seed: u64) -> Tensor<4> {
    Sampler::new(seed).tensor(shape, -2.0, 2.0).f32(&cpu())
}

fn causal() -> SoftmaxOptions {
    SoftmaxOptions { causal: true, ..Default::default() }
}

fn padding(hidden: &[bool], dims: [usize; 2]) -> Tensor<2, Bool> {
    Tensor::from_data(TensorData::new(hidden.to_vec(), dims), &cpu())
}

#[test]
fn repeats_are_the_same_bits() {
    let device = cpu().autodiff();
    let draw = |shape, seed| Sampler::new(seed).tensor(shape, -2.0, 2.0).f32(&device).require_grad();
    let run = || {
        let inputs = [draw([2, 4, 300, 24], 1), draw([2, 2, 310, 24], 2), draw([2, 2, 310, 40], 3), draw([1, 4, 300, 310], 4)];
        let options = SoftmaxOptions { bias: Some(inputs[3].clone()), ..causal() };
        let (o, lse) = softmax_attention(inputs[0].clone(), inputs[1].clone(), inputs[2].clone(), options).unwrap();
        let grads = (o.clone().powf_scalar(3.0).sum() + lse.clone().powf_scalar(2.0).sum()).backward();
        let mut data = vec![o.into_data(), lse.into_data()];
        data.extend(inputs.iter().map(|x| x.grad(&grads).unwrap().into_data()));
        data
    };
    let first = run();
    for _ in 0..3 {
        for (a, b) in first.iter().zip(run()) {
            a.assert_eq(&b, true);
        }
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros_and_gradients_of_zeros() {
    let device = cpu().autodiff();
    let draw = |shape, seed| Sampler::new(seed).tensor(shape, -2.0, 2.0).f32(&device).require_grad();
    // More queries than keys: the first three see none.
    let (q, k, v) = (draw([1, 2, 8, 4], 1), draw([1, 2, 5, 4], 2), draw([1, 2, 5, 3], 3));
    let (o, lse) = softmax_attention(q.clone(), k, v, causal()).unwrap();
    assert_eq!(o.clone().narrow(2, 0, 3).abs().max().into_scalar::<f32>(), 0.0);
    assert!(lse.clone().narrow(2, 0, 3).is_inf().all().into_scalar::<bool>());
    let finite = lse.narrow(2, 3, 5).sum();
    let dq = q.grad(&(o.sum() + finite).backward()).unwrap();
    assert_eq!(dq.clone().narrow(2, 0, 3).abs().max().into_scalar::<f32>(), 0.0);
    assert!(dq.narrow(2, 4, 4).abs().min().into_scalar::<f32>() > 0.0);
}

#[test]
fn a_batch_whose_keys_are_all_padding_gives_zeros() {
    let (q, k, v) = (random([2, 2, 70, 8], 1), random([2, 2, 70, 8], 2), random([2, 2, 70, 8], 3));
    let hidden: Vec<bool> = (0..140).map(|i| i < 70).collect();
    let options = SoftmaxOptions { key_padding: Some(padding(&hidden, [2, 70])), ..Default::default() };
    let (o, lse) = softmax_attention(q, k, v, options).unwrap();
    assert_eq!(o.clone().narrow(0, 0, 1).abs().max().into_scalar::<f32>(), 0.0);
    assert!(lse.clone().narrow(0, 0, 1).is_inf().all().into_scalar::<bool>());
    assert!(!lse.narrow(0, 1, 1).is_inf().any().into_scalar::<bool>());
}

#[test]
fn no_keys_or_no_queries_or_no_batch_are_no_error() {
    for [b, t, s] in [[2, 3, 0], [2, 0, 3], [0, 3, 3], [1, 1, 1], [1, 1, 5], [1, 2, 1]] {
        for device in [cpu(), cpu().autodiff()] {
            for dtype in [DType::F32, DType::F64] {
                let zeros = |t, width| {
                    let x = Tensor::<4>::zeros([b, 2, t, width], (&device, dtype));
                    if device.is_autodiff() { x.require_grad() } else { x }
                };
                let (q, k, v) = (zeros(t, 4), zeros(s, 4), zeros(s, 6));
                let (o, lse) = softmax_attention(q, k, v, causal()).unwrap();
                assert_eq!((o.dims(), lse.dims()), ([b, 2, t, 6], [b, 2, t]));
                if device.is_autodiff() && b * t > 0 {
                    o.sum().backward();
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_not_numbers_stay_visible_in_their_row_alone() {
    let mut values: Vec<f32> = random([1, 1, 70, 8], 1).into_data().iter::<f32>().collect();
    values[20 * 8 + 3] = f32::NAN;
    let q = Tensor::from_data(TensorData::new(values, [1, 1, 70, 8]), &cpu());
    let (o, lse) = softmax_attention(q, random([1, 1, 70, 8], 2), random([1, 1, 70, 8], 3), causal()).unwrap();
    let o: Vec<f32> = o.into_data().iter::<f32>().collect();
    let lse: Vec<f32> = lse.into_data().iter::<f32>().collect();
    for t in 0..70 {
        assert_eq!(o[t * 8..][..8].iter().all(|x| x.is_nan()), t == 20, "row {t}");
        assert_eq!(lse[t].is_nan(), t == 20, "row {t}");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let (q, k, v) = (random([1, 2, 90, 16], 1) * 100.0, random([1, 2, 90, 16], 2) * 100.0, random([1, 2, 90, 16], 3));
    let wide = |x: &Tensor<4>| x.clone().cast(DType::F64);
    let (want, _) = reference::dense(wide(&q), wide(&k), wide(&v), 0.25, None, None);
    let (got, _) = softmax_attention(q, k, v, SoftmaxOptions::default()).unwrap();
    // Scores near 1e5 have an ulp of 0.008.
    assert_close("o", &got.cast(DType::F64), &want, 2e-2);
}

#[test]
fn views_give_what_their_copies_give() {
    // Tokens before heads, heads out of a wider tensor, an offset: as a fused projection leaves them.
    let packed = random([2, 75, 8, 16], 1);
    let part = |start, heads| packed.clone().narrow(2, start, heads).swap_dims(1, 2);
    let copy = |x: &Tensor<4>| Tensor::<4>::from_data(x.to_data(), &cpu());
    let (q, k, v) = (part(0, 4), part(4, 2), part(6, 2));
    let copied = softmax_attention(copy(&q), copy(&k), copy(&v), causal()).unwrap();
    let viewed = softmax_attention(q.clone(), k.clone(), v.clone(), causal()).unwrap();
    viewed.0.into_data().assert_eq(&copied.0.to_data(), true);
    viewed.1.into_data().assert_eq(&copied.1.into_data(), true);
    // Rows that are not contiguous, and reversed keys with their values.
    let across = |x: &Tensor<4>| copy(&x.clone().swap_dims(2, 3)).swap_dims(2, 3);
    let (o, _) = softmax_attention(across(&q), across(&k), across(&v), causal()).unwrap();
    o.into_data().assert_eq(&copied.0.into_data(), true);
    let (want, _) = softmax_attention(q.clone(), k.clone(), v.clone(), SoftmaxOptions::default()).unwrap();
    let (got, _) = softmax_attention(q, k.flip([2]), v.flip([2]), SoftmaxOptions::default()).unwrap();
    assert_close("reversed keys", &got, &want, 1e-5);
}

#[test]
fn only_inputs_that_want_gradients_get_them() {
    let device = cpu().autodiff();
    for wanted in 0..16 {
        let draw = |i: u64, shape| {
            let x = Sampler::new(i).tensor(shape, -1.0, 1.0).f32(&device);
            if wanted >> i & 1 == 1 { x.require_grad() } else { x }
        };
        let inputs = [draw(0, [2, 2, 9, 4]), draw(1, [2, 2, 9, 4]), draw(2, [2, 2, 9, 4]), draw(3, [1, 2, 9, 9])];
        let options = SoftmaxOptions { bias: Some(inputs[3].clone()), ..causal() };
        let (o, lse) = softmax_attention(inputs[0].clone(), inputs[1].clone(), inputs[2].clone(), options).unwrap();
        if wanted > 0 {
            let grads = (o.powf_scalar(2.0).sum() + lse.sum()).backward();
            for (i, x) in inputs.iter().enumerate() {
                assert_eq!(x.grad(&grads).is_some(), wanted >> i & 1 == 1, "input {i} of {wanted:b}");
            }
        }
    }
}

#[test]
fn gradients_of_the_definition_and_of_the_operation_pass_central_differences() {
    let mut s = Sampler::new(9);
    let inputs = [s.tensor([1, 2, 4, 3], -1.0, 1.0), s.tensor([1, 2, 4, 3], -1.0, 1.0), s.tensor([1, 2, 4, 3], -1.0, 1.0)];
    let loss = |(o, lse): (Tensor<4>, Tensor<3>)| o.powf_scalar(3.0).sum() + lse.powf_scalar(2.0).sum();
    gradcheck("definition", &inputs, 1e-7, |x| loss(reference::dense(x[0].clone(), x[1].clone(), x[2].clone(), 0.7, None, None)));
    let options = || SoftmaxOptions { scale: Some(0.7), ..causal() };
    gradcheck("operation", &inputs, 1e-7, |x| loss(softmax_attention(x[0].clone(), x[1].clone(), x[2].clone(), options()).unwrap()));
}

#[test]
fn merged_parts_equal_the_whole() {
    // What the log-sum-exp is for: attention over two parts of the keys, put together.
    let (q, k, v) = (random([1, 2, 40, 8], 1), random([1, 2, 90, 8], 2), random([1, 2, 90, 8], 3));
    let part = |start, len| {
        let of = |x: &Tensor<4>| x.clone().narrow(2, start, len);
        softmax_attention(q.clone(), of(&k), of(&v), SoftmaxOptions::default()).unwrap()
    };
    let ((a, lse_a), (b, lse_b)) = (part(0, 33), part(33, 57));
    let (whole, lse) = softmax_attention(q.clone(), k.clone(), v.clone(), SoftmaxOptions::default()).unwrap();
    let weight = |part: Tensor<3>| (part - lse.clone()).exp().unsqueeze_dim::<4>(3);
    assert_close("merged", &(a * weight(lse_a) + b * weight(lse_b)), &whole, 1e-5);
}

#[test]
fn shapes_and_types_that_disagree_are_errors() {
    let x = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &cpu());
    let error = |q: [usize; 4], k: [usize; 4], v: [usize; 4], options: SoftmaxOptions| {
        softmax_attention(x(q), x(k), x(v), options).unwrap_err().to_string()
    };
    let plain = SoftmaxOptions::default;
    let [q, k, v] = [[2, 4, 5, 3], [2, 2, 6, 3], [2, 2, 6, 7]];
    let of = "softmax_attention: ";
    assert_eq!(
        error(q, [2, 2, 6, 4], v, plain()),
        format!("{of}`q` and `k` must agree in batch and key width, got [2, 4, 5, 3] and [2, 2, 6, 4]")
    );
    assert_eq!(
        error(q, k, [2, 2, 5, 7], plain()),
        format!("{of}`k` and `v` must agree in batch, heads and tokens, got [2, 2, 6, 3] and [2, 2, 5, 7]")
    );
    assert_eq!(error([2, 3, 5, 3], k, v, plain()), format!("{of}`k` must be of a number of heads that divides H = 3, got 2"));
    assert_eq!(error([2, 4, 5, 0], [2, 2, 6, 0], v, plain()), format!("{of}`q` must be of a key width of at least 1, got [2, 4, 5, 0]"));
    let options = SoftmaxOptions { scale: Some(f64::NAN), ..plain() };
    assert_eq!(error(q, k, v, options), format!("{of}`scale` must be finite, got NaN"));
    let options = SoftmaxOptions { key_padding: Some(padding(&[false; 10], [2, 5])), ..plain() };
    assert_eq!(error(q, k, v, options), format!("{of}`key_padding` must be of shape [2, 6], got [2, 5]"));
    let options = SoftmaxOptions { bias: Some(x([2, 4, 5, 1])), ..plain() };
    assert_eq!(
        error(q, k, v, options),
        format!("{of}`bias` must be broadcastable along batch, heads and queries to [2, 4, 5, 6], got [2, 4, 5, 1]")
    );
    let options = SoftmaxOptions { distance_bias: Some(Tensor::zeros([4, 0], &cpu())), ..plain() };
    assert_eq!(error(q, k, v, options), format!("{of}`distance_bias` must be of shape [4, at least 1], got [4, 0]"));
    let error = softmax_attention(x(q), x(k).cast(DType::F64), x(v), plain()).unwrap_err().to_string();
    assert_eq!(error, format!("{of}`k` must be of the float type of `q`, F32, got F64"));
}
