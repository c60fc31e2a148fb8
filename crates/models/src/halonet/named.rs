use regard::halo_attention::HaloAttentionConfig;

use super::{
    config::{HaloMixer, HaloNetConfig, HaloStageConfig},
    gate::GateKind,
};
use crate::vision::Activation;

/// A network of the paper's table.
struct Row {
    block: usize,
    halo: usize,
    /// r_v: the values are that many times as wide as queries and keys.
    values: f64,
    /// r_b: the output of a block is that many times as wide as what attention reads.
    width: f64,
    /// Blocks of the third stage; the others have three.
    depth: usize,
    features: usize,
    image: usize,
}

const fn row(block: usize, halo: usize, values: f64, width: f64, depth: usize, features: usize, image: usize) -> Row {
    Row { block, halo, values, width, depth, features, image }
}

/// H0 to H7.
const TABLE: [Row; 8] = [
    row(8, 3, 1.0, 0.5, 7, 0, 256),
    row(8, 3, 1.0, 1.0, 10, 0, 256),
    row(8, 3, 1.0, 1.25, 11, 0, 256),
    row(10, 3, 1.0, 1.5, 12, 1024, 320),
    row(12, 2, 1.0, 3.0, 12, 1280, 384),
    row(14, 2, 2.5, 2.0, 23, 1536, 448),
    row(8, 4, 3.0, 2.75, 24, 1536, 512),
    row(10, 3, 4.0, 3.5, 26, 2048, 600),
];

impl HaloNetConfig {
    /// The names of the networks of the paper, `halonet_h0` to `halonet_h7`, and of those with public weights.
    pub const NAMES: [&str; 13] = [
        "halonet_h0",
        "halonet_h1",
        "halonet_h2",
        "halonet_h3",
        "halonet_h4",
        "halonet_h5",
        "halonet_h6",
        "halonet_h7",
        "timm_halonet_h1",
        "halonet26t",
        "halonet50ts",
        "sehalonet33ts",
        "eca_halonext26ts",
    ];

    /// The network of that name, for 1000 classes; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        if !Self::NAMES.contains(&name) {
            return None;
        }
        Some(match name {
            "timm_halonet_h1" => {
                let mut config = Self::of_the_paper(TABLE.get(1)?);
                config.stages.iter_mut().for_each(|stage| stage.attention.heads = 8);
                config
            }
            "halonet26t" => {
                let stage = |width, depth, every| hybrid(width, width / 4, depth, every, 2);
                Self::hybrid([stage(256, 2, NO), stage(512, 2, NO), stage(1024, 2, LAST), stage(2048, 2, ALL)])
            }
            "halonet50ts" => {
                let stage = |width, depth, every| hybrid(width, width / 4, depth, every, 3);
                let mut second = stage(512, 4, LAST);
                second.attention.heads = 4;
                let stages = [stage(256, 3, NO), second, stage(1024, 6, EVERY_SECOND), stage(2048, 3, EVERY_SECOND)];
                Self { activation: Activation::Silu, ..Self::hybrid(stages) }
            }
            "sehalonet33ts" => {
                let stage = |width, depth, every| hybrid(width, width / 4, depth, every, 3);
                let stages = [stage(256, 2, NO), stage(512, 3, LAST), stage(1024, 3, LAST), hybrid(1536, 512, 2, ALL, 3)];
                Self {
                    stem_pool: false,
                    activation: Activation::Silu,
                    gate: GateKind::SqueezeExcite,
                    features: 1280,
                    ..Self::hybrid(stages)
                }
            }
            "eca_halonext26ts" => {
                let stage = |width: usize, depth, every| {
                    let inner = width / 4;
                    HaloStageConfig { key: Some(16), groups: inner / 16, ..hybrid(width, inner, depth, every, 2) }
                };
                let stages = [stage(256, 2, NO), stage(512, 2, NO), stage(1024, 2, LAST), stage(2048, 2, ALL)];
                Self { activation: Activation::Silu, gate: GateKind::Efficient, ..Self::hybrid(stages) }
            }
            _ => {
                let number: usize = name.strip_prefix("halonet_h")?.parse().ok()?;
                Self::of_the_paper(TABLE.get(number)?)
            }
        })
    }

    /// Rows and columns of the images that the named network was trained on; `None` if there is no such network.
    pub fn image_of(name: &str) -> Option<usize> {
        Self::named(name)?;
        let number = name.strip_prefix("halonet_h").and_then(|number| number.parse::<usize>().ok());
        Some(number.and_then(|number| TABLE.get(number)).map_or(256, |row| row.image))
    }

    fn of_the_paper(row: &Row) -> Self {
        // Widths that are no whole numbers are rounded down.
        let times = |width: usize, factor: f64| (width as f64 * factor) as usize;
        let stages =
            [(64, 3, 4, 1), (128, 3, 8, 2), (256, row.depth, 8, 2), (512, 3, 8, 2)].map(|(inner, depth, heads, stride)| HaloStageConfig {
                values: Some(times(inner, row.values)),
                stride,
                attention: HaloAttentionConfig { block: row.block, halo: row.halo, ..HaloAttentionConfig::new(heads) },
                ..HaloStageConfig::new(times(inner, row.width), inner, depth, heads)
            });
        Self { features: row.features, ..Self::new(64, stages.to_vec(), 1000) }
    }

    /// A stem of three convolutions, and stages of a residual network.
    fn hybrid(stages: [HaloStageConfig; 4]) -> Self {
        let mut stages = stages.to_vec();
        stages[0].stride = 1;
        Self { stem: vec![24, 32, 64], stem_kernel: 3, ..Self::new(64, stages, 1000) }
    }
}

/// Which blocks of a stage have attention, given their number and place.
type Which = fn(usize, usize) -> bool;
const NO: Which = |_, _| false;
const ALL: Which = |_, _| true;
const LAST: Which = |depth, place| place + 1 == depth;
const EVERY_SECOND: Which = |_, place| place % 2 == 1;

fn hybrid(width: usize, inner: usize, depth: usize, attention: Which, halo: usize) -> HaloStageConfig {
    let mixer = |place| if attention(depth, place) { HaloMixer::Attention } else { HaloMixer::Conv };
    let mut stage = HaloStageConfig::new(width, inner, depth, 8);
    stage.blocks = (0..depth).map(mixer).collect();
    stage.attention.halo = halo;
    stage
}
