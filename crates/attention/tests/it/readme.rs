//! The project's README.md says of the mechanisms what the registry says.

use std::{fmt::Write as _, fs, path::PathBuf};

use regard::registry::MECHANISMS;

const BEGIN: &str = "<!-- mechanisms: written by `REGARD_WRITE=1 cargo test --workspace readme` -->\n";
const END: &str = "<!-- end of mechanisms -->\n";

fn written() -> String {
    let mut table = String::from(
        "| id | mechanism | causal / both / image | time per head | state per head | fused kernels | paper |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for m in MECHANISMS {
        let kernels = if m.kernels.is_empty() { "-".to_owned() } else { m.kernels.join(", ") };
        writeln!(
            table,
            "| `{}` | {} | {} | {} | {} | {kernels} | {} |",
            m.id,
            m.name,
            m.interface.name(),
            m.time,
            m.state().unwrap_or("-"),
            m.paper
        )
        .unwrap();
    }
    table
}

#[test]
fn the_table_of_mechanisms_in_the_readme_is_that_of_the_registry() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has the comment before the table");
    let (table, after) = rest.split_once(END).expect("README.md has the comment behind the table");
    if std::env::var_os("REGARD_WRITE").is_some() {
        fs::write(&path, [before, BEGIN, &written(), END, after].concat()).unwrap();
    } else {
        assert_eq!(table, written(), "README.md is behind the registry; `REGARD_WRITE=1 cargo test --workspace readme` writes its table");
    }
}
