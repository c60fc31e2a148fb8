use burn::{
    module::Module,
    store::{ModuleStore, SafetensorsStore},
    tensor::{Bool, Int, Tensor, TensorData},
};
use regard::{
    MixerState,
    blocks::NormKind,
    lightning_attention::{Activation, DecayRule, GateKind, LightningConfig, PositionPolicy},
};
use regard_testkit::{Case, assert_close, cpu, run};

use super::{TnlConfig, read_weights, weights::NAMES, write_weights};
use crate::{DecoderState, weights::names};

#[test]
fn goldens_of_the_model() {
    run("tnl", &["model."], &[("model.tnl", model)]);
}

fn config(case: &Case) -> TnlConfig {
    assert_eq!((case.text("norm_type"), case.text("glu_act")), ("simplermsnorm", "none"));
    let heads = case.size("decoder_attention_heads");
    let flags = case.config()["linear_use_lrpe_list"].as_array().expect("a list");
    TnlConfig {
        mixer: LightningConfig {
            width: Some(case.size("hidden_dim")),
            decay: match case.text("decay_rule") {
                "code" => DecayRule::Code,
                "paper" => DecayRule::Paper,
                "fla" => DecayRule::Fla,
                other => panic!("unknown decay rule {other}"),
            },
            activation: match case.text("linear_act_fun") {
                "silu" | "swish" => Activation::Silu,
                "1+elu" => Activation::OnePlusElu,
                "none" => Activation::None,
                other => panic!("unknown activation {other}"),
            },
            norm_epsilon: case.number("norm_eps"),
            bias: case.flag("bias"),
            block: 4,
            ..LightningConfig::new(heads)
        },
        lrpe_layers: Some(flags.iter().map(|f| f.as_i64() == Some(1)).collect()),
        norm_epsilon: case.number("norm_eps"),
        scale_embedding: !case.flag("no_scale_embedding"),
        tied: case.flag("tie_word_embeddings"),
        ..TnlConfig::new(case.size("vocab_size"), case.size("decoder_embed_dim"), case.size("decoder_layers"), heads, case.size("glu_dim"))
    }
}

fn model(case: &Case) {
    let config = config(case);
    let model = config.init(case.device()).unwrap();
    assert_eq!((config.params(), model.params()), (case.size("params"), case.size("params")));
    let renames = names(&model, &NAMES);
    let renames: Vec<_> = renames.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let model = case.load(model, &renames);

    let ids = case.int::<2>("in.input_ids");
    let [b, n] = ids.dims();
    case.output("logits", model.forward(ids.clone(), None));
    case.output("loss", model.loss(ids.clone().narrow(1, 0, n - 1), ids.clone().narrow(1, 1, n - 1), None));

    let kv = |state: &DecoderState, layer: usize| match &state.layers[layer] {
        MixerState::Lightning(state) => state.kv.clone(),
        other => panic!("layer {layer} has the state {other:?}"),
    };
    let prefill = case.size("prefill");
    let mut state = model.state(b);
    let mut logits = vec![model.prefill(ids.clone().narrow(1, 0, prefill), &mut state).unwrap()];
    for layer in 0..config.layers {
        case.output(&format!("prefill_state_layer_{layer}"), kv(&state, layer));
    }
    for i in prefill..n {
        logits.push(model.step(ids.clone().narrow(1, i, 1).squeeze_dim(1), &mut state).unwrap().unsqueeze_dim(1));
    }
    case.output("decode_logits", Tensor::cat(logits, 1));
    for layer in 0..config.layers {
        case.output(&format!("state_layer_{layer}"), kv(&state, layer));
    }
}

#[test]
fn published_networks_have_the_published_number_of_weights() {
    let table = [
        ("tnl_385m", 384_926_720),
        ("tnl_385m_64k", 398_984_192),
        ("tnl_1b", 1_020_266_496),
        ("tnl_7b", 6_836_719_616),
        ("tnl_15b", 14_833_382_400),
    ];
    for (name, params) in table {
        let config = TnlConfig::named(name).expect(name);
        assert_eq!(config.params(), params, "{name}");
        assert_eq!(config.d_model / config.mixer.heads, 128, "{name}: width of a head");
    }
    assert!((2.85e9..2.95e9).contains(&(TnlConfig::tnl_3b().params() as f64)));
    assert!(TnlConfig::NAMES.iter().all(|name| TnlConfig::named(name).is_some()));
    assert_eq!(TnlConfig::named("tnl_2b"), None);
}

fn tiny() -> TnlConfig {
    TnlConfig::new(19, 16, 3, 2, 24)
}

