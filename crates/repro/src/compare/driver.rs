use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use regard_train::{StepCost, Task, Tokenizer, measure_step};

use super::{
    Budget, CandidateResult, CompareConfig, CompareEvent, Comparison, Context, ImageFacts, SeedResult,
    report::{report, write_plots},
    runs::{Runs, run_folder},
    scaling,
    weights::{MatchedCandidate, match_weights},
};
use crate::{
    Error, Result,
    files::{read_json, write_json, write_whole},
    machine::Machine,
};

const CONFIG: &str = "compare.toml";
const SCALING: &str = "scaling.json";
const COMPARISON: &str = "comparison.json";
const REPORT: &str = "report.html";
const PLOTS: &str = "plots";
/// Shares of a budget in seconds: measuring cost against length, and what starts, ends and goes wrong.
const SCALING_SHARE: f64 = 0.25;
const SPARE_SHARE: f64 = 0.05;
/// Largest share of the training time that evaluations take.
const EVALUATION_SHARE: f64 = 0.2;
/// An evaluation has at least so many tokens, or images: accuracy is to be told from chance.
const LEAST_TOKENS: usize = 2048;
const LEAST_IMAGES: usize = 200;
/// Seconds for cost against length where the budget is not in seconds.
const SCALING_SECONDS: f64 = 30.0;
/// Steps that are timed before the number of steps is chosen.
const TIMED_STEPS: usize = 5;

/// Compares the candidates in a new folder `out`.
///
/// # Errors
/// If the folder holds a comparison already or cannot be written, the configuration is invalid, the data cannot be used, the models cannot
/// have equal weights, or `stop` was set ([`Error::Interrupted`]). A run that fails is part of the result, not an error.
pub fn compare(config: &CompareConfig, out: &Path, context: Context<'_>) -> Result<Comparison> {
    if out.join(CONFIG).exists() {
        return Err(Error::Exists { path: out.into() });
    }
    config.validate()?;
    Driver::new(config.clone(), out, context)?.drive()
}

/// Goes on with the comparison in the folder `out`: finished runs are kept, the one that was interrupted goes on from its last checkpoint.
///
/// # Errors
/// As [`compare`], or if the folder holds no comparison.
pub fn resume(out: &Path, context: Context<'_>) -> Result<Comparison> {
    let path = out.join(CONFIG);
    if !path.exists() {
        return Err(Error::NotAComparison { path: out.into() });
    }
    let config = CompareConfig::load(&path)?;
    config.validate()?;
    Driver::new(config, out, context)?.drive()
}

struct Driver<'a> {
    config: CompareConfig,
    out: PathBuf,
    context: Context<'a>,
    begun: Instant,
    /// Seconds spent before a resumption.
    before: f64,
    task: Task,
    matched: Vec<MatchedCandidate>,
}

impl<'a> Driver<'a> {
    fn new(mut config: CompareConfig, out: &Path, mut context: Context<'a>) -> Result<Self> {
        let begun = Instant::now();
        let first = &config.candidates[0];
        let task = Task::load(&config.run(config.model(first, 0, 1)?, 1, 0))?;
        let matched = match_weights(&config, &task)?;
        config.context = matched[0].model.context();
        fs::create_dir_all(out).map_err(Error::file(out))?;
        context.emit(&CompareEvent::Matched { candidates: &matched });
        let earlier: Option<Comparison> = read_json(&out.join(COMPARISON)).ok();
        if context.command.is_none() {
            context.command = earlier.as_ref().and_then(|c| c.command.clone());
        }
        Ok(Self { config, out: out.into(), context, begun, before: earlier.map_or(0.0, |c| c.seconds), task, matched })
    }

    fn drive(mut self) -> Result<Comparison> {
        let steps = match self.config.steps {
            Some(steps) => steps,
            None => self.plan()?,
        };
        let runs = self.config.seeds.len() * self.matched.len();
        self.context.emit(&CompareEvent::Planned { steps, tokens: steps * self.config.tokens_per_step(), runs });
        let mut results = vec![Vec::new(); self.matched.len()];
        let mut number = 0;
        // Seed by seed, so that a comparison that is cut short has a run of every candidate.
        for seed in self.config.seeds.clone() {
            for index in 0..self.matched.len() {
                number += 1;
                results[index].push(self.run(index, seed, steps, (number, runs))?);
                self.write(steps, &results, None, false)?;
            }
        }
        let scaling = self.scaling()?;
        self.write(steps, &results, scaling, true)
    }

