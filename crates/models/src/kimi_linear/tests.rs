use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Bool, DType, Int, Tensor, TensorData},
};
use regard::blocks::MoeConfig;
use regard_testkit::{Case, assert_close, cpu, run};

use super::{KimiLinearConfig, weights::NAMES};
use crate::weights::names;

#[test]
fn kimi_linear_goldens_of_the_model() {
    run("kimi-linear", &["model."], &[("model.kimi_linear", model)]);
}

fn model(case: &Case) {
    let config = KimiLinearConfig::from_hugging_face(&case.config().to_string()).unwrap();
    assert!((case.number("qk_l2norm_eps") - 1e-6).abs() < 1e-18, "the norm of queries and keys");
    let model = config.init(case.device()).unwrap();
    assert_eq!(model.params(), case.size("params"));
    let renames = names(&model, &NAMES);
    let renames: Vec<_> = renames.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let model = case.load(model, &renames);

    let ids = case.int::<2>("in.input_ids");
    let [b, n] = ids.dims();
    case.output("logits", model.forward(ids.clone(), None));
    case.output("loss", model.loss(ids.clone().narrow(1, 0, n - 1), ids.clone().narrow(1, 1, n - 1), None));

    let prefill = case.size("prefill");
    let mut state = model.state(b);
    let mut logits = vec![model.prefill(ids.clone().narrow(1, 0, prefill), &mut state).unwrap()];
    for i in prefill..n {
        logits.push(model.step(ids.clone().narrow(1, i, 1).squeeze_dim(1), &mut state).unwrap().unsqueeze_dim(1));
    }
    case.output("decode_logits", Tensor::cat(logits, 1));
}

pub(super) fn tiny() -> KimiLinearConfig {
    let moe = MoeConfig { shared: 1, scale: 2.446, ..MoeConfig::new(4, 2, 6) };
    KimiLinearConfig { moe: Some(moe), ..KimiLinearConfig::new(19, 16, 4, 2) }
}

fn ids(values: &[i64]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &cpu())
}

#[test]
fn the_published_network_has_the_published_numbers_of_weights_and_none_is_made() {
    struct Made(usize);
    impl ModuleVisitor for Made {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 += usize::from(param.is_initialized());
        }
    }
    let config = KimiLinearConfig::named("kimi_linear_48b").unwrap();
    let model = config.skeleton(&cpu()).unwrap();
    let mixers: Vec<_> = model.blocks.iter().map(|b| b.mixer.num_params()).collect();
    for (index, params) in mixers.into_iter().enumerate() {
        let latent = [4, 8, 12, 16, 20, 24, 27].contains(&(index + 1));
        assert_eq!(params, if latent { 29_114_880 } else { 39_514_272 }, "layer {}", index + 1);
    }
    assert_eq!(model.blocks[0].mlp.dense().unwrap().num_params(), 63_700_992);
    assert_eq!(model.blocks[26].mlp.moe().unwrap().num_params(), 1_819_607_040 + 256);
    assert_eq!(model.num_params(), 49_122_681_728);
    assert_eq!(model.params(), 49_122_675_072);
    assert_eq!(model.active_params(), 3_106_965_888);
    let mut made = Made(0);
    model.visit(&mut made);
    assert_eq!(made.0, 0);
    assert!(KimiLinearConfig::NAMES.iter().all(|name| KimiLinearConfig::named(name).is_some()));
    assert_eq!(KimiLinearConfig::named("kimi_linear_1b"), None);
}

#[test]
fn without_lists_latent_attention_stands_in_every_fourth_layer_and_in_the_last() {
    let published = KimiLinearConfig::kimi_linear_48b();
    let rule = KimiLinearConfig { kda_layers: Vec::new(), full_attention_layers: Vec::new(), ..published.clone() };
    assert_eq!(rule.full_attention().unwrap(), published.full_attention().unwrap());
}

#[test]
fn decoding_keeps_the_bytes_of_the_formula() {
    let published = KimiLinearConfig::kimi_linear_48b();
    let million = 1 << 20;
    let kept = published.cache_bytes(million, DType::BF16).unwrap();
    assert_eq!(kept.latent, 8064 * million);
    assert_eq!(kept.memory, 40 << 20);
    assert_eq!(kept.convolution, 2 * 737_280);
    let all = published.all_latent().cache_bytes(million, DType::BF16).unwrap();
    assert_eq!(all.total(), 31_104 * million);
    let saved = 1.0 - kept.total() as f64 / all.total() as f64;
    assert!((0.738..0.741).contains(&saved), "{saved}");

    let config = tiny();
    let model = config.init(&cpu()).unwrap();
    for tokens in [16, 64] {
        let mut state = model.state(1);
        model.prefill(ids(&vec![1; tokens]), &mut state).unwrap();
        assert_eq!(state.bytes(), config.cache_bytes(tokens, DType::F32).unwrap().total(), "{tokens} tokens");
    }
}

