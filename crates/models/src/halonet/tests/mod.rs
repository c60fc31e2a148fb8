mod hybrids;

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::Tensor,
};
use regard::halo_attention::{Border, HaloAttentionConfig, StridedPositions};
use regard_testkit::{Case, Sampler, assert_close, cpu, run};

use super::{BottleneckMixer, ChannelGate, GateKind, HaloMixer, HaloNet, HaloNetConfig, HaloStageConfig, MixedConv, NAMES};
use crate::vision::{
    freeze_statistics,
    testing::{images, is_empty, load, round_trip},
    trained_weights,
};

#[test]
fn goldens_of_the_model() {
    run("halonet", &["model."], &[("model.halonet", golden)]);
}

fn config(case: &Case) -> HaloNetConfig {
    assert_eq!((case.text("act"), case.text("bn")), ("relu", "eval"));
    assert_eq!(case.text("stem"), "conv7x7_s2_bn_relu_maxpool3x3_s2");
    let attention = HaloAttentionConfig {
        block: case.size("block_size"),
        halo: case.size("halo_size"),
        avg_down: case.flag("avg_down"),
        positions: if case.text("stride_rel") == "index" { StridedPositions::Index } else { StridedPositions::Pixel },
        scaled_positions: case.flag("scale_pos_embed"),
        border: if case.text("border") == "zero" { Border::Zero } else { Border::Mask },
        qkv_bias: case.flag("qkv_bias"),
        ..HaloAttentionConfig::new(case.size("num_heads"))
    };
    let stages = case.config()["stages"].as_array().expect("a list").iter().map(|stage| {
        let size = |key: &str| stage[key].as_u64().expect("a size") as usize;
        let of_stage = HaloStageConfig::new(size("c"), size("mid"), size("d"), attention.heads);
        HaloStageConfig { stride: size("stride"), attention: attention.clone(), ..of_stage }
    });
    let config = HaloNetConfig::new(case.size("stem_chs"), stages.collect(), case.size("num_classes"));
    HaloNetConfig { features: case.size("num_features"), norm_epsilon: case.number("bn_eps"), ..config }
}

fn golden(case: &Case) {
    let model = load(case, freeze_statistics(config(case).init(case.device()).unwrap()), &NAMES);
    let x = case.float::<4>("in.x");
    assert_eq!(x.dims()[2..].iter().map(|side| serde_json::json!(side)).collect::<serde_json::Value>(), case.config()["img"]);
    case.output("logits", model.forward(x).unwrap());
}

#[test]
fn named_networks_have_the_published_number_of_weights_and_none_is_made() {
    let table = [
        ("halonet_h0", 5_502_248, 2.353),
        ("halonet_h1", 8_101_352, 2.988),
        ("halonet_h2", 9_405_608, 3.313),
        ("halonet_h3", 11_842_792, 6.180),
        ("halonet_h4", 19_103_464, 11.998),
        ("halonet_h5", 30_718_952, 32.246),
        ("halonet_h6", 43_458_280, 52.787),
        ("halonet_h7", 67_434_728, 110.695),
        ("timm_halonet_h1", 8_100_056, 2.988),
        ("halonet26t", 12_480_288, 3.173),
        ("halonet50ts", 22_733_280, 5.270),
        ("sehalonet33ts", 13_691_712, 3.530),
        ("eca_halonext26ts", 10_756_885, 2.420),
    ];
    assert_eq!(table.map(|(name, ..)| name), HaloNetConfig::NAMES);
    for (name, weights, giga) in table {
        let model = HaloNetConfig::named(name).expect(name).init(&cpu()).unwrap();
        assert_eq!(trained_weights(&model), weights, "{name}");
        // Counted once, for the page: no count of the paper's is known.
        let counted = model.multiply_adds([HaloNetConfig::image_of(name).unwrap(); 2]).unwrap() / 1e9;
        assert!((counted - giga).abs() < 0.0005, "{name}: {counted}");
        assert!(is_empty(&model), "{name}");
    }
    assert_eq!(HaloNetConfig::named("halonet_h8"), None);
    assert_eq!(HaloNetConfig::named("halonet_h01"), None);
    assert_eq!((HaloNetConfig::image_of("halonet_h7"), HaloNetConfig::image_of("halonet50ts")), (Some(600), Some(256)));
}

