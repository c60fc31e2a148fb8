//! On the GPU that `REGARD_TEST_DEVICE` names, against f64 on the CPU: forward and both gradients.

use burn::tensor::{DType, Tensor};
use regard_testkit::{Draw, Sampler, assert_close, cpu, gpu, poison, sweep};

use crate::blocks::{linear, matmul};

/// A factor, cut out of a wider one or turned, as tensors come to a product.
#[derive(Clone, Copy, Debug)]
enum Place {
    Whole,
    Turned,
    Columns,
    HeadsLast,
}

const PLACES: [Place; 4] = [Place::Whole, Place::Turned, Place::Columns, Place::HeadsLast];

/// Numbers `[B, H, rows, columns]` that lie as `place` says.
fn draw(s: &mut Sampler, [b, h, rows, columns]: [usize; 4], place: Place) -> Draw<4> {
    match place {
        Place::Whole => s.tensor([b, h, rows, columns], -1.0, 1.0),
        Place::Turned => s.tensor([b, h, columns, rows], -1.0, 1.0),
        Place::Columns => s.tensor([b, h, rows, columns + 5], -1.0, 1.0),
        Place::HeadsLast => s.tensor([b, rows, h, columns], -1.0, 1.0),
    }
}

fn view(x: Tensor<4>, place: Place) -> Tensor<4> {
    let columns = x.dims()[3];
    match place {
        Place::Whole => x,
        Place::Turned => x.transpose(),
        Place::Columns => x.narrow(3, 5, columns - 5),
        Place::HeadsLast => x.swap_dims(1, 2),
    }
}

fn check(dtype: DType, tolerance: f64) {
    let Some(device) = gpu() else { return };
    sweep("products on a GPU", 80, |s| {
        let [b, h, m, k, n] = [s.size(1, 3), s.size(1, 3), s.size(1, 200), s.size(1, 200), s.size(1, 200)];
        let (of_a, of_b) = (s.pick(&PLACES), s.pick(&PLACES));
        // One matrix for several, of either factor, along either axis.
        let mut stack = |of: usize| if s.size(0, 3) == 0 { 1 } else { of };
        let (a_stack, b_stack) = ([stack(b), stack(h)], [stack(b), stack(h)]);
        let a = draw(s, [a_stack[0], a_stack[1], m, k], of_a);
        let x = draw(s, [b_stack[0], b_stack[1], k, n], of_b);
        let cotangent = s.tensor([a_stack[0].max(b_stack[0]), a_stack[1].max(b_stack[1]), m, n], -1.0, 1.0);
        poison(&device);
        let run = |wide: bool| {
            let device = if wide { cpu() } else { device.clone() }.autodiff();
            let place = |x: &Draw<4>| if wide { x.f64(&device).cast(dtype).cast(DType::F64) } else { x.f32(&device).cast(dtype) };
            let inputs = [&a, &x].map(|x| place(x).require_grad());
            let out = matmul(view(inputs[0].clone(), of_a), view(inputs[1].clone(), of_b));
            let grads = (out.clone() * place(&cotangent)).sum().backward();
            let gradients = inputs.map(|x| x.grad(&grads).expect("a gradient"));
            [out.inner()].into_iter().chain(gradients).map(|x| x.to_device(&cpu()).cast(DType::F64)).collect::<Vec<_>>()
        };
        for (what, (got, want)) in ["product", "of the left", "of the right"].iter().zip(run(false).iter().zip(&run(true))) {
            assert_close(&format!("{what}, {of_a:?} by {of_b:?}"), got, want, tolerance);
        }
    });
}

/// Sums of up to 200 products of f32: no TF32, whose error would be 5e-4.
#[test]
fn products_on_a_gpu_are_those_of_f32() {
    check(DType::F32, 3e-6);
}

/// Results are rounded to 2^-9 of their size, sums are not; a gradient that is a sum over a stack adds up rounded parts.
#[test]
fn products_on_a_gpu_in_half_precision_have_sums_in_f32() {
    check(DType::BF16, 2e-2);
    check(DType::F16, 2e-3);
}

#[test]
fn linear_layers_on_a_gpu_are_those_of_f32() {
    let Some(device) = gpu() else { return };
    sweep("linear layers on a GPU", 60, |s| {
        let [b, t, n, m] = [s.size(1, 4), s.size(1, 60), s.size(1, 150), s.size(1, 150)];
        let turned = s.flip();
        let x = s.tensor([b, t, n], -1.0, 1.0);
        let weight = s.tensor(if turned { [m, n] } else { [n, m] }, -0.2, 0.2);
        let bias = s.flip().then(|| s.tensor([m], -1.0, 1.0));
        let cotangent = s.tensor([b, t, m], -1.0, 1.0);
        let run = |wide: bool| {
            let device = if wide { cpu() } else { device.clone() }.autodiff();
            let (x, w) = if wide { (x.f64(&device), weight.f64(&device)) } else { (x.f32(&device), weight.f32(&device)) };
            let bias = bias.as_ref().map(|b| if wide { b.f64(&device) } else { b.f32(&device) }.require_grad());
            let c = if wide { cotangent.f64(&device) } else { cotangent.f32(&device) };
            let (x, w) = (x.require_grad(), w.require_grad());
            let y = linear(x.clone(), if turned { w.clone().transpose() } else { w.clone() }, bias.clone());
            let grads = (y.clone() * c).sum().backward();
            let flat = |x: Tensor<1>| x.to_device(&cpu()).cast(DType::F64);
            let mut all = vec![flat(y.inner().flatten(0, 2)), flat(x.grad(&grads).expect("of x").flatten(0, 2))];
            all.push(flat(w.grad(&grads).expect("of the weight").flatten(0, 1)));
            all.extend(bias.map(|b| flat(b.grad(&grads).expect("of the bias"))));
            all
        };
        for (i, (got, want)) in run(false).iter().zip(&run(true)).enumerate() {
            assert_close(&format!("result {i}"), got, want, 3e-6);
        }
    });
}
