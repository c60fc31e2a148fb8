//! What the tests of all networks over images do.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use regard_testkit::{Case, cpu};

use crate::weights::{Checkpoint, Layout, names, read, write};

/// The network with the weights of a golden file, under the names of a layout.
pub(crate) fn load<M: Module + 'static>(case: &Case, model: M, layout: &impl Layout) -> M {
    let renames = names(&model, layout);
    let renames: Vec<_> = renames.iter().map(|(here, there)| (here.as_str(), there.as_str())).collect();
    case.load(model, &renames)
}

/// A list of sizes of a golden file's configuration.
pub(crate) fn sizes(case: &Case, key: &str) -> Vec<usize> {
    let list = case.config()[key].as_array().unwrap_or_else(|| panic!("config.{key} must be a list"));
    list.iter().map(|n| n.as_u64().expect("a size") as usize).collect()
}

/// Whether no weight has been made.
pub(crate) fn is_empty<M: Module>(model: &M) -> bool {
    struct Made(bool);
    impl ModuleVisitor for Made {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            // Running statistics are always there, and have one axis.
            self.0 |= D > 1 && param.is_initialized();
        }
    }
    let mut made = Made(false);
    model.visit(&mut made);
    !made.0
}

/// Writes `model` in a layout, reads it back into `empty`, and returns that with the names in the file.
pub(crate) fn round_trip<M: Module>(model: &M, empty: M, layout: &impl Layout) -> (M, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(model, layout, &path).unwrap();
    let checkpoint = Checkpoint::open(Path::new(&path)).unwrap();
    let (back, report) = read(empty, layout, &checkpoint).unwrap();
    assert!(report.extra.is_empty(), "{report}");
    let found = checkpoint.names().map(Into::into).collect();
    (back, found)
}

/// Images of numbers that differ.
pub(crate) fn images(shape: [usize; 4]) -> Tensor<4> {
    regard_testkit::Sampler::new(7).tensor(shape, -1.0, 1.0).f32(&cpu())
}
