use burn::tensor::Tensor;

/// The causal product with one decay per head, in blocks of `block` tokens:
/// `o_t = Σ_{s≤t} λ^(t-s) (q_t · k_s) v_s + λ^t q_t S_0` (t from 1), without a T×T matrix and without a running product.
///
/// Inside a block by the masked left product `((Q Kᵀ) ⊙ M) V`, `M_ij = λ^(i-j)` for i ≥ j; across blocks by the state
/// `S ← λ^C S + (diag(λ^(C-1) … λ^0) K)ᵀ V`, read before the update. Every exponent is ≤ 0, whatever λ is.
/// O(T·(C·(K+V) + K·V)) time, O(T·(C + K·V/C)) memory in training.
///
/// # Shapes
/// - `q`, `k`: `[B, H, T, K]`; `v`: `[B, H, T, V]`; T ≥ 1 and not necessarily a multiple of `block`
/// - `slope` = −ln λ: `[H]`, ≥ 0; `None` = no decay
/// - `state` S_0: `[B, H, K, V]`; `None` = zeros
/// - output: `[B, H, T, V]` and the state after the last token `[B, H, K, V]`
///
/// # Panics
/// On shapes that contradict the above or `block` = 0: the operations that call it check them.
pub(crate) fn decayed_product(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    slope: Option<&Tensor<1>>,
    state: Option<Tensor<4>>,
    block: usize,
) -> (Tensor<4>, Tensor<4>) {
    let [b, h, t, d_k] = q.dims();
    let d_v = v.dims()[3];
    let mut state = state.unwrap_or_else(|| Tensor::zeros([b, h, d_k, d_v], (&q.device(), q.dtype())));
    let whole = t / block;
    let cut = |x: &Tensor<4>, start: usize, len: usize| x.clone().narrow(2, start, len);
    let mut out = Vec::new();
    if whole > 0 {
        let len = whole * block;
        let (o, next) = equal_blocks(cut(&q, 0, len), cut(&k, 0, len), cut(&v, 0, len), slope, state, block);
        out.push(o);
        state = next;
    }
    let rest = t - whole * block;
    if rest > 0 {
        let start = whole * block;
        let (o, next) = equal_blocks(cut(&q, start, rest), cut(&k, start, rest), cut(&v, start, rest), slope, state, rest);
        out.push(o);
        state = next;
    }
    (if out.len() == 1 { out.remove(0) } else { Tensor::cat(out, 2) }, state)
}

/// As [`decayed_product`], for T a multiple of `block`. Whatever does not depend on the state is computed for all blocks at once.
fn equal_blocks(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    slope: Option<&Tensor<1>>,
    mut state: Tensor<4>,
    c: usize,
) -> (Tensor<4>, Tensor<4>) {
    let [b, h, t, d_k] = q.dims();
    let d_v = v.dims()[3];
    let n = t / c;
    let q = q.reshape([b, h, n, c, d_k]);
    let k = k.reshape([b, h, n, c, d_k]);
    let v = v.reshape([b, h, n, c, d_v]);
    let factors = slope.map(|slope| Factors::new(slope, c));

    let scores = q.clone().matmul(k.clone().swap_dims(3, 4)); // [B, H, N, C, C]
    let scores = match &factors {
        Some(f) => scores * f.inside.clone(),
        None => scores.tril(0),
    };
    let inside = scores.matmul(v.clone());
    let writes = match &factors {
        Some(f) => k * f.write.clone(),
        None => k,
    };
    let increments = writes.swap_dims(3, 4).matmul(v); // [B, H, N, K, V]

    let mut before = Vec::with_capacity(n);
    for i in 0..n {
        before.push(state.clone());
        let increment = increments.clone().narrow(2, i, 1).squeeze_dim::<4>(2);
        state = match &factors {
            Some(f) => state * f.carry.clone() + increment,
            None => state + increment,
        };
    }
    let reads = match &factors {
        Some(f) => q * f.read.clone(),
        None => q,
    };
    let across = reads.matmul(Tensor::stack::<5>(before, 2));
    ((inside + across).reshape([b, h, t, d_v]), state)
}

/// Powers of the decay inside a block, `exp(-slope·n)` for whole n, in the float type of `slope`.
struct Factors {
    /// λ^(i-j) for i ≥ j, else 0. `[1, H, 1, C, C]`
    inside: Tensor<5>,
    /// λ^(i+1): what query i sees of the state before the block. `[1, H, 1, C, 1]`
    read: Tensor<5>,
    /// λ^(C-1-i): what is left of key i after the block. `[1, H, 1, C, 1]`
    write: Tensor<5>,
    /// λ^C. `[1, H, 1, 1]`
    carry: Tensor<4>,
}

impl Factors {
    fn new(slope: &Tensor<1>, c: usize) -> Self {
        let h = slope.dims()[0];
        let device = slope.device();
        let slope = slope.clone().reshape([1, h, 1, 1, 1]);
        let index = Tensor::<1, burn::tensor::Int>::arange(0..c as i64, &device).float().cast(slope.dtype());
        let row = index.clone().reshape([1, 1, 1, c, 1]);
        let column = index.reshape([1, 1, 1, 1, c]);
        // Masked after the exponential of a clamped difference: no infinity is ever formed.
        let distance = (row.clone() - column).clamp_min(0.0);
        let power = |n: Tensor<5>| (slope.clone() * n).neg().exp();
        Self {
            inside: power(distance).tril(0),
            read: power(row.clone() + 1.0),
            write: power(row.neg() + (c as f64 - 1.0)),
            carry: (slope.clone() * c as f64).neg().exp().reshape([1, h, 1, 1]),
        }
    }
}
