//! The operation against the definition in f64, over random grids and options, values and every gradient.
//!
//! Scratch memory and outputs of the fused kernels are full of NaN in this crate's tests: what is read before it is written shows.

use burn::tensor::{DType, Gradients, Tensor, TensorData};
use regard_testkit::{Draw, Errors, Sampler, cpu, sweep};

use crate::neighborhood_attention::{NeighborhoodOptions, WindowAxis, neighborhood_attention, reference};

fn place<const D: usize>(x: &Draw<D>, dtype: DType) -> Tensor<D> {
    let device = cpu().autodiff();
    if dtype == DType::F64 { x.f64(&device) } else { x.f32(&device) }.require_grad()
}

fn gradient<const D: usize>(x: Tensor<D>, grads: &Gradients) -> TensorData {
    x.grad(grads).unwrap_or_else(|| x.inner().zeros_like()).into_data()
}

/// One random problem on a grid of N − 3 axes.
struct Case<const N: usize> {
    /// q, k, v.
    grids: [Draw<N>; 3],
    axes: Vec<WindowAxis>,
    bias: Option<Draw<2>>,
    extra: Option<[Draw<4>; 2]>,
    scale: f64,
    d_o: Draw<N>,
    d_lse: Draw<N>,
    use_o: bool,
    use_lse: bool,
}

impl<const N: usize> Case<N> {
    /// Grids of up to `tokens` tokens, heads of up to `widest` numbers.
    fn draw(s: &mut Sampler, tokens: usize, widest: usize) -> Self {
        let r = N - 3;
        let causal = s.size(0, 2) == 0;
        let longest = (tokens as f64).powf(1.0 / r as f64) as usize;
        let axes: Vec<(WindowAxis, usize)> = (0..r)
            .map(|_| {
                let length = s.size(1, 2 * longest).min(s.size(1, 3 * longest));
                let dilation = if s.flip() { 1 } else { s.size(1, length) };
                let window = s.size(1, length / dilation);
                let stride = if s.flip() { 1 } else { s.size(1, window) };
                (WindowAxis { window, stride, dilation, causal: causal && s.flip() }, length)
            })
            .collect();
        let (axes, grid): (Vec<_>, Vec<_>) = axes.into_iter().unzip();
        let (b, g, repeat) = (s.size(1, 2), s.size(1, 3), s.pick(&[1, 1, 2, 3]));
        let (h, k, v) = (g * repeat, s.size(1, widest), s.size(1, widest));
        let shape = |heads: usize, width: usize| {
            let mut shape = [b; N];
            shape[1..=r].copy_from_slice(&grid);
            shape[N - 2..].copy_from_slice(&[heads, width]);
            shape
        };
        let table = [h, axes.iter().map(|axis| 2 * axis.window - 1).product()];
        let m = s.size(1, 40);
        let uses = s.pick(&[(true, false), (true, true), (false, true)]);
        Self {
            grids: [s.tensor(shape(h, k), -2.0, 2.0), s.tensor(shape(g, k), -2.0, 2.0), s.tensor(shape(g, v), -1.0, 1.0)],
            bias: (!axes.iter().any(|axis| axis.causal) && s.flip()).then(|| s.tensor(table, -3.0, 3.0)),
            extra: (s.size(0, 3) == 0).then(|| [s.tensor([b, m, g, k], -2.0, 2.0), s.tensor([b, m, g, v], -1.0, 1.0)]),
            scale: s.uniform(0.1, 1.0),
            d_o: s.tensor(shape(h, v), -1.0, 1.0),
            d_lse: s.tensor(shape(h, 1), -1.0, 1.0),
            use_o: uses.0,
            use_lse: uses.1,
            axes,
        }
    }

    /// Output, log-sum-exp and the gradients of all inputs.
    fn results(
        &self,
        dtype: DType,
        f: impl Fn([Tensor<N>; 3], Option<Tensor<2>>, Option<[Tensor<4>; 2]>) -> (Tensor<N>, Tensor<N>),
    ) -> Vec<TensorData> {
        let device = cpu().autodiff();
        let grids = self.grids.each_ref().map(|x| place(x, dtype));
        let bias = self.bias.as_ref().map(|x| place(x, dtype));
        let extra = self.extra.as_ref().map(|x| x.each_ref().map(|x| place(x, dtype)));
        let (o, lse) = f(grids.clone(), bias.clone(), extra.clone());
        let mut loss = Tensor::<1>::zeros([1], (&device, dtype));
        if self.use_o {
            loss = loss + (o.clone() * place(&self.d_o, dtype)).sum();
        }
        if self.use_lse {
            loss = loss + (lse.clone() * place(&self.d_lse, dtype)).sum();
        }
        let grads = loss.backward();
        let none = || TensorData::new(vec![0.0_f32], [1]);
        let mut results = vec![o.into_data(), lse.into_data()];
        results.extend(grids.map(|x| gradient(x, &grads)));
        results.push(bias.map_or_else(none, |x| gradient(x, &grads)));
        match extra {
            Some(extra) => results.extend(extra.map(|x| gradient(x, &grads))),
            None => results.extend([none(), none()]),
        }
        results
    }

    fn definition(&self) -> Vec<TensorData> {
        self.results(DType::F64, |grids, bias, extra| reference::dense(grids, &self.axes, self.scale, bias, extra))
    }

    fn operation(&self, dtype: DType) -> Vec<TensorData> {
        self.results(dtype, |[q, k, v], bias, extra| {
            neighborhood_attention(q, k, v, &self.axes, NeighborhoodOptions { scale: Some(self.scale), bias, extra, ..Default::default() })
                .unwrap()
        })
    }

    fn check(&self, dtype: DType, errors: &Errors) {
        let shapes = self.grids.each_ref().map(Draw::shape);
        let case = format!("{shapes:?} {:?} bias {} extra {}", self.axes, self.bias.is_some(), self.extra.is_some());
        errors.add(&case, self.operation(dtype), self.operation(dtype), self.definition());
    }
}

const NAMES: [&str; 8] = ["o", "lse", "dq", "dk", "dv", "dbias", "d extra k", "d extra v"];

fn sweep_all(what: &str, dtype: DType, count: u64, tokens: usize, widest: usize, tolerance: f64) {
    let errors = Errors::new(what, &NAMES, tolerance);
    sweep(what, count, |s| match s.size(1, 3) {
        1 => Case::<4>::draw(s, tokens, widest).check(dtype, &errors),
        2 => Case::<5>::draw(s, tokens, widest).check(dtype, &errors),
        _ => Case::<6>::draw(s, tokens, widest).check(dtype, &errors),
    });
    errors.finish();
}

#[test]
fn fused_kernels_match_the_definition_over_random_grids() {
    sweep_all("neighborhood attention, small", DType::F32, 600, 40, 20, 1e-5);
}

/// The gradient of a bias sums up to some thousands of numbers, which cancel where windows are small: their rounding remains.
#[test]
fn fused_kernels_match_the_definition_over_several_tiles_and_parts() {
    sweep_all("neighborhood attention, large", DType::F32, 40, 300, 40, 2e-5);
}

#[test]
fn tiles_in_tensor_operations_match_the_definition() {
    sweep_all("neighborhood attention in f64", DType::F64, 200, 24, 6, 1e-11);
}
