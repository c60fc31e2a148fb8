use burn::{module::Module, tensor::Tensor};
use regard::blocks::{Mlp, Moe};

/// The channel mixer of a layer.
#[allow(clippy::large_enum_variant, reason = "one per layer of a model, next to its weights")]
#[derive(Module, Debug)]
pub enum ChannelMixer {
    /// One network for all tokens.
    Dense(Mlp),
    /// A mixture of experts.
    Moe(Moe),
}

impl ChannelMixer {
    /// Applies the network to the last axis.
    ///
    /// # Shapes
    /// - `x`: `[…, D]`; output: the same
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Moe(moe) => moe.forward(x),
        }
    }

    /// The network, if there is one for all tokens.
    pub fn dense(&self) -> Option<&Mlp> {
        match self {
            Self::Dense(mlp) => Some(mlp),
            Self::Moe(_) => None,
        }
    }

    /// The mixture of experts, if it is one.
    pub fn moe(&self) -> Option<&Moe> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(moe) => Some(moe),
        }
    }

    /// Moves the biases of the routers, if there are any, towards an even load of the experts: see [`Moe::rebalance_by_training`].
    pub(super) fn rebalance(self) -> Self {
        match self {
            Self::Dense(mlp) => Self::Dense(mlp),
            Self::Moe(mut moe) => {
                moe.rebalance_by_training();
                Self::Moe(moe)
            }
        }
    }

    /// Weights that gradients train.
    pub(super) fn trained(&self) -> usize {
        match self {
            Self::Dense(mlp) => mlp.num_params(),
            Self::Moe(moe) => moe.trained(),
        }
    }

    /// Weights that one token meets.
    pub(super) fn active(&self) -> usize {
        match self {
            Self::Dense(mlp) => mlp.num_params(),
            Self::Moe(moe) => moe.active(),
        }
    }
}
