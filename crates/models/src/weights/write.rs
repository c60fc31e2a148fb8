use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::Path,
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Tensor},
};
use safetensors::{Dtype, View};

use super::{Layout, Result, Stored, WeightsError, parameters::Place};

/// Writes the weights of `model` as f32 in a layout into one `.safetensors` file. A tensor is copied from its device when its turn comes.
///
/// # Errors
/// If the file exists, or cannot be written.
pub fn write<M: Module>(model: &M, layout: &impl Layout, path: &Path) -> Result<()> {
    write_file(path, tensors(model, layout))
}

/// Writes the weights into files of at most `bytes` bytes, or of one tensor if that is larger, `model-00001-of-00002.safetensors`, …, with
/// their index `model.safetensors.index.json`, into an existing folder.
///
/// # Errors
/// If a file exists, or cannot be written.
pub fn write_shards<M: Module>(model: &M, layout: &impl Layout, folder: &Path, bytes: usize) -> Result<()> {
    let mut shards: Vec<Vec<Export>> = Vec::new();
    let (mut filled, mut total) = (0, 0);
    for tensor in tensors(model, layout) {
        let size = tensor.data_len();
        match shards.last_mut() {
            Some(shard) if filled + size <= bytes => shard.push(tensor),
            _ => {
                shards.push(vec![tensor]);
                filled = 0;
            }
        }
        filled += size;
        total += size;
    }
    let count = shards.len();
    let name = |i: usize| format!("model-{:05}-of-{count:05}.safetensors", i + 1);
    let of = |(i, shard): (usize, &Vec<Export>)| shard.iter().map(|t| (t.stored.name.clone(), name(i))).collect::<Vec<_>>();
    let weight_map: BTreeMap<String, String> = shards.iter().enumerate().flat_map(of).collect();
    for (i, shard) in shards.into_iter().enumerate() {
        write_file(&folder.join(name(i)), shard)?;
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let path = folder.join("model.safetensors.index.json");
    refuse_existing(&path)?;
    std::fs::write(&path, format!("{index:#}\n")).map_err(|e| WeightsError::Write { path, message: e.to_string() })
}

fn write_file(path: &Path, tensors: Vec<Export>) -> Result<()> {
    refuse_existing(path)?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let named = tensors.into_iter().map(|t| (t.stored.name.clone(), t));
    let written = safetensors::serialize_to_file(named, Some(metadata), path);
    written.map_err(|e| WeightsError::Write { path: path.into(), message: e.to_string() })
}

fn refuse_existing(path: &Path) -> Result<()> {
    if path.exists() {
        return Err(WeightsError::Write { path: path.into(), message: "it exists already".into() });
    }
    Ok(())
}

/// A tensor to be written.
struct Export {
    stored: Stored,
    read: Box<dyn Fn() -> Vec<u8>>,
}

impl View for Export {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.stored.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.read)().into()
    }

    fn data_len(&self) -> usize {
        self.stored.shape.iter().product::<usize>() * DType::F32.size()
    }
}

fn tensors<M: Module>(model: &M, layout: &impl Layout) -> Vec<Export> {
    struct Exports<'a, L> {
        place: Place,
        layout: &'a L,
        found: Vec<Export>,
    }
    impl<L: Layout> ModuleVisitor for Exports<'_, L> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.place.enter(name, container);
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.place.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let parameter = self.place.parameter(param);
            let mut start = 0;
            for stored in self.layout.stored(&parameter.name, &parameter.shape) {
                let length = stored.shape.iter().product();
                let (tensor, swapped) = (param.val(), parameter.swapped);
                let read = move || {
                    let rows = if swapped { tensor.clone().swap_dims(0, 1) } else { tensor.clone() };
                    let part = rows.reshape([-1]).narrow(0, start, length);
                    part.into_data().convert_dtype(DType::F32).into_bytes().to_vec()
                };
                self.found.push(Export { stored, read: Box::new(read) });
                start += length;
            }
        }
    }
    let mut exports = Exports { place: Place::default(), layout, found: Vec::new() };
    model.visit(&mut exports);
    exports.found
}
