//! Both passes over all heads, in parallel: over heads and, where there are few, over parts of one.

use burn::tensor::{Bool, DType, Tensor, TensorData};
use rayon::prelude::*;

use super::{
    NprfAlgorithm, Plan, dense,
    fft::{self, Columns, Transform},
    head::{Head, HeadGradients, Sizes},
    real::{Real, flags, numbers, slice, tensor, transposed},
};

/// The tensors of a product, without autodiff.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    pub(super) q: Tensor<4>,
    pub(super) k: Tensor<4>,
    pub(super) v: Tensor<4>,
    pub(super) c: Tensor<2>,
    /// Keys that are left out. `[B, N]`
    pub(super) hidden: Option<Tensor<2, Bool>>,
}

/// What the forward pass gives, and the backward pass needs of it.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) y: Tensor<4>,
    /// The denominators, where `y` was divided by them.
    divisors: Option<TensorData>,
    dense: DenseRows,
}

/// Which rows went through matrix products.
#[derive(Debug)]
enum DenseRows {
    /// All.
    All,
    /// These of each head of each sequence; the others went through Fourier transforms.
    Of(Vec<Vec<usize>>),
}

/// The gradients.
pub(super) struct Backward {
    pub(super) q: Tensor<4>,
    pub(super) k: Tensor<4>,
    pub(super) v: Tensor<4>,
    pub(super) c: Tensor<2>,
}

/// Time of a floating-point operation of the transforms in such of the matrix products: 1.8 to 3.4 were measured, more with more
/// features and more points (`benches/nprf_growth.rs`).
const FFT_COST: f64 = 2.5;

/// Floating-point operations of a head by matrix products.
pub(super) fn dense_flops(Sizes { n, m, f, causal, .. }: Sizes) -> f64 {
    let keys = if causal { (n + 1) as f64 / 2.0 } else { n as f64 };
    n as f64 * keys * 2.0 * (m + f) as f64
}

/// Floating-point operations of a head by Fourier transforms.
pub(super) fn fft_flops(Sizes { grid, n, m, f, .. }: Sizes) -> f64 {
    let points = fft::points(grid.length()) as f64;
    let transforms = 2.0 * (m * f.div_ceil(2)) as f64;
    transforms * 5.0 * points * points.log2() + (2 * n * m * f) as f64
}

/// Whether a product goes through Fourier transforms.
pub(super) fn takes_transforms(sizes: Sizes, algorithm: NprfAlgorithm) -> bool {
    match algorithm {
        NprfAlgorithm::Auto => fft_flops(sizes) * FFT_COST < dense_flops(sizes),
        NprfAlgorithm::Dense => false,
        NprfAlgorithm::Fft => true,
    }
}

/// The data of all heads.
struct Heads<T> {
    q: TensorData,
    k: TensorData,
    /// Values and weights, `[B, H, N, F]`: a column of ones behind the values, and zeros for hidden keys.
    x: Vec<T>,
    c: TensorData,
    sizes: Sizes,
    heads: usize,
    count: usize,
}

impl<T: Real> Heads<T> {
    fn new(inputs: &Inputs, plan: Plan) -> Self {
        let ([b, h, n, m], [_, _, _, d_v]) = (inputs.q.dims(), inputs.v.dims());
        let values = numbers::<T, 4>(&inputs.v);
        let hidden = inputs.hidden.as_ref().map(flags);
        let f = d_v + 1;
        let mut x = vec![T::default(); b * h * n * f];
        for (i, (x, v)) in x.chunks_exact_mut(f).zip(rows(slice::<T>(&values), d_v, b * h * n)).enumerate() {
            let (sequence, token) = (i / (h * n), i % n);
            if hidden.as_ref().is_none_or(|hidden| !hidden[sequence * n + token]) {
                x[..d_v].copy_from_slice(v);
                x[d_v] = T::ONE;
            }
        }
        Self {
            q: numbers::<T, 4>(&inputs.q),
            k: numbers::<T, 4>(&inputs.k),
            x,
            c: numbers::<T, 2>(&inputs.c),
            sizes: Sizes { grid: plan.grid, n, m, f, causal: plan.causal },
            heads: h,
            count: b * h,
        }
    }

