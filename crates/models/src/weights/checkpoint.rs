use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::store::{ModuleStore, PytorchStore, burn_pack::Tensor as LazyTensor};
use serde::Deserialize;

use super::{Result, WeightsError, safetensors_file};

/// The tensors of a checkpoint, read from its files when they are needed.
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, LazyTensor>,
}

/// What a folder is searched for, in this order.
const IN_FOLDER: [&str; 4] = ["model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"];

/// Where the files of a training program keep the weights, beside the state of its optimiser.
const IN_TRAINING_FILE: [&str; 2] = ["state_dict.", "model_state_dict."];

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the checkpoint at `path`: a `.safetensors` file, a PyTorch file (`.pt`, `.pth`, `.bin`, `.ckpt`), the index of either's
    /// shards (`.index.json`), or a folder that holds one of these under its usual name.
    ///
    /// # Errors
    /// If there is none, a file cannot be read, or a shard or a tensor that an index names is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let given = path.as_ref();
        let path = if given.is_dir() {
            let found = IN_FOLDER.iter().map(|name| given.join(name)).find(|file| file.is_file());
            let want = "the folder holds no model.safetensors, pytorch_model.bin or index of one";
            found.ok_or_else(|| WeightsError::None { path: given.into(), want })?
        } else {
            given.to_path_buf()
        };
        let tensors = if path.extension().is_some_and(|e| e == "json") { shards(&path)? } else { file(&path)? };
        Ok(Self { path, tensors })
    }

    /// The file, or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn get(&self, name: &str) -> Option<&LazyTensor> {
        self.tensors.get(name)
    }
}

/// The tensors of one file.
fn file(path: &Path) -> Result<BTreeMap<String, LazyTensor>> {
    let failed = |message: String| WeightsError::Read { path: path.into(), message };
    if !path.is_file() {
        return Err(WeightsError::None { path: path.into(), want: "there is no such file" });
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => safetensors_file::open(path).map_err(failed),
        Some("pt" | "pth" | "bin" | "ckpt") => {
            // Indices stay those of the file: a layout says where they belong.
            let read = |store: PytorchStore| store.map_indices_contiguous(false).get_all_tensors().cloned();
            read(PytorchStore::from_file(path)).map(weights_alone).map_err(|e| failed(e.to_string()))
        }
        _ => Err(failed("it must be a .safetensors file, a PyTorch file (.pt, .pth, .bin, .ckpt) or an .index.json".into())),
    }
}

/// Of the file of a training program the weights, under their own names; any other as it is.
fn weights_alone(tensors: BTreeMap<String, LazyTensor>) -> BTreeMap<String, LazyTensor> {
    let within = IN_TRAINING_FILE.iter().find(|key| tensors.keys().any(|name| name.starts_with(*key)));
    match within {
        Some(key) => tensors.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix(key)?.to_owned(), tensor))).collect(),
        None => tensors,
    }
}

/// The tensors that an index names.
fn shards(index: &Path) -> Result<BTreeMap<String, LazyTensor>> {
    let failed = |message: String| WeightsError::Read { path: index.into(), message };
    let text = std::fs::read_to_string(index).map_err(|e| failed(e.to_string()))?;
    let Index { weight_map } = serde_json::from_str(&text).map_err(|e| failed(format!("no index of shards: {e}")))?;
    let mut by_shard = BTreeMap::<String, Vec<String>>::new();
    for (tensor, shard) in weight_map {
        by_shard.entry(shard).or_default().push(tensor);
    }
    let folder = index.parent().unwrap_or(Path::new("."));
    // Before any is opened: what is missing is known at once.
    if let Some((shard, tensors)) = by_shard.iter().find(|(shard, _)| !folder.join(shard).is_file()) {
        return Err(WeightsError::Shard { index: index.into(), shard: shard.clone(), tensors: tensors.len() });
    }
    let mut all = BTreeMap::new();
    for (shard, tensors) in by_shard {
        let mut held = file(&folder.join(&shard))?;
        for tensor in tensors {
            let Some(found) = held.remove(&tensor) else {
                return Err(WeightsError::NotInShard { index: index.into(), shard, tensor });
            };
            all.insert(tensor, found);
        }
    }
    Ok(all)
}
