use burn::{
    module::Module,
    tensor::{Bool, Tensor, TensorData},
};
use regard_testkit::{Case, Sampler, assert_close, cpu, run, sweep, three_way};

use super::{LatentAttention, LatentAttentionConfig};
use crate::{LayerPlace, MixerConfig, MixerMemory, SequenceMixer};

#[test]
fn kimi_linear_goldens_of_latent_attention_pass_expanded_and_absorbed() {
    run("kimi-linear", &["layer.mla"], &[("layer.mla", golden)]);
}

fn golden(case: &Case) {
    assert_eq!((case.text("rope"), case.flag("causal")), ("none", true));
    let config = LatentAttentionConfig {
        head_dim: Some(case.size("qk_nope_head_dim")),
        value_dim: Some(case.size("v_head_dim")),
        shared_dim: Some(case.size("qk_rope_head_dim")),
        rank: Some(case.size("kv_lora_rank")),
        norm_epsilon: case.number("kv_a_layernorm_eps"),
        ..LatentAttentionConfig::new(case.size("num_attention_heads"))
    };
    let width = (case.size("qk_nope_head_dim") + case.size("qk_rope_head_dim")) as f64;
    assert!((case.number("scale") - width.powf(-0.5)).abs() < 1e-9);
    let d_model = case.size("hidden_size");
    let (rank, shared) = (case.size("kv_lora_rank"), case.size("qk_rope_head_dim"));
    for absorbed in [false, true] {
        let layer = config.init(d_model, LayerPlace::ONLY, case.device()).unwrap();
        let layer = case.load(layer, &[("out_proj", "o_proj")]);
        let x = case.float::<3>("in.x");
        let kept = layer.compress(x.clone(), 0);
        let y = if absorbed { layer.absorbed(x, kept.clone()) } else { layer.forward(x, None) };
        case.output("y", y);
        case.output("cache_latent", kept.clone().narrow(3, 0, rank).squeeze_dim::<3>(1));
        case.output("cache_k_shared", kept.narrow(3, rank, shared).squeeze_dim::<3>(1));
        if !absorbed {
            case.again();
        }
    }
}

fn layer(config: &LatentAttentionConfig, d_model: usize) -> LatentAttention {
    config.init(d_model, LayerPlace::ONLY, &cpu()).unwrap()
}

#[test]
fn forward_prefill_and_steps_agree_for_any_widths() {
    sweep("latent attention", 12, |s| {
        let config = LatentAttentionConfig {
            head_dim: Some(s.size(1, 6)),
            value_dim: Some(s.size(1, 6)),
            shared_dim: Some(2 * s.size(1, 3)),
            rank: Some(s.size(1, 12)),
            rotary_base: s.flip().then_some(100.0),
            ..LatentAttentionConfig::new(s.size(1, 3))
        };
        let layer = layer(&config, 10);
        let (b, t) = (s.size(1, 3), s.size(1, 40));
        let x = s.tensor([b, t, 10], -20.0, 20.0).f32(&cpu());
        three_way("latent", &x, 1e-4, |x| layer.forward(x, None), || layer.state(b), |x, s| layer.prefill(x, s), |x, s| layer.step(x, s));
    });
}

#[test]
fn absorbed_and_expanded_are_the_same_numbers_with_and_without_a_shared_part() {
    for shared in [0, 4] {
        let config = LatentAttentionConfig { shared_dim: Some(shared), ..LatentAttentionConfig::new(2) };
        let layer = layer(&config, 16);
        let x = Sampler::new(4).tensor([2, 9, 16], -20.0, 20.0).f32(&cpu());
        let kept = layer.compress(x.clone(), 0);
        assert_eq!(kept.dims(), [2, 1, 9, 32 + shared]);
        assert_close("absorbed", &layer.absorbed(x.clone(), kept), &layer.forward(x, None), 1e-5);
    }
}

#[test]
fn few_new_tokens_are_absorbed_and_many_are_expanded() {
    let released = LatentAttentionConfig {
        head_dim: Some(128),
        value_dim: Some(128),
        shared_dim: Some(64),
        rank: Some(512),
        ..LatentAttentionConfig::new(1)
    };
    let layer = layer(&released, 8);
    assert!(layer.absorbing_is_cheaper(170));
    assert!(!layer.absorbing_is_cheaper(171));
}

#[test]
fn a_change_of_the_future_moves_nothing_before_it() {
    let layer = layer(&LatentAttentionConfig::new(2), 8);
    let mut s = Sampler::new(5);
    let x = s.tensor([1, 9, 8], -20.0, 20.0).f32(&cpu());
    let other = Tensor::cat(vec![x.clone().narrow(1, 0, 5), s.tensor([1, 4, 8], -20.0, 20.0).f32(&cpu())], 1);
    let cut = |x| layer.forward(x, None).narrow(1, 0, 5);
    assert_close("the past", &cut(other), &cut(x), 0.0);
}

