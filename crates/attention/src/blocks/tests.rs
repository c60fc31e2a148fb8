//! The fused kernels (f32 on the CPU, and on the GPU that `REGARD_TEST_DEVICE` names) against the same functions in tensor operations
//! (f64 on the CPU), forward and every gradient.

use burn::{
    module::Param,
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use regard_testkit::{Draw, Sampler, assert_close, cpu, devices, gpu, poison, sweep};

use super::{
    AdamWStep, NormKind, cross_entropy, gated_rms_norm, gelu, gelu_tanh, kernel, l2_norm, linear, linear_cross_entropy, look_up,
    norm_of_all, product, scale, sigmoid, silu, silu_gate, split, srms_norm,
};

/// Runs `f` on the draws in f32 and in f64 and compares the output and the gradient of each input.
fn agree<const D: usize, const O: usize>(what: &str, sampler: &mut Sampler, inputs: &[Draw<D>], f: impl Fn(&[Tensor<D>]) -> Tensor<O>) {
    let mut cotangent = None;
    let mut run = |device: Device, wide: bool| {
        let device = device.autodiff();
        let place = |x: &Draw<D>| if wide { x.f64(&device) } else { x.f32(&device) };
        let tracked: Vec<_> = inputs.iter().map(|x| place(x).require_grad()).collect();
        let out = f(&tracked);
        let dims = out.dims();
        let c = cotangent.get_or_insert_with(|| sampler.tensor(dims, -1.0, 1.0));
        let c = if wide { c.f64(&device) } else { c.f32(&device) };
        let grads = (out.clone() * c).sum().backward();
        let wide = |t: Tensor<D>| t.to_device(&cpu()).cast(DType::F64);
        let gradients: Vec<_> = tracked.iter().map(|x| wide(x.grad(&grads).expect("a gradient"))).collect();
        (out.inner().to_device(&cpu()).cast(DType::F64), gradients)
    };
    let (want, want_gradients) = run(cpu(), true);
    for device in devices() {
        let (got, got_gradients) = run(device, false);
        assert_close(what, &got, &want, 2e-6);
        for (i, (got, want)) in got_gradients.iter().zip(&want_gradients).enumerate() {
            assert_close(&format!("{what}: gradient {i}"), got, want, 1e-5);
        }
    }
}

#[test]
fn activations_and_gates_agree_with_tensor_operations() {
    sweep("activations and gates", 60, |s| {
        let shape = [s.size(1, 5), s.size(1, 700), s.size(1, 40)];
        let (a, b) = (s.tensor(shape, -6.0, 6.0), s.tensor(shape, -3.0, 3.0));
        agree("gelu", s, std::slice::from_ref(&a), |x| gelu(x[0].clone()));
        agree("gelu_tanh", s, std::slice::from_ref(&a), |x| gelu_tanh(x[0].clone()));
        agree("sigmoid", s, std::slice::from_ref(&a), |x| sigmoid(x[0].clone()));
        agree("silu", s, std::slice::from_ref(&a), |x| silu(x[0].clone()));
        // Views: rows of a wider tensor, and rows that are not equally far apart.
        let right = shape[2] / 2;
        agree("silu of a part", s, std::slice::from_ref(&a), |x| silu(x[0].clone().narrow(2, right, shape[2] - right)));
        agree("silu of swapped axes", s, std::slice::from_ref(&a), |x| silu(x[0].clone().swap_dims(0, 1).narrow(1, 0, 1)));
        agree("product", s, &[a.clone(), b.clone()], |x| product(x[0].clone(), x[1].clone().swap_dims(1, 2).swap_dims(1, 2)));
        agree("silu_gate", s, &[a, b], |x| silu_gate(x[0].clone(), x[1].clone()));
    });
}

#[test]
fn norms_agree_with_tensor_operations() {
    sweep("norms", 80, |s| {
        let (rows, width) = (s.size(1, 300), s.size(1, 200));
        let (x, gamma) = (s.tensor([rows, width], -2.0, 4.0), s.tensor([1, width], 0.5, 1.5));
        let center = s.flip() && width > 1;
        agree("norm", s, &[x.clone(), gamma], |x| super::norm::normalise(x[0].clone(), Some(x[1].clone().squeeze_dim(0)), 1e-5, center));
        agree("srms_norm", s, std::slice::from_ref(&x), |x| srms_norm(x[0].clone(), 1e-6));
        agree("l2_norm", s, std::slice::from_ref(&x), |x| l2_norm(x[0].clone(), 1e-6));
        let gate = s.tensor([rows, width], -6.0, 6.0);
        agree("gated_rms_norm", s, &[x.clone(), gate], |x| {
            let gamma = Tensor::ones([width], (&x[0].device(), x[0].dtype())) * 1.5;
            gated_rms_norm(x[0].clone(), gamma, x[1].clone(), 1e-5)
        });
        let gate = s.tensor([rows, width], -6.0, 6.0);
        agree("a norm with a gate", s, &[x.clone(), gate], |x| {
            NormKind::SimpleRms.init(width, 1e-5, &x[0].device()).forward_gated(x[0].clone(), x[1].clone())
        });
        let gamma = s.tensor([1, width], 0.5, 1.5);
        agree("gated_rms_norm, the weight", s, &[gamma], |gamma| {
            let x = x.f64(&gamma[0].device()).cast(gamma[0].dtype());
            gated_rms_norm(x.clone(), gamma[0].clone().squeeze_dim(0), x, 1e-5)
        });
    });
}

#[test]
fn the_loss_agrees_with_log_softmax_and_ignores_what_it_should() {
    sweep("cross_entropy", 80, |s| {
        let (rows, classes) = (s.size(1, 70), s.size(2, 3000));
        let logits = s.tensor([rows, classes], -8.0, 8.0);
        let targets: Vec<i64> = (0..rows).map(|_| s.size(0, classes - 1) as i64).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &cpu().autodiff());
        let on = |x: &[Tensor<2>]| targets.clone().to_device(&x[0].device());
        agree("cross_entropy", s, std::slice::from_ref(&logits), |x| cross_entropy(x[0].clone(), on(x), None));
        let ignored = targets.clone().into_data().iter::<i64>().next().expect("a row") as usize;
        agree("cross_entropy with ignored rows", s, &[logits], |x| cross_entropy(x[0].clone(), on(x), Some(ignored)));
    });
}

