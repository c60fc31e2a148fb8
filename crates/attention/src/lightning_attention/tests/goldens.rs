use burn::tensor::DType;
use regard_testkit::{Case, run};

use super::{super::Variant, VARIANTS};
use crate::{
    LayerPlace,
    blocks::{MlpConfig, MlpKind, NormKind, kernel::on_cpu, srms_norm},
    lightning_attention::{Activation, DecayRule, LightningConfig, LightningOpts, LrpeConfig, PositionPolicy, lightning_attention},
};

#[test]
fn goldens_of_the_operation_through_every_algorithm() {
    run("lightning-attention", &["op.", "layer."], &[("op.lightning_attention", op), ("op.decay_slopes", slopes)]);
}

#[test]
fn goldens_of_the_layer_and_its_parts() {
    run("tnl", &["op.", "layer."], &[("op.srmsnorm", norm), ("layer.lrpe", lrpe), ("layer.sglu", sglu), ("layer.tnl_gla", layer)]);
}

fn op(case: &Case) {
    assert_eq!(case.text("layout"), "BHND");
    let slopes = case.values("in.slope");
    // In f32 the tiled form is the fused kernel on the CPU, in f64 its form in tensor operations.
    let forms = VARIANTS.map(|variant| (variant, DType::F32)).into_iter().chain([(Variant::Tiled, DType::F64)]);
    // The other forms are made of Burn's products, which round f32 to the 11 bits of TF32 on a GPU.
    let forms = forms.filter(|form| *form == (Variant::Tiled, DType::F32) || on_cpu(case.device(), DType::F32));
    for ((variant, dtype), block) in forms.flat_map(|form| [5, 64].map(|block| (form, block))) {
        let options = LightningOpts {
            scale: case.number("scale"),
            block,
            variant,
            initial_state: case.flag("initial_state").then(|| case.float("in.initial_state")),
            cu_seqlens: case.has("in.cu_seqlens").then(|| case.values("in.cu_seqlens").iter().map(|&x| x as usize).collect()),
        };
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| case.float::<4>(name).cast(dtype));
        let (o, state) = lightning_attention(q, k, v, &slopes, options).unwrap();
        case.output("o", o.cast(DType::F32));
        case.output("final_state", state.cast(DType::F32));
        case.again();
    }
}

fn rule(name: &str) -> DecayRule {
    match name {
        "code" => DecayRule::Code,
        "paper" => DecayRule::Paper,
        "fla" => DecayRule::Fla,
        other => panic!("unknown decay rule {other}"),
    }
}

fn slopes(case: &Case) {
    for table in case.config()["tables"].as_array().expect("a list") {
        let rule = rule(table["rule"].as_str().expect("a text"));
        let heads = table["heads"].as_u64().expect("a number") as usize;
        let values: Vec<f64> = match table["layers"].as_u64() {
            None => rule.base(heads),
            Some(layers) => (0..layers as usize).flat_map(|layer| rule.slopes(heads, layers as usize, layer)).collect(),
        };
        let rows = values.len() / heads;
        let got = burn::tensor::Tensor::<1>::from_data(values.as_slice(), case.device()).reshape([rows, heads]);
        case.output(table["name"].as_str().expect("a text"), got);
    }
}

fn norm(case: &Case) {
    let eps = case.number("eps");
    match case.rank("in.x") {
        2 => case.output("y", srms_norm(case.float::<2>("in.x"), eps)),
        3 => case.output("y", srms_norm(case.float::<3>("in.x"), eps)),
        4 => case.output("y", srms_norm(case.float::<4>("in.x"), eps)),
        rank => panic!("in.x of rank {rank}"),
    }
}

fn lrpe(case: &Case) {
    let config = LrpeConfig { base: case.number("theta_base"), ..LrpeConfig::new(case.size("heads"), case.size("head_dim")) };
    let module = config.init(case.device()).unwrap();
    case.output("theta_init", module.theta.val());
    let module = case.load(module, &[]);
    case.output("y", module.forward(case.float("in.x"), case.size("offset")));
}

fn sglu(case: &Case) {
    assert_eq!(case.text("act"), "none");
    let config = MlpConfig { kind: MlpKind::Sglu, d_model: case.size("dim"), d_ff: case.size("glu_dim"), bias: case.flag("bias") };
    let module = case.load(config.init(case.device()).unwrap(), &[("gate", "l1"), ("up", "l2"), ("down", "l3")]);
    case.output("y", module.forward(case.float::<3>("in.x")));
}

fn layer(case: &Case) {
    assert_eq!(case.text("norm_type"), "simplermsnorm");
    let config = LightningConfig {
        width: Some(case.size("hidden_dim")),
        positions: if case.flag("use_lrpe") { PositionPolicy::LrpeDecay } else { PositionPolicy::Decay },
        decay: rule(case.text("decay_rule")),
        activation: match case.text("act") {
            "silu" | "swish" => Activation::Silu,
            "1+elu" => Activation::OnePlusElu,
            "none" => Activation::None,
            other => panic!("unknown activation {other}"),
        },
        norm: NormKind::SimpleRms,
        norm_epsilon: case.number("norm_eps"),
        ..LightningConfig::new(case.size("heads"))
    };
    let place = LayerPlace { index: case.size("layer_idx"), count: case.size("num_layers") };
    let stored = case.config()["slope"].as_array().expect("a list").iter().map(|s| s.as_f64().expect("a number"));
    for (got, want) in config.slopes(place).into_iter().zip(stored) {
        assert!((got - want).abs() <= 1e-6 * want, "slope {got}, stored {want}");
    }
    let layer = case.load(config.init(case.size("embed_dim"), place, case.device()).unwrap(), &[]);
    let padding = case.flag("attention_mask").then(|| case.int("in.attention_mask").equal_elem(0));
    case.output("y", layer.forward_at(case.float("in.x"), padding, case.size("lrpe_offset")));
}