#[test]
fn layers_are_as_many_as_published() {
    let layers = ["h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7"].map(|name| {
        let config = HaloNetConfig::named(&format!("halonet_{name}")).unwrap();
        3 * config.stages.iter().map(|stage| stage.blocks.len()).sum::<usize>() + 2
    });
    assert_eq!(layers, [50, 59, 62, 65, 65, 98, 101, 107]);
}

fn tiny(attention: HaloAttentionConfig) -> HaloNetConfig {
    let stage = |width, inner, depth| HaloStageConfig { attention: attention.clone(), ..HaloStageConfig::new(width, inner, depth, 2) };
    let stages = vec![HaloStageConfig { stride: 1, ..stage(8, 4, 1) }, HaloStageConfig { values: Some(6), ..stage(12, 8, 2) }];
    HaloNetConfig { zero_init_residual: false, ..HaloNetConfig::new(6, stages, 3) }
}

fn attention() -> HaloAttentionConfig {
    HaloAttentionConfig { block: 4, halo: 1, ..HaloAttentionConfig::new(2) }
}

#[test]
fn features_have_the_sides_of_their_strides_for_images_of_any_size() {
    let config = tiny(attention());
    let model = config.init(&cpu()).unwrap();
    for sides in [[32, 64], [37, 41], [5, 1]] {
        let x = images([2, 3, sides[0], sides[1]]);
        let maps = model.features(x.clone()).unwrap();
        let [quarter, eighth] = [4, 8].map(|stride| sides.map(|side: usize| side.div_ceil(stride)));
        assert_eq!(maps[0].dims(), [2, quarter[0], quarter[1], 8]);
        assert_eq!(maps[1].dims(), [2, eighth[0], eighth[1], 12]);
        let logits = model.forward(x).unwrap();
        assert_eq!(logits.dims(), [2, 3]);
        assert!(logits.into_data().iter::<f32>().all(f32::is_finite));
    }
    assert_eq!(model.forward(Tensor::zeros([0, 3, 32, 32], &cpu())).unwrap().dims(), [0, 3]);
}

#[test]
fn hybrids_of_all_kinds_run_and_every_weight_has_a_gradient() {
    for name in ["halonet26t", "halonet50ts", "sehalonet33ts", "eca_halonext26ts"] {
        let mut config = HaloNetConfig::named(name).unwrap();
        // The layout of the network, with widths of a sixteenth.
        for stage in &mut config.stages {
            (stage.width, stage.inner) = (stage.width / 16, stage.inner / 16);
            (stage.groups, stage.key) = (stage.groups.min(2), stage.key.map(|_| 3));
            stage.attention.heads = 2;
        }
        let config = HaloNetConfig { stem: vec![4, 6, 8], features: config.features / 80, classes: 5, zero_init_residual: false, ..config };
        let device = cpu().autodiff();
        let mut model = config.init(&device).unwrap();
        for block in model.stages.iter_mut().flatten() {
            if let BottleneckMixer::Conv(MixedConv { attn: Some(ChannelGate::SqueezeExcite(gate)), .. }) = &mut block.mixer {
                // No rectifier that is never above 0.
                gate.fc1.bias = Some(Initializer::Constant { value: 4.0 }.init([8], &device));
            }
        }
        let x = Tensor::from_inner(images([2, 3, 64, 64]));
        let grads = model.forward(x).unwrap().square().sum().backward();
        let mut missing = Missing { grads: &grads, names: Vec::new(), found: Vec::new() };
        model.visit(&mut missing);
        assert!(missing.found.is_empty(), "{name}: {:?}", missing.found);
    }
}

