use std::fmt;

use burn::tensor::{DType, Tensor};

/// What the tensors of a state are, however many tokens they hold: the states of one layer are alike in it but for the number of
/// sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout(Vec<Part>);

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// Its first axis.
    sequences: usize,
    /// The other axes, without that of the tokens.
    axes: Vec<usize>,
    /// Where the layer takes no other.
    dtype: Option<DType>,
}

impl StateLayout {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// With a tensor that the layer takes in any float type.
    pub(crate) fn any<const D: usize>(self, x: &Tensor<D>) -> Self {
        self.with(&x.dims(), None)
    }

    /// With a tensor that must be of its float type.
    pub(crate) fn typed<const D: usize>(self, x: &Tensor<D>) -> Self {
        self.with(&x.dims(), Some(x.dtype()))
    }

    /// With a tensor `[B, heads, tokens, width]`.
    pub(crate) fn growing(self, [b, heads, _, width]: [usize; 4], dtype: DType) -> Self {
        self.with(&[b, heads, width], Some(dtype))
    }

    fn with(mut self, dims: &[usize], dtype: Option<DType>) -> Self {
        self.0.push(Part { sequences: dims[0], axes: dims[1..].to_vec(), dtype });
        self
    }

    /// The same for another number of sequences.
    #[must_use]
    pub fn of(mut self, sequences: usize) -> Self {
        self.0.iter_mut().for_each(|part| part.sequences = sequences);
        self
    }
}

impl fmt::Display for StateLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Part { sequences, axes, dtype }) in self.0.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            let axes: String = axes.iter().map(|n| format!(", {n}")).collect();
            write!(f, "{separator}[{sequences}{axes}]")?;
            if let Some(dtype) = dtype {
                write!(f, " in {dtype:?}")?;
            }
        }
        Ok(())
    }
}
