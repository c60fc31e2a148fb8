//! The head of a language model with its loss, without the logits of all tokens: they are computed for some rows at a time and turned
//! into their gradient in place, which is multiplied on at once.

use std::sync::Arc;

use burn::{
    backend::{DispatchAutodiffContext, DispatchTensor, Flex, tensor::FloatTensor},
    tensor::{Int, Tensor, TensorData},
};
use rayon::prelude::*;

use super::{
    flat,
    linear::forwards,
    matrix::{Matrix, Target},
};
use crate::blocks::{
    custom_gradient::{GradientRule, of_backend, with_gradient},
    simd::{exp, max, scratch, sum, vectorised},
};

type Flat = FloatTensor<Flex>;

/// Rows at a time.
const ROWS: usize = 256;

/// Classes per task: with the rows, logits of the size of a core's own cache.
const CLASSES: usize = 1024;

/// Mean cross entropy of `x W` over the rows whose target is not `ignore`. The gradients are computed in the forward pass, by whose end
/// the logits are gone.
pub(crate) fn linear_cross_entropy(x: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>, ignore: i64) -> Tensor<1> {
    let targets: Vec<i64> = targets.into_data().iter::<i64>().collect();
    let (flat_x, flat_weight) = (flat(&x).to_contiguous(), forwards(&flat(&weight)));
    let head = Head { x: Matrix::rows(&flat_x), weight: Matrix::new(&flat_weight), targets: &targets, ignore };
    assert!(
        targets.iter().all(|&t| t == ignore || (0..head.weight.columns as i64).contains(&t)),
        "a target is outside of the {} classes",
        head.weight.columns
    );
    let inputs = [x.into_dispatch(), weight.into_dispatch()];
    let tracked = inputs.iter().any(|x| x.autodiff != DispatchAutodiffContext::Disabled);
    let (loss, gradients) = head.run(tracked);
    let tensor = |values: Vec<f32>, shape: [usize; 2]| Flat::from_data(TensorData::new(values, shape));
    let loss = Tensor::from_dispatch(of_backend::<Flex>(Flat::from_data(TensorData::new(vec![loss], [1]))));
    let Some([dx, dw]) = gradients else { return loss };
    let (n, d, classes) = (head.x.rows, head.x.columns, head.weight.columns);
    let place = |x: Flat| Tensor::<2>::from_dispatch(of_backend::<Flex>(x));
    let dw = if head.tall() { place(tensor(dw, [classes, d])).transpose() } else { place(tensor(dw, [d, classes])) };
    with_gradient(inputs, loss, Arc::new(Gradients { dx: place(tensor(dx, [n, d])), dw }))
}

/// For a gradient of 1 of the loss.
#[derive(Debug)]
struct Gradients {
    dx: Tensor<2>,
    dw: Tensor<2>,
}

impl GradientRule<2> for Gradients {
    fn gradients(&self, upstream: DispatchTensor, wanted: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let factor = Tensor::<1>::from_dispatch(upstream).into_scalar::<f32>();
        let scaled = |x: &Tensor<2>| if factor == 1.0 { x.clone() } else { x.clone() * factor };
        [(wanted[0], &self.dx), (wanted[1], &self.dw)].map(|(wanted, x)| wanted.then(|| scaled(x).into_dispatch()))
    }
}

struct Head<'a> {
    /// `[N, D]`
    x: Matrix<'a>,
    /// `[D, classes]`
    weight: Matrix<'a>,
    targets: &'a [i64],
    ignore: i64,
}

impl Head<'_> {
    /// Whether the weight lies class by class: its gradient then does, too.
    fn tall(&self) -> bool {
        self.weight.row_stride < self.weight.column_stride
    }

    /// The loss, and the gradients of `x` and of the weight as it lies.
    fn run(&self, gradients: bool) -> (f32, Option<[Vec<f32>; 2]>) {
        let (n, d, classes) = (self.x.rows, self.x.columns, self.weight.columns);
        let kept = self.targets.iter().filter(|&&t| t != self.ignore).count().max(1);
        let mut dx = if gradients { scratch(n * d) } else { Vec::new() };
        let mut dw = vec![0.0_f32; if gradients { d * classes } else { 0 }];
        let parts = classes.div_ceil(CLASSES);
        let mut logits = scratch(ROWS.min(n) * classes);
        let mut dx_parts = scratch(if gradients { parts * ROWS.min(n) * d } else { 0 });
        let mut loss = 0.0_f64;
        for start in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - start);
            let chunk = Chunk { head: self, start, rows, scale: 1.0 / kept as f32, dw: Target::new(&mut dw) };
            let logits = &mut logits[..rows * classes];
            let statistics: Vec<Vec<[f32; 2]>> =
                logits.par_chunks_mut(rows * CLASSES).enumerate().map(|(part, logits)| chunk.logits(part, logits)).collect();
            let log_sums: Vec<f32> = (0..rows).map(|row| join(statistics.iter().map(|part| part[row]))).collect();
            for (row, log_sum) in log_sums.iter().enumerate() {
                let target = self.targets[start + row];
                if target != self.ignore {
                    loss += f64::from(log_sum - logits[chunk.place(row, target as usize)]);
                }
            }
            if gradients {
                let dx_parts = &mut dx_parts[..parts * rows * d];
                let tasks = logits.par_chunks_mut(rows * CLASSES).zip(dx_parts.par_chunks_mut(rows * d)).enumerate();
                tasks.for_each(|(part, (logits, dx))| chunk.gradients(part, logits, dx, &log_sums));
                let dx = &mut dx[start * d..(start + rows) * d];
                dx.fill(0.0);
                for part in dx_parts.chunks_exact(rows * d) {
                    for (sum, x) in dx.iter_mut().zip(part) {
                        *sum += x;
                    }
                }
            }
        }
        ((loss / kept as f64) as f32, gradients.then_some([dx, dw]))
    }
}

