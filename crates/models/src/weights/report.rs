use std::fmt;

/// How a checkpoint and a network fit: names are those of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of tensors that were taken.
    pub taken: usize,
    /// Tensors that the network needs and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Tensors of another shape or of no float type.
    pub misshapen: Vec<Misshapen>,
    /// Tensors that the network has no use for.
    pub extra: Vec<String>,
}

/// A tensor that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// The shape that the network needs.
    pub want: Vec<usize>,
    /// The shape in the checkpoint.
    pub got: Vec<usize>,
    /// The element type in the checkpoint, if it is no float.
    pub element: Option<String>,
}

impl Report {
    /// Whether the network has all its weights. Extra tensors do no harm.
    pub fn complete(&self) -> bool {
        self.missing.is_empty() && self.misshapen.is_empty()
    }
}

/// Names printed of each list.
const SHOWN: usize = 12;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors fit", self.taken)?;
        list(f, "missing from the checkpoint", &self.missing)?;
        list(f, "of another shape", &self.misshapen)?;
        list(f, "in the checkpoint without use", &self.extra)
    }
}

impl fmt::Display for Misshapen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, want, got, element } = self;
        let element = element.as_ref().map(|e| format!(" of {e}")).unwrap_or_default();
        write!(f, "{name}: {got:?}{element} in the checkpoint, {want:?} in the network")
    }
}

fn list(f: &mut fmt::Formatter<'_>, what: &str, items: &[impl fmt::Display]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n{} {what}:", items.len())?;
    for item in items.iter().take(SHOWN) {
        write!(f, "\n  {item}")?;
    }
    match items.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n  … and {more} more"),
    }
}
