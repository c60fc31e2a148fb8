use std::{
    fs,
    path::Path,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Claim, ClaimResult, Context, Finding, Lab, ReproduceEvent, Scale, Verdict, claim::Test, report};
use crate::{
    Error, Result, Table,
    files::{read_json, write_json, write_whole},
    machine::{Machine, is_cpu},
};

/// Which claims are tested, and how.
#[derive(Clone, Debug)]
pub struct ReproduceConfig {
    /// The claims.
    pub claims: Vec<&'static Claim>,
    /// How much each takes on.
    pub scale: Scale,
    /// Seeds of each training; nothing = the claim's own number.
    pub seeds: Option<usize>,
    /// Trainings of an experiment that run at once, each on its share of the threads; nothing = one per thread on the CPU, one elsewhere.
    pub jobs: Option<usize>,
}

/// Claims that were tested: the file `reproduce.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reproduction {
    /// One per claim.
    pub results: Vec<ClaimResult>,
}

impl Reproduction {
    /// The verdicts for people.
    pub fn table(&self) -> Table {
        let rows = self.results.iter().map(|r| {
            vec![
                r.system.clone(),
                r.claim.to_string(),
                r.finding.verdict.to_string(),
                r.finding.measured.clone(),
                format!("{:.0} s", r.seconds),
            ]
        });
        let columns = ["SYSTEM", "CLAIM", "VERDICT", "MEASURED", "TIME"].map(str::to_owned).to_vec();
        Table { rows: rows.collect(), columns }
    }
}

/// Tests claims in the folder `out` and returns their results. What an earlier call with the same settings has finished there is kept;
/// the files show all that is finished there.
///
/// # Errors
/// If the folder cannot be written, an experiment cannot be run, or `stop` was set ([`Error::Stopped`]).
pub fn reproduce(config: &ReproduceConfig, out: &Path, mut context: Context<'_>) -> Result<Reproduction> {
    let folder = out.join("claims");
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let mut all = Reproduction::default();
    let count = config.claims.len();
    for (index, claim) in config.claims.iter().enumerate() {
        let path = folder.join(format!("{}-{}.json", claim.system, claim.number));
        let kept = read_json::<ClaimResult>(&path).ok().filter(|r| r.scale == config.scale && r.seeds == config.seeds);
        let result = if let Some(result) = kept {
            context.emit(&ReproduceEvent::Kept { result: &result });
            result
        } else {
            context.emit(&ReproduceEvent::Started { claim, number: index + 1, count });
            let result = test(claim, config, out, &mut context)?;
            write_json(&path, &result)?;
            context.emit(&ReproduceEvent::Finished { result: &result });
            result
        };
        all.results.push(result);
        let finished = finished(&folder);
        write_json(&out.join("reproduce.json"), &finished)?;
        write_whole(&out.join("reproduce.html"), &report::page(&finished))?;
    }
    Ok(all)
}

/// All claims that are finished in the folder, by this call or others, in the order of their names.
fn finished(folder: &Path) -> Reproduction {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    Reproduction { results: paths.iter().filter_map(|path| read_json(path).ok()).collect() }
}

fn test(claim: &Claim, config: &ReproduceConfig, out: &Path, context: &mut Context<'_>) -> Result<ClaimResult> {
    let begun = Instant::now();
    let finding = match claim.test {
        Test::Experiment(experiment) => {
            let own = if is_cpu(&context.device.clone().inner()) { rayon::current_num_threads() } else { 1 };
            let (runs, jobs) = (out.join("runs"), config.jobs.unwrap_or(own));
            let mut lab = Lab { scale: config.scale, asked_seeds: config.seeds, runs, out: out.into(), jobs, context };
            lab.note(&format!("{} scale", config.scale))?;
            experiment(&mut lab)?
        }
        Test::None(why) => Finding::none(Verdict::NotTestable(why.into())),
        Test::Missing(what) => Finding::none(Verdict::NotTested(what.into())),
    };
    Ok(ClaimResult {
        system: claim.system.into(),
        claim: claim.number,
        title: claim.title.into(),
        published: claim.published.into(),
        rule: claim.rule.into(),
        scale: config.scale,
        seeds: config.seeds,
        finding,
        seconds: begun.elapsed().as_secs_f64(),
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: context.command.clone(),
        machine: Machine::describe(&context.device),
    })
}
