use burn::{
    module::{Initializer, Module, Param},
    nn::{Linear, LinearConfig, RmsNorm, RmsNormConfig},
    tensor::{Bool, DType, Device, Distribution, Int, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    gate::{DecayGate, log_decay},
    op::{KimiDeltaOptions, MAX_CHUNK, kimi_delta},
};
use crate::{
    Error, LayerPlace, MixerMemory, Result, SequenceMixer,
    blocks::{ShortConv, check_cu_seqlens, gated_rms_norm, lazy_param, project, project_each, sigmoid},
};

const OP: &str = "kimi_delta";

/// ε of the norm of queries and keys, under the root.
const QK_EPSILON: f64 = 1e-6;

/// Configuration of [`KimiDelta`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KimiDeltaConfig {
    /// Number of query/key heads H.
    pub heads: usize,
    /// Number of value heads W, a multiple of `heads`. `None` = `heads`.
    #[serde(default)]
    pub value_heads: Option<usize>,
    /// Width K = V of a head and of the bottleneck of both gates. `None` = D / `heads`, which then must divide D.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Tokens that the short convolution of queries, keys and values sees, at least 1.
    #[serde(default = "default_conv_kernel")]
    pub conv_kernel: usize,
    /// How log decays are made.
    #[serde(default)]
    pub gate: DecayGate,
    /// One decay per head instead of one per key channel: Gated DeltaNet.
    #[serde(default)]
    pub scalar_gate: bool,
    /// Whether β lies in (0, 2) instead of (0, 1), so that transitions can have negative eigenvalues.
    #[serde(default)]
    pub allow_neg_eigval: bool,
    /// Whether the output gate has a bias: not in the published checkpoint, but in the layer of flash-linear-attention.
    #[serde(default)]
    pub gate_bias: bool,
    /// Tokens C per chunk, a power of two up to 256. Changes speed; results only by rounding.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// ε of the norm of the outputs.
    #[serde(default = "default_norm_epsilon")]
    pub norm_epsilon: f64,
}

fn default_conv_kernel() -> usize {
    4
}

fn default_chunk() -> usize {
    64
}

fn default_norm_epsilon() -> f64 {
    1e-5
}

impl KimiDeltaConfig {
    /// The paper's layer with heads of width D / `heads`.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            value_heads: None,
            head_dim: None,
            conv_kernel: default_conv_kernel(),
            gate: DecayGate::default(),
            scalar_gate: false,
            allow_neg_eigval: false,
            gate_bias: false,
            chunk: default_chunk(),
            norm_epsilon: default_norm_epsilon(),
        }
    }

    /// The layer for width `d_model`. Linear weights are drawn from N(0, 0.02), decay rates from U(1, 16), time steps
    /// log-uniformly from 0.001 to 0.1.
    ///
    /// # Errors
    /// If the heads do not divide the width and no `head_dim` is given, the value heads are no multiple of the heads, a size is 0,
    /// `chunk` is no power of two up to 256, or the bound of the gate or ε is out of range.
    pub fn init(&self, d_model: usize, _place: LayerPlace, device: &Device) -> Result<KimiDelta> {
        let width = self.head_width(d_model)?;
        let value_heads = self.value_heads.unwrap_or(self.heads);
        if value_heads == 0 || !value_heads.is_multiple_of(self.heads) {
            return Err(Error::argument(OP, "value_heads", format!("a multiple of heads = {}", self.heads), value_heads));
        }
        if self.conv_kernel == 0 {
            return Err(Error::argument(OP, "conv_kernel", "at least 1", 0));
        }
        if !self.chunk.is_power_of_two() || self.chunk > MAX_CHUNK {
            return Err(Error::argument(OP, "chunk", format!("a power of two up to {MAX_CHUNK}"), self.chunk));
        }
        if let DecayGate::Bounded(bound) = self.gate
            && !(bound < 0.0 && bound.is_finite())
        {
            return Err(Error::argument(OP, "gate", "bounded by a number below 0", bound));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite()) {
            return Err(Error::argument(OP, "norm_epsilon", "above 0", self.norm_epsilon));
        }
        let biased = |from, to, bias| {
            let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
            LinearConfig::new(from, to).with_bias(bias).with_initializer(initializer).init(device)
        };
        let linear = |from, to| biased(from, to, false);
        let (keys, values) = (self.heads * width, value_heads * width);
        let decays = if self.scalar_gate { value_heads } else { values };
        Ok(KimiDelta {
            q_proj: linear(d_model, keys),
            k_proj: linear(d_model, keys),
            v_proj: linear(d_model, values),
            conv1d: ShortConv::new(2 * keys + values, self.conv_kernel, device)?,
            forget_gate: ForgetGate {
                f_a_proj: linear(d_model, width),
                f_b_proj: linear(width, decays),
                a_log: lazy_param([value_heads], device, move |device| {
                    Tensor::random([value_heads], Distribution::Uniform(1.0, 16.0), device).log()
                }),
                dt_bias: lazy_param([decays], device, move |device| initial_dt_bias(decays, device)),
                gate: self.gate,
            },
            b_proj: linear(d_model, value_heads),
            g_a_proj: linear(d_model, width),
            g_b_proj: biased(width, values, self.gate_bias),
            o_norm: RmsNormConfig::new(width).with_epsilon(self.norm_epsilon).init(device),
            out_proj: linear(values, d_model),
            heads: self.heads,
            value_heads,
            beta_scale: if self.allow_neg_eigval { 2.0 } else { 1.0 },
            chunk: self.chunk,
        })
    }

    fn head_width(&self, d_model: usize) -> Result<usize> {
        match self.head_dim {
            _ if self.heads == 0 => Err(Error::argument(OP, "heads", "at least 1", 0)),
            Some(0) => Err(Error::argument(OP, "head_dim", "at least 1", 0)),
            Some(width) => Ok(width),
            None if d_model > 0 && d_model.is_multiple_of(self.heads) => Ok(d_model / self.heads),
            None => Err(Error::argument(OP, "heads", format!("a divisor of d_model = {d_model}, or `head_dim` given"), self.heads)),
        }
    }
}

