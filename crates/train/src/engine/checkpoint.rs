//! Checkpoints of one exact step: a folder `step-N` that is either whole or not there.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    optim::{ModuleOptimizer, OptimizerRecord},
    store::ModuleRecord,
    tensor::Bytes,
};
use regard_models::{Model, ModelConfig};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Number of checkpoints that stay.
const KEPT: usize = 2;
const FORMAT: u32 = 1;
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";

/// Where a run stands, but for its tensors: `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Version of the layout of the folder.
    format: u32,
    /// Steps done.
    pub(super) step: usize,
    /// Seconds spent in training steps.
    pub(super) seconds: f64,
    /// The network that the weights belong to.
    model: ModelConfig,
    /// The files beside this one.
    files: Vec<Digest>,
}

/// What tells a damaged file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Digest {
    name: String,
    bytes: u64,
    fnv1a: String,
}

impl Digest {
    fn new(name: &str, content: &[u8]) -> Self {
        let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { name: name.into(), bytes: content.len() as u64, fnv1a: format!("{hash:016x}") }
    }
}

/// Writes the checkpoint of `step` below `folder`, then removes all but the last two. Earlier ones are untouched until it is whole.
pub(super) fn save(
    folder: &Path,
    step: usize,
    seconds: f64,
    config: &ModelConfig,
    model: &Model,
    optimizer: &ModuleOptimizer,
) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::write(folder))?;
    let path = folder.join(format!("step-{step}"));
    let scratch = folder.join(".writing");
    let result = write_all(&scratch, step, seconds, config, model, optimizer).and_then(|()| {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::write(&path))?;
        }
        fs::rename(&scratch, &path).map_err(Error::write(&path))?;
        sync_folder(folder)
    });
    if let Err(error) = result {
        // The error to report is the first; what is left of the scratch folder goes with the next attempt.
        let _ = fs::remove_dir_all(&scratch);
        return Err(error);
    }
    let mut all = list(folder)?;
    all.truncate(all.len().saturating_sub(KEPT));
    for (_, old) in all {
        fs::remove_dir_all(&old).map_err(Error::write(&old))?;
    }
    Ok(path)
}

fn write_all(scratch: &Path, step: usize, seconds: f64, config: &ModelConfig, model: &Model, optimizer: &ModuleOptimizer) -> Result<()> {
    if scratch.exists() {
        fs::remove_dir_all(scratch).map_err(Error::write(scratch))?;
    }
    fs::create_dir(scratch).map_err(Error::write(scratch))?;
    let pack = |e: burn::store::RecordError| Error::checkpoint(scratch, e.to_string());
    let files = [(MODEL, record(model).into_bytes().map_err(pack)?), (OPTIMIZER, optimizer.into_bytes().map_err(pack)?)];
    let digests = files.iter().map(|(name, content)| Digest::new(name, content)).collect();
    for (name, content) in files {
        write(&scratch.join(name), &content)?;
    }
    let state = State { format: FORMAT, step, seconds, model: config.clone(), files: digests };
    let state = serde_json::to_vec_pretty(&state).expect("a state holds numbers and names alone");
    write(&scratch.join(STATE), &state)?;
    sync_folder(scratch)
}

/// The weights under the names of the network itself, whatever kinds there are beside it.
fn record(model: &Model) -> ModuleRecord {
    match model.clone() {
        Model::Decoder(model) => model.into_record(),
        Model::Encoder(model) => model.into_record(),
        Model::FlowformerVision(model) => model.into_record(),
        Model::FlowformerSeries(model) => model.into_record(),
        Model::Image(model) => {
            // What batch norms remember of the last batch waits to be taken over until somebody asks: a record does not.
            drop(model.valid());
            model.into_record()
        }
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::write(path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(Error::write(path))
}

/// Waits until the names in a folder are on the disk; only Unix lets a folder be opened for that.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) { File::open(folder).and_then(|f| f.sync_all()).map_err(Error::write(folder)) } else { Ok(()) }
}

/// The checkpoints below `folder` with their steps, the oldest first.
pub(super) fn list(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let path = entry.map_err(Error::read(folder))?.path();
        let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix("step-")?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort();
    Ok(found)
}

/// A checkpoint whose files are all there and undamaged.
pub(super) struct Checkpoint {
    path: PathBuf,
    pub(super) state: State,
    model: Bytes,
    optimizer: Bytes,
}

impl Checkpoint {
    /// Reads and verifies a checkpoint of the network `config`.
    pub(super) fn read(path: &Path, config: &ModelConfig) -> Result<Self> {
        let content = |name: &str| {
            fs::read(path.join(name)).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::checkpoint(path, format!("{name} is missing")),
                _ => Error::read(path.join(name))(e),
            })
        };
        let state: State = serde_json::from_slice(&content(STATE)?)
            .map_err(|e| Error::checkpoint(path, format!("{STATE} is damaged or of another program: {e}")))?;
        if state.format != FORMAT {
            let message = format!("its format is {}, this version reads {FORMAT}", state.format);
            return Err(Error::checkpoint(path, message));
        }
        if state.model != *config {
            return Err(Error::checkpoint(path, "it belongs to another model than the run's config.toml describes"));
        }
        let verified = |name: &str| {
            let content = content(name)?;
            if !state.files.contains(&Digest::new(name, &content)) {
                return Err(Error::checkpoint(path, format!("{name} is damaged: its size or checksum differs from {STATE}")));
            }
            Ok(Bytes::from_bytes_vec(content))
        };
        let (model, optimizer) = (verified(MODEL)?, verified(OPTIMIZER)?);
        Ok(Self { path: path.into(), state, model, optimizer })
    }

    /// The model with the weights of the checkpoint.
    pub(super) fn model(&self, model: Model) -> Result<Model> {
        let record = ModuleRecord::from_bytes(self.model.clone());
        let model = record.and_then(|record| match model {
            Model::Decoder(model) => model.try_load_record(record).map(Model::Decoder),
            Model::Encoder(model) => model.try_load_record(record).map(Model::Encoder),
            Model::FlowformerVision(model) => model.try_load_record(record).map(Model::FlowformerVision),
            Model::FlowformerSeries(model) => model.try_load_record(record).map(Model::FlowformerSeries),
            Model::Image(model) => model.try_load_record(record).map(Model::Image),
        });
        model.map_err(|e| Error::checkpoint(&self.path, e.to_string()))
    }

    /// The optimiser with the state of the checkpoint.
    pub(super) fn optimizer(&self, optimizer: ModuleOptimizer) -> Result<ModuleOptimizer> {
        let record = OptimizerRecord::from_bytes(self.optimizer.clone()).map_err(|e| Error::checkpoint(&self.path, e.to_string()))?;
        Ok(optimizer.load_record(record))
    }
}