    fn coefficients(&self, head: usize) -> &[T] {
        part(slice(&self.c), head, self.sizes.grid.taps())
    }

    fn head(&self, i: usize) -> Head<'_, T> {
        let sizes @ Sizes { n, m, f, .. } = self.sizes;
        let [q, k] = [&self.q, &self.k].map(|x| part(slice(x), i, n * m));
        Head { q, k, x: part(&self.x, i, n * f), c: self.coefficients(i % self.heads), sizes }
    }

    /// Parts of a head so that all threads have work, at most `most`.
    fn parts(&self, most: usize) -> usize {
        (2 * rayon::current_num_threads()).div_ceil(self.count).clamp(1, most)
    }
}

/// Part `i` of `len` numbers.
fn part<T>(data: &[T], i: usize, len: usize) -> &[T] {
    &data[i * len..(i + 1) * len]
}

/// The rows of a matrix that may have no columns.
fn rows<T>(matrix: &[T], columns: usize, count: usize) -> impl Iterator<Item = &[T]> {
    (0..count).map(move |i| part(matrix, i, columns))
}

pub(super) fn forward(inputs: &Inputs, plan: Plan) -> Forward {
    if inputs.q.dtype() == DType::F64 { forward_in::<f64>(inputs, plan) } else { forward_in::<f32>(inputs, plan) }
}

pub(super) fn backward(inputs: &Inputs, plan: Plan, result: &Forward, dy: &Tensor<4>) -> Backward {
    if inputs.q.dtype() == DType::F64 { backward_in::<f64>(inputs, plan, result, dy) } else { backward_in::<f32>(inputs, plan, result, dy) }
}

fn forward_in<T: Real>(inputs: &Inputs, plan: Plan) -> Forward {
    let heads = Heads::<T>::new(inputs, plan);
    let (mut y, dense) =
        if takes_transforms(heads.sizes, plan.algorithm) { by_transforms(&heads) } else { (by_products(&heads), DenseRows::All) };
    let [b, h, n, _] = inputs.q.dims();
    let divisors = plan.ratio.then(|| TensorData::new(divide(&mut y, heads.sizes.f), [b, h, n]));
    Forward { y: tensor(y, [b, h, n, heads.sizes.f], &inputs.q.device()), divisors, dense }
}

/// Divides numerators by the denominators behind them and leaves the logarithms of these there; gives the denominators. Zeros and −∞
/// where a row is 0.
fn divide<T: Real>(y: &mut [T], f: usize) -> Vec<T> {
    y.chunks_exact_mut(f)
        .map(|row| {
            let (numerators, last) = row.split_at_mut(f - 1);
            let denominator = last[0];
            let seen = denominator > T::default();
            for x in numerators {
                *x = if seen { *x / denominator } else { T::default() };
            }
            last[0] = if seen { denominator.ln() } else { T::from_elem(f64::NEG_INFINITY) };
            denominator
        })
        .collect()
}

/// The gradients of numerators and denominators from those of their ratio and of the logarithm.
fn undivide<T: Real>(dy: &mut [T], y: &[T], divisors: &[T], f: usize) {
    for ((dy, y), &denominator) in dy.chunks_exact_mut(f).zip(y.chunks_exact(f)).zip(divisors) {
        if denominator > T::default() {
            let inner = dy[..f - 1].iter().zip(y).fold(T::default(), |sum, (&a, &b)| sum + a * b);
            dy[f - 1] = dy[f - 1] - inner;
            dy.iter_mut().for_each(|x| *x = *x / denominator);
        } else {
            dy.fill(T::default());
        }
    }
}