/// `softplus⁻¹(dt)` for dt log-uniform in 0.001..0.1, at least 0.0001.
fn initial_dt_bias(size: usize, device: &Device) -> Tensor<1> {
    let (low, high) = (1e-3_f64.ln(), 1e-1_f64.ln());
    let dt = Tensor::<1>::random([size], Distribution::Uniform(low, high), device).exp().clamp_min(1e-4);
    dt.clone() + (dt.neg().exp().neg() + 1.0).log()
}

/// The log decays of a layer: `log_decay(W_b W_a x)`, see [`log_decay`].
#[derive(Module, Debug)]
pub struct ForgetGate {
    /// Down to the bottleneck.
    pub f_a_proj: Linear,
    /// Up to one number per value head and key channel, or one per value head.
    pub f_b_proj: Linear,
    /// Logarithm of the rate of each value head. `[W]`
    pub a_log: Param<Tensor<1>>,
    /// `[W·K]`, or `[W]` with one decay per head.
    pub dt_bias: Param<Tensor<1>>,
    #[module(skip)]
    gate: DecayGate,
}

impl ForgetGate {
    /// `narrow`, from the bottleneck: `[B, T, K]`; output: `[B, T, W, K]` or `[B, T, W, 1]`
    fn forward(&self, narrow: Tensor<3>) -> Tensor<4> {
        let [b, t, _] = narrow.dims();
        let a_log = self.a_log.val();
        let [w] = a_log.dims();
        let f = project(&self.f_b_proj, narrow);
        let n = f.dims()[2] / w;
        log_decay(f.reshape([b, t, w, n]), a_log, self.dt_bias.val().reshape([w, n]), self.gate)
    }
}

/// The token mixer of Kimi Linear: see the [module's page](super).
#[derive(Module, Debug)]
pub struct KimiDelta {
    /// Queries, heads head-major.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Short convolution of queries, keys and values, in that order.
    pub conv1d: ShortConv,
    /// Decays.
    pub forget_gate: ForgetGate,
    /// Strength of the corrections, one per value head.
    pub b_proj: Linear,
    /// Output gate, down to the bottleneck.
    pub g_a_proj: Linear,
    /// Output gate, up to the values.
    pub g_b_proj: Linear,
    /// Norm of the outputs of a head, shared by the heads.
    pub o_norm: RmsNorm,
    /// Back to the width of the model.
    pub out_proj: Linear,
    heads: usize,
    value_heads: usize,
    beta_scale: f64,
    chunk: usize,
}

/// What a [`KimiDelta`] keeps of the tokens so far; its size does not depend on their number.
#[derive(Clone, Debug)]
pub struct KimiDeltaState {
    /// The last inputs of the convolution, `kernel − 1` of them, oldest first: `[B, kernel − 1, 2·H·K + W·V]`.
    pub conv: Tensor<3>,
    /// The memory S: `[B, W, K, V]`, f32.
    pub memory: Tensor<4>,
}

impl KimiDelta {
    /// Mixes sequences packed into one row `[1, T, D]`, sequence n being the tokens `cu_seqlens[n]..cu_seqlens[n + 1]`; none sees
    /// another.
    ///
    /// # Errors
    /// If the batch is not 1 or the boundaries do not rise from 0 to T.
    pub fn forward_packed(&self, x: Tensor<3>, cu_seqlens: &[usize]) -> Result<Tensor<3>> {
        let [b, t, _] = x.dims();
        check_cu_seqlens(OP, cu_seqlens, b, t)?;
        Ok(self.mix(x, None, Some(cu_seqlens)))
    }

