use burn::backend::{Flex, tensor::FloatTensor};

use super::{
    activation::{len, slice, tensor},
    matrix::Matrix,
    parts::{Blank, in_blank_parts},
    unit,
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
    after: After,
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

    /// The sum over the filter; `zeros` stand for inputs that are not there.
    #[inline(always)]
    fn convolve(&self, token: usize, y: &mut [f32], zeros: &[f32]) {
        let input = |lag: usize| self.input(token, lag).unwrap_or(zeros);
        if self.memory() == 3 {
            let filters = [self.filter(3), self.filter(2), self.filter(1), self.filter(0)];
            sum_of_four(y, filters, [input(3), input(2), input(1), input(0)]);
            return;
        }
        y.fill(0.0);
        for lag in (0..=self.memory()).rev() {
            add_product(y, self.filter(lag), input(lag));
        }
    }
}

/// `Σ a_j b_j` for the usual length of a filter: one pass, not four.
#[inline(always)]
fn sum_of_four(y: &mut [f32], a: [&[f32]; 4], b: [&[f32]; 4]) {
    let n = y.len();
    let (a, b) = ([&a[0][..n], &a[1][..n], &a[2][..n], &a[3][..n]], [&b[0][..n], &b[1][..n], &b[2][..n], &b[3][..n]]);
    for i in 0..n {
        let mut sum = 0.0;
        for j in 0..4 {
            sum = a[j][i].mul_add(b[j][i], sum);
        }
        y[i] = sum;
    }
}

#[inline(always)]
fn add_product(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = a.mul_add(*b, *sum);
    }
}

/// What becomes of a sum.
#[derive(Clone, Copy, Debug)]
pub(crate) enum After {
    Nothing,
    Silu,
    /// SiLU, then parts of `width` numbers, heads side by side, divided by `sqrt(Σ y² + ε)`.
    SiluThenUnit {
        width: usize,
        epsilon: f64,
    },
}

/// What the kernels are told besides the tensors.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) packed: Option<Vec<usize>>,
    pub(super) after: After,
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
        after: plan.after,
    })
}

pub(super) fn forward(tensors: &[Flat; 3], plan: &Plan) -> Flat {
    let ([y], _) = with_problem(tensors, plan, |problem| {
        // SAFETY: all rows are written.
        unsafe { in_blank_parts(len(&tensors[0]), TOKENS * problem.n, |start, [y]| outputs(problem, start / problem.n, y)) }
    });
    tensor(y, &tensors[0])
}
vectorised! {
    fn outputs<'a>(problem: Problem<'a>, first: usize, y: &'a mut [Blank]) -> () {
        let (zeros, mut sum) = (vec![0.0_f32; problem.n], vec![0.0_f32; problem.n]);
        for (i, y) in y.chunks_exact_mut(problem.n).enumerate() {
            problem.convolve(first + i, &mut sum, &zeros);
            if !matches!(problem.after, After::Nothing) {
                for x in &mut sum {
                    *x *= sigmoid(*x);
                }
            }
            if let After::SiluThenUnit { width, epsilon } = problem.after {
                for x in sum.chunks_exact_mut(width) {
                    let scale = unit::scale(x, epsilon as f32);
                    for x in x {
                        *x *= scale;
                    }
                }
            }
            y.write_copy_of_slice(&sum);
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
        // SAFETY: all rows are written, here and below.
        let ([dz], partial) = unsafe { in_blank_parts(len, TOKENS * n, |start, [dz]| of_sums(problem, start / n, dz, grad)) };
        let mut dw = vec![0.0_f32; problem.filters.len()];
        for part in &partial {
            for (total, value) in dw.iter_mut().zip(part) {
                *total += value;
            }
        }
        // SAFETY: as above.
        let ([dx], _) = unsafe { in_blank_parts(len, TOKENS * n, |start, [dx]| of_inputs(problem, start / n, dx, &dz)) };
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
    fn of_sums<'a>(problem: Problem<'a>, first: usize, dz: &'a mut [Blank], grad: Matrix<'a>) -> Vec<f32> {
        let n = problem.n;
        let mut dw = vec![0.0_f32; problem.filters.len()];
        let [zeros, mut sum, mut y, mut slope] = [0.0_f32; 4].map(|x| vec![x; n]);
        for (i, blank) in dz.chunks_exact_mut(n).enumerate() {
            let dy = grad.row(first + i);
            if !matches!(problem.after, After::Nothing) {
                problem.convolve(first + i, &mut sum, &zeros);
                for i in 0..n {
                    let s = sigmoid(sum[i]);
                    y[i] = sum[i] * s;
                    slope[i] = s * (1.0 - s).mul_add(sum[i], 1.0);
                }
            }
            let dz = match problem.after {
                After::Nothing => dy,
                After::Silu => {
                    for i in 0..n {
                        sum[i] = dy[i] * slope[i];
                    }
                    &sum[..]
                }
                After::SiluThenUnit { width, epsilon } => {
                    let rows = sum.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(slope.chunks_exact(width));
                    for (((dz, y), slope), dy) in rows.zip(dy.chunks_exact(width)) {
                        let [scale, along] = unit::gradient_factors(y, dy, epsilon as f32);
                        for i in 0..width {
                            dz[i] = scale * (dy[i] - y[i] * along) * slope[i];
                        }
                    }
                    &sum[..]
                }
            };
            blank.write_copy_of_slice(dz);
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
    fn of_inputs<'a>(problem: Problem<'a>, first: usize, dx: &'a mut [Blank], dz: &'a [f32]) -> () {
        let n = problem.n;
        let (zeros, mut sum) = (vec![0.0_f32; n], vec![0.0_f32; n]);
        for (i, dx) in dx.chunks_exact_mut(n).enumerate() {
            let token = first + i;
            // The gradient of a later sum of the same sequence.
            let later = |lag: usize| {
                let inside = token % problem.t + lag < problem.t;
                let same = inside && problem.packed.is_none_or(|numbers| numbers[token % problem.t + lag] >= lag);
                if same { &dz[(token + lag) * n..][..n] } else { &zeros[..] }
            };
            if problem.memory() == 3 {
                let filters = [problem.filter(0), problem.filter(1), problem.filter(2), problem.filter(3)];
                sum_of_four(&mut sum, filters, [later(0), later(1), later(2), later(3)]);
            } else {
                sum.fill(0.0);
                for lag in 0..=problem.memory() {
                    add_product(&mut sum, problem.filter(lag), later(lag));
                }
            }
            dx.write_copy_of_slice(&sum);
        }
    }
}
