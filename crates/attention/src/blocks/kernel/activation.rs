use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::TensorData,
};
use rayon::prelude::*;

use crate::blocks::simd::{self, normal, vectorised};

type Flat = FloatTensor<Flex>;

/// Elements per task: below it a second thread costs more than it brings.
const TASK: usize = 16 * 1024;

pub(super) fn gelu(x: Flat) -> Flat {
    map1(&x, |x| x * normal(x).0)
}

pub(super) fn gelu_backward(x: Flat, grad: Flat) -> Flat {
    map2(&x, &grad, |x, g| {
        let (distribution, density) = normal(x);
        g * x.mul_add(density, distribution)
    })
}

pub(super) fn sigmoid(x: Flat) -> Flat {
    map1(&x, simd::sigmoid)
}

pub(super) fn sigmoid_backward(y: Flat, grad: Flat) -> Flat {
    map2(&y, &grad, |y, g| g * y * (1.0 - y))
}

pub(super) fn silu_gate(a: Flat, b: Flat) -> Flat {
    map2(&a, &b, |a, b| a * simd::sigmoid(a) * b)
}

pub(super) fn silu_gate_backward(a: Flat, b: Flat, grad: Flat) -> [Flat; 2] {
    let [a, b, grad] = [&a, &b, &grad].map(Flat::to_contiguous);
    let mut da = vec![0.0_f32; len(&a)];
    let mut db = vec![0.0_f32; len(&a)];
    let tasks = da.par_chunks_mut(TASK).zip(db.par_chunks_mut(TASK));
    let inputs = slice(&a).par_chunks(TASK).zip(slice(&b).par_chunks(TASK)).zip(slice(&grad).par_chunks(TASK));
    tasks.zip(inputs).for_each(|((da, db), ((a, b), g))| silu_gate_gradients([a, b, g], [da, db]));
    [tensor(da, &a), tensor(db, &a)]
}

vectorised! {
    fn silu_gate_gradients<'a>(inputs: [&'a [f32]; 3], gradients: [&'a mut [f32]; 2]) -> () {
        let ([a, b, g], [da, db]) = (inputs, gradients);
        for i in 0..a.len() {
            let (a, b, g) = (a[i], b[i], g[i]);
            let s = simd::sigmoid(a);
            da[i] = g * b * s * (1.0 - s).mul_add(a, 1.0);
            db[i] = g * a * s;
        }
    }
}

fn map1(x: &Flat, f: impl Fn(f32) -> f32 + Sync) -> Flat {
    vectorised! {
        fn [F: Fn(f32) -> f32] run<'a>(y: &'a mut [f32], x: &'a [f32], f: &'a F) -> () {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(x);
            }
        }
    }
    let x = x.to_contiguous();
    let mut y = vec![0.0_f32; len(&x)];
    y.par_chunks_mut(TASK).zip(slice(&x).par_chunks(TASK)).for_each(|(y, x)| run(y, x, &f));
    tensor(y, &x)
}

fn map2(a: &Flat, b: &Flat, f: impl Fn(f32, f32) -> f32 + Sync) -> Flat {
    vectorised! {
        fn [F: Fn(f32, f32) -> f32] run<'a>(y: &'a mut [f32], a: &'a [f32], b: &'a [f32], f: &'a F) -> () {
            for i in 0..y.len() {
                y[i] = f(a[i], b[i]);
            }
        }
    }
    let [a, b] = [a, b].map(Flat::to_contiguous);
    let mut y = vec![0.0_f32; len(&a)];
    y.par_chunks_mut(TASK).zip(slice(&a).par_chunks(TASK)).zip(slice(&b).par_chunks(TASK)).for_each(|((y, a), b)| run(y, a, b, &f));
    tensor(y, &a)
}

pub(super) fn len(x: &Flat) -> usize {
    x.layout().num_elements()
}

/// The elements of a contiguous f32 tensor.
pub(super) fn slice(x: &Flat) -> &[f32] {
    x.as_slice().expect("contiguous")
}

/// A tensor of the shape of `like`.
pub(super) fn tensor(values: Vec<f32>, like: &Flat) -> Flat {
    Flat::from_data(TensorData::new(values, like.layout().shape().clone()))
}