    /// The mixed tokens. A state that is given is moved behind them.
    fn mix(&self, x: Tensor<3>, mut state: Option<&mut KimiDeltaState>, cu_seqlens: Option<&[usize]>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        if t == 0 {
            return x;
        }
        let device = x.device();
        let gate = &self.forget_gate;
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj, &gate.f_a_proj, &self.g_a_proj, &self.b_proj];
        let [q, k, v, f, g, beta] = project_each(layers, x);
        let dtype = q.dtype();
        let (keys, inputs) = (q.dims()[2] + k.dims()[2], [q, k, v]);
        let mut start = 0;
        let [q, k, v] = inputs.clone().map(|input| {
            let n = input.dims()[2];
            let before = state.as_ref().map(|s| s.conv.clone().narrow(2, start, n));
            let channels = start..start + n;
            start += n;
            if start <= keys {
                self.conv1d.forward_silu_unit(input, channels, before, cu_seqlens, (keys / 2 / self.heads, QK_EPSILON))
            } else {
                self.conv1d.forward_silu(input, channels, before, cu_seqlens)
            }
        });
        let heads = |x: Tensor<3>, heads: usize| {
            let width = x.dims()[2] / heads;
            x.reshape([b, t, heads, width])
        };
        let options = KimiDeltaOptions {
            chunk: self.chunk,
            // Taken out of the state: memory that nobody else holds is moved on in place.
            initial_state: state.as_mut().map(|s| std::mem::replace(&mut s.memory, Tensor::empty([0, 0, 0, 0], &device))),
            cu_seqlens: cu_seqlens.map(<[usize]>::to_vec),
            check_decay: false,
            ..Default::default()
        };
        let strength = sigmoid(at_least_f32(beta));
        let strength = if self.beta_scale == 1.0 { strength } else { strength * self.beta_scale };
        let (o, memory) =
            kimi_delta(heads(q, self.heads), heads(k, self.heads), heads(v, self.value_heads), gate.forward(f), strength, options)
                .expect("the projections give matching shapes");
        let gate = at_least_f32(heads(project(&self.g_b_proj, g), self.value_heads));
        let gated = gated_rms_norm(at_least_f32(o), at_least_f32(self.o_norm.gamma.val()), gate, self.o_norm.epsilon).cast(dtype);
        let width = gated.dims()[3];
        let y = project(&self.out_proj, gated.reshape([b, t, self.value_heads * width]));
        if let Some(state) = state {
            // One token more than the convolution needs, so that a slice is never empty.
            let kept = t.min(self.conv1d.memory() + 1);
            let inputs = Tensor::cat(inputs.map(|x| x.narrow(1, t - kept, kept)).to_vec(), 2);
            state.conv = self.conv1d.remember(state.conv.clone(), inputs);
            state.memory = memory;
        }
        y
    }
}

fn at_least_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F64 { x } else { x.cast(DType::F32) }
}

impl SequenceMixer for KimiDelta {
    type State = KimiDeltaState;

    /// Padding before or behind the tokens of a sequence is taken in as zeros, which leave the memory empty; between tokens it
    /// counts as time that passes.
    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let x = match padding {
            Some(padding) => {
                let shape = x.dims();
                x.mask_fill(padding.unsqueeze_dim::<3>(2).expand(shape), 0.0)
            }
            None => x,
        };
        self.mix(x, None, None)
    }

    fn state(&self, batch: usize) -> KimiDeltaState {
        let weight = self.out_proj.weight.val();
        let (device, dtype) = (weight.device(), weight.dtype());
        let width = weight.dims()[0] / self.value_heads;
        let channels = (2 * self.heads + self.value_heads) * width;
        let memory = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        KimiDeltaState {
            conv: Tensor::zeros([batch, self.conv1d.memory(), channels], (&device, dtype)),
            memory: Tensor::zeros([batch, self.value_heads, width, width], (&device, memory)),
        }
    }

    fn prefill(&self, x: Tensor<3>, state: &mut KimiDeltaState) -> Tensor<3> {
        self.mix(x, Some(state), None)
    }

    fn step(&self, x: Tensor<2>, state: &mut KimiDeltaState) -> Tensor<2> {
        self.prefill(x.unsqueeze_dim(1), state).squeeze_dim(1)
    }

    fn flops_per_token(&self, _context: usize) -> f64 {
        let gate = &self.forget_gate;
        let linears = [
            &self.q_proj,
            &self.k_proj,
            &self.v_proj,
            &gate.f_a_proj,
            &gate.f_b_proj,
            &self.b_proj,
            &self.g_a_proj,
            &self.g_b_proj,
            &self.out_proj,
        ];
        let weights = linears.iter().map(|l| l.num_params()).sum::<usize>() + self.conv1d.num_params();
        let width = self.out_proj.weight.lazy_shape().dims::<2>()[0] / self.value_heads;
        let mixing = 6 * width * width + 3 * self.chunk * width + self.chunk * self.chunk;
        (2 * weights + self.value_heads * mixing) as f64
    }
}

impl MixerMemory for KimiDeltaState {
    fn bytes(&self) -> usize {
        let bytes = |dims: &[usize], dtype: DType| dims.iter().product::<usize>() * dtype.size();
        bytes(&self.conv.dims(), self.conv.dtype()) + bytes(&self.memory.dims(), self.memory.dtype())
    }

    fn select(&self, indices: &Tensor<1, Int>) -> Self {
        Self { conv: self.conv.clone().select(0, indices.clone()), memory: self.memory.clone().select(0, indices.clone()) }
    }
}
