//! Linear attention with a general diagonal-plus-low-rank (DPLR) transition: a baseline.
//!
//! ```text
//! S_t = (Diag(exp(g_t)) − a_t b_tᵀ) S_{t-1} + k_t v_tᵀ          o_t = S_tᵀ (q_t / √K)
//! ```
//!
//! Kimi Delta Attention is the case `a = β k`, `b = exp(g) ⊙ k` with values `β v`. Because `a` and `b` are tied to the key there, a chunk
//! needs two decayed C×C products; here it needs four, of queries and of `b` with keys and with `a`, and three more products with
//! values. The paper reports that the tied form takes about half the time (arXiv 2510.26692, section 3 and figure 2). This operation
//! exists to measure that: on the CPU its forward pass is made with the same blocks, the same vector code and the same division over
//! threads. For a layer use [`kimi_delta`](super::kimi_delta()).
//!
//! With gc the cumulative sum of g inside a chunk, S the state before it, and products A whose row decays up to its token (queries) or
//! up to the token before (`b`):
//!
//! ```text
//! X = −(I + A_ba)⁻¹ (B S + A_bk V)        O = (exp(gc) ⊙ Q/√K) S + A_qk V + A_qa X
//! S ← Diag(exp(gc_C)) S + (exp(gc_C − gc) ⊙ K)ᵀ V + (exp(gc_C − gc) ⊙ A)ᵀ X
//! ```

mod op;
mod reference;
#[cfg(test)]
mod tests;

pub use op::{DplrOptions, dplr};
pub use reference::recurrent;
