use crate::weights::{Layout, Names, Stored};

/// A layout that renames, for checkpoints of networks with convolutions and batch norms.
///
/// Linear layers may be kept as convolutions of single tokens, and the counters that PyTorch's batch norms have are let be.
#[derive(Clone, Copy, Debug)]
pub struct MapNames {
    /// The names.
    pub names: Names,
    /// Parts of the published names of linear layers that are kept as convolutions.
    pub pointwise: &'static [&'static str],
}

impl Layout for MapNames {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        let mut stored = Stored::new(self.names.rename(path), shape);
        if shape.len() == 2 && self.pointwise.iter().any(|part| stored.name.contains(part)) {
            stored.shape.extend([1, 1]);
        }
        vec![stored]
    }

    fn ignores(&self, name: &str) -> bool {
        name.ends_with(".num_batches_tracked")
    }
}
