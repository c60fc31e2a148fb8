use burn::tensor::{Int, Tensor, TensorData};
use regard_testkit::{Case, run};

use crate::{
    SpatialMixer,
    blocks::{VisionBlock, VisionBlockConfig},
    neighborhood_attention::{
        NeighborhoodAlgorithm, NeighborhoodAttention, NeighborhoodAttentionConfig, NeighborhoodOptions, WindowAxis, neighborhood_attention,
        reference,
    },
};

#[test]
fn goldens_of_neighborhood_attention_pass_through_definition_and_operation() {
    run("neighborhood-attention", &["op.", "layer."], &[("op.neighborhood_attention", golden_op), ("layer.nat", golden_layer)]);
}

fn golden_op(case: &Case) {
    match case.size("na_dim") {
        1 => check::<4, 2>(case),
        2 => check::<5, 3>(case),
        3 => check::<6, 4>(case),
        other => panic!("{other} axes"),
    }
}

/// `T` is the rank of the table of biases.
fn check<const N: usize, const T: usize>(case: &Case) {
    let list = |key: &str| case.config()[key].as_array().unwrap_or_else(|| panic!("config.{key} must be a list")).clone();
    let axes: Vec<WindowAxis> = (0..N - 3)
        .map(|i| WindowAxis {
            window: list("kernel_size")[i].as_u64().unwrap() as usize,
            stride: list("stride")[i].as_u64().unwrap() as usize,
            dilation: list("dilation")[i].as_u64().unwrap() as usize,
            causal: list("is_causal")[i].as_bool().unwrap(),
        })
        .collect();
    let scale = case.number("scale");
    let inputs = || ["in.q", "in.k", "in.v"].map(|name| case.float::<N>(name));
    let bias = || case.flag("rpb").then(|| case.float::<T>("in.rpb")).map(|x| x.flatten::<2>(1, T - 1));
    let extra = || (case.size("additional_kv") > 0).then(|| ["in.add_k", "in.add_v"].map(|name| case.float::<4>(name)));
    let outputs = |(o, lse): (Tensor<N>, Tensor<N>)| {
        case.output("y", o);
        if case.flag("lse") {
            case.output("lse", lse);
        }
    };

    let q = inputs()[0].dims();
    let n: usize = q[1..N - 2].iter().product();
    let seen = reference::hidden(&q[1..N - 2], &axes).into_iter().map(|hidden| i64::from(!hidden)).collect::<Vec<_>>();
    case.output_int("mask", Tensor::<2, Int>::from_data(TensorData::new(seen, [n, n]), case.device()));
    case.again();
    outputs(reference::dense(inputs(), &axes, scale, bias(), extra()));
    for algorithm in [NeighborhoodAlgorithm::Auto, NeighborhoodAlgorithm::Tiles] {
        case.again();
        let [q, k, v] = inputs();
        let options = NeighborhoodOptions { scale: Some(scale), bias: bias(), extra: extra(), algorithm };
        outputs(neighborhood_attention(q, k, v, &axes, options).unwrap());
    }
}

fn golden_layer(case: &Case) {
    let (d_model, heads, device) = (case.size("dim"), case.size("num_heads"), case.device());
    assert!((case.number("scale") - (heads as f64 / d_model as f64).sqrt()).abs() < 1e-12, "the usual scale");
    let config = NeighborhoodAttentionConfig {
        window: case.size("kernel_size"),
        dilation: case.size("dilation"),
        relative_bias: case.flag("rpb"),
        qkv_bias: case.flag("qkv_bias"),
        ..NeighborhoodAttentionConfig::new(heads)
    };
    let mixer = config.init(d_model, device).unwrap();
    let block = VisionBlockConfig {
        d_ff: (case.number("mlp_ratio") * d_model as f64) as usize,
        norm_epsilon: case.number("ln_eps"),
        conv: None,
        channel_conv: None,
        layer_scale: case.flag("layer_scale").then_some(1.0),
    };
    let block: VisionBlock<NeighborhoodAttention> = case.load(
        block.init(d_model, mixer, device).unwrap(),
        &[
            ("norm.", "norm1."),
            ("channel_norm.", "norm2."),
            ("mixer.", "attn."),
            ("mlp.up.", "mlp.fc1."),
            ("mlp.down.", "mlp.fc2."),
            ("gamma", "gamma1"),
            ("channel_gamma", "gamma2"),
        ],
    );
    let x = case.float::<4>("in.x");
    block.mixer.check_map([x.dims()[1], x.dims()[2]]).unwrap();
    case.output("y", block.forward(x));
}
