//! The table of mechanisms.

/// What one mechanism is.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The `kind` in a [`MixerConfig`](crate::MixerConfig) and the name on the command line.
    pub id: &'static str,
    /// Its name in the literature.
    pub name: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// Whether output `t` depends on the inputs `0..=t` alone, on all, or either by choice.
    pub direction: Direction,
    /// Time of a forward pass over T tokens per head.
    pub time: &'static str,
    /// Numbers kept per head while decoding after T tokens.
    pub state: &'static str,
    /// Fused kernels, by backend; the others run on tensor operations.
    pub kernels: &'static [&'static str],
    /// Its page: idea, equations, shapes, example, limits.
    pub page: &'static str,
}

impl Entry {
    /// Whether decoding keeps more the longer the text gets.
    pub fn state_grows(&self) -> bool {
        self.state.contains('T')
    }
}

/// See [`Entry::direction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Causal only.
    Causal,
    /// Causal or bidirectional.
    Both,
}

/// All mechanisms, ordered by id.
pub const MECHANISMS: &[Entry] = &[
    Entry {
        id: "flow",
        name: "Flow attention",
        paper: "Wu et al. 2022, arXiv 2202.06258",
        direction: Direction::Both,
        time: "TKV",
        state: "KV+4K",
        kernels: &["cpu"],
        page: include_str!("flow_attention/README.md"),
    },
    Entry {
        id: "kimi_delta",
        name: "Kimi Delta Attention",
        paper: "Kimi Team 2025, arXiv 2510.26692",
        direction: Direction::Causal,
        time: "T(KV + C(K+V) + C²)",
        state: "KV",
        kernels: &["cpu", "cuda"],
        page: include_str!("kimi_delta/README.md"),
    },
    Entry {
        id: "latent",
        name: "Multi-head latent attention",
        paper: "DeepSeek-AI 2024, arXiv 2405.04434",
        direction: Direction::Causal,
        time: "T²(K+V)",
        state: "T(R+r)/H",
        kernels: &["cpu", "cuda"],
        page: include_str!("latent_attention/README.md"),
    },
    Entry {
        id: "lightning",
        name: "Lightning attention",
        paper: "Qin et al. 2024, arXiv 2405.17381",
        direction: Direction::Causal,
        time: "T(C(K+V)+KV)",
        state: "KV",
        kernels: &["cpu", "cuda"],
        page: include_str!("lightning_attention/README.md"),
    },
    Entry {
        id: "nprf",
        name: "Kernelised attention with relative positional bias",
        paper: "Luo et al. 2021, NeurIPS",
        direction: Direction::Both,
        time: "min(T²(K+V), TKV log T)",
        state: "min(T,R)(K+V)+KV",
        kernels: &["cpu"],
        page: include_str!("nprf/README.md"),
    },
    Entry {
        id: "softmax",
        name: "Softmax attention",
        paper: "Vaswani et al. 2017, arXiv 1706.03762",
        direction: Direction::Both,
        time: "T²(K+V)",
        state: "T(K+V)",
        kernels: &["cpu", "cuda"],
        page: include_str!("softmax_attention/README.md"),
    },
];

/// The mechanism of that id.
pub fn find(id: &str) -> Option<&'static Entry> {
    MECHANISMS.iter().find(|e| e.id == id)
}