fn by_products<T: Real>(heads: &Heads<T>) -> Vec<T> {
    let Sizes { n, f, .. } = heads.sizes;
    let mut y = vec![T::default(); heads.count * n * f];
    y.par_chunks_mut(n * f).enumerate().for_each(|(i, y)| {
        let head = heads.head(i);
        y.par_chunks_mut(dense::QUERIES * f).enumerate().for_each(|(block, y)| {
            let rows: Vec<_> = (block * dense::QUERIES..block * dense::QUERIES + y.len() / f).collect();
            dense::forward(&head, &rows, y);
        });
    });
    y
}

fn by_transforms<T: Real>(heads: &Heads<T>) -> (Vec<T>, DenseRows) {
    let sizes @ Sizes { n, m, f, grid, .. } = heads.sizes;
    let transform = Transform::<T>::new(grid);
    let spectra: Vec<_> = (0..heads.heads).map(|h| transform.spectrum(heads.coefficients(h))).collect();
    let parts = heads.parts(m);
    let results: Vec<_> = (0..heads.count)
        .into_par_iter()
        .map(|i| {
            let head = heads.head(i);
            let columns = Columns::new(&head);
            let y =
                in_parts(parts, |p| transform.outputs(&columns, sizes, p * m / parts..(p + 1) * m / parts, &spectra[i % heads.heads]), sum);
            let doubtful = transform.doubtful(&columns, sizes, head.c, &y);
            let mut y = transposed(&y, n);
            correct(&head, &doubtful, &mut y);
            (y, doubtful)
        })
        .collect();
    let (ys, rows): (Vec<_>, Vec<_>) = results.into_iter().unzip();
    warn_if_many(&rows, n);
    debug_assert!(ys.iter().all(|y| y.len() == n * f));
    (ys.concat(), DenseRows::Of(rows))
}

/// Computes the rows `rows` of `y` `[N, F]` again by matrix products.
fn correct<T: Real>(head: &Head<'_, T>, rows: &[usize], y: &mut [T]) {
    let f = head.sizes.f;
    let better: Vec<_> = rows
        .par_chunks(dense::QUERIES)
        .flat_map_iter(|rows| {
            let mut y = vec![T::default(); rows.len() * f];
            dense::forward(head, rows, &mut y);
            y
        })
        .collect();
    for (better, &i) in better.chunks_exact(f).zip(rows) {
        y[i * f..(i + 1) * f].copy_from_slice(better);
    }
}

/// Says once per process that the promise of O(T log T) does not hold for these inputs.
fn warn_if_many(rows: &[Vec<usize>], n: usize) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let dense: usize = rows.iter().map(Vec::len).sum();
    if 4 * dense > n * rows.len() {
        ONCE.call_once(|| {
            log::warn!(
                "nprf: {dense} of {} rows are too small for Fourier transforms in this precision and took quadratic time",
                n * rows.len()
            );
        });
    }
}

