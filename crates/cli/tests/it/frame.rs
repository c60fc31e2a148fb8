use std::process::Stdio;

use super::{Place, text};

#[test]
fn a_bare_command_shows_its_help_and_fails() {
    let output = Place::new().run(&[]);
    assert_eq!(output.status.code(), Some(2));
    let help = text(&output.stderr);
    for command in ["list", "compare", "train", "eval", "generate", "bench", "reproduce", "data", "doctor", "completions"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {help}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    for command in ["list", "compare", "train", "eval", "generate", "bench", "reproduce", "data"] {
        let help = place.stdout(&[command, "--help"]);
        assert!(help.contains("Examples:\n  regard "), "{help}");
        assert!(help.contains(&format!("Usage: regard {command}")), "{help}");
    }
    assert!(place.stdout(&["--help"]).contains("regard compare --data book.txt --budget 10m"));
    assert_eq!(place.stdout(&["--version"]), concat!("regard ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn list_is_a_table_with_one_line_per_mechanism_and_one_with_a_line_per_task() {
    let table = Place::new().stdout(&["list"]);
    let (mechanisms, tasks) = table.split_once("\n\n").unwrap();
    let mut lines = mechanisms.lines();
    let header: Vec<_> = lines.next().unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(header, ["ID", "NAME", "DIRECTION", "TIME", "STATE", "FUSED KERNELS", "CLAIMS", "PAPER"]);
    assert!(lines.next().unwrap().chars().all(|c| c == '-'));
    let ids: Vec<_> = lines.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(ids, regard::registry::MECHANISMS.iter().map(|m| m.id).collect::<Vec<_>>());
    let names: Vec<_> = tasks.lines().skip(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, regard_train::TaskConfig::KINDS);
    let series = tasks.lines().find(|line| line.starts_with("series ")).unwrap();
    assert!(series.contains("generated") && series.contains("channels = 3, classes = 6, length = 100, noise = "), "{series}");
    assert!(tasks.lines().any(|line| line.starts_with("forecast ") && line.contains("a series [etth1]")), "{tasks}");
    assert!(!table.contains('\x1b'), "no colours in a pipe");
}

#[test]
fn list_describes_mechanisms_in_json() {
    let list = Place::new().json(&["list", "--json"]);
    let softmax = list["mechanisms"].as_array().unwrap().iter().find(|m| m["id"] == "softmax").unwrap();
    for key in ["name", "paper", "direction", "time", "state"] {
        assert!(softmax[key].is_string(), "{key}: {softmax}");
    }
    assert!(softmax["kernels"].is_array());
    let tasks = list["tasks"].as_array().unwrap();
    let classify = tasks.iter().find(|task| task["name"] == "classify").unwrap();
    assert_eq!((&classify["options"]["view"], &classify["data"]["usual"]), (&"pixels".into(), &"mnist".into()), "{classify}");
    assert!(tasks.iter().any(|task| task["name"] == "recall" && task["data"].is_null() && task["options"]["pairs"] == 8));
}

#[test]
fn list_counts_the_weights_of_named_networks() {
    let place = Place::new();
    let list = place.json(&["list", "--models", "--json"]);
    let kimi = list["models"].as_array().unwrap().iter().find(|m| m["name"] == "kimi_linear_48b").unwrap();
    assert_eq!(kimi["params"], 49_122_675_072_u64);
    assert_eq!(kimi["active_params"], 3_106_965_888_u64);
    assert_eq!(kimi["state_bytes"]["1048576"], 8_499_134_464_u64);
    let table = place.stdout(&["list", "--models"]);
    let row = table.lines().find(|line| line.starts_with("tnl_385m ")).unwrap();
    assert!(row.contains("384,926,720") && row.contains("12.5 MiB"), "{row}");
}

#[test]
fn list_prints_the_page_of_a_mechanism() {
    assert_eq!(Place::new().stdout(&["list", "--page", "softmax"]).trim_end(), regard::registry::find("softmax").unwrap().page.trim_end());
}

#[test]
fn claims_are_listed_with_their_verdicts() {
    let place = Place::new();
    let table = place.stdout(&["list", "--claims"]);
    let of_gpu = |line: &str| line.starts_with("lightning-attention ") && line.contains(" 5 ") && line.contains("it needs a GPU");
    assert!(table.lines().any(of_gpu), "{table}");
    let json = place.json(&["list", "--claims", "--json"]);
    let claim = &json["claims"].as_array().unwrap()[0];
    assert!(claim["rule"].is_string() && claim.get("shipped").is_some(), "{claim}");
    assert!(place.json(&["list", "--json"])["mechanisms"][0]["claims"].is_array());
}

#[test]
fn a_claim_is_tested_and_kept_in_its_folder() {
    let place = Place::new();
    let result = place.json(&["reproduce", "lightning-attention", "--claim", "5", "--quick", "--json"]);
    assert_eq!(result["results"][0]["verdict"], "not_testable", "{result}");
    assert!(place.read("runs/reproduce/reproduce.html").contains("it needs a GPU"));
    let output = place.run(&["reproduce", "lightning-attention", "--claim", "5", "--quick", "--record", "claims.json"]);
    assert!(text(&output.stderr).contains("was finished before"));
    assert!(place.read("claims.json").contains("\"command\""));
    let failure = place.failure(&["reproduce", "tnl", "--claim", "9"]);
    assert_eq!(failure.error, "there is no claim 9");
}

#[test]
fn data_sets_are_listed_with_what_to_do_for_them() {
    let place = Place::new();
    let table = place.stdout(&["data", "list"]);
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {table}")).to_owned();
    assert!(line("embedded").contains("in the program"), "{table}");
    assert!(line("wikitext-2").contains("CC BY-SA 3.0") && line("wikitext-2").contains("regard data get wikitext-2"), "{table}");
    let json = place.json(&["data", "list", "--json"]);
    let shakespeare = json["data"].as_array().unwrap().iter().find(|set| set["name"] == "tinyshakespeare").unwrap();
    assert!(shakespeare["path"].is_null() && shakespeare["files"][0]["bytes"] == 1_115_394, "{shakespeare}");
    let failure = place.failure(&["data", "get", "tinyshakespear"]);
    assert_eq!((failure.code, failure.hint.contains("`tinyshakespeare`")), (2, true), "{failure:?}");
}

#[test]
fn completions_are_written_for_every_shell() {
    let place = Place::new();
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef regard"),
        ("fish", "complete -c regard"),
        ("powershell", "Register"),
        ("elvish", "edit:"),
    ] {
        let script = place.stdout(&["completions", shell]);
        assert!(script.contains(part), "{shell}: {script}");
        assert!(script.contains("compare"), "{shell}");
    }
}

#[test]
fn doctor_describes_machine_build_and_mechanisms() {
    let report = Place::new().json(&["doctor", "--json"]);
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0, "{report}");
    assert!(report["rates"]["copy_bytes_per_s"].as_f64().unwrap() > 1e8, "{report}");
    assert!(report["rates"]["matmul_flops_per_s"].as_f64().unwrap() > 1e8, "{report}");
    let cpu = &report["devices"][0];
    assert_eq!((&cpu["backend"], &cpu["built"]), (&"cpu".into(), &true.into()));
    assert!(report["mechanisms"].as_array().unwrap().iter().any(|m| m["id"] == "softmax"));
}

#[test]
fn doctor_counts_golden_files() {
    let table = Place::new().stdout(&["doctor", "--goldens"]);
    assert!(table.lines().last().unwrap().contains(" kinds built ("), "{table}");
}

#[test]
fn doctor_without_golden_files_says_where_they_are_looked_for() {
    let place = Place::new();
    let output = place.command(&["doctor", "--goldens"]).env("REGARD_GOLDENS", place.path("none")).output().unwrap();
    let failure = super::Failure::of(&output);
    assert!(failure.error.contains("none"), "{failure:?}");
    assert!(failure.hint.contains("REGARD_GOLDENS"), "{failure:?}");
}

#[test]
fn a_closed_pipe_ends_the_command_silently() {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("regard"))
        .args(["list", "--page", "softmax"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let Ok(full) = full else {
        eprintln!("skipped: no /dev/full on this system");
        return;
    };
    let output = std::process::Command::new(assert_cmd::cargo::cargo_bin!("regard"))
        .arg("list")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: standard output: "), "{}", text(&output.stderr));
}
