use burn::{
    module::Module,
    tensor::{Bool, Device, Int, Tensor},
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    Error, LayerPlace, MixerMemory, Result, SequenceMixer, StateLayout, by_kind,
    flow_attention::{FlowAttention, FlowAttentionConfig, FlowState},
    kimi_delta::{KimiDelta, KimiDeltaConfig, KimiDeltaState},
    latent_attention::{LatentAttention, LatentAttentionConfig, LatentState},
    lightning_attention::{Lightning, LightningConfig, LightningState},
    nprf::{Nprf, NprfConfig, NprfState},
    registry::{self, Direction},
    softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig, SoftmaxState},
};

/// Writes the three enums of causal layers from one list: configuration, module, state.
macro_rules! mixers {
    ($($(#[$doc:meta])* $tag:literal $variant:ident($config:ty, $layer:ty, $state:ty),)*) => {
        /// Which causal layer, and how: the choice at run time. In a file it is a table with `kind` and the fields of that
        /// configuration, `{ kind = "kimi_delta", heads = 4 }`.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "kind")]
        pub enum MixerConfig {
            $($(#[$doc])* #[serde(rename = $tag)] $variant($config),)*
        }

        impl<'de> Deserialize<'de> for MixerConfig {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                by_kind(deserializer, Self::KINDS, None, |kind, fields| match kind {
                    $($tag => Some(fields.read().map(Self::$variant)),)*
                    _ => None,
                })
            }
        }

        impl MixerConfig {
            /// The ids of all kinds, as in [`registry::MECHANISMS`](crate::registry::MECHANISMS).
            pub const KINDS: &'static [&'static str] = &[$($tag),*];

            /// The kind's id.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $tag,)* }
            }

            /// The kind of that id with `heads` heads and the defaults of its paper; `None` if there is none.
            pub fn named(kind: &str, heads: usize) -> Option<Self> {
                match kind { $($tag => Some(Self::$variant(<$config>::new(heads))),)* _ => None }
            }

            /// The layer for width `d_model` at its place in a stack.
            ///
            /// # Errors
            /// If the configuration is invalid or does not fit the width.
            pub fn init(&self, d_model: usize, place: LayerPlace, device: &Device) -> Result<Mixer> {
                Ok(match self { $(Self::$variant(config) => Mixer::$variant(config.init(d_model, place, device)?),)* })
            }
        }

        /// A causal layer of any kind.
        #[allow(clippy::large_enum_variant, reason = "one per layer of a model, next to its weights")]
        #[derive(Module, Debug)]
        pub enum Mixer {
            $($(#[$doc])* $variant($layer),)*
        }

        /// The state of a [`Mixer`].
        #[derive(Clone, Debug)]
        #[allow(clippy::large_enum_variant)]
        pub enum MixerState {
            $($(#[$doc])* $variant($state),)*
        }

        impl Mixer {
            /// The kind's id.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $tag,)* }
            }
        }

        impl MixerState {
            /// The id of the kind of layer that it belongs to.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $tag,)* }
            }

            /// What its tensors are.
            pub fn layout(&self) -> StateLayout {
                match self { $(Self::$variant(state) => state.layout(),)* }
            }
        }

        impl SequenceMixer for Mixer {
            type State = MixerState;

            fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
                match self { $(Self::$variant(layer) => layer.forward(x, padding),)* }
            }

            fn state(&self, batch: usize) -> MixerState {
                match self { $(Self::$variant(layer) => MixerState::$variant(layer.state(batch)),)* }
            }

            fn prefill(&self, x: Tensor<3>, state: &mut MixerState) -> Tensor<3> {
                match (self, state) {
                    $((Self::$variant(layer), MixerState::$variant(state)) => layer.prefill(x, state),)*
                    #[allow(unreachable_patterns)]
                    _ => panic!("the state belongs to a layer of another kind"),
                }
            }

            fn step(&self, x: Tensor<2>, state: &mut MixerState) -> Tensor<2> {
                match (self, state) {
                    $((Self::$variant(layer), MixerState::$variant(state)) => layer.step(x, state),)*
                    #[allow(unreachable_patterns)]
                    _ => panic!("the state belongs to a layer of another kind"),
                }
            }

            fn flops_per_token(&self, context: usize) -> f64 {
                match self { $(Self::$variant(layer) => layer.flops_per_token(context),)* }
            }
        }

        impl MixerMemory for MixerState {
            fn bytes(&self) -> usize {
                match self { $(Self::$variant(state) => state.bytes(),)* }
            }

            fn select(&self, indices: &Tensor<1, Int>) -> Self {
                match self { $(Self::$variant(state) => Self::$variant(state.select(indices)),)* }
            }
        }
    };
}

mixers! {
    /// Flow attention.
    "flow" Flow(FlowAttentionConfig, FlowAttention, FlowState),
    /// Kimi Delta Attention.
    "kimi_delta" KimiDelta(KimiDeltaConfig, KimiDelta, KimiDeltaState),
    /// Multi-head latent attention.
    "latent" Latent(LatentAttentionConfig, LatentAttention, LatentState),
    /// Lightning attention in the gated layer of TransNormerLLM.
    "lightning" Lightning(LightningConfig, Lightning, LightningState),
    /// Kernelised attention with relative positional bias.
    "nprf" Nprf(NprfConfig, Nprf, NprfState),
    /// Softmax attention.
    "softmax" Softmax(SoftmaxAttentionConfig, SoftmaxAttention, SoftmaxState),
}

impl MixerConfig {
    /// Whether the kind has a bidirectional form, [`Mixer::attend`].
    pub fn is_bidirectional(&self) -> bool {
        registry::find(self.kind()).is_some_and(|entry| entry.direction() == Some(Direction::Both))
    }
}

impl Mixer {
    /// Mixes whole sequences in both directions, with the weights of the causal form.
    ///
    /// # Shapes
    /// - `x`: `[B, T, D]`, T ≥ 1
    /// - `padding`: `[B, T]`, `true` = not a token: it has no influence on the outputs of tokens; outputs there are unspecified but finite
    /// - output: `[B, T, D]`
    ///
    /// # Errors
    /// If the kind is causal only, or the mask has another shape.
    ///
    /// # Panics
    /// If the width of `x` is not D.
    pub fn attend(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Result<Tensor<3>> {
        match self {
            Self::Flow(layer) => layer.attend(x.clone(), x.clone(), x, padding.clone(), padding),
            Self::Nprf(layer) => layer.attend(x, padding),
            Self::Softmax(layer) => layer.attend(x, padding),
            _ => Err(Error::argument("attend", "mixer", format!("one with a bidirectional form: {}", bidirectional()), self.kind())),
        }
    }
}

/// The kinds with a bidirectional form, for messages.
fn bidirectional() -> String {
    let kinds = registry::MECHANISMS.iter().filter(|entry| entry.direction() == Some(Direction::Both)).map(|entry| entry.id);
    kinds.collect::<Vec<_>>().join(", ")
}
