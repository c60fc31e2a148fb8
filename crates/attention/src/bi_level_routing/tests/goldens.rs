use burn::tensor::{Int, Tensor, TensorData};
use regard_testkit::{Case, run};

use crate::{
    SpatialMixer,
    bi_level_routing::{BiLevelRouting, BiLevelRoutingConfig, FullAttentionConfig, RoutedPadding, RoutedScale, reference, route},
    blocks::{VisionBlock, VisionBlockConfig, crop_map, pad_map, project},
};

#[test]
fn goldens_of_biformer_pass() {
    run(
        "biformer",
        &["layer."],
        &[
            ("layer.bra", golden_routing),
            ("layer.bra_conv", golden_conv),
            ("layer.attention_lepe", golden_full),
            ("layer.biformer_block", golden_block),
        ],
    );
}

fn config(case: &Case) -> BiLevelRoutingConfig {
    let (dim, heads) = (case.size("dim"), case.size("num_heads"));
    assert_eq!(case.size("qk_dim"), dim, "keys as wide as the model");
    assert!((case.number("scale") - 1.0 / (dim as f64).sqrt()).abs() < 1e-12, "the scale of the whole width");
    assert!(matches!(case.text("pad_mode"), "none" | "input"));
    BiLevelRoutingConfig {
        heads,
        regions: case.size("n_win"),
        topk: case.size("topk"),
        scale: RoutedScale::Width,
        local: case.size("lce_kernel"),
        padding: RoutedPadding::Input,
    }
}

/// Through the layer, then through the definition with its weights.
fn check(case: &Case, renames: &[(&str, &str)], x: impl Fn() -> Tensor<4>, back: impl Fn(Tensor<4>) -> Tensor<4>) {
    let (config, dim) = (config(case), case.size("dim"));
    assert!(!case.flag("soft_routing"));
    let layer = || -> BiLevelRouting { case.load(config.init(dim, case.device()).unwrap(), renames) };
    let (y, routing) = layer().attend(x()).unwrap();
    case.output("y", back(y));
    if case.flag("routing_outputs") {
        let index: Vec<i64> = routing.routes.index().iter().map(|region| *region as i64).collect();
        let shape = routing.weights.dims();
        case.output_int("routing_index", Tensor::<3, Int>::from_data(TensorData::new(index, shape), case.device()));
        case.output("routing_weight", routing.weights);
    }
    case.again();

    let layer = layer();
    let x = x();
    let [b, rows, columns, _] = x.dims();
    let x = pad_map(x, [config.regions; 2]);
    let [_, y, padded, _] = x.dims();
    let qkv = project(&layer.qkv, x);
    let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(3, i * dim, dim));
    let scale = case.number("scale");
    let routes = route(&q, &k, config.regions, config.topk, scale).unwrap().routes;
    let heads = |x: Tensor<4>| x.reshape([b, y, padded, config.heads, dim / config.heads]);
    let o = reference::gathered([q, k, v.clone()].map(heads), &routes, scale).reshape([b, y, padded, dim]);
    let o = o + layer.lepe.as_ref().unwrap().forward(v);
    case.output("y", back(project(&layer.wo, crop_map(o, [rows, columns]))));
}

fn golden_routing(case: &Case) {
    assert_eq!(case.text("layout"), "NHWC");
    check(case, &[("qkv.", "qkv.qkv.")], || case.float("in.x"), |y| y);
}

fn golden_conv(case: &Case) {
    assert_eq!(case.text("layout"), "NCHW");
    let renames = [("qkv.", "qkv_linear."), ("wo.", "output_linear.")];
    check(case, &renames, || case.float::<4>("in.x").permute([0, 2, 3, 1]), |y| y.permute([0, 3, 1, 2]));
}

fn golden_full(case: &Case) {
    let (dim, heads) = (case.size("dim"), case.size("num_heads"));
    assert!((case.number("scale") - (heads as f64 / dim as f64).sqrt()).abs() < 1e-12, "the scale of a head");
    let config = FullAttentionConfig { heads, local: case.size("lce_kernel"), qkv_bias: case.flag("qkv_bias") };
    let layer = case.load(config.init(dim, case.device()).unwrap(), &[]);
    case.output("y", layer.forward(case.float("in.x")));
}

fn golden_block(case: &Case) {
    let dim = case.size("dim");
    let block = VisionBlockConfig {
        d_ff: (case.number("mlp_ratio") * dim as f64) as usize,
        norm_epsilon: case.number("ln_eps"),
        conv: Some(case.size("pos_dwconv")),
        channel_conv: None,
        layer_scale: None,
    };
    let mixer = config(case).init(dim, case.device()).unwrap();
    let block: VisionBlock<BiLevelRouting> = case.load(
        block.init(dim, mixer, case.device()).unwrap(),
        &[
            ("conv.", "pos_embed."),
            ("norm.", "norm1."),
            ("channel_norm.", "norm2."),
            ("mixer.qkv.", "attn.qkv.qkv."),
            ("mixer.", "attn."),
            ("mlp.up.", "mlp.0."),
            ("mlp.down.", "mlp.3."),
        ],
    );
    let x = case.float::<4>("in.x").permute([0, 2, 3, 1]);
    case.output("y", block.forward(x).permute([0, 3, 1, 2]));
}
