use burn::tensor::Device;
use regard::{
    MixerConfig, Result,
    blocks::{MlpKind, NormKind},
    flow_attention::FlowAttentionConfig,
};
use serde::{Deserialize, Serialize};

use crate::{Decoder, DecoderConfig, Positions};

/// Configuration of the language model of Flowformer: GPT with Flow attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowformerConfig {
    /// Number of different tokens.
    pub vocab: usize,
    /// Width D.
    pub d_model: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of learned positions: the longest sequence.
    pub context: usize,
    /// The token mixer of all layers.
    pub attention: FlowAttentionConfig,
    /// Inner width of the channel mixers as a multiple of D.
    #[serde(default = "four")]
    pub mlp_ratio: usize,
    /// Whether the head uses the embedding matrix.
    #[serde(default)]
    pub tied: bool,
    /// ε of the norms.
    #[serde(default = "epsilon")]
    pub norm_epsilon: f64,
    /// Probability of dropping an element of the token vectors and of each branch in training.
    #[serde(default)]
    pub dropout: f64,
}

fn four() -> usize {
    4
}

fn epsilon() -> f64 {
    1e-5
}

/// Name, layers, heads, width, as in the published module.
const SIZES: [(&str, usize, usize, usize); 8] = [
    ("flowformer_gpt2", 12, 12, 768),
    ("flowformer_gpt2_medium", 24, 16, 1024),
    ("flowformer_gpt2_large", 36, 20, 1280),
    ("flowformer_gpt2_xl", 48, 25, 1600),
    ("flowformer_gopher_44m", 8, 16, 512),
    ("flowformer_gpt_mini", 6, 6, 192),
    ("flowformer_gpt_micro", 4, 4, 128),
    ("flowformer_gpt_nano", 3, 3, 48),
];

impl FlowformerConfig {
    /// The names that [`named`](Self::named) knows.
    pub const NAMES: [&'static str; 9] = {
        let mut names = ["flowformer_wikitext103"; 9];
        let mut i = 0;
        while i < SIZES.len() {
            names[i] = SIZES[i].0;
            i += 1;
        }
        names
    };

    /// A network of these sizes with the published choices otherwise: tanh GELU, a head of its own, no dropout.
    pub fn new(vocab: usize, d_model: usize, layers: usize, heads: usize, context: usize) -> Self {
        Self {
            vocab,
            d_model,
            layers,
            context,
            attention: FlowAttentionConfig::new(heads),
            mlp_ratio: four(),
            tied: false,
            norm_epsilon: epsilon(),
            dropout: 0.0,
        }
    }

    /// The network of that name, `None` if there is none: the published module with the tokens of GPT-2 and 1024 positions, or the sizes of
    /// the WikiText-103 experiment with its vocabulary, 512 positions, a tied head and flows bounded by −5 and 5.
    pub fn named(name: &str) -> Option<Self> {
        if name == "flowformer_wikitext103" {
            let attention = FlowAttentionConfig { clamp: Some([-5.0, 5.0]), ..FlowAttentionConfig::new(8) };
            return Some(Self { attention, tied: true, dropout: 0.1, ..Self::new(267_744, 512, 6, 8, 512) });
        }
        let (_, layers, heads, d_model) = SIZES.into_iter().find(|(known, ..)| *known == name)?;
        Some(Self::new(50_257, d_model, layers, heads, 1024))
    }

    /// The same network as a configuration of the general decoder.
    pub fn decoder(&self) -> DecoderConfig {
        let mixers = vec![MixerConfig::Flow(self.attention.clone())];
        DecoderConfig {
            d_ff: self.mlp_ratio * self.d_model,
            mlp: MlpKind::GeluTanh,
            norm: NormKind::Layer,
            norm_epsilon: self.norm_epsilon,
            positions: Positions::Learned,
            tied: self.tied,
            bias: true,
            dropout: self.dropout,
            ..DecoderConfig::new(self.vocab, self.d_model, self.layers, mixers, self.context)
        }
    }

    /// Bytes that decoding keeps of one sequence, however long: in every layer the sums of Flow attention and the number of tokens, f32.
    pub fn state_bytes(&self) -> usize {
        let (heads, width) = (self.attention.heads, self.d_model / self.attention.heads.max(1));
        self.layers * (heads * (width * width + 4 * width + 1) + 1) * size_of::<f32>()
    }

    /// The network with initial values drawn from the device's random generator.
    ///
    /// # Errors
    /// If a size is 0, the heads do not divide the width, or an option is out of its range.
    pub fn init(&self, device: &Device) -> Result<Decoder> {
        self.decoder().init(device)
    }
}