    /// Chooses the number of steps, and writes the configuration with it.
    fn plan(&mut self) -> Result<usize> {
        let steps = match self.config.budget {
            Budget::Steps(steps) => steps,
            Budget::Tokens(tokens) => tokens.div_ceil(self.config.tokens_per_step()),
            Budget::Seconds(seconds) => self.steps_within(seconds)?,
        };
        self.config.steps = Some(steps);
        write_whole(&self.out.join(CONFIG), &self.config.to_toml()?)?;
        Ok(steps)
    }

    /// The number of steps that every run can take within the time; makes evaluations smaller where they would take too much of it.
    fn steps_within(&mut self, seconds: f64) -> Result<usize> {
        let costs: Vec<StepCost> = self
            .matched
            .iter()
            .map(|m| measure_step(&self.config.run(m.model.clone(), 100, 0), &self.task, &self.context.device, TIMED_STEPS))
            .collect::<regard_train::Result<_>>()?;
        let step: f64 = costs.iter().map(|c| c.step_seconds).sum();
        let mut evaluation: f64 = costs.iter().map(|c| c.evaluation_seconds).sum();
        let scaling = self.config.scaling.seconds.unwrap_or(seconds * SCALING_SHARE);
        let left = seconds * (1.0 - SPARE_SHARE) - scaling - self.begun.elapsed().as_secs_f64();
        let per_seed = left.max(0.0) / self.config.seeds.len() as f64;
        let evaluations = self.config.evaluations as f64;
        if evaluation * evaluations > EVALUATION_SHARE * per_seed {
            let shrink = EVALUATION_SHARE * per_seed / (evaluation * evaluations);
            let least = if self.config.of_images() { LEAST_IMAGES * self.config.context } else { LEAST_TOKENS };
            let least = self.config.eval_tokens.min(least);
            let tokens = ((self.config.eval_tokens as f64 * shrink) as usize).max(least);
            evaluation *= tokens as f64 / self.config.eval_tokens as f64;
            self.config.eval_tokens = tokens;
        }
        Ok((((per_seed - evaluation * evaluations) / step) as usize).max(self.config.evaluations))
    }

    fn run(&mut self, index: usize, seed: u64, steps: usize, (number, runs): (usize, usize)) -> Result<SeedResult> {
        let Self { config, out, context, task, matched, .. } = self;
        let candidate = &matched[index];
        let folder = run_folder(&config.candidates[index], seed);
        let run = config.run(candidate.model.clone(), steps, seed);
        Runs { out, task, config }.result(&candidate.name, &folder, &run, (number, runs), context)
    }

    /// Measures cost against length, or takes what was measured before a resumption.
    fn scaling(&mut self) -> Result<Option<scaling::Scaling>> {
        let path = self.out.join(SCALING);
        if path.exists() {
            return read_json(&path).map(Some);
        }
        let seconds = match (self.config.scaling.seconds, self.config.budget) {
            (Some(seconds), _) => seconds,
            // What is left, and at least a tenth if training took longer than expected.
            (None, Budget::Seconds(all)) => (all - self.seconds()).max(0.1 * all),
            (None, _) => SCALING_SECONDS,
        };
        if seconds == 0.0 {
            return Ok(None);
        }
        let scaling = scaling::scaling(&self.config, &self.matched, seconds, &mut self.context)?;
        if self.context.stopped() {
            return Err(Error::Interrupted { path: self.out.clone() });
        }
        write_json(&path, &scaling)?;
        Ok(Some(scaling))
    }

    fn seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }

    /// Writes `comparison.json` and `report.html` with what there is.
    fn write(
        &mut self,
        steps: usize,
        results: &[Vec<SeedResult>],
        scaling: Option<scaling::Scaling>,
        complete: bool,
    ) -> Result<Comparison> {
        let config = &self.config;
        let candidates = self.matched.iter().zip(results).map(|(m, seeds)| CandidateResult::gather(m, seeds.clone()));
        let comparison = Comparison {
            task: config.task.kind().into(),
            data: config.data.as_ref().map(|d| d.source.clone()),
            unit: self.task.tokenizer().map_or("token", Tokenizer::unit).into(),
            vocab: self.task.vocab(),
            image: ImageFacts::of(&self.matched[0].model),
            d_model: config.size.d_model,
            layers: config.size.layers,
            heads: config.size.heads,
            context: config.context,
            steps,
            tokens: steps * config.tokens_per_step(),
            complete,
            seconds: self.seconds(),
            command: self.context.command.clone(),
            machine: Machine::describe(&self.context.device),
            candidates: candidates.collect(),
            scaling,
        };
        write_json(&self.out.join(COMPARISON), &comparison)?;
        let path = self.out.join(REPORT);
        write_whole(&path, &report(&comparison, &self.config, &self.out)?)?;
        if complete {
            write_plots(&comparison, &self.out, &self.out.join(PLOTS))?;
        }
        self.context.emit(&CompareEvent::Written { path: &path });
        Ok(comparison)
    }
}