fn backward_in<T: Real>(inputs: &Inputs, plan: Plan, result: &Forward, dy: &Tensor<4>) -> Backward {
    let heads = Heads::<T>::new(inputs, plan);
    let Sizes { n, f, grid, .. } = heads.sizes;
    let mut dy = slice::<T>(&numbers::<T, 4>(dy)).to_vec();
    if let Some(divisors) = &result.divisors {
        undivide(&mut dy, slice(&numbers::<T, 4>(&result.y)), slice(divisors), f);
    }
    let rows = &result.dense;
    let transform = matches!(rows, DenseRows::Of(_)).then(|| Transform::<T>::new(grid));
    let grads: Vec<_> = (0..heads.count)
        .into_par_iter()
        .map(|i| {
            let (head, dy) = (heads.head(i), part(&dy, i, n * f));
            match (rows, &transform) {
                (DenseRows::Of(rows), Some(transform)) => {
                    let smooth = transformed_gradients(&heads, &head, transform, &rows[i], dy);
                    if rows[i].is_empty() { smooth } else { smooth.add(&dense_gradients(&heads, &head, &rows[i], dy)) }
                }
                _ => dense_gradients(&heads, &head, &(0..n).collect::<Vec<_>>(), dy),
            }
        })
        .collect();
    let mut c = vec![T::default(); heads.heads * grid.taps()];
    for (i, grads) in grads.iter().enumerate() {
        let h = i % heads.heads;
        for (sum, &x) in c[h * grid.taps()..(h + 1) * grid.taps()].iter_mut().zip(&grads.c) {
            *sum += x;
        }
    }
    let join = |of: fn(&HeadGradients<T>) -> &[T]| grads.iter().flat_map(|g| of(g)).copied().collect::<Vec<T>>();
    let hidden = inputs.hidden.as_ref().map(flags);
    let mut v = Vec::with_capacity(heads.count * n * (f - 1));
    for (i, row) in grads.iter().flat_map(|g| g.x.chunks_exact(f)).enumerate() {
        let (sequence, token) = (i / (heads.heads * n), i % n);
        if hidden.as_ref().is_some_and(|hidden| hidden[sequence * n + token]) {
            v.resize(v.len() + f - 1, T::default());
        } else {
            v.extend_from_slice(&row[..f - 1]);
        }
    }
    Backward {
        q: tensor(join(|g| &g.q), inputs.q.dims(), &inputs.q.device()),
        k: tensor(join(|g| &g.k), inputs.k.dims(), &inputs.k.device()),
        v: tensor(v, inputs.v.dims(), &inputs.v.device()),
        c: tensor(c, inputs.c.dims(), &inputs.c.device()),
    }
}

fn dense_gradients<T: Real>(heads: &Heads<T>, head: &Head<'_, T>, rows: &[usize], dy: &[T]) -> HeadGradients<T> {
    let blocks: Vec<_> = rows.chunks(dense::QUERIES).collect();
    let parts = heads.parts(blocks.len().max(1));
    in_parts(
        parts,
        |p| {
            let mut grads = HeadGradients::zeros(head.sizes);
            // Every `parts`-th block: later ones have more keys to see.
            for rows in blocks.iter().skip(p).step_by(parts) {
                dense::backward(head, rows, dy, &mut grads);
            }
            grads
        },
        |a, b| a.add(&b),
    )
}

/// The gradients that all rows but `dense` give.
fn transformed_gradients<T: Real>(
    heads: &Heads<T>,
    head: &Head<'_, T>,
    transform: &Transform<T>,
    dense: &[usize],
    dy: &[T],
) -> HeadGradients<T> {
    let sizes @ Sizes { n, m, f, .. } = head.sizes;
    let mut dy = transposed(dy, f);
    for &i in dense {
        dy.iter_mut().skip(i).step_by(n).for_each(|x| *x = T::default());
    }
    let (columns, spectrum) = (Columns::new(head), transform.spectrum(head.c));
    let parts = heads.parts(m);
    let (grads, correlation) = in_parts(
        parts,
        |p| transform.gradients(&columns, &dy, sizes, p * m / parts..(p + 1) * m / parts, &spectrum),
        |(a, s), (b, t)| (a.add(&b), s.add(&t)),
    );
    let rows = |x: &[T]| transposed(x, n);
    HeadGradients { q: rows(&grads.q), k: rows(&grads.k), x: rows(&grads.x), c: transform.coefficients(correlation) }
}

/// The parts `0..parts` of a result, computed in parallel and added up in that order: the rounding is the same in every run.
fn in_parts<R: Send>(parts: usize, part: impl Fn(usize) -> R + Sync + Send, add: impl Fn(R, R) -> R) -> R {
    let results: Vec<R> = (0..parts).into_par_iter().map(part).collect();
    results.into_iter().reduce(add).expect("there is at least one part")
}

fn sum<T: Real>(mut a: Vec<T>, b: Vec<T>) -> Vec<T> {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
    a
}
