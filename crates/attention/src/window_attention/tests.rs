use burn::{
    module::{Module, ModuleDisplay},
    tensor::Tensor,
};
use regard_testkit::{Case, Sampler, assert_close, cpu, relative_error, run, sweep};

use super::{WindowAttentionConfig, reference};
use crate::{
    SpatialMixer,
    blocks::{PatchMerge, VisionBlock, VisionBlockConfig, crop_map, from_windows, pad_map, project, to_windows},
    channel_attention::ChannelAttentionConfig,
};

#[test]
fn goldens_of_davit_pass() {
    run(
        "davit",
        &["layer."],
        &[
            ("layer.window_attention", golden_windows),
            ("layer.channel_attention", golden_channels),
            ("layer.davit_spatial_block", golden_spatial_block),
            ("layer.davit_channel_block", golden_channel_block),
            ("layer.davit_patch_merge", golden_patch_merge),
        ],
    );
}

fn check_scale(case: &Case) {
    let want = (case.size("num_heads") as f64 / case.size("dim") as f64).sqrt();
    assert!((case.number("scale") - want).abs() < 1e-12, "the usual scale");
}

fn golden_windows(case: &Case) {
    check_scale(case);
    let (dim, heads) = (case.size("dim"), case.size("num_heads"));
    let sides = case.config()["window_size"].as_array().expect("config.window_size").clone();
    let window = sides[0].as_u64().unwrap() as usize;
    assert_eq!(sides[0], sides[1], "square windows");
    let config = WindowAttentionConfig { window, qkv_bias: case.flag("qkv_bias"), ..WindowAttentionConfig::new(heads) };
    let layer = || case.load(config.init(dim, case.device()).unwrap(), &[]);
    let x = || {
        let x = case.float::<3>("in.x");
        let windows = x.dims()[0];
        x.reshape([windows, window, window, dim])
    };
    case.output("y", layer().forward(x()).reshape([-1, (window * window) as i64, dim as i64]));
    case.again();
    let layer = layer();
    let qkv = project(&layer.qkv, x());
    let parts = [0, 1, 2].map(|i| qkv.clone().narrow(3, i * dim, dim));
    let o = project(&layer.proj, reference::windows(parts, heads, [window; 2], case.number("scale")));
    case.output("y", o.reshape([-1, (window * window) as i64, dim as i64]));
}

fn golden_channels(case: &Case) {
    check_scale(case);
    let config = ChannelAttentionConfig { qkv_bias: case.flag("qkv_bias"), ..ChannelAttentionConfig::new(case.size("num_heads")) };
    let layer = case.load(config.init(case.size("dim"), case.device()).unwrap(), &[]);
    let y: Tensor<4> = layer.forward(case.float::<3>("in.x").unsqueeze_dim(1));
    case.output("y", y.squeeze_dim::<3>(1));
}

fn golden_block<M: Module + ModuleDisplay + SpatialMixer + 'static>(case: &Case, mixer: M) {
    assert!(!case.flag("cpe_act"), "no activation after a convolution");
    let (dim, map) = (case.size("dim"), [case.size("H"), case.size("W")]);
    let config = VisionBlockConfig {
        d_ff: (case.number("mlp_ratio") * dim as f64) as usize,
        norm_epsilon: case.number("ln_eps"),
        conv: Some(3),
        channel_conv: Some(3),
        layer_scale: None,
    };
    let block = config.init(dim, mixer, case.device()).unwrap();
    let block: VisionBlock<M> = case.load(
        block,
        &[
            ("conv.", "cpe.0.proj."),
            ("channel_conv.", "cpe.1.proj."),
            ("norm.", "norm1."),
            ("channel_norm.", "norm2."),
            ("mixer.", "attn."),
            ("mlp.up.", "mlp.fc1."),
            ("mlp.down.", "mlp.fc2."),
        ],
    );
    let x = case.float::<3>("in.x");
    let b = x.dims()[0];
    case.output("y", block.forward(x.reshape([b, map[0], map[1], dim])).reshape([b, map[0] * map[1], dim]));
}

