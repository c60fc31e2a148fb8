//! Both passes over all heads, in parallel: over heads and, where there are few, over parts of one.

use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use super::{
    NprfAlgorithm, Plan, dense,
    fft::{self, Columns, Transform},
    head::{Head, HeadGradients, Sizes},
    real::{Real, numbers, transposed},
};

/// The tensors of a product, without autodiff.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    pub(super) q: Tensor<4>,
    pub(super) k: Tensor<4>,
    pub(super) x: Tensor<4>,
    pub(super) c: Tensor<2>,
}

/// What the forward pass gives.
pub(super) struct Forward {
    pub(super) y: Tensor<4>,
    pub(super) dense: DenseRows,
}

/// Which rows went through matrix products.
#[derive(Debug)]
pub(super) enum DenseRows {
    /// All.
    All,
    /// These of each head of each sequence; the others went through Fourier transforms.
    Of(Vec<Vec<usize>>),
}

/// The gradients.
pub(super) struct Backward {
    pub(super) q: Tensor<4>,
    pub(super) k: Tensor<4>,
    pub(super) x: Tensor<4>,
    pub(super) c: Tensor<2>,
}

/// Time of a floating-point operation of the transforms in such of the matrix products, measured: see the page of the mechanism.
const FFT_COST: f64 = 4.0;

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
struct Heads {
    data: [TensorData; 4],
    sizes: Sizes,
    heads: usize,
    count: usize,
}

impl Heads {
    fn new<T: Real>(inputs: &Inputs, plan: Plan) -> Self {
        let ([b, h, n, m], [_, _, _, f]) = (inputs.q.dims(), inputs.x.dims());
        let data = [numbers::<T, 4>(&inputs.q), numbers::<T, 4>(&inputs.k), numbers::<T, 4>(&inputs.x), numbers::<T, 2>(&inputs.c)];
        Self { data, sizes: Sizes { grid: plan.grid, n, m, f, causal: plan.causal }, heads: h, count: b * h }
    }

    fn coefficients<T: Real>(&self, head: usize) -> &[T] {
        part(&self.data[3], head, self.sizes.grid.taps())
    }

    fn head<T: Real>(&self, i: usize) -> Head<'_, T> {
        let sizes @ Sizes { n, m, f, .. } = self.sizes;
        let [q, k, x, _] = &self.data;
        Head { q: part(q, i, n * m), k: part(k, i, n * m), x: part(x, i, n * f), c: self.coefficients(i % self.heads), sizes }
    }

    /// Parts of a head so that all threads have work, at most `most`.
    fn parts(&self, most: usize) -> usize {
        (2 * rayon::current_num_threads()).div_ceil(self.count).clamp(1, most)
    }
}

/// Part `i` of `len` numbers.
fn part<T: Real>(data: &TensorData, i: usize, len: usize) -> &[T] {
    &data.as_slice::<T>().expect("of this type")[i * len..(i + 1) * len]
}

pub(super) fn forward(inputs: &Inputs, plan: Plan) -> Forward {
    if inputs.q.dtype() == DType::F64 { forward_in::<f64>(inputs, plan) } else { forward_in::<f32>(inputs, plan) }
}

pub(super) fn backward(inputs: &Inputs, plan: Plan, rows: &DenseRows, dy: Tensor<4>) -> Backward {
    if inputs.q.dtype() == DType::F64 { backward_in::<f64>(inputs, plan, rows, &dy) } else { backward_in::<f32>(inputs, plan, rows, &dy) }
}

fn forward_in<T: Real>(inputs: &Inputs, plan: Plan) -> Forward {
    let heads = Heads::new::<T>(inputs, plan);
    let (y, dense) = if takes_transforms(heads.sizes, plan.algorithm) { by_transforms::<T>(&heads) } else { (by_products::<T>(&heads), DenseRows::All) };
    Forward { y: Tensor::from_data(TensorData::new(y, inputs.x.dims()), &inputs.x.device()), dense }
}

fn by_products<T: Real>(heads: &Heads) -> Vec<T> {
    let Sizes { n, f, .. } = heads.sizes;
    let mut y = vec![T::default(); heads.count * n * f];
    y.par_chunks_mut(n * f).enumerate().for_each(|(i, y)| {
        let head = heads.head::<T>(i);
        y.par_chunks_mut(dense::QUERIES * f).enumerate().for_each(|(block, y)| {
            let rows: Vec<_> = (block * dense::QUERIES..block * dense::QUERIES + y.len() / f).collect();
            dense::forward(&head, &rows, y);
        });
    });
    y
}

fn by_transforms<T: Real>(heads: &Heads) -> (Vec<T>, DenseRows) {
    let sizes @ Sizes { n, m, f, grid, .. } = heads.sizes;
    let transform = Transform::<T>::new(grid);
    let spectra: Vec<_> = (0..heads.heads).map(|h| transform.spectrum(heads.coefficients(h))).collect();
    let parts = heads.parts(m);
    let results: Vec<_> = (0..heads.count)
        .into_par_iter()
        .map(|i| {
            let head = heads.head::<T>(i);
            let columns = Columns::new(&head);
            let y = in_parts(
                parts,
                |p| transform.outputs(&columns, sizes, p * m / parts..(p + 1) * m / parts, &spectra[i % heads.heads]),
                sum,
            );
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

fn backward_in<T: Real>(inputs: &Inputs, plan: Plan, rows: &DenseRows, dy: &Tensor<4>) -> Backward {
    let heads = Heads::new::<T>(inputs, plan);
    let Sizes { n, f, grid, .. } = heads.sizes;
    let dy = numbers::<T, 4>(dy);
    let transform = matches!(rows, DenseRows::Of(_)).then(|| Transform::<T>::new(grid));
    let grads: Vec<_> = (0..heads.count)
        .into_par_iter()
        .map(|i| {
            let (head, dy) = (heads.head::<T>(i), part::<T>(&dy, i, n * f));
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
    let join = |of: fn(&HeadGradients<T>) -> &[T], like: &Tensor<4>| {
        let values: Vec<T> = grads.iter().flat_map(|g| of(g)).copied().collect();
        Tensor::from_data(TensorData::new(values, like.dims()), &like.device())
    };
    Backward {
        q: join(|g| &g.q, &inputs.q),
        k: join(|g| &g.k, &inputs.k),
        x: join(|g| &g.x, &inputs.x),
        c: Tensor::from_data(TensorData::new(c, inputs.c.dims()), &inputs.c.device()),
    }
}

fn dense_gradients<T: Real>(heads: &Heads, head: &Head<'_, T>, rows: &[usize], dy: &[T]) -> HeadGradients<T> {
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
    heads: &Heads,
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