#[test]
fn left_padding_leaves_the_logits_of_the_tokens_alone() {
    let model = tiny().init(&cpu()).unwrap();
    let want = model.forward(ids(&[3, 1, 4, 1, 5]), None);
    let padding = Tensor::<2, Bool>::from_data([[true, true, false, false, false, false, false]], &cpu());
    let got = model.forward(ids(&[7, 8, 3, 1, 4, 1, 5]), Some(padding));
    assert_close("padded", &got.narrow(1, 2, 5), &want, 1e-4);
}

#[test]
fn every_row_of_the_reports_comparison_decodes_as_it_trains() {
    let rows = [
        tiny(),
        tiny().all_latent(),
        KimiLinearConfig { kda: regard::kimi_delta::KimiDeltaConfig { scalar_gate: true, ..tiny().kda }, ..tiny() },
        KimiLinearConfig {
            mla: regard::latent_attention::LatentAttentionConfig { rotary_base: Some(1e4), ..tiny().mla },
            kda_layers: vec![1, 3],
            full_attention_layers: vec![2, 4],
            ..tiny()
        },
        KimiLinearConfig { moe: None, tied: true, ..tiny() },
    ];
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    for config in rows {
        let model = config.init(&cpu()).unwrap();
        let want = model.forward(ids(&tokens), None);
        let mut state = model.state(1);
        let mut parts = vec![model.prefill(ids(&tokens[..5]), &mut state).unwrap()];
        for token in &tokens[5..] {
            parts.push(model.step(Tensor::from_data([*token], &cpu()), &mut state).unwrap().unsqueeze_dim(1));
        }
        assert_close(&format!("{config:?}"), &Tensor::cat(parts, 1), &want, 1e-4);
    }
}

#[test]
fn lists_of_layers_name_every_layer_once() {
    let error = |kda: &[usize], full: &[usize]| {
        let config = KimiLinearConfig { kda_layers: kda.to_vec(), full_attention_layers: full.to_vec(), ..tiny() };
        assert!(config.cache_bytes(1, DType::F32).is_err());
        config.init(&cpu()).unwrap_err().to_string()
    };
    assert_eq!(
        error(&[1, 2, 4], &[3, 4]),
        "kimi_linear: `full_attention_layers` must be disjoint from `kda_layers`, got layer 4, which is in both"
    );
    assert_eq!(
        error(&[1, 2], &[4]),
        "kimi_linear: `full_attention_layers` must be a list that names every layer up to 4 which `kda_layers` does not, got none with layer 3"
    );
    assert_eq!(error(&[1, 2, 2], &[3, 4]), "kimi_linear: `kda_layers` must be a list without repetitions, got layer 2 twice");
    for layer in [0, 5] {
        let message = error(&[1, 2, layer], &[3, 4]);
        assert_eq!(message, format!("kimi_linear: `kda_layers` must be layers counted from 1 to 4, got layer {layer}"));
    }
}

#[test]
fn the_configuration_of_a_checkpoint_of_another_kind_is_an_error() {
    let good = serde_json::json!({
        "vocab_size": 19, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 40, "kv_lora_rank": 32,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "rms_norm_eps": 1e-5, "model_type": "kimi_linear",
        "linear_attn_config": { "num_heads": 2, "head_dim": 8, "short_conv_kernel_size": 4 },
    });
    let read = |json: &serde_json::Value| KimiLinearConfig::from_hugging_face(&json.to_string());
    let config = read(&good).unwrap();
    assert_eq!(
        config.skeleton(&cpu()).unwrap().params(),
        KimiLinearConfig { d_ff: 40, ..KimiLinearConfig::new(19, 16, 4, 2) }.skeleton(&cpu()).unwrap().params()
    );
    for (key, value, message) in [
        ("q_lora_rank", 8.into(), "`q_lora_rank` must be null: queries without a latent vector, got 8"),
        ("moe_layer_freq", 2.into(), "`moe_layer_freq` must be 1: experts in every layer behind the dense ones, got 2"),
        ("moe_router_activation_func", "softmax".into(), "`moe_router_activation_func` must be sigmoid, got softmax"),
        ("hidden_act", "gelu".into(), "`hidden_act` must be silu, got gelu"),
        (
            "linear_attn_config",
            serde_json::Value::Null,
            "`linear_attn_config` must be a table with `num_heads`, `head_dim` and the layers, got none",
        ),
    ] {
        let mut json = good.clone();
        json[key] = value;
        assert_eq!(read(&json).unwrap_err().to_string(), format!("kimi_linear: {message}"));
    }
    let error = KimiLinearConfig::from_hugging_face("{}").unwrap_err().to_string();
    assert!(error.contains("missing field `vocab_size`"), "{error}");
}
