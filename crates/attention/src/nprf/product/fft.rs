//! The product by Fourier transforms: for each feature r, `Σ_j c[j − i] k_jr x_j` is a convolution along the tokens of each column of
//! x, and its result times q_ir is added up. Two columns are the real and the imaginary part of one signal: the coefficients are real,
//! so they do not mix. O(M·F·N log N), and never more than one signal per thread besides arguments and results.

use std::ops::Range;

use phastft::planner::Direction;

use super::{
    head::{Grid, Head, HeadGradients, Sizes},
    real::{Real, transposed},
};
use crate::blocks::simd::vectorised;

/// Largest error of a row, relative to its denominator and the largest value, that the transforms may leave by
/// [`doubtful`]'s bound; rows above it are computed by matrix products. Measured errors are a fifth of the bound and less.
const TOLERANCE: f64 = 3e-5;

/// Transforms of one length, long enough that nothing wraps around.
pub(super) struct Transform<T: Real> {
    planner: T::Planner,
    length: usize,
    grid: Grid,
}

/// A complex signal or its spectrum.
#[derive(Clone)]
pub(super) struct Signal<T> {
    re: Vec<T>,
    im: Vec<T>,
}

/// The transpose of a head's matrices: columns side by side.
pub(super) struct Columns<T> {
    q: Vec<T>,
    k: Vec<T>,
    x: Vec<T>,
}

impl<T: Real> Columns<T> {
    pub(super) fn new(head: &Head<'_, T>) -> Self {
        let Sizes { m, f, .. } = head.sizes;
        Self { q: transposed(head.q, m), k: transposed(head.k, m), x: transposed(head.x, f) }
    }
}

/// Number of points of a transform for a line of `places`.
pub(super) fn points(places: usize) -> usize {
    (2 * places - 1).next_power_of_two()
}

impl<T: Real> Transform<T> {
    pub(super) fn new(grid: Grid) -> Self {
        let length = points(grid.length());
        Self { planner: T::planner(length), length, grid }
    }

    fn signal(&self) -> Signal<T> {
        Signal { re: vec![T::default(); self.length], im: vec![T::default(); self.length] }
    }

    /// The spectrum of the coefficients `[taps]`: that of the first column of the circulant matrix they are embedded in.
    pub(super) fn spectrum(&self, c: &[T]) -> Signal<T> {
        let zero = self.grid.length() - 1;
        let mut column = self.signal();
        for (tap, &c) in c.iter().enumerate() {
            column.re[(self.length + zero - tap) % self.length] = c;
        }
        self.forward(&mut column);
        column
    }

    /// The gradients of the coefficients from their spectrum.
    pub(super) fn coefficients(&self, mut spectrum: Signal<T>) -> Vec<T> {
        T::transform(&self.planner, &mut spectrum.re, &mut spectrum.im, Direction::Inverse);
        let zero = self.grid.length() - 1;
        (0..self.grid.taps()).map(|tap| spectrum.re[(self.length + tap - zero) % self.length]).collect()
    }

    fn forward(&self, s: &mut Signal<T>) {
        T::transform(&self.planner, &mut s.re, &mut s.im, Direction::Forward);
    }

    fn inverse(&self, s: &mut Signal<T>) {
        T::transform(&self.planner, &mut s.re, &mut s.im, Direction::Inverse);
    }

    /// The signal `a ⊙ pair` at the places of the tokens, and zeros.
    fn load(&self, s: &mut Signal<T>, a: &[T], pair: Pair<'_, T>) {
        let Grid { rows, columns, .. } = self.grid;
        for y in 0..rows {
            let (tokens, place) = (y * columns..(y + 1) * columns, y * self.grid.stride());
            let end = if y + 1 < rows { place + self.grid.stride() } else { self.length };
            let a = &a[tokens.clone()];
            for (out, x) in [(&mut s.re, Some(pair.first)), (&mut s.im, pair.second)] {
                let (values, gap) = out[place..end].split_at_mut(columns);
                match x {
                    Some(x) => product(values, a, &x[tokens.clone()]),
                    None => values.fill(T::default()),
                }
                gap.fill(T::default());
            }
        }
    }

