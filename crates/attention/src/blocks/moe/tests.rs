use burn::{
    module::Module,
    tensor::{DType, Int, Tensor, TensorData},
};
use regard_testkit::{Case, Sampler, assert_close, cpu, gradcheck, run};

use super::{Moe, MoeConfig};

#[test]
fn kimi_linear_goldens_of_the_mixture_of_experts() {
    run("kimi-linear", &["layer.moe"], &[("layer.moe", golden)]);
}

fn golden(case: &Case) {
    assert_eq!((case.text("moe_router_activation_func"), case.text("hidden_act")), ("sigmoid", "silu"));
    assert!((case.number("moe_renormalize_eps") - super::SUM_EPSILON).abs() < 1e-24);
    let config = MoeConfig {
        shared: case.size("num_shared_experts"),
        groups: case.size("num_expert_group"),
        groups_per_token: case.size("topk_group"),
        renormalise: case.flag("moe_renormalize"),
        scale: case.number("routed_scaling_factor"),
        ..MoeConfig::new(case.size("num_experts"), case.size("num_experts_per_token"), case.size("moe_intermediate_size"))
    };
    let moe = config.init(case.size("hidden_size"), case.device()).unwrap();
    let renames = ["gate", "up", "down"].map(|n| (format!("shared_experts.{n}."), format!("shared_experts.{n}_proj.")));
    let renames: Vec<_> = renames.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let moe = case.load(moe, &renames);
    let x = case.float::<3>("in.x");
    case.output("y", moe.forward(x.clone()));
    let [b, t, d] = x.dims();
    let routing = moe.route(x.reshape([b * t, d]));
    let chosen: Vec<i64> = routing.experts.iter().flatten().map(|e| *e as i64).collect();
    case.output("router_logits", routing.logits);
    case.output_int("topk_indices_sorted", Tensor::<1, Int>::from_data(TensorData::new(chosen, [b * t * config.per_token]), case.device()));
    case.output("topk_weights_sorted", routing.weights);
}

/// Scores and choice by the router's rows alone: token i has a one in channel i.
fn moe(config: &MoeConfig, d_model: usize, logits: &[f64]) -> Moe {
    let mut moe = config.init(d_model, &cpu()).unwrap();
    let shape = [config.experts, d_model];
    moe.gate.weight = moe.gate.weight.map(|_| Tensor::from_data(TensorData::new(logits.to_vec(), shape), (&cpu(), DType::F32)));
    moe
}