#[test]
fn large_logits_do_not_overflow() {
    let logits = Tensor::<2>::from_data([[1e4_f32, -1e4, 0.0], [-3e38, 3e38, 0.0]], &cpu());
    let targets = Tensor::<1, Int>::from_data([0, 1], &cpu());
    assert!(cross_entropy(logits, targets, None).into_scalar::<f32>().abs() < 1e-6);
}

#[test]
fn strided_views_give_what_contiguous_tensors_give() {
    let x = Sampler::new(3).tensor([30, 20], -2.0, 2.0).f32(&cpu());
    let view = x.clone().transpose().narrow(0, 3, 11);
    let copy = Tensor::from_data(view.to_data(), &cpu());
    assert!(kernel::on_cpu(&view.device(), view.dtype()));
    assert_close("gelu", &gelu(view.clone()), &gelu(copy.clone()), 0.0);
    assert_close("srms_norm", &srms_norm(view, 1e-6), &srms_norm(copy, 1e-6), 0.0);
}

#[test]
fn linear_maps_agree_with_tensor_operations_however_the_weight_lies() {
    sweep("linear", 120, |s| {
        // One row, as in decoding, goes its own way, wide ones on several threads.
        let [rows, n, m] =
            if s.size(0, 2) == 0 { [1, s.size(1, 900), s.size(1, 900)] } else { [s.size(0, 300), s.size(1, 150), s.size(1, 150)] };
        let transposed = s.flip();
        let weight = if transposed { [m, n] } else { [n, m] };
        let (x, w, b) = (s.tensor([rows, n], -1.0, 1.0), s.tensor(weight, -0.2, 0.2), s.tensor([1, m], -1.0, 1.0));
        let place = move |w: &Tensor<2>| if transposed { w.clone().transpose() } else { w.clone() };
        agree("linear", s, &[x.clone(), w.clone()], |x| linear(x[0].clone(), place(&x[1]), None));
        agree("linear with bias", s, &[x, w, b], |x| linear(x[0].clone(), place(&x[1]), Some(x[2].clone().squeeze_dim(0))));
    });
}

