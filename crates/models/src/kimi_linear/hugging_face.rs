use regard::{Error, Result, blocks::MoeConfig, kimi_delta::KimiDeltaConfig, latent_attention::LatentAttentionConfig};
use serde::Deserialize;

use super::config::{KimiLinearConfig, OP};

/// `config.json` of a checkpoint, as far as it describes the network.
#[derive(Deserialize)]
struct ConfigFile {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    kv_lora_rank: usize,
    #[serde(default)]
    q_lora_rank: Option<usize>,
    qk_nope_head_dim: usize,
    qk_rope_head_dim: usize,
    v_head_dim: usize,
    #[serde(default = "yes")]
    mla_use_nope: bool,
    #[serde(default)]
    rope_theta: Option<f64>,
    linear_attn_config: Option<LinearAttention>,
    #[serde(default)]
    num_experts: Option<usize>,
    #[serde(default)]
    num_experts_per_token: usize,
    #[serde(default)]
    moe_intermediate_size: usize,
    #[serde(default)]
    num_shared_experts: usize,
    #[serde(default = "one")]
    num_expert_group: usize,
    #[serde(default = "one")]
    topk_group: usize,
    #[serde(default = "yes")]
    moe_renormalize: bool,
    #[serde(default = "unit")]
    routed_scaling_factor: f64,
    #[serde(default = "one")]
    moe_layer_freq: usize,
    #[serde(default = "one")]
    first_k_dense_replace: usize,
    #[serde(default)]
    moe_router_activation_func: Option<String>,
    #[serde(default)]
    hidden_act: Option<String>,
    rms_norm_eps: f64,
    #[serde(default)]
    kv_a_layernorm_eps: Option<f64>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    initializer_range: Option<f64>,
}

#[derive(Deserialize)]
struct LinearAttention {
    #[serde(default)]
    kda_layers: Vec<usize>,
    #[serde(default)]
    full_attn_layers: Vec<usize>,
    num_heads: usize,
    head_dim: usize,
    short_conv_kernel_size: usize,
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn unit() -> f64 {
    1.0
}

impl KimiLinearConfig {
    /// The network that the `config.json` of a published checkpoint describes; keys that do not concern its weights are ignored.
    ///
    /// # Errors
    /// If the text is no such file, or describes a network of another kind.
    pub fn from_hugging_face(json: &str) -> Result<Self> {
        let file: ConfigFile = serde_json::from_str(json)
            .map_err(|e| Error::argument(OP, "config.json", "the configuration of a Kimi Linear checkpoint", e))?;
        let unsupported = |arg, want: &str, got: String| Err(Error::argument(OP, arg, want, got));
        if let Some(rank) = file.q_lora_rank {
            return unsupported("q_lora_rank", "null: queries without a latent vector", rank.to_string());
        }
        if file.moe_layer_freq != 1 {
            return unsupported("moe_layer_freq", "1: experts in every layer behind the dense ones", file.moe_layer_freq.to_string());
        }
        for (arg, want, got) in
            [("moe_router_activation_func", "sigmoid", &file.moe_router_activation_func), ("hidden_act", "silu", &file.hidden_act)]
        {
            if let Some(got) = got.as_deref().filter(|got| *got != want) {
                return unsupported(arg, want, got.into());
            }
        }
        let Some(linear) = file.linear_attn_config else {
            return unsupported("linear_attn_config", "a table with `num_heads`, `head_dim` and the layers", "none".into());
        };
        Ok(Self {
            kda_layers: linear.kda_layers,
            full_attention_layers: linear.full_attn_layers,
            kda: KimiDeltaConfig {
                head_dim: Some(linear.head_dim),
                conv_kernel: linear.short_conv_kernel_size,
                norm_epsilon: file.rms_norm_eps,
                ..KimiDeltaConfig::new(linear.num_heads)
            },
            mla: LatentAttentionConfig {
                head_dim: Some(file.qk_nope_head_dim),
                value_dim: Some(file.v_head_dim),
                shared_dim: Some(file.qk_rope_head_dim),
                rank: Some(file.kv_lora_rank),
                rotary_base: (!file.mla_use_nope).then_some(file.rope_theta.unwrap_or(10_000.0)),
                norm_epsilon: file.kv_a_layernorm_eps.unwrap_or(1e-6),
                ..LatentAttentionConfig::new(file.num_attention_heads)
            },
            d_ff: file.intermediate_size,
            dense_layers: file.first_k_dense_replace,
            moe: file.num_experts.map(|experts| MoeConfig {
                shared: file.num_shared_experts,
                groups: file.num_expert_group,
                groups_per_token: file.topk_group,
                renormalise: file.moe_renormalize,
                scale: file.routed_scaling_factor,
                ..MoeConfig::new(experts, file.num_experts_per_token, file.moe_intermediate_size)
            }),
            norm_epsilon: file.rms_norm_eps,
            tied: file.tie_word_embeddings,
            init_std: file.initializer_range.unwrap_or(0.02),
            ..Self::new(file.vocab_size, file.hidden_size, file.num_hidden_layers, file.num_attention_heads)
        })
    }
}
