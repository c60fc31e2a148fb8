use burn::backend::{Backend, ExtensionType, tensor::FloatTensor};

/// A float tensor or none, among the arguments and results of a backend extension.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum Maybe<B: Backend> {
    /// The tensor.
    Some(FloatTensor<B>),
    /// Nothing.
    None,
}

impl<B: Backend> Maybe<B> {
    pub(crate) fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Some(tensor) => Some(tensor),
            Self::None => None,
        }
    }

    pub(crate) fn new(option: Option<FloatTensor<B>>) -> Self {
        option.map_or(Self::None, Self::Some)
    }
}