#[test]
fn one_product_for_several_layers_agrees_with_one_each_used_or_not() {
    sweep("linear_split", 120, |s| {
        let [rows, n] = [s.size(0, 200), s.size(1, 60)];
        let lengths: [usize; 3] = std::array::from_fn(|_| s.size(1, 70));
        let m = lengths.iter().sum();
        // The first is used, or the weights had no gradient to compare.
        let used = [true, s.flip(), s.flip()];
        let (x, w, b) = (s.tensor([rows, n], -1.0, 1.0), s.tensor([n, m], -0.2, 0.2), s.tensor([1, m], -1.0, 1.0));
        let parts = move |x: &[Tensor<2>]| {
            let bias = x.get(2).map(|bias| bias.clone().squeeze_dim(0));
            let parts = if kernel::on_cpu(&x[0].device(), x[0].dtype()) {
                kernel::linear_split(x[0].clone(), x[1].clone(), bias, lengths)
            } else {
                split(linear(x[0].clone(), x[1].clone(), bias), 1, lengths)
            };
            Tensor::cat(parts.into_iter().zip(used).filter(|(_, used)| *used).map(|(part, _)| part).collect(), 1)
        };
        agree("linear_split", s, &[x.clone(), w.clone()], parts);
        agree("linear_split with bias", s, &[x, w, b], parts);
    });
}

#[test]
fn a_sum_and_its_norm_agree_with_tensor_operations_used_or_not() {
    sweep("forward_add", 80, |s| {
        let (rows, width) = (s.size(1, 300), s.size(2, 200));
        let [x, update] = std::array::from_fn(|_| s.tensor([rows, width], -2.0, 4.0));
        let kind = s.pick(&[NormKind::Rms, NormKind::LayerNoBias, NormKind::Layer, NormKind::SimpleRms]);
        let used = s.pick(&[[true, true], [true, false], [false, true]]);
        agree("forward_add", s, &[x, update], |x| {
            let mut norm = kind.init(width, 1e-5, &x[0].device());
            let of_type = |p: Param<Tensor<1>>| Param::from_tensor(p.val().inner().cast(x[0].dtype()));
            (norm.gamma, norm.beta) = (norm.gamma.map(of_type), norm.beta.map(of_type));
            let outputs = norm.forward_add(x[0].clone(), x[1].clone());
            Tensor::cat(outputs.into_iter().zip(used).filter(|(_, used)| *used).map(|(y, _)| y).collect(), 1)
        });
    });
}

#[test]
fn a_norm_and_a_factor_agree_with_tensor_operations() {
    sweep("scale", 40, |s| {
        let (rows, width) = (s.size(1, 300), s.size(1, 300));
        let (x, by) = (s.tensor([rows, width], -2.0, 2.0), s.pick(&[1.0, 0.3]));
        let both = |x: Tensor<2>| {
            let by = Tensor::<1>::full([1], by, (&x.device(), x.dtype()));
            let wide = |x: Tensor<1>| x.to_device(&cpu()).cast(DType::F64);
            (wide(norm_of_all(&[x.clone().flatten(0, 1), x.clone().flatten(0, 1)])), wide(scale(x, &by).flatten(0, 1)))
        };
        let want = both(x.f64(&cpu()));
        for device in devices() {
            let got = both(x.f32(&device));
            assert_close("norm", &got.0, &want.0, 1e-6);
            assert_close("scale", &got.1, &want.1, 1e-6);
        }
    });
}

