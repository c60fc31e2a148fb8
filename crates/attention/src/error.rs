/// What a mechanism answers to arguments that it cannot take.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One argument breaks a rule.
    #[error("{op}: `{arg}` must be {want}, got {got}")]
    Argument {
        /// The operation or layer.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// The rule, as in "must be …".
        want: String,
        /// The value given.
        got: String,
    },
    /// Two tensors disagree in their shapes.
    #[error("{op}: `{lhs}` and `{rhs}` must agree in {what}, got {a:?} and {b:?}")]
    Shape {
        /// The operation or layer.
        op: &'static str,
        /// The first tensor.
        lhs: &'static str,
        /// The second tensor.
        rhs: &'static str,
        /// The axes that must agree.
        what: &'static str,
        /// The shape of the first tensor.
        a: Vec<usize>,
        /// The shape of the second tensor.
        b: Vec<usize>,
    },
}

impl Error {
    /// An [`Error::Argument`].
    pub fn argument(op: &'static str, arg: &'static str, want: impl Into<String>, got: impl ToString) -> Self {
        Self::Argument { op, arg, want: want.into(), got: got.to_string() }
    }

    /// An [`Error::Shape`].
    pub fn shape(op: &'static str, (lhs, a): (&'static str, &[usize]), (rhs, b): (&'static str, &[usize]), what: &'static str) -> Self {
        Self::Shape { op, lhs, rhs, what, a: a.to_vec(), b: b.to_vec() }
    }
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
