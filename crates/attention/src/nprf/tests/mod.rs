mod errors;
mod favor;
mod goldens;
mod grid;
mod layer;
mod op;
mod projection;

use burn::tensor::{Bool, Tensor, TensorData};
use regard_testkit::{Sampler, cpu};

use super::{NprfOptions, nprf, reference};

/// The tensors of a call.
#[derive(Clone)]
struct Inputs {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    projection: Tensor<3>,
    bias: Tensor<2>,
}

impl Inputs {
    /// Sizes `[B, H, N]`; the widths of keys, values and features are drawn.
    fn any(s: &mut Sampler, [b, h, n]: [usize; 3]) -> Self {
        let (d, d_v, m) = (s.size(1, 6), s.size(1, 6), s.size(1, 9));
        Self::draw(s, [b, h, n, d, d_v, m])
    }

    /// Sizes `[B, H, N, K, V, M]`. In f64, each number exact in f32.
    fn draw(s: &mut Sampler, [b, h, n, d, d_v, m]: [usize; 6]) -> Self {
        let cpu = cpu();
        let [q, k] = [(); 2].map(|()| s.tensor([b, h, n, d], -2.0, 2.0).f64(&cpu));
        Self {
            q,
            k,
            v: s.tensor([b, h, n, d_v], -1.0, 1.0).f64(&cpu),
            projection: s.tensor([h, m, d], -1.7, 1.7).f64(&cpu),
            bias: s.tensor([h, 2 * n - 1], -2.0, 2.0).f64(&cpu),
        }
    }

    fn map(
        self,
        four: impl Fn(Tensor<4>) -> Tensor<4>,
        three: impl Fn(Tensor<3>) -> Tensor<3>,
        two: impl Fn(Tensor<2>) -> Tensor<2>,
    ) -> Self {
        Self { q: four(self.q), k: four(self.k), v: four(self.v), projection: three(self.projection), bias: two(self.bias) }
    }

    fn f32(self) -> Self {
        use burn::tensor::DType::F32;
        self.map(|x| x.cast(F32), |x| x.cast(F32), |x| x.cast(F32))
    }
}

/// A result and what it depends on, flat.
type Named = Vec<(&'static str, Tensor<1>)>;

/// Outputs and gradients of `Σ o ⊙ cotangent + Σ lse ⊙ cotangent'` over the queries that see something.
fn with_gradients(inputs: &Inputs, seed: u64, f: impl Fn(Inputs) -> (Tensor<4>, Tensor<3>)) -> Named {
    fn leaf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
        Tensor::from_data(x.to_data(), (&cpu().autodiff(), x.dtype())).require_grad()
    }
    let leaves = inputs.clone().map(leaf, leaf, leaf);
    let (o, lse) = f(leaves.clone());
    let mut s = Sampler::new(seed);
    let o_cotangent = s.tensor(o.dims(), -1.0, 1.0).f64(&o.device()).cast(o.dtype());
    let lse_cotangent = s.tensor(lse.dims(), -1.0, 1.0).f64(&o.device()).cast(o.dtype());
    let blind = lse.clone().equal_elem(f64::NEG_INFINITY);
    let lse = lse.mask_fill(blind, 0.0);
    let grads = ((o.clone() * o_cotangent).sum() + (lse.clone() * lse_cotangent).sum()).backward();
    fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
        let n = x.dims().iter().product::<usize>();
        Tensor::from_data(TensorData::new(x.to_data().iter::<f64>().collect::<Vec<_>>(), [n]), (&cpu(), burn::tensor::DType::F64))
    }
    let grad = |x: Option<Tensor<4>>, like: &Tensor<4>| flat(x.unwrap_or_else(|| like.zeros_like()));
    vec![
        ("o", flat(o)),
        ("lse", flat(lse)),
        ("dq", grad(leaves.q.grad(&grads), &inputs.q)),
        ("dk", grad(leaves.k.grad(&grads), &inputs.k)),
        ("dv", grad(leaves.v.grad(&grads), &inputs.v)),
        ("dw", flat(leaves.projection.grad(&grads).unwrap_or_else(|| inputs.projection.zeros_like()))),
        ("db", flat(leaves.bias.grad(&grads).unwrap_or_else(|| inputs.bias.zeros_like()))),
    ]
}

/// The definition; the second result is the logarithm of the denominator.
fn by_definition(x: Inputs, options: &NprfOptions, with_bias: bool) -> (Tensor<4>, Tensor<3>) {
    let [b, _, n, _] = x.q.dims();
    let device = x.q.device();
    let mut hidden = Tensor::<4>::zeros([b, 1, n, n], &device).equal_elem(1);
    if options.causal {
        hidden = hidden.bool_or(Tensor::<2, Bool>::tril_mask([n, n], 0, &device).reshape([1, 1, n, n]).expand([b, 1, n, n]));
    }
    if let Some(mask) = &options.key_mask {
        hidden = hidden.bool_or(mask.clone().reshape([b, 1, 1, n]).expand([b, 1, n, n]));
    }
    let bias = with_bias.then(|| reference::bias_matrix(x.bias));
    let (o, den) = reference::dense(x.q, x.k, x.v, x.projection, bias, Some(hidden), options.normalised);
    let blind = den.clone().equal_elem(0);
    let log = den.mask_fill(blind.clone(), 1.0).log().mask_fill(blind, f64::NEG_INFINITY);
    (o, log)
}

fn by_operation(x: Inputs, options: &NprfOptions, with_bias: bool) -> (Tensor<4>, Tensor<3>) {
    nprf(x.q, x.k, x.v, x.projection, with_bias.then_some(x.bias), options).unwrap()
}

/// Fails unless everything agrees to within `tolerance` of the largest number of its own kind (outputs, gradients of each tensor), or
/// of a thousandth of the largest of all: what cancels to less holds only rounding.
#[track_caller]
fn assert_all_close(what: &str, got: &Named, want: &Named, tolerance: f64) {
    let largest =
        |x: &Tensor<1>| x.to_data().iter::<f64>().fold(0.0, |m: f64, x| if x.is_finite() { m.max(x.abs()) } else { f64::INFINITY });
    let all = want.iter().map(|(_, x)| largest(x)).fold(1e-12, f64::max);
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let error = largest(&(got.clone() - want.clone())) / largest(want).max(1e-3 * all);
        assert!(error <= tolerance, "{what}: {name} is off by {error:.3e} of its scale, more than {tolerance:.1e}");
    }
}

/// A mask of `[B, N]`.
fn any_mask(s: &mut Sampler, b: usize, n: usize) -> Tensor<2, Bool> {
    let hidden: Vec<bool> = (0..b * n).map(|_| s.size(0, 3) == 0).collect();
    Tensor::from_data(TensorData::new(hidden, [b, n]), &cpu())
}