fn golden_spatial_block(case: &Case) {
    let window = case.size("window_size");
    let config = WindowAttentionConfig { window, qkv_bias: case.flag("qkv_bias"), ..WindowAttentionConfig::new(case.size("num_heads")) };
    golden_block(case, config.init(case.size("dim"), case.device()).unwrap());
}

fn golden_channel_block(case: &Case) {
    let config = ChannelAttentionConfig { qkv_bias: case.flag("qkv_bias"), ..ChannelAttentionConfig::new(case.size("num_heads")) };
    golden_block(case, config.init(case.size("dim"), case.device()).unwrap());
}

fn golden_patch_merge(case: &Case) {
    assert!(!case.flag("overlapped"), "patches side by side");
    let (from, to) = (case.size("in_dim"), case.size("out_dim"));
    let norm = crate::blocks::NormKind::Layer.init(from, case.number("ln_eps"), case.device());
    let norm = case.load(norm, &[("", "norm.")]);
    let merge = PatchMerge::new(from, to, case.size("kernel"), case.device()).unwrap();
    let merge = case.load(merge, &[("", "proj.")]);
    let x = case.float::<3>("in.x");
    let b = x.dims()[0];
    let y = merge.forward(norm.forward(x.reshape([b, case.size("H"), case.size("W"), from])));
    assert_eq!(y.dims(), [b, case.size("out_H"), case.size("out_W"), to]);
    case.output("y", y.reshape([b as i64, -1, to as i64]));
}

/// The kernel reads windows where they lie; the definition cuts them out first.
#[test]
fn the_layer_is_its_definition_on_maps_of_any_size() {
    sweep("window attention", 60, |s| {
        let (heads, window) = (s.size(1, 4), s.size(1, 9));
        let (d, map) = (heads * s.size(1, 9), [s.size(1, 25), s.size(1, 25)]);
        let layer = WindowAttentionConfig { window, ..WindowAttentionConfig::new(heads) }.init(d, &cpu()).unwrap();
        let x = s.tensor([2, map[0], map[1], d], -2.0, 2.0).f32(&cpu());
        let qkv = project(&layer.qkv, pad_map(x.clone(), [window; 2]));
        let parts = [0, 1, 2].map(|i| qkv.clone().narrow(3, i * d, d));
        let o = reference::windows(parts, heads, [window; 2], (heads as f64 / d as f64).sqrt());
        assert_close("y", &layer.forward(x), &project(&layer.proj, crop_map(o, map)), 1e-5);
    });
}

#[test]
fn windows_do_not_see_one_another() {
    let layer = WindowAttentionConfig { window: 4, ..WindowAttentionConfig::new(2) }.init(8, &cpu()).unwrap();
    let x = Sampler::new(1).tensor([1, 8, 8, 8], -1.0, 1.0).f32(&cpu());
    let changed = x.clone().slice_assign([0..1, 0..4, 0..4, 0..8], Tensor::full([1, 4, 4, 8], 3.0, &cpu()));
    let [was, is] = [x, changed].map(|x| layer.forward(x));
    assert_eq!(was.clone().narrow(2, 4, 4).into_data(), is.clone().narrow(2, 4, 4).into_data());
    assert!(relative_error(&is.narrow(2, 0, 4), &was.narrow(2, 0, 4)) > 1e-2);
}

#[test]
fn maps_are_cut_into_windows_and_put_together_again() {
    let x: Tensor<4> = Sampler::new(2).tensor([2, 6, 8, 3], -1.0, 1.0).f32(&cpu());
    let windows = to_windows(x.clone(), [3, 2]);
    assert_eq!(windows.dims(), [2, 8, 6, 3]);
    let second = x.clone().slice([0..2, 0..3, 2..4, 0..3]).reshape([2, 1, 6, 3]);
    assert_eq!(windows.clone().narrow(1, 1, 1).into_data(), second.into_data());
    assert_eq!(from_windows(windows, [3, 2], [6, 8]).into_data(), x.into_data());
}

#[test]
fn configurations_that_fit_nowhere_are_refused() {
    let message = |config: WindowAttentionConfig| config.init(8, &cpu()).unwrap_err().to_string();
    assert_eq!(message(WindowAttentionConfig::new(3)), "window: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(message(WindowAttentionConfig { window: 0, ..WindowAttentionConfig::new(2) }), "window: `window` must be at least 1, got 0");
}
