use std::{collections::BTreeSet, fs, sync::atomic::AtomicBool};

use burn::tensor::Device;

use super::*;
use crate::{Error, Result};

fn folder(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("regard-reproduce-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

const fn claim(number: usize, test: Test) -> Claim {
    Claim { system: "a-system", number, title: "It <holds>", published: "2 & 3", rule: "x ≤ 1", test }
}

static HOLDS: Claim = claim(1, Test::Experiment(|lab| Ok(finding(lab.quick_or(0.5, 2.0)))));
static FAILS: Claim = claim(2, Test::Experiment(|_| Ok(finding(3.0))));
static NEVER: Claim = claim(3, Test::None("there is no GPU"));
static STOPS: Claim = claim(4, Test::Experiment(|lab| Err(Error::Stopped { path: lab.out.clone() })));

static DIVERGES: Claim = claim(5, Test::Experiment(diverging));

/// A training whose first step ruins the weights, attempted twice.
fn diverging(lab: &mut Lab<'_, '_>) -> Result<Finding> {
    let model = regard_models::NprfLmConfig::new(0, 8, 1, 2, 8).decoder();
    let mut config = lab.language(model, lab::Recipe { context: 8, batch: 1, steps: 20, rate: 1e30, warmup: 0, beta2: 0.9 }, 1);
    (config.data, config.task) = (None, regard_train::TaskConfig::Copy(regard_train::CopyConfig { vocab: 5, distance: 2 }));
    (config.optimizer.clip, config.train.log_every) = (0.0, 10);
    // Two at once, of which the first was attempted before, when the second call comes.
    let runs: Vec<_> = [1, 2].map(|seed| ("diverging".to_owned(), regard_train::RunConfig { seed, ..config.clone() })).into();
    let first = lab.attempt_all(&runs[..1])?;
    let again = lab.attempt_all(&runs)?;
    let steps = |attempts: Vec<lab::Attempt>| -> Vec<_> {
        attempts.into_iter().map(|attempt| attempt.end.map_err(|divergence| divergence.step).err()).collect()
    };
    let (first, again) = (steps(first), steps(again));
    Ok(Finding::new(again.iter().all(Option::is_some) && first[0] == again[0], format!("{first:?}, {again:?}")))
}

#[test]
fn a_training_that_diverges_is_a_result_of_an_attempt_and_stays_one() {
    let all = run("diverges", &[&DIVERGES], Scale::Quick).unwrap();
    assert_eq!(all.results[0].finding.verdict, Verdict::Reproduced, "{}", all.results[0].finding.measured);
    let _ = fs::remove_dir_all(folder_kept("diverges"));
}

#[test]
fn the_error_of_random_features_is_tested_in_seconds() {
    let claims: Vec<_> = claims_of("nprf").filter(|c| c.number == 4).collect();
    let all = run("features", &claims, Scale::Quick).unwrap();
    assert!(all.results[0].finding.verdict.is_decided(), "{}", all.results[0].finding.measured);
    assert_eq!(all.results[0].finding.figures[0].lines.len(), 4);
    let _ = fs::remove_dir_all(folder_kept("features"));
}

fn finding(x: f64) -> Finding {
    let line = ("x".to_owned(), vec![(512.0, x), (1024.0, 2.0 * x)]);
    Finding::new(x <= 1.0, format!("x = {x}")).table("Numbers", &["x"], vec![vec![x.to_string()]]).figure(Figure::new(
        "X",
        FigureKind::Time,
        [line],
    ))
}

fn run(name: &str, claims: &[&'static Claim], scale: Scale) -> Result<Reproduction> {
    reproduce(
        &ReproduceConfig { claims: claims.to_vec(), scale, seeds: None, jobs: None },
        &folder_kept(name),
        Context::new(Device::flex()),
    )
}

fn folder_kept(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("regard-reproduce-{name}-{}", std::process::id()))
}

#[test]
fn every_claim_has_its_number_and_its_system_a_mechanism() {
    for claims in CLAIMS {
        let system = claims[0].system;
        assert_eq!(
            claims.iter().map(|c| (c.system, c.number)).collect::<Vec<_>>(),
            (1..=claims.len()).map(|n| (system, n)).collect::<Vec<_>>()
        );
        assert!(claims.iter().all(|c| !c.rule.contains("  ") && !c.published.contains("  ")), "{system}: spaces");
        let (_, mechanism) = SYSTEMS.iter().find(|(name, _)| *name == system).unwrap();
        assert!(regard::registry::find(mechanism).is_some(), "{mechanism}");
    }
    assert_eq!(SYSTEMS.len(), CLAIMS.len());
    assert_eq!(claims_of("tnl").count(), 5);
}

#[test]
fn the_shipped_verdicts_are_of_claims_that_exist() {
    let mut seen = BTreeSet::new();
    for result in shipped() {
        let claim = claims_of(&result.system).find(|c| c.number == result.claim).unwrap_or_else(|| panic!("{result:?}"));
        assert_eq!(claim.title, result.title);
        assert!(seen.insert((result.system.clone(), result.claim)), "twice: {result:?}");
        assert!(result.command.is_some() && result.date.ends_with('Z'), "{result:?}");
    }
}

#[test]
fn a_verdict_follows_from_the_rule_and_the_page_shows_it() {
    let all = run("whole", &[&HOLDS, &FAILS, &NEVER], Scale::Quick).unwrap();
    let verdicts: Vec<_> = all.results.iter().map(|r| r.finding.verdict.to_string()).collect();
    assert_eq!(verdicts, ["reproduced", "not reproduced", "not testable here (there is no GPU)"]);
    let out = folder_kept("whole");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Reproduction>(&read("reproduce.json")).unwrap(), all);
    let page = read("reproduce.html");
    for part in [
        "It &lt;holds&gt;",
        "2 &amp; 3",
        "x = 0.5",
        "not testable here (there is no GPU)",
        "<svg",
        "id=\"a-system-2\"",
        "1 reproduced, 1 not",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(all.table().rows[1][2], "not reproduced");
    let _ = fs::remove_dir_all(out);
}

#[test]
fn finished_claims_are_kept_when_a_later_one_is_stopped_and_another_scale_runs_anew() {
    let error = run("stopped", &[&HOLDS, &STOPS], Scale::Quick).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
    let out = folder_kept("stopped");
    assert!(fs::read_to_string(out.join("reproduce.json")).unwrap().contains("x = 0.5"));
    let first = fs::read_to_string(out.join("claims/a-system-1.json")).unwrap();
    run("stopped", &[&HOLDS], Scale::Quick).unwrap();
    assert_eq!(fs::read_to_string(out.join("claims/a-system-1.json")).unwrap(), first);
    let other = run("stopped", &[&HOLDS], Scale::Standard).unwrap();
    assert_eq!(other.results[0].finding.verdict, Verdict::NotReproduced);
    let _ = fs::remove_dir_all(out);
}

#[test]
fn a_caller_can_stop_before_an_experiment() {
    let (out, stop) = (folder("flag"), AtomicBool::new(true));
    let config = ReproduceConfig { claims: vec![&HOLDS], scale: Scale::Quick, seeds: None, jobs: None };
    let error = reproduce(&config, &out, Context { stop: Some(&stop), ..Context::new(Device::flex()) }).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }));
    let _ = fs::remove_dir_all(out);
}

#[test]
fn recorded_verdicts_take_the_place_of_older_ones() {
    let all = run("record", &[&HOLDS, &FAILS], Scale::Quick).unwrap();
    let path = folder_kept("record").join("claims.json");
    record(&all, &path).unwrap();
    let mut changed = all.clone();
    changed.results.remove(1);
    changed.results[0].finding.verdict = Verdict::NotReproduced;
    record(&changed, &path).unwrap();
    let read: Vec<Shipped> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(
        read.iter().map(|r| (r.claim, r.verdict.clone())).collect::<Vec<_>>(),
        [(1, Verdict::NotReproduced), (2, Verdict::NotReproduced)]
    );
    let _ = fs::remove_dir_all(folder_kept("record"));
}

#[test]
fn the_exactness_of_a_chunked_form_is_tested_in_seconds() {
    let claims: Vec<_> = claims_of("kimi-linear").filter(|c| c.number == 2).collect();
    let all = run("exact", &claims, Scale::Quick).unwrap();
    assert_eq!(all.results[0].finding.verdict, Verdict::Reproduced, "{}", all.results[0].finding.measured);
    let _ = fs::remove_dir_all(folder_kept("exact"));
}