#[test]
fn parts_of_a_tensor_have_the_gradients_of_narrow_used_or_not() {
    sweep("split", 40, |s| {
        let lengths: [usize; 3] = std::array::from_fn(|_| s.size(1, 6));
        let (used, device) = (std::array::from_fn::<bool, 3, _>(|_| s.flip()), cpu().autodiff());
        let batch = s.size(1, 4);
        let x = s.tensor([batch, lengths.iter().sum(), 3], -1.0, 1.0).f64(&device);
        let gradient = |cut: &dyn Fn(Tensor<3>) -> [Tensor<3>; 3]| {
            let x = x.clone().require_grad();
            let parts = cut(x.clone() * 1.0).into_iter().zip(used).enumerate();
            let loss = parts.filter(|(_, (_, used))| *used).map(|(i, (part, _))| (part.powf_scalar(2.0) * (i + 1) as f64).sum());
            loss.reduce(|a, b| a + b).map(|loss| x.grad(&loss.backward()).expect("a gradient"))
        };
        let narrow = |x: Tensor<3>| {
            let [a, b, c] = lengths;
            [x.clone().narrow(1, 0, a), x.clone().narrow(1, a, b), x.narrow(1, a + b, c)]
        };
        match (gradient(&|x| split(x, 1, lengths)), gradient(&narrow)) {
            (Some(got), Some(want)) => assert_close("split", &got, &want, 1e-12),
            (got, want) => assert!(got.is_none() && want.is_none(), "no part is used"),
        }
    });
}

#[test]
fn the_head_and_its_loss_in_parts_agree_with_the_whole_however_the_weight_lies() {
    sweep("linear_cross_entropy", 6, |s| {
        let (rows, d) = (s.size(257, 600), s.size(1, 24));
        let classes = (1 << 20) / rows + s.size(1, 2000);
        let transposed = s.flip();
        let (x, w) = (s.tensor([rows, d], -2.0, 2.0), s.tensor(if transposed { [classes, d] } else { [d, classes] }, -1.0, 1.0));
        let targets: Vec<i64> = (0..rows).map(|_| s.size(0, classes - 1) as i64).collect();
        let ignore = s.flip().then(|| targets[0] as usize);
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &cpu().autodiff());
        let place = move |w: &Tensor<2>| if transposed { w.clone().transpose() } else { w.clone() };
        agree("linear_cross_entropy", s, &[x, w], |x| {
            let targets = targets.clone().to_device(&x[0].device());
            linear_cross_entropy(x[0].clone(), place(&x[1]), targets, ignore) * 3.0
        });
    });
}

#[test]
fn rows_of_a_table_and_its_gradient_agree_with_a_selection() {
    sweep("look_up", 40, |s| {
        let (rows, width, [b, t]) = (s.size(1, 60), s.pick(&[1, 7, 64, 768, 1100]), [s.size(1, 4), s.size(1, 700)]);
        let few = s.size(1, rows);
        let ids: Vec<i64> = (0..b * t).map(|_| s.size(0, few - 1) as i64).collect();
        let table = s.tensor([rows, width], -1.0, 1.0);
        agree("look_up", s, &[table], |table| {
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [b, t]), &table[0].device());
            look_up(table[0].clone(), ids)
        });
    });
}

/// Rows that all planes of a cube share, as models that are wider than a plane's registers have them.
#[test]
fn norms_of_wide_rows_agree_with_tensor_operations() {
    sweep("wide norms", 12, |s| {
        let (rows, width) = (s.size(1, 40), s.pick(&[513, 768, 1000, 1024, 1536, 4096]));
        let [x, update] = std::array::from_fn(|_| s.tensor([rows, width], -2.0, 4.0));
        let (gamma, center) = (s.tensor([1, width], 0.5, 1.5), s.flip());
        let of = |x: &[Tensor<2>]| super::norm::normalise(x[0].clone(), Some(x[1].clone().squeeze_dim(0)), 1e-5, center);
        agree("norm", s, &[x.clone(), gamma], of);
        let kind = if center { NormKind::LayerNoBias } else { NormKind::SimpleRms };
        agree("forward_add", s, &[x, update], |x| {
            let mut norm = kind.init(width, 1e-5, &x[0].device());
            norm.gamma = norm.gamma.map(|p: Param<Tensor<1>>| Param::from_tensor(p.val().inner().cast(x[0].dtype())));
            Tensor::cat(norm.forward_add(x[0].clone(), x[1].clone()).into(), 1)
        });
    });
}