#[test]
fn every_ablation_is_a_configuration_with_a_known_number_of_weights() {
    let mixer = || LightningConfig::new(2);
    let configs = [
        tiny(),
        TnlConfig { tied: false, norm: NormKind::Layer, ..tiny() },
        TnlConfig { norm: NormKind::Rms, ..tiny() },
        TnlConfig { position_vectors: Some(40), mixer: LightningConfig { positions: PositionPolicy::None, ..mixer() }, ..tiny() },
        TnlConfig { lrpe_layers: Some(vec![false, true, true]), ..tiny() },
        TnlConfig {
            lrpe_layers: Some(vec![false, true, false]),
            mixer: LightningConfig { positions: PositionPolicy::Lrpe, ..mixer() },
            ..tiny()
        },
        TnlConfig { mixer: LightningConfig { gate: GateKind::None, bias: true, ..mixer() }, ..tiny() },
        TnlConfig { mixer: LightningConfig { decay_by_layer: false, activation: Activation::None, ..mixer() }, ..tiny() },
    ];
    for config in configs {
        let model = config.init(&cpu()).unwrap();
        assert_eq!(config.params(), model.num_params(), "{config:?}");
    }
}

fn ids(values: &[i64], rows: usize) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [rows, values.len() / rows]), &cpu())
}

#[test]
fn weights_are_read_back_under_the_official_names() {
    let path = std::env::temp_dir().join(format!("regard-tnl-{}.safetensors", std::process::id()));
    for tied in [true, false] {
        let config = TnlConfig { tied, ..tiny() };
        let model = config.init(&cpu()).unwrap();
        write_weights(&model, &path).unwrap();
        let mut names = SafetensorsStore::from_file(&path).keys().unwrap();
        let mut want = vec!["model.embed_tokens.weight".to_string(), "model.layers.0.token_mixer.lrpe.theta".into()];
        want.extend((!tied).then(|| "lm_head.weight".into()));
        for layer in 0..3 {
            for name in ["token_mixer.qkvu_proj", "token_mixer.out_proj", "channel_mixer.l1", "channel_mixer.l2", "channel_mixer.l3"] {
                want.push(format!("model.layers.{layer}.{name}.weight"));
            }
        }
        names.sort();
        want.sort();
        assert_eq!(names, want);
        let other = read_weights(config.decoder().unwrap().skeleton(&cpu()).unwrap(), &path).unwrap().0;
        let tokens = ids(&[1, 2, 3, 4], 1);
        assert_close("logits", &other.forward(tokens.clone(), None), &model.forward(tokens, None), 0.0);
        let wider = TnlConfig::new(19, 32, 3, 2, 24).init(&cpu()).unwrap();
        assert!(read_weights(wider, &path).is_err(), "a checkpoint of another width");
        std::fs::remove_file(&path).unwrap();
    }
    assert!(read_weights(tiny().init(&cpu()).unwrap(), &path).is_err(), "no file");
}

#[test]
fn left_padding_leaves_the_logits_of_the_tokens_alone() {
    let model = tiny().init(&cpu()).unwrap();
    let want = model.forward(ids(&[3, 1, 4, 1, 5], 1), None);
    let padding = Tensor::<2, Bool>::from_data(TensorData::new(vec![true, true, false, false, false, false, false], [1, 7]), &cpu());
    let got = model.forward(ids(&[7, 8, 3, 1, 4, 1, 5], 1), Some(padding));
    assert_close("padded", &got.narrow(1, 2, 5), &want, 1e-4);
}

#[test]
fn the_state_has_the_published_size_whatever_the_prompt() {
    // 24·8·128·128 + 8·128·128 numbers at 385M; here with the sizes of the small network.
    let model = tiny().init(&cpu()).unwrap();
    let mut state = model.state(1);
    let bytes = 4 * (3 * 2 * 8 * 8 + 2 * 8 * 8);
    assert_eq!((state.bytes(), tiny().state_bytes()), (bytes, bytes));
    for prompt in [1, 5, 40] {
        model.prefill(ids(&vec![1; prompt], 1), &mut state).unwrap();
        assert_eq!(state.bytes(), bytes);
    }
    assert_eq!(state.position, 46);
}

#[test]
fn a_list_of_encoding_layers_must_name_every_layer() {
    let error = TnlConfig { lrpe_layers: Some(vec![true]), ..tiny() }.init(&cpu()).unwrap_err();
    assert_eq!(error.to_string(), "tnl: `lrpe_layers` must be a flag for each of 3 layers, got 1");
    let error = TnlConfig { d_ff: 0, ..tiny() }.init(&cpu()).unwrap_err();
    assert_eq!(error.to_string(), "mlp: `d_ff` must be at least 1, got 0");
    let error = TnlConfig::new(19, 16, 3, 3, 24).init(&cpu()).unwrap_err();
    assert_eq!(error.to_string(), "lightning: `heads` must be a divisor of d_model = 16, got 3");
}