#[test]
fn padding_on_either_side_does_not_change_the_outputs_of_tokens_nor_do_batch_mates() {
    let layer = layer(&LatentAttentionConfig::new(2), 8);
    let mut s = Sampler::new(6);
    let x = s.tensor([2, 9, 8], -20.0, 20.0).f32(&cpu());
    for range in [0..6, 3..9] {
        let hidden: Vec<bool> = (0..18).map(|i| i < 9 && !range.contains(&i)).collect();
        let padding = Tensor::<2, Bool>::from_data(TensorData::new(hidden, [2, 9]), &cpu());
        let y = layer.forward(x.clone(), Some(padding));
        assert!(y.clone().into_data().iter::<f32>().all(f32::is_finite));
        let alone = layer.forward(x.clone().narrow(0, 0, 1).narrow(1, range.start, range.len()), None);
        assert_close(&format!("{range:?}"), &y.clone().narrow(0, 0, 1).narrow(1, range.start, range.len()), &alone, 1e-5);
        assert_close("the other sequence", &y.narrow(0, 1, 1), &layer.forward(x.clone().narrow(0, 1, 1), None), 1e-5);
    }
}

#[test]
fn the_state_holds_rank_and_shared_width_per_token_and_follows_an_order() {
    let config = LatentAttentionConfig { head_dim: Some(4), shared_dim: Some(2), rank: Some(6), ..LatentAttentionConfig::new(2) };
    let layer = layer(&config, 8);
    let x = Sampler::new(7).tensor([2, 64, 8], -1.0, 1.0).f32(&cpu());
    let mut state = layer.state(2);
    assert!(state.is_empty());
    layer.prefill(x.clone(), &mut state);
    assert_eq!((state.len(), state.bytes()), (64, 2 * 64 * (6 + 2) * 4));
    let mut swapped = state.select(&Tensor::from_data([1, 0], &cpu()));
    let next = x.narrow(1, 0, 1).squeeze_dim::<2>(1);
    let want = layer.step(next.clone(), &mut state);
    let got = layer.step(next.flip([0]), &mut swapped);
    assert_close("swapped", &got.flip([0]), &want, 1e-6);
}

#[test]
fn it_has_the_published_number_of_weights() {
    // Kimi-Linear-48B-A3B.
    let config = LatentAttentionConfig { head_dim: Some(128), shared_dim: Some(64), rank: Some(512), ..LatentAttentionConfig::new(32) };
    assert_eq!(layer(&config, 2304).num_params(), 29_114_880);
}

#[test]
fn a_config_file_may_leave_out_all_but_the_heads() {
    let read = |text: &str| serde_json::from_str::<MixerConfig>(text);
    assert_eq!(read(r#"{"kind": "latent", "heads": 4}"#).unwrap(), MixerConfig::named("latent", 4).unwrap());
    assert!(read(r#"{"kind": "latent", "heads": 4, "ranks": 3}"#).unwrap_err().to_string().contains("unknown field `ranks`"));
}

#[test]
fn a_config_that_does_not_fit_is_an_error() {
    let plain = || LatentAttentionConfig::new(4);
    for (config, d_model, message) in [
        (LatentAttentionConfig::new(0), 8, "`heads` must be at least 1, got 0"),
        (plain(), 0, "`d_model` must be at least 1, got 0"),
        (plain(), 30, "`heads` must be a divisor of d_model = 30, or `head_dim` given, got 4"),
        (LatentAttentionConfig { head_dim: Some(0), ..plain() }, 8, "`head_dim` must be at least 1, got 0"),
        (LatentAttentionConfig { value_dim: Some(0), ..plain() }, 8, "`value_dim` must be at least 1, got 0"),
        (LatentAttentionConfig { rank: Some(0), ..plain() }, 8, "`rank` must be at least 1, got 0"),
        (
            LatentAttentionConfig { shared_dim: Some(3), rotary_base: Some(1e4), ..plain() },
            8,
            "`shared_dim` must be even and at least 2 for rotary positions, got 3",
        ),
        (LatentAttentionConfig { norm_epsilon: -1.0, ..plain() }, 8, "`norm_epsilon` must be above 0, got -1"),
    ] {
        let error = config.init(d_model, LayerPlace::ONLY, &cpu()).unwrap_err().to_string();
        assert_eq!(error, format!("latent: {message}"));
    }
}

#[test]
fn a_state_that_was_filled_elsewhere_goes_on_as_one_that_took_the_tokens_in() {
    let layer = layer(&LatentAttentionConfig { rotary_base: Some(100.0), ..LatentAttentionConfig::new(2) }, 8);
    let mut sampler = Sampler::new(8);
    let (x, next) = (sampler.tensor([2, 21, 8], -1.0, 1.0).f32(&cpu()), sampler.tensor([2, 8], -1.0, 1.0).f32(&cpu()));
    let (mut taken, mut filled) = (layer.state(2), layer.state(2));
    layer.prefill(x.clone(), &mut taken);
    let kept = layer.compress(x, 0);
    filled.extend(kept.clone().narrow(2, 0, 15)).unwrap();
    filled.extend(kept.clone().narrow(2, 15, 6)).unwrap();
    assert_eq!((filled.len(), filled.bytes()), (taken.len(), taken.bytes()));
    assert_close("next", &layer.step(next.clone(), &mut filled), &layer.step(next, &mut taken), 1e-6);

    let error = filled.extend(kept.clone().narrow(0, 0, 1)).unwrap_err().to_string();
    assert_eq!(error, "latent: `kept` must be of shape [2, 1, T, 18] in F32, got [1, 1, 21, 18] in F32");
    assert_eq!(filled.len(), 22, "what is refused changes nothing");
}