/// Numbers that are bf16 already, so that what differs is the rounding of results, by 2^-9 of their size.
#[test]
fn kernels_for_gpus_in_bf16_round_results_alone() {
    let Some(device) = gpu() else { return };
    sweep("bf16", 20, |s| {
        let (rows, width) = (s.size(1, 200), s.pick(&[64, 96, 768]));
        let draws = [s.tensor([rows, width], -3.0, 3.0), s.tensor([rows, width], -3.0, 3.0)];
        let targets: Vec<i64> = (0..rows).map(|_| s.size(0, width - 1) as i64).collect();
        poison(&device);
        let run = |wide: bool| {
            let device = if wide { cpu() } else { device.clone() }.autodiff();
            let place = |x: &Draw<2>| {
                let x = x.f32(&device).cast(DType::BF16);
                if wide { x.cast(DType::F64) } else { x }
            };
            let [a, b] = draws.each_ref().map(|x| place(x).require_grad());
            let targets = Tensor::<1, Int>::from_data(TensorData::new(targets.clone(), [rows]), &device);
            let [sum, normed] = NormKind::SimpleRms.init(width, 1e-5, &device).forward_add(a.clone(), b.clone());
            let outputs = [sum, normed, gelu_tanh(a.clone()), silu_gate(a.clone(), b.clone())];
            let outputs = Tensor::cat(outputs.into(), 1);
            let loss = cross_entropy(a.clone(), targets, None);
            let grads = (outputs.clone().cast(loss.dtype()).sum() + loss.clone()).backward();
            let flat = |x: Tensor<2>| x.to_device(&cpu()).cast(DType::F64);
            [outputs.inner(), a.grad(&grads).expect("a gradient"), b.grad(&grads).expect("a gradient")].map(flat)
        };
        for (what, (got, want)) in ["outputs", "of a", "of b"].iter().zip(run(false).iter().zip(&run(true))) {
            assert_close(what, got, want, 1e-2);
        }
    });
}

#[test]
fn a_step_of_adamw_on_a_gpu_is_that_on_the_cpu() {
    let Some(device) = gpu() else { return };
    sweep("adamw", 12, |s| {
        let shape = [s.size(1, 300), s.size(1, 300)];
        let all = [(-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0)].map(|(low, high)| s.tensor(shape, low, high));
        let step = AdamWStep { rate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, time: s.size(1, 50) as i32 };
        let run = |device: &Device| {
            let [parameter, gradient, m, v] = all.each_ref().map(|x| x.f32(device));
            // On the CPU the gradient is scaled before.
            let on_cpu = device == &cpu();
            let factor = Tensor::<1>::full([1], 0.5, device);
            let gradient = if on_cpu { gradient * 0.5 } else { gradient };
            let next = step.apply(&parameter, &gradient, [&m, &v], (!on_cpu).then_some(&factor));
            next.expect("a kernel").map(|x| x.to_device(&cpu()))
        };
        for (got, want) in run(&device).iter().zip(&run(&cpu())) {
            assert_close("adamw", got, want, 1e-6);
        }
    });
}

/// Sums over rows and ids have one order.
#[test]
fn kernels_for_gpus_give_the_same_bits_twice() {
    let Some(device) = gpu() else { return };
    let mut s = Sampler::new(5);
    let (x, table) = (s.tensor([2000, 768], -2.0, 2.0), s.tensor([50, 768], -1.0, 1.0));
    let ids: Vec<i64> = (0..2000).map(|_| s.size(0, 49) as i64).collect();
    let run = || {
        poison(&device);
        let device = device.clone().autodiff();
        let (x, table) = (x.f32(&device).require_grad(), table.f32(&device).require_grad());
        let gamma = Tensor::<1>::ones([768], &device).require_grad();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, 2000]), &device);
        let y = super::norm::normalise(x.clone(), Some(gamma.clone()), 1e-5, true);
        let grads = (y * look_up(table.clone(), ids).squeeze_dim(0) + x.clone()).square().sum().backward();
        let bits = |x: Tensor<1>| x.into_data();
        [
            bits(x.grad(&grads).expect("x").flatten(0, 1)),
            bits(table.grad(&grads).expect("table").flatten(0, 1)),
            bits(gamma.grad(&grads).expect("γ")),
        ]
    };
    for (first, second) in run().iter().zip(&run()) {
        first.assert_eq(second, true);
    }
}
