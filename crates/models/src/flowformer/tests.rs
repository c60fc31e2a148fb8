use burn::{
    module::Module,
    tensor::{Bool, Int, Tensor},
};
use regard::flow_attention::FlowAttentionConfig;
use regard_testkit::{Case, Sampler, assert_close, cpu, run};

use super::{FlowformerConfig, FlowformerSeriesConfig, FlowformerVisionConfig, LANGUAGE_NAMES, SeriesLayout, VisionLayout};
use crate::weights::{Layout, names};

#[test]
fn goldens_of_the_flowformer_models() {
    let table: [(&str, fn(&Case)); 3] =
        [("model.flowformer_gpt", language), ("model.flowformer_vision", vision), ("model.flowformer_time_series", series)];
    run("flowformer", &["model."], &table);
}

/// The module with the weights of the file, under the published names.
fn load<M: Module + 'static>(case: &Case, module: M, layout: &impl Layout) -> M {
    let renames = names(&module, layout);
    let renames: Vec<_> = renames.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    case.load(module, &renames)
}

fn attention(case: &Case) -> FlowAttentionConfig {
    let clamp = case.config()["clamp"].as_array().map(|bounds| [0, 1].map(|i: usize| bounds[i].as_f64().expect("a number")));
    FlowAttentionConfig {
        feature_map: serde_json::from_value(case.config()["feature_map"].clone()).expect("a known map"),
        eps: case.number("eps"),
        extra_eps: case.number("extra_eps"),
        clamp,
        ..FlowAttentionConfig::new(case.size("heads"))
    }
}

fn language(case: &Case) {
    assert!(case.flag("pre_norm") && case.flag("causal"));
    assert_eq!(case.text("act"), "gelu_tanh");
    let config = FlowformerConfig {
        attention: attention(case),
        mlp_ratio: case.size("mlp_ratio"),
        tied: case.flag("tie"),
        norm_epsilon: case.number("norm_eps"),
        ..FlowformerConfig::new(case.size("vocab"), case.size("n_embd"), case.size("layers"), case.size("heads"), case.size("block_size"))
    };
    let model = config.init(case.device()).unwrap();
    assert_eq!(model.params(), case.size("params"));
    let model = load(case, model, &LANGUAGE_NAMES);
    let (ids, targets) = (case.int::<2>("in.input_ids"), case.int::<2>("in.targets"));
    case.output("logits", model.forward(ids.clone(), None));
    // −1 is left out in any case.
    let ignore = usize::try_from(case.config()["ignore_index"].as_i64().expect("a number")).ok();
    case.output("loss", model.loss(ids, targets, ignore));
}

fn vision(case: &Case) {
    assert!(!case.flag("causal") && case.flag("bias"));
    assert_eq!(case.text("act"), "gelu");
    let sizes = |key: &str| case.config()[key].as_array().expect("a list").iter().map(|n| n.as_u64().expect("a size") as usize).collect();
    let config = FlowformerVisionConfig {
        channels: case.size("in_channels"),
        patch: case.size("patch_size"),
        widths: sizes("embed_dim"),
        depths: sizes("depth"),
        attention: attention(case),
        mlp_ratio: case.size("mlp_ratio"),
        norm_epsilon: case.number("norm_eps"),
        ..FlowformerVisionConfig::new(case.size("img_size"), [1; 4], [1; 4], 1, case.size("num_classes"))
    };
    let model = config.init(case.device()).unwrap();
    assert_eq!(model.num_params(), case.size("params"));
    let model = load(case, model, &VisionLayout);
    case.output("logits", model.forward(case.float("in.images")).unwrap());
}

fn series(case: &Case) {
    assert!(!case.flag("causal"));
    assert_eq!((case.text("act"), case.text("pos_encoding")), ("gelu", "learnable"));
    let config = FlowformerSeriesConfig {
        d_model: case.size("d_model"),
        layers: case.size("layers"),
        d_ff: case.size("d_ff"),
        attention: attention(case),
        mask_in_attention: case.flag("mask_in_attention"),
        norm_epsilon: case.number("norm_eps"),
        dropout: 0.0,
        ..FlowformerSeriesConfig::new(case.size("feat_dim"), case.size("max_len"), case.size("classes"))
    };
    let model = config.init(case.device()).unwrap();
    assert_eq!(model.num_params(), case.size("params"));
    let model = load(case, model, &SeriesLayout);
    let padding: Tensor<2, Bool> = case.int::<2>("in.padding_masks").equal_elem(0);
    case.output("logits", model.forward(case.float("in.x"), Some(padding)).unwrap());
}

#[test]
fn named_networks_have_the_published_number_of_weights_and_none_is_made() {
    let table = [
        ("flowformer_gpt2", 163_037_184, Some(124_439_808)),
        ("flowformer_gpt2_medium", 406_286_336, None),
        ("flowformer_gpt2_large", 838_359_040, None),
        ("flowformer_gpt2_xl", 1_638_022_400, None),
        ("flowformer_gopher_44m", 77_207_552, Some(51_475_968)),
        ("flowformer_gpt_mini", 22_164_864, None),
        ("flowformer_gpt_micro", 13_790_208, None),
        ("flowformer_gpt_nano", 4_958_736, None),
        ("flowformer_wikitext103", 156_262_400, None),
    ];
    assert_eq!(table.len(), FlowformerConfig::NAMES.len());
    for (name, params, without_head) in table {
        assert!(FlowformerConfig::NAMES.contains(&name));
        let config = FlowformerConfig::named(name).expect(name);
        let model = config.decoder().skeleton(&cpu()).unwrap();
        assert_eq!(model.params(), params, "{name}");
        if let Some(without) = without_head {
            assert_eq!(params - config.vocab * config.d_model, without, "{name} without its head");
        }
        assert!(!model.embedding.weight.is_initialized());
    }
    assert_eq!(FlowformerConfig::named("flowformer_gpt3"), None);
    let vision = FlowformerVisionConfig::imagenet().init(&cpu()).unwrap();
    assert_eq!(vision.num_params(), 43_311_304);
    assert!(!vision.pos_embed.is_initialized());
}

