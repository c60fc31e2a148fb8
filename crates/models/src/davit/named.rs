use regard::channel_attention::ChannelOrder;

use super::DavitConfig;

impl DavitConfig {
    /// The names that [`named`](Self::named) knows.
    pub const NAMES: &'static [&'static str] = &[
        "davit_tiny",
        "davit_small",
        "davit_base",
        "davit_large",
        "davit_huge",
        "davit_giant",
        "davit_base_florence2",
        "davit_huge_florence2",
    ];

    /// The network of that name, `None` if there is none: see the table on the [module's page](super).
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "davit_tiny" => Self { drop_path: 0.1, ..Self::new([96, 192, 384, 768], [1, 1, 3, 1], [3, 6, 12, 24], 1000) },
            "davit_small" => Self { drop_path: 0.2, ..Self::new([96, 192, 384, 768], [1, 1, 9, 1], [3, 6, 12, 24], 1000) },
            "davit_base" => Self::base(),
            "davit_large" => Self { drop_path: 0.4, window: 12, ..Self::new([192, 384, 768, 1536], [1, 1, 9, 1], [6, 12, 24, 48], 1000) },
            "davit_huge" => Self::huge(),
            "davit_giant" => {
                Self { widths: vec![384, 768, 1536, 3072], depths: vec![1, 1, 12, 3], heads: vec![12, 24, 48, 96], ..Self::huge() }
            }
            "davit_base_florence2" => Self::base().florence2(),
            "davit_huge_florence2" => Self::huge().florence2(),
            _ => return None,
        })
    }

    fn base() -> Self {
        Self { drop_path: 0.4, ..Self::new([128, 256, 512, 1024], [1, 1, 9, 1], [4, 8, 16, 32], 1000) }
    }

    fn huge() -> Self {
        Self { drop_path: 0.4, window: 16, overlapped: true, ..Self::new([256, 512, 1024, 2048], [1, 1, 9, 1], [8, 16, 32, 64], 1000) }
    }

    /// The encoder of images of a later model of vision and language: no classifier.
    fn florence2(self) -> Self {
        Self { window: 12, overlapped: true, channel_order: ChannelOrder::QueriesKeys, classes: 0, ..self }
    }
}