struct Missing<'a> {
    grads: &'a burn::tensor::Gradients,
    names: Vec<String>,
    found: Vec<String>,
}

impl burn::module::ModuleVisitor for Missing<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.names.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let statistic = self.names.last().is_some_and(|name| name.starts_with("running_"));
        let moves = param.val().grad(self.grads).is_some_and(|grad| grad.abs().max().into_scalar::<f32>() > 0.0);
        if !statistic && !moves {
            self.found.push(self.names.join("."));
        }
    }
}

#[test]
fn weights_come_back_under_timms_names() {
    let attention = HaloAttentionConfig { qkv_bias: true, ..attention() };
    let mut config = HaloNetConfig { stem: vec![3, 4, 6], stem_kernel: 3, features: 7, ..tiny(attention) };
    config.stages[0].blocks = vec![HaloMixer::Conv, HaloMixer::Attention];
    for (gate, weight) in [(GateKind::SqueezeExcite, "fc1"), (GateKind::Efficient, "conv")] {
        let config = HaloNetConfig { gate, ..config.clone() };
        let model = config.init(&cpu()).unwrap();
        let (back, names) = round_trip(&model, config.init(&cpu()).unwrap(), &NAMES);
        for name in [
            "stem.conv3.conv.weight",
            "stages.0.0.conv2_kxk.bn.running_var",
            &format!("stages.0.0.attn.{weight}.weight"),
            "stages.0.0.shortcut.conv.weight",
            "stages.0.1.self_attn.kv.bias",
            "stages.1.1.self_attn.pos_embed.height_rel",
            "stages.1.1.post_attn.running_mean",
            "final_conv.bn.bias",
            "head.fc.weight",
        ] {
            assert!(names.iter().any(|known| known == name), "{name} is not among {names:#?}");
        }
        let x = images([2, 3, 32, 64]);
        assert_close("logits", &back.forward(x.clone()).unwrap(), &model.forward(x).unwrap(), 0.0);
    }
}

#[test]
fn a_new_network_hands_maps_on_as_they_are_where_blocks_keep_their_shape() {
    let config = HaloNetConfig { zero_init_residual: true, ..tiny(attention()) };
    let model = config.init(&cpu()).unwrap();
    let block = &model.stages[1][1];
    let x = Sampler::new(2).tensor([1, 4, 4, 12], 0.0, 1.0).f32(&cpu());
    assert_close("x", &block.forward(x.clone()), &x, 0.0);
}

#[test]
fn operations_are_those_of_a_count_by_hand() {
    // One stage of one block of attention with a stride of 2: an image of 16 × 16, 8 × 8 behind the stem's convolution.
    let stage = HaloStageConfig { attention: attention(), values: Some(6), ..HaloStageConfig::new(12, 8, 1, 2) };
    let config = HaloNetConfig { stem_pool: false, features: 10, ..HaloNetConfig::new(5, vec![stage], 3) };
    let model: HaloNet = config.init(&cpu()).unwrap();
    let stem = 64 * 49 * 3 * 5;
    let (conv1, shortcut, conv3) = (64 * 5 * 8, 16 * 5 * 12, 16 * 6 * 12);
    // Queries of 16 tokens, keys and values of 64; per head 4 + 3 numbers against 6 × 6 keys, and 2 · 11 vectors of positions.
    let attention = 16 * 8 * 8 + 64 * 8 * 14 + 16 * 2 * (36 * 7 + 22 * 4);
    let rest = 16 * 12 * 10 + 10 * 3;
    assert_eq!(model.multiply_adds([16, 16]).unwrap(), f64::from(stem + conv1 + shortcut + conv3 + attention + rest));
}

