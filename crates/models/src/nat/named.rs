use super::{NatConfig, NatLayout};

/// What two networks of a size have in common.
struct Size {
    d_model: usize,
    depths: [usize; 4],
    heads: [usize; 4],
    mlp_ratio: f64,
    drop_path: f64,
}

const MINI: Size = Size { d_model: 64, depths: [3, 4, 6, 5], heads: [2, 4, 8, 16], mlp_ratio: 3.0, drop_path: 0.2 };
const TINY: Size = Size { depths: [3, 4, 18, 5], ..MINI };
const SMALL: Size = Size { d_model: 96, depths: [3, 4, 18, 5], heads: [3, 6, 12, 24], mlp_ratio: 2.0, drop_path: 0.3 };
const BASE: Size = Size { d_model: 128, heads: [4, 8, 16, 32], drop_path: 0.5, ..SMALL };
const LARGE: Size = Size { d_model: 192, heads: [6, 12, 24, 48], drop_path: 0.35, ..SMALL };
const S_TINY: Size = Size { d_model: 96, depths: [2, 2, 6, 2], heads: [3, 6, 12, 24], mlp_ratio: 4.0, drop_path: 0.2 };
const S_SMALL: Size = Size { depths: [2, 2, 18, 2], drop_path: 0.3, ..S_TINY };
const S_BASE: Size = Size { d_model: 128, heads: [4, 8, 16, 32], drop_path: 0.5, ..S_SMALL };
const S_LARGE: Size = Size { d_model: 192, heads: [6, 12, 24, 48], drop_path: 0.35, ..S_SMALL };

/// Distances of neighbours in every other block of the levels, for images of 224 and 384 pixels.
const AT_224: [usize; 4] = [8, 4, 2, 1];
const AT_384: [usize; 4] = [13, 6, 3, 1];

impl Size {
    fn nat(&self, layer_scale: Option<f64>) -> NatConfig {
        let &Self { d_model, depths, heads, mlp_ratio, drop_path } = self;
        NatConfig { mlp_ratio, layer_scale, drop_path, ..NatConfig::new(d_model, depths, heads, 1000) }
    }

    fn dinat(&self, layer_scale: Option<f64>, farthest: [usize; 4]) -> NatConfig {
        self.nat(layer_scale).with_dilations(farthest)
    }

    fn dinat_s(&self, farthest: [usize; 4]) -> NatConfig {
        NatConfig { layout: NatLayout::Patches(4), ..self.dinat(None, farthest) }
    }
}

impl NatConfig {
    /// The names that [`named`](Self::named) knows.
    pub const NAMES: &'static [&'static str] = &[
        "nat_mini",
        "nat_tiny",
        "nat_small",
        "nat_base",
        "dinat_mini",
        "dinat_tiny",
        "dinat_small",
        "dinat_base",
        "dinat_large",
        "dinat_large_384",
        "dinat_large_11x11_384",
        "dinat_s_tiny",
        "dinat_s_small",
        "dinat_s_base",
        "dinat_s_large",
        "dinat_s_large_384",
        "nat_isotropic_small",
        "nat_isotropic_base",
        "dinat_isotropic_small",
        "dinat_isotropic_base",
        "vitrpb_small",
        "vitrpb_base",
    ];

    /// The network of that name, `None` if there is none: see the table on the [module's page](super).
    pub fn named(name: &str) -> Option<Self> {
        let scaled = Some(1e-5);
        Some(match name {
            "nat_mini" => MINI.nat(None),
            "nat_tiny" => TINY.nat(None),
            "nat_small" => SMALL.nat(scaled),
            "nat_base" => BASE.nat(scaled),
            "dinat_mini" => MINI.dinat(None, AT_224),
            "dinat_tiny" => TINY.dinat(None, AT_224),
            "dinat_small" => SMALL.dinat(None, AT_224),
            "dinat_base" => BASE.dinat(scaled, AT_224),
            "dinat_large" => LARGE.dinat(None, AT_224),
            "dinat_large_384" => LARGE.dinat(None, AT_384),
            "dinat_large_11x11_384" => Self { window: 11, ..LARGE.dinat(None, AT_224) },
            "dinat_s_tiny" => S_TINY.dinat_s(AT_224),
            "dinat_s_small" => S_SMALL.dinat_s(AT_224),
            "dinat_s_base" => S_BASE.dinat_s(AT_224),
            "dinat_s_large" => S_LARGE.dinat_s(AT_224),
            "dinat_s_large_384" => S_LARGE.dinat_s(AT_384),
            "nat_isotropic_small" => Self::isotropic_small(),
            "nat_isotropic_base" => Self::isotropic_base(),
            "dinat_isotropic_small" => Self::isotropic_small().with_dilations([2]),
            "dinat_isotropic_base" => Self::isotropic_base().with_dilations([2]),
            // On the map of 14 × 14 tokens of an image of 224 pixels every token sees all.
            "vitrpb_small" => Self { window: 14, ..Self::isotropic_small() },
            "vitrpb_base" => Self { window: 14, ..Self::isotropic_base() },
            _ => return None,
        })
    }

    fn isotropic_small() -> Self {
        Self { layout: NatLayout::Patches(16), drop_path: 0.1, ..Self::new(384, [12], [12], 1000) }
    }

    fn isotropic_base() -> Self {
        Self { layout: NatLayout::Patches(16), drop_path: 0.4, ..Self::new(768, [12], [24], 1000) }
    }

    /// The dilations of DiNAT: 1 in the first block of each level, the level's own in the second, and so on in turns.
    #[must_use]
    pub fn with_dilations(self, farthest: impl IntoIterator<Item = usize>) -> Self {
        let turns = |(&depth, farthest)| (0..depth).map(|i| if i % 2 == 0 { 1 } else { farthest }).collect();
        let dilations = self.depths.iter().zip(farthest).map(turns).collect();
        Self { dilations, ..self }
    }
}
