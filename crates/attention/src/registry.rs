//! The table of mechanisms.

/// What one mechanism is.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The `kind` in a [`MixerConfig`](crate::MixerConfig) or an [`ImageMixerConfig`](crate::ImageMixerConfig) and the name on the command
    /// line.
    pub id: &'static str,
    /// Its name in the literature.
    pub name: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// What its layer mixes.
    pub interface: Interface,
    /// Time of a forward pass per head, over T tokens or a map of N.
    pub time: &'static str,
    /// Fused kernels, by backend; the others run on tensor operations.
    pub kernels: &'static [&'static str],
    /// Its page: idea, equations, shapes, example, limits.
    pub page: &'static str,
}

impl Entry {
    /// Whether decoding keeps more the longer the text gets.
    pub fn state_grows(&self) -> bool {
        self.state().is_some_and(|state| state.contains('T'))
    }

    /// For a layer over sequences, the numbers kept per head while decoding after T tokens.
    pub fn state(&self) -> Option<&'static str> {
        match self.interface {
            Interface::Sequence { state, .. } => Some(state),
            Interface::Image => None,
        }
    }

    /// For a layer over sequences, what an output depends on.
    pub fn direction(&self) -> Option<Direction> {
        match self.interface {
            Interface::Sequence { direction, .. } => Some(direction),
            Interface::Image => None,
        }
    }
}

/// What a layer mixes, and by which interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The tokens of sequences, as a [`SequenceMixer`](crate::SequenceMixer).
    Sequence {
        /// Whether output `t` depends on the inputs `0..=t` alone, on all, or either by choice.
        direction: Direction,
        /// Numbers kept per head while decoding after T tokens.
        state: &'static str,
    },
    /// The tokens of maps of images, as a [`SpatialMixer`](crate::SpatialMixer).
    Image,
}

impl Interface {
    /// In a word: "causal", "both" or "image".
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequence { direction: Direction::Causal, .. } => "causal",
            Self::Sequence { direction: Direction::Both, .. } => "both",
            Self::Image => "image",
        }
    }
}

/// What an output of a layer over sequences depends on.
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
        id: "bi_level_routing",
        name: "Bi-level routing attention",
        paper: "Zhu et al. 2023, arXiv 2303.08810",
        interface: Interface::Image,
        time: "NW(K+V) + S⁴K",
        kernels: &["cpu"],
        page: include_str!("bi_level_routing/README.md"),
    },
    Entry {
        id: "channel",
        name: "Channel attention",
        paper: "Ding et al. 2022, arXiv 2204.03645",
        interface: Interface::Image,
        time: "NK²",
        kernels: &[],
        page: include_str!("channel_attention/README.md"),
    },
    Entry {
        id: "flow",
        name: "Flow attention",
        paper: "Wu et al. 2022, arXiv 2202.06258",
        interface: Interface::Sequence { direction: Direction::Both, state: "KV+4K" },
        time: "TKV",
        kernels: &["cpu"],
        page: include_str!("flow_attention/README.md"),
    },
    Entry {
        id: "halo",
        name: "Halo attention",
        paper: "Vaswani et al. 2021, arXiv 2103.12731",
        interface: Interface::Image,
        time: "NW(K+V)",
        kernels: &["cpu"],
        page: include_str!("halo_attention/README.md"),
    },
    Entry {
        id: "kimi_delta",
        name: "Kimi Delta Attention",
        paper: "Kimi Team 2025, arXiv 2510.26692",
        interface: Interface::Sequence { direction: Direction::Causal, state: "KV" },
        time: "T(KV + C(K+V) + C²)",
        kernels: &["cpu", "cuda"],
        page: include_str!("kimi_delta/README.md"),
    },
    Entry {
        id: "latent",
        name: "Multi-head latent attention",
        paper: "DeepSeek-AI 2024, arXiv 2405.04434",
        interface: Interface::Sequence { direction: Direction::Causal, state: "T(R+r)/H" },
        time: "T²(K+V)",
        kernels: &["cpu", "cuda"],
        page: include_str!("latent_attention/README.md"),
    },
    Entry {
        id: "lightning",
        name: "Lightning attention",
        paper: "Qin et al. 2024, arXiv 2405.17381",
        interface: Interface::Sequence { direction: Direction::Causal, state: "KV" },
        time: "T(C(K+V)+KV)",
        kernels: &["cpu", "cuda"],
        page: include_str!("lightning_attention/README.md"),
    },
    Entry {
        id: "neighborhood",
        name: "Neighborhood attention",
        paper: "Hassani et al. 2024, arXiv 2403.04690",
        interface: Interface::Image,
        time: "NW(K+V)",
        kernels: &["cpu"],
        page: include_str!("neighborhood_attention/README.md"),
    },
    Entry {
        id: "nprf",
        name: "Kernelised attention with relative positional bias",
        paper: "Luo et al. 2021, NeurIPS",
        interface: Interface::Sequence { direction: Direction::Both, state: "min(T,R)(K+V)+KV" },
        time: "min(T²(K+V), TKV log T)",
        kernels: &["cpu"],
        page: include_str!("nprf/README.md"),
    },
    Entry {
        id: "polarized",
        name: "Polarized self-attention",
        paper: "Liu et al. 2021, arXiv 2107.00782",
        interface: Interface::Image,
        time: "ND + D²",
        kernels: &[],
        page: include_str!("polarized_attention/README.md"),
    },
    Entry {
        id: "softmax",
        name: "Softmax attention",
        paper: "Vaswani et al. 2017, arXiv 1706.03762",
        interface: Interface::Sequence { direction: Direction::Both, state: "T(K+V)" },
        time: "T²(K+V)",
        kernels: &["cpu", "cuda"],
        page: include_str!("softmax_attention/README.md"),
    },
    Entry {
        id: "strip",
        name: "Strip attention",
        paper: "Xu et al. 2025",
        interface: Interface::Image,
        time: "NN'(K+V)",
        kernels: &["cpu", "cuda"],
        page: include_str!("strip_attention/README.md"),
    },
    Entry {
        id: "window",
        name: "Window attention",
        paper: "Ding et al. 2022, arXiv 2204.03645",
        interface: Interface::Image,
        time: "NW(K+V)",
        kernels: &["cpu"],
        page: include_str!("window_attention/README.md"),
    },
];

/// The mechanism of that id.
pub fn find(id: &str) -> Option<&'static Entry> {
    MECHANISMS.iter().find(|e| e.id == id)
}