#[test]
fn the_language_model_decodes_as_it_trains_and_ends_with_its_positions() {
    let config = FlowformerConfig::new(17, 16, 2, 2, 6);
    let model = config.init(&cpu()).unwrap();
    let ids = Tensor::<2, Int>::from_data([[3, 1, 4, 1, 5, 9]], &cpu());
    let mut state = model.state(1);
    let first = model.prefill(ids.clone().narrow(1, 0, 5), &mut state).unwrap();
    let last = model.step(ids.clone().narrow(1, 5, 1).squeeze_dim(1), &mut state).unwrap();
    assert_close("decoded", &Tensor::cat(vec![first, last.unsqueeze_dim(1)], 1), &model.forward(ids, None), 1e-4);
    assert_eq!(state.bytes(), config.state_bytes());
    let error = model.step(Tensor::from_data([1], &cpu()), &mut state).unwrap_err().to_string();
    assert_eq!(error, "decoder: `ids` must be within the 6 learned positions, got 7 tokens");
}

fn tiny_series() -> FlowformerSeriesConfig {
    FlowformerSeriesConfig { d_model: 8, d_ff: 12, dropout: 0.0, ..FlowformerSeriesConfig::new(3, 7, 4) }
}

#[test]
fn what_stands_in_padded_steps_moves_nothing_unless_attention_sees_them() {
    let x = Sampler::new(1).tensor([1, 7, 3], -1.0, 1.0).f32(&cpu());
    let other = Tensor::cat(vec![x.clone().narrow(1, 0, 5), Sampler::new(2).tensor([1, 2, 3], -9.0, 9.0).f32(&cpu())], 1);
    let padding = Tensor::<2, Bool>::from_data([[false, false, false, false, false, true, true]], &cpu());
    for mask_in_attention in [true, false] {
        let model = FlowformerSeriesConfig { mask_in_attention, ..tiny_series() }.init(&cpu()).unwrap();
        let [a, b] = [&x, &other].map(|x| model.forward(x.clone(), Some(padding.clone())).unwrap());
        let moved = regard_testkit::relative_error(&a, &b);
        assert_eq!(moved < 1e-6, mask_in_attention, "moved by {moved}");
    }
}

#[test]
fn inputs_of_another_size_are_errors() {
    let model = tiny_series().init(&cpu()).unwrap();
    let error = model.forward(Tensor::zeros([2, 8, 3], &cpu()), None).unwrap_err().to_string();
    assert_eq!(error, "flowformer_series: `x` must be of shape [B, 7, 3], got [2, 8, 3]");
    let padding = Tensor::<2, Bool>::from_data([[true; 7]], &cpu());
    let error = model.forward(Tensor::zeros([2, 7, 3], &cpu()), Some(padding)).unwrap_err().to_string();
    assert_eq!(error, "flowformer_series: `padding` must be of shape [2, 7], got [1, 7]");
    let vision = FlowformerVisionConfig::new(32, [8, 8, 8, 16], [1, 0, 1, 1], 2, 5).init(&cpu()).unwrap();
    let error = vision.forward(Tensor::zeros([1, 3, 64, 64], &cpu())).unwrap_err().to_string();
    assert_eq!(error, "flowformer_vision: `images` must be of shape [B, 3, 32, 32], got [1, 3, 64, 64]");
}

#[test]
fn configurations_that_do_not_fit_are_errors() {
    let vision = |f: &dyn Fn(&mut FlowformerVisionConfig)| {
        let mut config = FlowformerVisionConfig::new(32, [8, 8, 8, 16], [1; 4], 2, 5);
        f(&mut config);
        config.init(&cpu()).unwrap_err().to_string()
    };
    assert_eq!(vision(&|c| c.image = 48), "flowformer_vision: `image` must be a multiple of 32 for 4 stages, got 48");
    assert_eq!(vision(&|c| c.patch = 0), "flowformer_vision: `patch` must be at least 1, got 0");
    assert_eq!(vision(&|c| c.widths.clear()), "flowformer_vision: `widths` must be at least 1, got 0");
    assert_eq!(vision(&|c| c.depths = vec![1]), "flowformer_vision: `depths` must be one for each of 4 stages, got 1");
    assert_eq!(vision(&|c| c.widths = vec![8; 90]), "flowformer_vision: `depths` must be one for each of 90 stages, got 4");
    assert_eq!(vision(&|c| c.attention.heads = 3), "flow: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(vision(&|c| c.mlp_ratio = 0), "mlp: `d_ff` must be at least 1, got 0");
    let series = |config: FlowformerSeriesConfig| config.init(&cpu()).unwrap_err().to_string();
    let config = FlowformerSeriesConfig { length: 0, ..tiny_series() };
    assert_eq!(series(config), "flowformer_series: `length` must be at least 1, got 0");
    let config = FlowformerSeriesConfig { dropout: 1.0, ..tiny_series() };
    assert_eq!(series(config), "flowformer_series: `dropout` must be in [0, 1), got 1");
}
