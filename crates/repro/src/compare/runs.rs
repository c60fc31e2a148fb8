use std::path::Path;

use burn::tensor::{Int, Tensor, TensorData};
use regard_models::Decoder;
use regard_train::{
    Event, Hooks, Observer, Outcome, Run, RunConfig, Sampling, Split, Status, Task, Tokenizer, Trainer, generate,
    report::{RunFacts, write_run_report},
    tasks::Samples,
};

use super::{Candidate, CompareConfig, CompareEvent, Context, Sample, SeedResult, StateBytes};
use crate::{
    Error, Result,
    files::{read_json, write_json},
    machine::Machine,
};

/// Written into the folder of a run when all about it is known.
const RESULT: &str = "result.json";
/// Numbers of tokens after which the decoding state is weighed.
const STATE_AFTER: [usize; 2] = [1, 1024];
/// Tokens of a prompt that is taken from the validation text.
const PROMPT_TOKENS: usize = 48;

/// The folder of a run, inside that of the comparison.
pub(super) fn run_folder(candidate: &Candidate, seed: u64) -> String {
    format!("runs/{}-seed{seed}", candidate.folder())
}

/// What the runs of a comparison share.
pub(super) struct Runs<'a> {
    pub(super) out: &'a Path,
    pub(super) task: &'a Task,
    pub(super) config: &'a CompareConfig,
}

impl Runs<'_> {
    /// The result of a run: that of an earlier call if it was finished, otherwise it is begun or gone on with.
    pub(super) fn result(
        &self,
        candidate: &str,
        folder: &str,
        run: &RunConfig,
        (number, runs): (usize, usize),
        context: &mut Context<'_>,
    ) -> Result<SeedResult> {
        let (dir, seed) = (self.out.join(folder), run.seed);
        let path = dir.join(RESULT);
        if path.exists() {
            context.emit(&CompareEvent::RunSkipped { candidate, seed });
            return read_json(&path);
        }
        if context.stopped() {
            return Err(Error::Interrupted { path: self.out.into() });
        }
        context.emit(&CompareEvent::RunStarted { candidate, seed, number, runs });
        let empty = SeedResult {
            seed,
            run: folder.into(),
            evaluation: None,
            step_ms: None,
            tokens_per_s: None,
            peak_bytes: None,
            state_bytes: Vec::new(),
            sample: None,
            failed: None,
        };
        let result = match self.train(&dir, run, context) {
            Ok(outcome) if outcome.status == Status::Interrupted => return Err(Error::Interrupted { path: self.out.into() }),
            Ok(outcome) => {
                let result = self.describe(&outcome, &dir, context, empty)?;
                Self::report(&result, &dir, context)?;
                if let Some(evaluation) = &result.evaluation {
                    context.emit(&CompareEvent::RunFinished { candidate, seed, evaluation, step_ms: outcome.step_ms });
                }
                result
            }
            Err(regard_train::Error::NotFinite { what, value, step, .. }) => {
                let message = format!("{what} became {value} at step {step}");
                context.emit(&CompareEvent::RunFailed { candidate, seed, message: &message });
                SeedResult { failed: Some(message), ..empty }
            }
            Err(other) => return Err(other.into()),
        };
        write_json(&path, &result)?;
        Ok(result)
    }

    fn train(&self, dir: &Path, run: &RunConfig, context: &mut Context<'_>) -> regard_train::Result<Outcome> {
        let trainer = if dir.join("config.toml").exists() {
            Trainer::resume(dir, &context.device)?
        } else {
            Trainer::create_with(run, self.task.clone(), dir, &context.device)?
        };
        let (stop, memory) = (context.stop, context.memory);
        trainer.run(Hooks { stop, memory, observer: Some(&mut Forward(context)) })
    }

    fn describe(&self, outcome: &Outcome, dir: &Path, context: &Context<'_>, empty: SeedResult) -> Result<SeedResult> {
        let model = Run::open(dir)?.model(&context.device)?;
        let timed = outcome.step_ms > 0.0;
        Ok(SeedResult {
            evaluation: outcome.evaluation.clone(),
            step_ms: timed.then_some(outcome.step_ms),
            tokens_per_s: timed.then_some(outcome.tokens_per_s),
            peak_bytes: outcome.peak_bytes,
            state_bytes: model.decoder().map(state_bytes).transpose()?.unwrap_or_default(),
            sample: model
                .decoder()
                .zip(self.task.tokenizer())
                .map(|(model, tokenizer)| self.sample(model, tokenizer))
                .transpose()?
                .flatten(),
            ..empty
        })
    }

    /// The run's own page.
    fn report(result: &SeedResult, dir: &Path, context: &Context<'_>) -> Result<()> {
        let machine = Machine::describe(&context.device).facts();
        let extra = RunFacts {
            machine: machine.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            command: None,
            sample: result.sample.clone().map(|s| (s.prompt, s.text)),
            peak_bytes: result.peak_bytes,
        };
        write_run_report(dir, &extra)?;
        Ok(())
    }

    fn sample(&self, model: &Decoder, tokenizer: &Tokenizer) -> Result<Option<Sample>> {
        let options = &self.config.sample;
        if options.tokens == 0 {
            return Ok(None);
        }
        let prompt = match &options.prompt {
            Some(prompt) => prompt.clone(),
            None => self.prompt(tokenizer)?,
        };
        let sampling = Sampling { temperature: options.temperature, seed: options.seed, ..Sampling::default() };
        let text = generate(model, tokenizer, &prompt, options.tokens, &sampling, &mut |_| ())?.text;
        Ok(Some(Sample { prompt, text }))
    }

    /// The beginning of the validation text.
    fn prompt(&self, tokenizer: &Tokenizer) -> Result<String> {
        let (batches, _) = self.task.evaluation(Split::Valid, 1, 1, self.config.context)?;
        let ids = match batches.first() {
            Some(Samples::Tokens(batch)) => &batch.ids[..batch.ids.len().min(PROMPT_TOKENS)],
            _ => &[],
        };
        Ok(tokenizer.decode(ids).trim_end_matches('\u{fffd}').to_owned())
    }
}

/// Bytes of the decoding state of one sequence, after one token and after many.
fn state_bytes(model: &Decoder) -> Result<Vec<StateBytes>> {
    let device = model.embedding.weight.val().device();
    let mut state = model.state(1);
    let mut taken = 0;
    let after = STATE_AFTER.map(|tokens| {
        let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![0_i32; tokens - taken], [1, tokens - taken]), &device);
        taken = tokens;
        model.prefill(ids, &mut state).map(|_| StateBytes { tokens, bytes: state.bytes() })
    });
    Ok(after.into_iter().collect::<regard::Result<_>>()?)
}

/// Passes the events of a run on to the observer of the comparison.
struct Forward<'a, 'b>(&'a mut Context<'b>);

impl Observer for Forward<'_, '_> {
    fn event(&mut self, event: &Event<'_>) {
        self.0.emit(&CompareEvent::Training(event));
    }

    fn should_stop(&self) -> bool {
        self.0.stopped()
    }
}
