use std::collections::BTreeMap;

use crate::golden::{golden_root, headers};

/// The kinds of golden files that the crates of this workspace pass, by system. Every other kind is still to come.
///
/// A test may run only kinds that stand here, and [`crate::run`] fails on a file of one that stands here but has no test.
const BUILT: &[(&str, &[&str])] = &[
    ("biformer", &["layer.bra", "layer.bra_conv", "layer.attention_lepe", "layer.biformer_block", "model.biformer"]),
    (
        "davit",
        &[
            "layer.window_attention",
            "layer.channel_attention",
            "layer.davit_spatial_block",
            "layer.davit_channel_block",
            "layer.davit_patch_merge",
            "model.davit",
        ],
    ),
    (
        "flowformer",
        &[
            "op.flow_attention",
            "op.flow_attention_streaming",
            "layer.flow_attention",
            "layer.flow_attention_vision",
            "model.flowformer_gpt",
            "model.flowformer_vision",
            "model.flowformer_time_series",
        ],
    ),
    ("halonet", &["layer.halo_attention", "layer.halo_attention_out_proj", "layer.halo_rel_pos_logits", "model.halonet"]),
    ("kimi-linear", &["op.kda", "op.kda_gate", "layer.kda", "layer.mla", "layer.moe", "model.kimi_linear"]),
    ("lightning-attention", &["op.lightning_attention", "op.decay_slopes"]),
    ("neighborhood-attention", &["op.neighborhood_attention", "layer.nat", "model.nat"]),
    ("nprf", &["op.nprf", "op.nprf_2d", "op.favor_plus", "layer.nprf_block", "model.nprf_lm"]),
    ("polarized-self-attention", &["layer.psa_paper", "layer.psa_official_parallel", "layer.psa_official_sequential", "model.psa_heatmap"]),
    ("s2aformer", &["layer.ssa", "layer.lim", "layer.hpb", "model.s2aformer"]),
    ("tnl", &["op.srmsnorm", "layer.lrpe", "layer.sglu", "layer.tnl_gla", "model.tnl"]),
];

/// The systems whose golden files ship with the project.
const SYSTEMS: &[&str] = &[
    "biformer",
    "combiner",
    "davit",
    "dependency-vit",
    "flowformer",
    "focus-detr",
    "grassmann-flow",
    "halonet",
    "hyperzzw",
    "icl-linear-regression",
    "karat",
    "kimi-linear",
    "lamina",
    "less-vit",
    "lightning-attention",
    "mask-and-match",
    "mvar",
    "neighborhood-attention",
    "nprf",
    "oat",
    "pointer-networks",
    "polarized-self-attention",
    "positional-attention",
    "quantum-doubly-stochastic",
    "random-feature-attention",
    "routing-transformer",
    "s2aformer",
    "sparsifiner",
    "tangent-task-arithmetic",
    "tensor-attention",
    "tnl",
];

pub(crate) fn is_built(system: &str, kind: &str) -> bool {
    BUILT.iter().any(|(s, kinds)| *s == system && kinds.contains(&kind))
}

/// A kind of a known system that is not built; a misspelt kind of a system that is built in full is not pending but unknown.
pub(crate) fn is_pending(system: &str, kind: &str) -> bool {
    const COMPLETE: &[&str] = &[
        "biformer",
        "davit",
        "flowformer",
        "halonet",
        "kimi-linear",
        "lightning-attention",
        "neighborhood-attention",
        "nprf",
        "polarized-self-attention",
        "s2aformer",
        "tnl",
    ];
    const PREFIXES: &[&str] = &["op.", "layer.", "model.", "train.", "serve."];
    SYSTEMS.contains(&system) && !COMPLETE.contains(&system) && PREFIXES.iter().any(|p| kind.starts_with(p)) && !is_built(system, kind)
}

/// Whether the code for a kind of golden file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A test runs every file of the kind.
    Built,
    /// The mechanism is still to come.
    Pending,
}

/// One kind of one system.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// Folder and id of the specification.
    pub system: String,
    /// What is under test, `op.…`, `layer.…`, `model.…`, `train.…` or `serve.…`.
    pub kind: String,
    /// Number of files found.
    pub files: usize,
    /// Whether a test runs them.
    pub status: Status,
}

/// The kinds of all golden files found, ordered by system and kind.
///
/// # Errors
/// If the directory or a file cannot be read.
pub fn coverage() -> Result<Vec<Coverage>, String> {
    let mut counts = BTreeMap::<(String, String), usize>::new();
    for header in headers(&golden_root(), None)? {
        *counts.entry((header.system, header.kind)).or_default() += 1;
    }
    Ok(counts
        .into_iter()
        .map(|((system, kind), files)| {
            let status = if is_built(&system, &kind) { Status::Built } else { Status::Pending };
            Coverage { system, kind, files, status }
        })
        .collect())
}

/// The table of [`coverage`] as text, with a last line of totals.
pub fn coverage_table(rows: &[Coverage]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for row in rows {
        let status = if row.status == Status::Built { "built" } else { "to come" };
        let _ = writeln!(text, "{:<26} {:<32} {:>3}  {status}", row.system, row.kind, row.files);
    }
    let total = |status: Status| {
        let of = rows.iter().filter(|r| r.status == status);
        (of.clone().count(), of.map(|r| r.files).sum::<usize>())
    };
    let ((kinds, files), (to_come, files_to_come)) = (total(Status::Built), total(Status::Pending));
    let _ = write!(text, "{kinds} kinds built ({files} files), {to_come} kinds still to come ({files_to_come} files)");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::print_stdout)]
    fn goldens_found_are_all_of_known_systems() {
        let rows = coverage().expect("the golden directory can be read");
        println!("{}", coverage_table(&rows));
        assert!(!rows.is_empty());
        for row in rows {
            assert!(is_built(&row.system, &row.kind) || is_pending(&row.system, &row.kind), "{}: unknown kind {}", row.system, row.kind);
        }
    }
}
