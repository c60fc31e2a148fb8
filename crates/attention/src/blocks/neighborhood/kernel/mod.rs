//! Attention to neighbourhoods as one node of the graph, with its own backward pass: on the CPU in f32 by fused kernels, elsewhere by
//! tensor operations.

mod cpu;
mod tiles;

use burn::{backend::DispatchTensor, tensor::Tensor};

use super::plan::Plan;
use crate::blocks::{JointRule, kernel::on_cpu, with_gradients};

/// What the operation reads; shapes as in [`neighborhood_attention`](super::op::neighborhood_attention), which checks them.
#[derive(Clone, Debug)]
pub(super) struct Inputs<const N: usize> {
    /// Queries, keys, values.
    pub(super) grids: [Tensor<N>; 3],
    /// `[H, offsets]`
    pub(super) bias: Option<Tensor<2>>,
    /// Keys and values outside of the grid.
    pub(super) extra: Option<[Tensor<4>; 2]>,
    /// Biases that depend on the query; on the CPU alone, with a plan that has such axes.
    pub(super) relative: Option<Relative>,
}

/// Vectors whose products with a query are added to its scores, by the key's place along the second and the third axis: see
/// [`RelativeAxis`](super::plan::RelativeAxis).
#[derive(Clone, Debug)]
pub(super) struct Relative {
    /// `[offsets, K]` each.
    pub(super) vectors: [Tensor<2>; 2],
    /// Factor on the products.
    pub(super) factor: f64,
}

/// Gradients of the inputs; those that nobody wants may be left out.
#[derive(Debug)]
pub(super) struct Gradients<const N: usize> {
    pub(super) grids: [Option<Tensor<N>>; 3],
    pub(super) bias: Option<Tensor<2>>,
    pub(super) extra: [Option<Tensor<4>>; 2],
    pub(super) relative: [Option<Tensor<2>>; 2],
}

/// Queries, keys, values, biases, keys and values outside of the grid, vectors by row and column.
const WANTED: usize = 8;

impl<const N: usize> Inputs<N> {
    /// Which of the eight there are.
    fn present(&self) -> [bool; WANTED] {
        let (extra, relative) = (self.extra.is_some(), self.relative.is_some());
        [true, true, true, self.bias.is_some(), extra, extra, relative, relative]
    }

    /// Those that there are.
    fn list(&self) -> Vec<DispatchTensor> {
        let grids = self.grids.clone().map(Tensor::into_dispatch);
        let bias = self.bias.clone().map(Tensor::into_dispatch);
        let extra = self.extra.clone().into_iter().flatten().map(Tensor::into_dispatch);
        let relative = self.relative.iter().flat_map(|relative| relative.vectors.clone()).map(Tensor::into_dispatch);
        grids.into_iter().chain(bias).chain(extra).chain(relative).collect()
    }

    fn inner(self) -> Self {
        Self {
            grids: self.grids.map(Tensor::inner),
            bias: self.bias.map(Tensor::inner),
            extra: self.extra.map(|extra| extra.map(Tensor::inner)),
            relative: self.relative.map(|x| Relative { vectors: x.vectors.map(Tensor::inner), ..x }),
        }
    }

    fn on_cpu(&self) -> bool {
        on_cpu(&self.grids[0].device(), self.grids[0].dtype())
    }
}

/// The output `[B, *X, H, V]` and the log-sum-exp `[B, *X, H, 1]`; by the fused kernels where they can, if they are wanted.
pub(super) fn attend<const N: usize>(inputs: Inputs<N>, plan: Plan, fused: bool) -> [Tensor<N>; 2] {
    let list = inputs.list();
    let inputs = inputs.inner();
    let fused = fused && inputs.on_cpu();
    let outputs = if fused { cpu::forward(&inputs, &plan) } else { tiles::forward(&inputs, &plan) };
    let saved = Saved { inputs, outputs: outputs.clone(), plan, fused };
    match list.len() {
        3 => node::<N, 3>(list, outputs, saved),
        4 => node::<N, 4>(list, outputs, saved),
        5 => node::<N, 5>(list, outputs, saved),
        _ => node::<N, 6>(list, outputs, saved),
    }
}

fn node<const N: usize, const I: usize>(list: Vec<DispatchTensor>, outputs: [Tensor<N>; 2], saved: Saved<N>) -> [Tensor<N>; 2] {
    let list = <[DispatchTensor; I]>::try_from(list).unwrap_or_else(|list| unreachable!("{} inputs", list.len()));
    with_gradients(list, outputs, saved)
}

/// What the backward pass needs.
#[derive(Debug)]
struct Saved<const N: usize> {
    inputs: Inputs<N>,
    outputs: [Tensor<N>; 2],
    plan: Plan,
    fused: bool,
}

impl<const N: usize, const I: usize> JointRule<I, 2> for Saved<N> {
    fn gradients(&self, upstream: [Option<DispatchTensor>; 2], wanted: [bool; I]) -> [Option<DispatchTensor>; I] {
        let mut given = wanted.into_iter();
        let present = self.inputs.present();
        let wanted = present.map(|present| present && given.next().unwrap_or_default());
        let cotangents = upstream.map(|x| x.map(Tensor::from_dispatch));
        let backward = if self.fused { cpu::backward } else { tiles::backward };
        let Gradients { grids: [q, k, v], bias, extra: [extra_k, extra_v], relative } =
            backward(&self.inputs, &self.plan, &self.outputs, cotangents, wanted);
        let grids = [q, k, v].map(|x| x.map(Tensor::into_dispatch));
        let extra = [extra_k, extra_v].map(|x| x.map(Tensor::into_dispatch));
        let relative = relative.map(|x| x.map(Tensor::into_dispatch));
        let all = grids.into_iter().chain([bias.map(Tensor::into_dispatch)]).chain(extra).chain(relative);
        let mut all = all.zip(present).filter(|(_, present)| *present).map(|(gradient, _)| gradient);
        std::array::from_fn(|_| all.next().flatten())
    }
}
