use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::{module::Module, tensor::Device};
use regard_models::{Decoder, Model};

use super::{
    checkpoint::{self, Checkpoint},
    config::RunConfig,
    evaluate::{Evaluated, Split, timed},
    records::{self, Record},
};
use crate::{
    Error, Result, Task, Tokenizer,
    tasks::{Samples, TaskConfig, windows},
};

pub(super) const CONFIG: &str = "config.toml";
const TOKENIZER: &str = "tokenizer.json";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";

/// The folder of a run: `config.toml`, complete and ready to run again; `tokenizer.json`; `metrics.jsonl`, one [`Record`] a line;
/// `checkpoints/step-N`, the last two.
#[derive(Clone, Debug)]
pub struct Run {
    dir: PathBuf,
    config: RunConfig,
    tokenizer: Option<Tokenizer>,
}

impl Run {
    /// Opens the folder of a run.
    ///
    /// # Errors
    /// If it is none, or its files are damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let (config, tokenizer) = (dir.join(CONFIG), dir.join(TOKENIZER));
        if !config.is_file() {
            return Err(Error::NotARun { path: dir.into(), missing: CONFIG });
        }
        let config = RunConfig::load(&config)?;
        let tokenizer = match config.task {
            TaskConfig::Lm(_) if tokenizer.is_file() => {
                let text = fs::read_to_string(&tokenizer).map_err(Error::read(&tokenizer))?;
                let unfit = |message: String| Error::Tokenizer { name: tokenizer.display().to_string(), message };
                let parsed: Tokenizer = serde_json::from_str(&text).map_err(|e| unfit(e.to_string()))?;
                let (known, vocab) = (parsed.vocab(), config.model.decoder().map_or(0, |model| model.vocab));
                if known != vocab {
                    return Err(unfit(format!("it has {known} tokens, the model of the run {vocab}")));
                }
                Some(parsed)
            }
            TaskConfig::Lm(_) => return Err(Error::NotARun { path: dir.into(), missing: TOKENIZER }),
            _ => None,
        };
        Ok(Self { dir: dir.into(), config, tokenizer })
    }

    /// Makes the folder of a new run.
    pub(super) fn create(dir: &Path, config: RunConfig, task: &Task) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::write(dir))?;
        let tokenizer = task.tokenizer().cloned();
        let path = dir.join(TOKENIZER);
        if let Some(tokenizer) = &tokenizer {
            let text = serde_json::to_string(tokenizer).map_err(|e| Error::write(&path)(e.into()))?;
            fs::write(&path, text).map_err(Error::write(&path))?;
        }
        // The configuration comes last: with it, the folder is a run.
        let path = dir.join(CONFIG);
        fs::write(&path, config.to_toml()?).map_err(Error::write(&path))?;
        Ok(Self { dir: dir.into(), config, tokenizer })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its `config.toml`.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Its `tokenizer.json`, if its task has text.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Its `metrics.jsonl`; nothing before the first line is written.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
    pub fn metrics(&self) -> Result<Vec<Record>> {
        let path = self.metrics_path();
        if path.exists() { records::read(&path) } else { Ok(Vec::new()) }
    }

    pub(super) fn metrics_path(&self) -> PathBuf {
        self.dir.join(METRICS)
    }

    pub(super) fn checkpoints_path(&self) -> PathBuf {
        self.dir.join(CHECKPOINTS)
    }

    /// The step of the last checkpoint, if there is one.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn last_step(&self) -> Result<Option<usize>> {
        Ok(checkpoint::list(&self.checkpoints_path())?.last().map(|(step, _)| *step))
    }

    /// The last checkpoint, verified.
    pub(super) fn last_checkpoint(&self) -> Result<Option<Checkpoint>> {
        let last = checkpoint::list(&self.checkpoints_path())?.pop();
        last.map(|(_, path)| Checkpoint::read(&path, &self.config.model)).transpose()
    }

    /// The model of the last checkpoint, for inference.
    ///
    /// # Errors
    /// If there is no checkpoint, or it is damaged or foreign.
    pub fn model(&self, device: &Device) -> Result<Model> {
        let checkpoint = self.last_checkpoint()?.ok_or_else(|| Error::NoCheckpoint { path: self.dir.clone() })?;
        let model = self.config.model.init(device).map_err(|e| self.in_config(e.into()))?;
        Ok(checkpoint.model(model)?.valid())
    }

    /// The language model of the last checkpoint, for inference.
    ///
    /// # Errors
    /// As [`model`](Self::model), or if the run's model is of another kind.
    pub fn decoder(&self, device: &Device) -> Result<Decoder> {
        match self.model(device)? {
            Model::Decoder(model) => Ok(model),
            _ => Err(self.in_config(Error::value("model.kind", "`decoder` to go on with a text", self.config.model.kind()))),
        }
    }

    fn in_config(&self, error: Error) -> Error {
        error.in_file(&self.dir.join(CONFIG), &self.config)
    }

    /// Evaluates the model of the last checkpoint on a split of the run's data, over at least `tokens` tokens as far as it goes.
    ///
    /// # Errors
    /// As [`model`](Self::model), or if the data or the split is not there.
    pub fn evaluate(&self, device: &Device, split: Split, tokens: usize) -> Result<Evaluated> {
        let task = Task::load_with(&self.config, self.tokenizer.as_ref()).map_err(|e| self.in_config(e))?;
        self.check(&task)?;
        let (batches, bytes) = task.evaluation(split, tokens, self.batch(), self.config.model.context())?;
        Ok(timed(&self.model(device)?, &batches, bytes, task.ignore(), device))
    }

    /// Evaluates the model of the last checkpoint on other text with the run's tokeniser, over at least `tokens` tokens.
    ///
    /// # Errors
    /// As [`model`](Self::model), if the run has no tokeniser or it does not know a character, or the text is too short.
    pub fn evaluate_text(&self, device: &Device, text: &str, tokens: usize) -> Result<Evaluated> {
        let tokenizer = self.tokenizer.as_ref().ok_or(Error::value("task", "`lm` to evaluate text", "another"))?;
        let encoded = tokenizer.encode_with_ends(text)?;
        if encoded.ids.len() < 2 {
            return Err(Error::DataTooShort { split: "given", tokens: encoded.ids.len(), context: 1 });
        }
        let (batches, bytes) = windows(&encoded, tokens, self.batch(), self.config.model.context());
        let batches: Vec<_> = batches.into_iter().map(Samples::Tokens).collect();
        Ok(timed(&self.model(device)?, &batches, Some(bytes), None, device))
    }

    /// The task must be of the form that the model was built for.
    pub(super) fn check(&self, task: &Task) -> Result<()> {
        let Some(vocab) = self.config.model.decoder().map(|model| model.vocab) else {
            return task.fit(&mut self.config.model.clone());
        };
        if task.vocab() == vocab {
            return Ok(());
        }
        let want = format!("of {vocab} different tokens, as when the run was started: the data has changed");
        Err(Error::value("data", want, task.vocab()))
    }

    fn batch(&self) -> usize {
        self.config.eval.batch.unwrap_or(self.config.train.batch)
    }
}