    /// `out += a ⊙ signal` at the places of the tokens.
    fn accumulate(&self, out: &mut [T], a: &[T], signal: &[T]) {
        let columns = self.grid.columns;
        for (y, (out, a)) in out.chunks_exact_mut(columns).zip(a.chunks_exact(columns)).enumerate() {
            add_product(out, a, &signal[y * self.grid.stride()..][..columns]);
        }
    }

    /// The outputs `[F, N]` from the features `features` alone.
    pub(super) fn outputs(&self, head: &Columns<T>, sizes: Sizes, features: Range<usize>, spectrum: &Signal<T>) -> Vec<T> {
        let Sizes { n, f, .. } = sizes;
        let mut y = vec![T::default(); f * n];
        let mut s = self.signal();
        for r in features {
            let (q, k) = (&head.q[r * n..(r + 1) * n], &head.k[r * n..(r + 1) * n]);
            for (first, y) in (0..f).step_by(2).zip(y.chunks_mut(2 * n)) {
                self.load(&mut s, k, Pair::new(&head.x, first, n));
                self.forward(&mut s);
                filter(&mut s, spectrum);
                self.inverse(&mut s);
                let (y, second) = y.split_at_mut(n);
                self.accumulate(y, q, &s.re);
                if !second.is_empty() {
                    self.accumulate(second, q, &s.im);
                }
            }
        }
        y
    }

    /// The gradients from the features `features` alone, `dy` being that of the outputs `[F, N]`; all transposed, and the one of the
    /// coefficients as a spectrum.
    pub(super) fn gradients(
        &self,
        head: &Columns<T>,
        dy: &[T],
        sizes: Sizes,
        features: Range<usize>,
        spectrum: &Signal<T>,
    ) -> (HeadGradients<T>, Signal<T>) {
        let Sizes { n, f, .. } = sizes;
        let mut grads = HeadGradients::zeros(sizes);
        let (mut s, mut t, mut correlation) = (self.signal(), self.signal(), self.signal());
        for r in features {
            let range = r * n..(r + 1) * n;
            let (q, k) = (&head.q[range.clone()], &head.k[range.clone()]);
            let (dq, dk) = (&mut grads.q[range.clone()], &mut grads.k[range]);
            for (first, dx) in (0..f).step_by(2).zip(grads.x.chunks_mut(2 * n)) {
                let (x, dy) = (Pair::new(&head.x, first, n), Pair::new(dy, first, n));
                self.load(&mut s, k, x);
                self.forward(&mut s);
                self.load(&mut t, q, dy);
                self.forward(&mut t);
                correlate(&mut correlation, &mut s, &mut t, spectrum);
                self.inverse(&mut s);
                self.inverse(&mut t);
                let (dx, second) = dx.split_at_mut(n);
                self.accumulate(dq, dy.first, &s.re);
                self.accumulate(dk, x.first, &t.re);
                self.accumulate(dx, k, &t.re);
                if let (Some(x), Some(dy)) = (x.second, dy.second) {
                    self.accumulate(dq, dy, &s.im);
                    self.accumulate(dk, x, &t.im);
                    self.accumulate(second, k, &t.im);
                }
            }
        }
        (grads, correlation)
    }

    /// The rows whose denominator, the last of the outputs `[F, N]`, may be wrong by more than [`TOLERANCE`].
    ///
    /// The error of a convolution is absolute, about `ε log₂ L ‖c‖ ‖k_r‖`, whatever the row; a row that sees little of it drowns.
    pub(super) fn doubtful(&self, head: &Columns<T>, sizes: Sizes, c: &[T], y: &[T]) -> Vec<usize> {
        let n = sizes.n;
        let norm = |x: &[T]| x.iter().fold(T::default(), |sum, &x| sum + x * x).sqrt();
        let mut bound = vec![T::default(); n];
        for (q, k) in head.q.chunks_exact(n).zip(head.k.chunks_exact(n)) {
            let norm = norm(k);
            for (bound, &q) in bound.iter_mut().zip(q) {
                *bound += q * norm;
            }
        }
        let scale = T::ROUNDING * T::from_size(self.length.ilog2() as usize) * norm(c);
        let tolerance = T::from_elem(TOLERANCE);
        let denominators = &y[(sizes.f - 1) * n..];
        // Written so that NaN is doubtful.
        (0..n).filter(|&i| bound[i] > T::default() && !(denominators[i] * tolerance > bound[i] * scale)).collect()
    }
}