#[test]
fn a_stride_takes_a_quarter_of_the_operations_of_attention_before_an_average() {
    // The claim of the paper on attention downsampling: of scores and outputs, not of the projections of keys and values.
    let mixing = |avg_down| {
        let stage = HaloStageConfig { attention: HaloAttentionConfig { avg_down, ..attention() }, ..HaloStageConfig::new(12, 8, 1, 2) };
        let model = HaloNetConfig::new(6, vec![stage], 3).init(&cpu()).unwrap();
        let BottleneckMixer::Attention(mixer) = &model.stages[0][0].mixer else { panic!("attention") };
        let queries = if avg_down { 1.0 } else { 0.25 };
        regard::SpatialMixer::flops(&mixer.self_attn, [16, 16]) / 2.0 - 256.0 * 8.0 * (16.0 + 8.0 * queries)
    };
    assert_eq!(mixing(true), 4.0 * mixing(false));
}

#[test]
fn configurations_and_images_that_do_not_fit_are_errors() {
    let message = |config: HaloNetConfig| config.init(&cpu()).unwrap_err().to_string();
    let with = |f: &dyn Fn(&mut HaloNetConfig)| {
        let mut config = tiny(attention());
        f(&mut config);
        message(config)
    };
    assert_eq!(with(&|c| c.classes = 0), "halonet: `classes` must be at least 1, got 0");
    assert_eq!(with(&|c| c.stages.clear()), "halonet: `stages` must be at least 1, got 0");
    assert_eq!(with(&|c| c.stages[0].blocks.clear()), "halonet: `blocks` must be at least one in each stage, got 0");
    assert_eq!(with(&|c| c.stages[1].stride = 3), "halonet: `stride` must be 1 or 2, got 3");
    assert_eq!(with(&|c| c.stages[1].attention.heads = 3), "halonet: `heads` must be a divisor of `inner` = 8, got 3");
    assert_eq!(with(&|c| c.stages[1].values = Some(5)), "halonet: `heads` must be a divisor of `values` = 5, got 2");
    assert_eq!(with(&|c| c.stages[0].attention.block = 0), "halo: `block` must be at least 1, got 0");
    assert_eq!(with(&|c| c.stages[0].width = 0), "conv_norm: `channels` must be at least 1, got 0");
    assert_eq!(with(&|c| c.stem_kernel = 4), "conv_norm: `kernel` must be odd, got 4");
    assert_eq!(with(&|c| c.drop_path = 1.5), "halonet: `drop_path` must be in [0, 1), got 1.5");
    assert_eq!(with(&|c| c.norm_epsilon = 0.0), "conv_norm: `epsilon` must be positive and finite, got 0");
    let groups = |c: &mut HaloNetConfig| {
        c.stages[0].blocks[0] = HaloMixer::Conv;
        c.stages[0].groups = 3;
    };
    assert_eq!(with(&groups), "conv_norm: `groups` must be a divisor of 4 and 4 channels, got 3");

    let model = tiny(HaloAttentionConfig { avg_down: true, ..attention() }).init(&cpu()).unwrap();
    let error = |sides: [usize; 2]| model.forward(images([2, 3, sides[0], sides[1]])).unwrap_err().to_string();
    let want = "halonet: `images` must be of a size whose maps have even sides where they are averaged, got a map of [8, 9]";
    assert_eq!(error([32, 36]), want);
    assert!(model.forward(images([2, 3, 32, 40])).is_ok());
    let strict = HaloNetConfig { strict: true, ..tiny(attention()) }.init(&cpu()).unwrap();
    assert!(strict.forward(images([1, 3, 32, 64])).is_ok());
    let error = strict.forward(images([1, 3, 32, 56])).unwrap_err().to_string();
    assert_eq!(error, "halonet: `images` must be of a size whose maps are multiples of the blocks of 4, got a map of [8, 14]");
    let error = model.forward(Tensor::zeros([1, 4, 32, 32], &cpu())).unwrap_err().to_string();
    assert_eq!(error, "halonet: `images` must be of shape [B, 3, Y, X] with pixels, got [1, 4, 32, 32]");
}