/// `ln Σ exp` of parts, each given by its largest element and its sum of exponentials less that.
fn join(parts: impl Iterator<Item = [f32; 2]> + Clone) -> f32 {
    let highest = parts.clone().map(|[highest, _]| highest).fold(f32::NEG_INFINITY, f32::max);
    if highest == f32::NEG_INFINITY {
        return highest;
    }
    highest + parts.map(|[part, sum]| sum * (part - highest).exp()).sum::<f32>().ln()
}

/// Some rows at a time. Their logits lie part by part of the classes.
struct Chunk<'a> {
    head: &'a Head<'a>,
    start: usize,
    rows: usize,
    /// Gradient of the loss of a row.
    scale: f32,
    /// As the weight lies.
    dw: Target,
}

impl Chunk<'_> {
    fn x(&self) -> Matrix<'_> {
        self.head.x.block(self.start, self.rows, 0, self.head.x.columns)
    }

    /// Start of a part of the classes, and the weight's columns of it.
    fn weight(&self, part: usize) -> (usize, Matrix<'_>) {
        let start = part * CLASSES;
        (start, self.head.weight.block(0, self.head.weight.rows, start, CLASSES.min(self.head.weight.columns - start)))
    }

    /// Where the logit of a row and a class lies.
    fn place(&self, row: usize, class: usize) -> usize {
        let (start, weight) = self.weight(class / CLASSES);
        start * self.rows + row * weight.columns + class - start
    }

    /// Writes the logits of a part of the classes; the largest of each row and the sum of exponentials less that.
    fn logits(&self, part: usize, logits: &mut [f32]) -> Vec<[f32; 2]> {
        let (_, weight) = self.weight(part);
        assert_eq!(logits.len(), self.rows * weight.columns);
        // SAFETY: as many elements as the product has.
        unsafe { Target::of(logits).multiply([weight.columns, 1], self.x(), weight, false) };
        logits.chunks_exact(weight.columns).map(highest_and_sum).collect()
    }

    /// Turns the logits of a part of the classes into their gradients and multiplies these on.
    fn gradients(&self, part: usize, logits: &mut [f32], dx: &mut [f32], log_sums: &[f32]) {
        let (start, weight) = self.weight(part);
        let (d, length) = (weight.rows, weight.columns);
        let targets = &self.head.targets[self.start..];
        for ((logits, &log_sum), &target) in logits.chunks_exact_mut(length).zip(log_sums).zip(targets) {
            if target == self.head.ignore {
                logits.fill(0.0);
                continue;
            }
            scaled_softmax(logits, log_sum, self.scale);
            if let Some(logit) = (target as usize).checked_sub(start).and_then(|at| logits.get_mut(at)) {
                *logit -= self.scale;
            }
        }
        let gradient = Matrix { values: logits, rows: self.rows, columns: length, row_stride: length, column_stride: 1 };
        let (offset, strides) = if self.head.tall() { (start * d, [1, d]) } else { (start, [self.head.weight.columns, 1]) };
        assert_eq!(dx.len(), self.rows * d);
        // SAFETY: each part of the classes has its own elements of `dw`, which began as zeros; `dx` has as many as the product.
        unsafe {
            self.dw.at(offset).multiply(strides, self.x().transposed(), gradient, true);
            Target::of(dx).multiply([d, 1], gradient, weight.transposed(), false);
        }
    }
}

vectorised! {
    fn highest_and_sum<'a>(row: &'a [f32]) -> [f32; 2] {
        let highest = max(row);
        [highest, sum(row, |x| exp(x - highest))]
    }
}

vectorised! {
    /// `scale · exp(x − log_sum)` in place.
    fn scaled_softmax<'a>(row: &'a mut [f32], log_sum: f32, scale: f32) -> () {
        for x in row {
            *x = scale * exp(*x - log_sum);
        }
    }
}
