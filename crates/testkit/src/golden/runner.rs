use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;

use super::Case;
use crate::{coverage, devices};

/// The directory of golden files: `REGARD_GOLDENS`, or `goldens/` of the repository.
pub fn golden_root() -> PathBuf {
    std::env::var_os("REGARD_GOLDENS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens"), PathBuf::from)
}

/// What the metadata of a file says of it.
pub(crate) struct Header {
    pub(crate) path: PathBuf,
    pub(crate) system: String,
    pub(crate) kind: String,
}

/// The headers of every case under `root`, ordered by path; only the folder `system`, if one is named.
pub(crate) fn headers(root: &Path, system: Option<&str>) -> Result<Vec<Header>, String> {
    let entries = |dir: &Path| -> Result<Vec<PathBuf>, String> {
        let read = fs::read_dir(dir).map_err(|e| format!("cannot read the golden directory {}: {e}", dir.display()))?;
        let mut paths: Vec<_> = read.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        Ok(paths)
    };
    let folders = match system {
        Some(name) => vec![root.join(name)],
        None => entries(root)?.into_iter().filter(|p| p.is_dir()).collect(),
    };
    let mut headers = Vec::new();
    for folder in folders {
        for path in entries(&folder)?.into_iter().filter(|p| p.is_file() && p.extension().is_some_and(|e| e == "safetensors")) {
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let (_, meta) = SafeTensors::read_metadata(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
            let meta = meta.metadata().clone().unwrap_or_default();
            let text = |key: &str| meta.get(key).cloned().ok_or_else(|| format!("{}: no `{key}` in the metadata", path.display()));
            headers.push(Header { system: text("system")?, kind: text("kind")?, path });
        }
    }
    Ok(headers)
}

/// Runs every golden file of `system` whose kind starts with one of `prefixes`, on every device of [`devices`].
///
/// `table` maps a kind to the code under test. The body of a kind reads the inputs from the [`Case`], computes, and hands every output
/// back; the runner then checks every gradient.
///
/// # Panics
/// If a file differs from what was computed, a tensor of it was not read, its kind is neither in `table` nor listed as pending, or
/// there is no file at all.
#[allow(clippy::print_stdout)]
pub fn run(system: &str, prefixes: &[&str], table: &[(&str, fn(&Case))]) {
    let root = golden_root();
    let headers = headers(&root, Some(system)).unwrap_or_else(|e| panic!("{e}"));
    let mut failures = Vec::new();
    let (mut passed, mut pending) = (0, 0);
    for (kind, _) in table {
        assert!(coverage::is_built(system, kind), "{system}: kind {kind} has a test but is not in the coverage table");
    }
    for header in headers.iter().filter(|h| prefixes.iter().any(|p| h.kind.starts_with(p))) {
        let name = format!("{}/{}", system, header.path.file_stem().unwrap_or_default().display());
        let Some((_, body)) = table.iter().find(|(kind, _)| *kind == header.kind) else {
            if coverage::is_pending(system, &header.kind) {
                pending += 1;
                println!("{name}: {} is still to come", header.kind);
            } else {
                failures.push(format!("{name}: unknown kind {}", header.kind));
            }
            continue;
        };
        for device in devices() {
            let result = catch_unwind(AssertUnwindSafe(|| {
                let case = Case::open(&header.path, device.clone().autodiff())?;
                body(&case);
                case.finish()
            }));
            match result {
                Ok(Ok(())) => passed += 1,
                Ok(Err(failure)) => failures.push(format!("{name} on {device:?}: {failure}")),
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                    failures.push(format!("{name} on {device:?}: {}", text.unwrap_or_else(|| "panicked".into())));
                }
            }
        }
    }
    println!("{system}: {passed} golden runs passed, {} failed, {pending} files of kinds still to come", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(passed > 0, "{system}: no golden file of {prefixes:?} in {}", root.join(system).display());
}