/// Two columns, or the last one.
#[derive(Clone, Copy)]
struct Pair<'a, T> {
    first: &'a [T],
    second: Option<&'a [T]>,
}

impl<'a, T> Pair<'a, T> {
    /// The columns `first` and `first + 1` of `[F, N]`.
    fn new(columns: &'a [T], first: usize, n: usize) -> Self {
        let column = |i: usize| columns.get(i * n..(i + 1) * n);
        Self { first: column(first).unwrap_or_default(), second: column(first + 1) }
    }
}

impl<T: Real> Signal<T> {
    pub(super) fn add(mut self, other: &Self) -> Self {
        for (a, b) in [(&mut self.re, &other.re), (&mut self.im, &other.im)] {
            for (a, &b) in a.iter_mut().zip(b) {
                *a += b;
            }
        }
        self
    }
}

fn product<T: Real>(out: &mut [T], a: &[T], b: &[T]) {
    vectorised! {
        fn [T: Real] body<'a>(out: &'a mut [T], a: &'a [T], b: &'a [T]) -> () {
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out = a * b;
            }
        }
    }
    body(out, a, b);
}

fn add_product<T: Real>(out: &mut [T], a: &[T], b: &[T]) {
    vectorised! {
        fn [T: Real] body<'a>(out: &'a mut [T], a: &'a [T], b: &'a [T]) -> () {
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out += a * b;
            }
        }
    }
    body(out, a, b);
}

/// `s ← c s`
fn filter<T: Real>(s: &mut Signal<T>, c: &Signal<T>) {
    vectorised! {
        fn [T: Real] body<'a>(re: &'a mut [T], im: &'a mut [T], c_re: &'a [T], c_im: &'a [T]) -> () {
            for (((re, im), &c_re), &c_im) in re.iter_mut().zip(im).zip(c_re).zip(c_im) {
                (*re, *im) = (*re * c_re - *im * c_im, *re * c_im + *im * c_re);
            }
        }
    }
    body(&mut s.re, &mut s.im, &c.re, &c.im);
}

/// `d += t̄ s`, then `s ← c s` and `t ← c̄ t`.
fn correlate<T: Real>(d: &mut Signal<T>, s: &mut Signal<T>, t: &mut Signal<T>, c: &Signal<T>) {
    vectorised! {
        fn [T: Real] body<'a>(d: [&'a mut [T]; 2], s: [&'a mut [T]; 2], t: [&'a mut [T]; 2], c: [&'a [T]; 2]) -> () {
            let ([d_re, d_im], [s_re, s_im], [t_re, t_im], [c_re, c_im]) = (d, s, t, c);
            let n = d_re.len();
            let [d_im, s_re, s_im, t_re, t_im] = [d_im, s_re, s_im, t_re, t_im].map(|x| &mut x[..n]);
            let (c_re, c_im) = (&c_re[..n], &c_im[..n]);
            for i in 0..n {
                let (a, b, p, q) = (s_re[i], s_im[i], t_re[i], t_im[i]);
                d_re[i] += p * a + q * b;
                d_im[i] += p * b - q * a;
                (s_re[i], s_im[i]) = (a * c_re[i] - b * c_im[i], a * c_im[i] + b * c_re[i]);
                (t_re[i], t_im[i]) = (p * c_re[i] + q * c_im[i], q * c_re[i] - p * c_im[i]);
            }
        }
    }
    body([&mut d.re, &mut d.im], [&mut s.re, &mut s.im], [&mut t.re, &mut t.im], [&c.re, &c.im]);
}
