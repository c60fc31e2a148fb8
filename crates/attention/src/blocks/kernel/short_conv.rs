use burn::backend::{Flex, tensor::FloatTensor};

use super::{
    activation::{len, slice, tensor},
    matrix::Matrix,
    parts::in_parts,
};
use crate::blocks::simd::{sigmoid, vectorised};

type Flat = FloatTensor<Flex>;

/// Tokens per task. It also fixes the order in which the gradient of the filters is summed, whatever the number of threads.
const TOKENS: usize = 64;

/// Inputs of the convolution in memory: `x` `[B·T, n]`, whose rows may be apart, filters `[kernel, n]`, `before` `[B, kernel − 1, n]`.
#[derive(Clone, Copy)]
struct Problem<'a> {
    x: Matrix<'a>,
    filters: &'a [f32],
    before: &'a [f32],
    /// Tokens per sequence.
    t: usize,
    n: usize,
    /// For packed sequences the number of each token in its own; they have nothing before them.
    packed: Option<&'a [usize]>,
    silu: bool,
}

impl<'a> Problem<'a> {
    fn memory(&self) -> usize {
        self.filters.len() / self.n - 1
    }

    fn filter(&self, lag: usize) -> &'a [f32] {
        &self.filters[(self.memory() - lag) * self.n..][..self.n]
    }

    /// The input so many tokens before one of the `B·T`, if there is one.
    #[inline(always)]
    fn input(&self, token: usize, lag: usize) -> Option<&'a [f32]> {
        let (b, t) = (token / self.t, token % self.t);
        match self.packed {
            Some(numbers) => (numbers[t] >= lag).then(|| self.x.row(token - lag)),
            None if t >= lag => Some(self.x.row(token - lag)),
            None => Some(&self.before[(b * self.memory() + self.memory() + t - lag) * self.n..][..self.n]),
        }
    }

    /// The sum over the filter.
    #[inline(always)]
    fn convolve(&self, token: usize, y: &mut [f32]) {
        y.fill(0.0);
        for lag in (0..=self.memory()).rev() {
            if let Some(x) = self.input(token, lag) {
                add_product(y, self.filter(lag), x);
            }
        }
    }
}

#[inline(always)]
fn add_product(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = a.mul_add(*b, *sum);
    }
}

/// What the kernels are told besides the tensors.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) packed: Option<Vec<usize>>,
    pub(super) silu: bool,
}

/// Calls `f` with the tensors `x` `[B, T, n]`, filters `[kernel, n]` and `before` `[B, kernel − 1, n]` in memory.
fn with_problem<R>([x, filters, before]: &[Flat; 3], plan: &Plan, f: impl FnOnce(Problem) -> R) -> R {
    let [filters, before] = [filters, before].map(Flat::to_contiguous);
    let shape = x.layout().shape().clone();
    let (packed, mut place) = (plan.packed.as_deref(), None);
    f(Problem {
        x: Matrix::rows_of(x, &mut place),
        filters: slice(&filters),
        before: slice(&before),
        t: shape[1],
        n: shape[2],
        packed,
        silu: plan.silu,
    })
}

pub(super) fn forward(tensors: &[Flat; 3], plan: &Plan) -> Flat {
    let ([y], _) = with_problem(tensors, plan, |problem| {
        in_parts(len(&tensors[0]), TOKENS * problem.n, |start, [y]| outputs(problem, start / problem.n, y))
    });
    tensor(y, &tensors[0])
}
vectorised! {
    fn outputs<'a>(problem: Problem<'a>, first: usize, y: &'a mut [f32]) -> () {
        for (i, y) in y.chunks_exact_mut(problem.n).enumerate() {
            problem.convolve(first + i, y);
            if problem.silu {
                for y in y {
                    *y *= sigmoid(*y);
                }
            }
        }
    }
}

/// The gradients of `x`, the filters and `before`.
pub(super) fn backward(tensors: &[Flat; 3], plan: &Plan, grad: &Flat) -> [Flat; 3] {
    let (len, mut grad_place) = (len(&tensors[0]), None);
    let grad = Matrix::rows_of(grad, &mut grad_place);
    let (dx, dw, before) = with_problem(tensors, plan, |problem| {
        let Problem { t, n, .. } = problem;
        // The gradients of the sums, and meanwhile those of the filters.
        let ([dz], partial) = in_parts(len, TOKENS * n, |start, [dz]| of_sums(problem, start / n, dz, grad));
        let mut dw = vec![0.0_f32; problem.filters.len()];
        for part in &partial {
            for (total, value) in dw.iter_mut().zip(part) {
                *total += value;
            }
        }
        let ([dx], _) = in_parts(len, TOKENS * n, |start, [dx]| of_inputs(problem, start / n, dx, &dz));
        let mut before = vec![0.0_f32; problem.before.len()];
        if problem.packed.is_none() {
            for (i, row) in before.chunks_exact_mut(n).enumerate() {
                let (b, m) = (i / problem.memory(), i % problem.memory());
                for later in 0..=m.min(t - 1) {
                    add_product(row, problem.filter(problem.memory() + later - m), &dz[(b * t + later) * n..][..n]);
                }
            }
        }
        (dx, dw, before)
    });
    [tensor(dx, &tensors[0]), tensor(dw, &tensors[1]), tensor(before, &tensors[2])]
}

vectorised! {
    /// Writes the gradients of the sums and returns this part's of the filters.
    fn of_sums<'a>(problem: Problem<'a>, first: usize, dz: &'a mut [f32], grad: Matrix<'a>) -> Vec<f32> {
        let n = problem.n;
        let mut dw = vec![0.0_f32; problem.filters.len()];
        for (i, dz) in dz.chunks_exact_mut(n).enumerate() {
            let dy = grad.row(first + i);
            if problem.silu {
                problem.convolve(first + i, dz);
                for (z, dy) in dz.iter_mut().zip(dy) {
                    let s = sigmoid(*z);
                    *z = dy * s * (1.0 - s).mul_add(*z, 1.0);
                }
            } else {
                dz.copy_from_slice(dy);
            }
            for lag in 0..=problem.memory() {
                if let Some(x) = problem.input(first + i, lag) {
                    add_product(&mut dw[(problem.memory() - lag) * n..][..n], dz, x);
                }
            }
        }
        dw
    }
}
vectorised! {
    fn of_inputs<'a>(problem: Problem<'a>, first: usize, dx: &'a mut [f32], dz: &'a [f32]) -> () {
        let n = problem.n;
        for (i, dx) in dx.chunks_exact_mut(n).enumerate() {
            let token = first + i;
            for lag in 0..=problem.memory().min(problem.t - 1 - token % problem.t) {
                let same = problem.packed.is_none_or(|numbers| numbers[token % problem.t + lag] >= lag);
                if same {
                    add_product(dx, problem.filter(lag), &dz[(token + lag) * n..][..n]);
                }
            }
        }
    }
}