#[test]
fn of_equal_scores_the_lower_expert_goes_first() {
    let moe = moe(&MoeConfig::new(5, 2, 3), 1, &[0.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!(moe.route(Tensor::ones([1, 1], &cpu())).experts, [[1, 2]]);
}

#[test]
fn the_bias_steers_the_choice_and_stays_out_of_the_weights() {
    let config = MoeConfig { renormalise: false, scale: 2.0, ..MoeConfig::new(3, 1, 3) };
    let mut moe = moe(&config, 1, &[0.0, -1.0, 2.0]);
    moe.gate.e_score_correction_bias = moe.gate.e_score_correction_bias.map(|_| Tensor::from_data([0.0, 5.0, 0.0], &cpu()));
    let routing = moe.route(Tensor::ones([1, 1], &cpu()));
    assert_eq!(routing.experts, [[1]]);
    let want = 2.0 / (1.0 + 1.0_f32.exp());
    assert!((routing.weights.into_scalar::<f32>() - want).abs() < 1e-6);
}

#[test]
fn experts_come_from_the_groups_whose_two_best_are_best_together() {
    // Groups {0, 1}, {2, 3}, {4, 5}: the best expert stands in a poor group.
    let config = MoeConfig { groups: 3, groups_per_token: 2, ..MoeConfig::new(6, 3, 2) };
    let moe = moe(&config, 1, &[3.0, -9.0, 1.0, 1.0, 2.0, 0.5]);
    assert_eq!(moe.route(Tensor::ones([1, 1], &cpu())).experts, [[2, 3, 4]]);
}

#[test]
fn it_is_the_weighted_sum_of_its_experts_for_any_batch() {
    let config = MoeConfig { shared: 1, ..MoeConfig::new(4, 2, 3) };
    let mut s = Sampler::new(1);
    let router: Vec<f64> = (0..20).map(|_| s.uniform(-1.0, 1.0)).collect();
    let moe = moe(&config, 5, &router);
    let x = s.tensor([3, 4, 5], -2.0, 2.0).f32(&cpu());
    let whole = moe.forward(x.clone());
    let routing = moe.route(x.clone().reshape([12, 5]));
    for token in 0..12 {
        let one = x.clone().reshape([12, 5]).narrow(0, token, 1);
        let mut want = moe.shared_experts.as_ref().unwrap().forward(one.clone());
        for (slot, &e) in routing.experts[token].iter().enumerate() {
            let matrix = |w: Tensor<3>| w.narrow(0, e, 1).squeeze_dim::<2>(0).transpose();
            let both = one.clone().matmul(matrix(moe.experts.gate_up_proj.val()));
            let hidden = burn::tensor::activation::silu(both.clone().narrow(1, 0, 3)) * both.narrow(1, 3, 3);
            let out = hidden.matmul(matrix(moe.experts.down_proj.val()));
            want = want + out * routing.weights.clone().narrow(0, token, 1).narrow(1, slot, 1);
        }
        let got = whole.clone().reshape([12, 5]).narrow(0, token, 1);
        assert_close("token", &got, &want, 1e-5);
        assert_close("alone", &moe.forward(one), &want, 1e-5);
    }
    assert_eq!(moe.forward(Tensor::<3>::zeros([2, 0, 5], &cpu())).dims(), [2, 0, 5]);
}

#[test]
fn gradients_match_central_differences() {
    let config = MoeConfig::new(3, 2, 2);
    // Scores far enough apart that no choice changes with the differences.
    let build = |x: &Tensor<2>, router: &Tensor<2>| {
        let mut moe = config.init(2, &x.device()).unwrap();
        let wide = |w: Tensor<3>| Tensor::from_data(w.into_data(), (&x.device(), DType::F64));
        moe.gate.weight = burn::module::Param::from_tensor(router.clone());
        moe.experts.gate_up_proj = moe.experts.gate_up_proj.map(|_| wide(Sampler::new(2).tensor([3, 4, 2], -1.0, 1.0).f32(&cpu())));
        moe.experts.down_proj = moe.experts.down_proj.map(|_| wide(Sampler::new(3).tensor([3, 2, 2], -1.0, 1.0).f32(&cpu())));
        moe
    };
    let mut s = Sampler::new(4);
    let inputs = [s.tensor([4, 2], 1.0, 2.0)];
    let router = Tensor::<2>::from_data([[2.0, 1.0], [-1.0, -0.5], [0.5, 0.2]], &cpu());
    gradcheck("moe", &inputs, 1e-6, |x| {
        let router = Tensor::from_data(router.to_data(), (&x[0].device(), DType::F64));
        build(&x[0], &router).forward(x[0].clone()).sin().sum()
    });
}

#[test]
fn rebalancing_moves_the_bias_towards_an_even_load() {
    let mut moe = moe(&MoeConfig::new(3, 1, 2), 1, &[0.0, 1.0, 2.0]);
    let routing = moe.route(Tensor::ones([6, 1], &cpu()));
    assert_eq!(routing.load(3), [0, 0, 6]);
    moe.rebalance(&[2, 0, 4], 1e-3).unwrap();
    let bias: Vec<f32> = moe.gate.e_score_correction_bias.val().into_data().iter().collect();
    assert_eq!(bias, [0.0, 1e-3, -1e-3]);
    let error = moe.rebalance(&[1], 1e-3).unwrap_err().to_string();
    assert_eq!(error, "moe: `load` must be one number for each of 3 experts, got 1");
}

#[test]
fn training_passes_since_the_last_time_rebalance_and_no_others() {
    let config = MoeConfig { balance_speed: 0.5, ..MoeConfig::new(3, 1, 2) };
    let plain = moe(&config, 1, &[0.0, 1.0, 2.0]);
    let tokens = |n: usize, x: f64| Tensor::<2>::full([n, 1], x, &cpu());
    let bias = |moe: &Moe| moe.gate.e_score_correction_bias.val().into_data().iter::<f32>().collect::<Vec<_>>();
    let mut trained = plain.clone();
    // A clone is stepped by an optimiser while the original counts.
    let x = tokens(4, 1.0).autodiff();
    plain.forward(x);
    plain.forward(tokens(9, -1.0));
    trained.rebalance_by_training();
    assert_eq!(bias(&trained), [0.5, 0.5, -0.5], "all four went to the third; the nine were no training");
    trained.rebalance_by_training();
    assert_eq!(bias(&trained), [0.5, 0.5, -0.5], "nothing was trained meanwhile");
}

#[test]
fn weights_are_counted_in_all_and_as_one_token_meets_them() {
    // The layers of Kimi-Linear-48B-A3B, without making a weight.
    let config = MoeConfig { shared: 1, scale: 2.446, ..MoeConfig::new(256, 8, 1024) };
    let moe = config.init(2304, &cpu()).unwrap();
    assert_eq!((moe.num_params(), moe.trained()), (1_819_607_040 + 256, 1_819_607_040));
    let expert = 3 * 2304 * 1024;
    assert_eq!(moe.active(), 9 * expert + 256 * 2304);
    assert!(!moe.experts.down_proj.is_initialized());
}

#[test]
fn a_config_that_does_not_fit_is_an_error() {
    let plain = || MoeConfig::new(6, 2, 4);
    for (config, message) in [
        (MoeConfig { experts: 0, ..plain() }, "`experts` must be at least 1, got 0"),
        (MoeConfig { d_ff: 0, ..plain() }, "`d_ff` must be at least 1, got 0"),
        (MoeConfig { groups: 4, ..plain() }, "`groups` must be a divisor of experts = 6, got 4"),
        (MoeConfig { groups: 0, ..plain() }, "`groups` must be a divisor of experts = 6, got 0"),
        (MoeConfig { groups: 3, groups_per_token: 4, ..plain() }, "`groups_per_token` must be in 1..=3, the groups, got 4"),
        (MoeConfig { per_token: 7, ..plain() }, "`per_token` must be in 1..=6, the experts to choose from, got 7"),
        (MoeConfig { per_token: 0, ..plain() }, "`per_token` must be in 1..=6, the experts to choose from, got 0"),
        (MoeConfig { groups: 3, per_token: 3, ..plain() }, "`per_token` must be in 1..=2, the experts to choose from, got 3"),
        (MoeConfig { scale: f64::NAN, ..plain() }, "`scale` must be finite, got NaN"),
        (MoeConfig { balance_speed: -1.0, ..plain() }, "`balance_speed` must be at least 0, got -1"),
    ] {
        assert_eq!(config.init(4, &cpu()).unwrap_err().to_string(), format!("moe: {message}"));
    }
}
