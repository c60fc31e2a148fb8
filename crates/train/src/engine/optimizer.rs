use std::sync::{Arc, Mutex, PoisonError};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup, ParamId},
    optim::{self, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, LearningRate, ModuleOptimizer, Optimizer},
    tensor::{Device, Tensor},
};
use regard::blocks::{AdamWStep, norm_of_all, scale};

use super::config::OptimizerConfig;

/// Parameters that have two axes or more and yet are not weights of a linear map.
const NOT_DECAYED: [&str; 2] = ["A_log", "dt_bias"];

/// AdamW with weight decay for matrices alone, of gradients times the factor.
pub(super) fn adamw<M: Module>(config: &OptimizerConfig, model: &M, factor: &Factor) -> ModuleOptimizer {
    let of_decay = |decay| AdamW::new(config, decay, factor.clone());
    ModuleOptimizer::from(of_decay(0.0)).with_group(ParamGroup::from_ids(matrices(model)), of_decay(config.weight_decay), None)
}

/// What the next step of an optimiser multiplies all gradients by, on the device. Where kernels take it, no pass over them is needed.
#[derive(Clone, Default)]
pub(super) struct Factor(Arc<Mutex<Option<Tensor<1>>>>);

impl Factor {
    fn set(&self, factor: Option<Tensor<1>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = factor;
    }

    fn get(&self) -> Option<Tensor<1>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Burn's AdamW with its state and its records; on the CPU and on NVIDIA GPUs the step is one pass instead of a dozen tensor operations.
#[derive(Clone)]
struct AdamW {
    portable: optim::AdamW,
    /// Its numbers, less what changes from step to step.
    step: AdamWStep,
    factor: Factor,
}

impl AdamW {
    fn new(config: &OptimizerConfig, weight_decay: f64, factor: Factor) -> Self {
        let [beta1, beta2, epsilon, decay] = [config.beta1, config.beta2, config.epsilon, weight_decay].map(|x| x as f32);
        let portable = AdamWConfig::new().with_beta_1(beta1).with_beta_2(beta2).with_epsilon(epsilon).with_weight_decay(decay);
        Self { portable: portable.build(), step: AdamWStep { rate: 0.0, beta1, beta2, epsilon, decay, time: 0 }, factor }
    }
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let factor = self.factor.get();
        if let Some(AdamWState { momentum }) = &state {
            let step = AdamWStep { rate: rate as f32, time: momentum.time as i32 + 1, ..self.step };
            let moments = [&momentum.moment_1, &momentum.moment_2];
            if let Some([parameter, first, second]) = step.apply(&parameter, &gradient, moments, factor.as_ref()) {
                return (parameter, Some(AdamWState::new(AdaptiveMomentumState::new(momentum.time + 1, first, second))));
            }
        }
        let gradient = gradient.cast(parameter.dtype());
        let gradient = match &factor {
            Some(factor) => scale(gradient, factor),
            None => gradient,
        };
        self.portable.step(rate, parameter, gradient, state)
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        optim::AdamW::to_device(state, device)
    }
}

/// The ids of the parameters with two axes or more. Burn draws initial values when they are first looked at: all have been, here.
fn matrices<M: Module>(model: &M) -> Vec<ParamId> {
    struct Matrices {
        names: Vec<String>,
        ids: Vec<ParamId>,
    }
    impl ModuleVisitor for Matrices {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.names.push(name.into());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.names.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _drawn = param.val();
            let name = self.names.last().map_or("", String::as_str);
            if D >= 2 && !NOT_DECAYED.iter().any(|n| n.eq_ignore_ascii_case(name)) {
                self.ids.push(param.id);
            }
        }
    }
    let mut visitor = Matrices { names: Vec::new(), ids: Vec::new() };
    model.visit(&mut visitor);
    visitor.ids
}

/// The norm of all gradients together, and the gradients scaled so that it is at most `limit`; 0 = no limit. On the CPU, whose passes are
/// cheap beside a step, they are scaled at once; on other devices the optimiser that has `factor` does. Nothing is read back from those.
pub(super) fn clip<M: Module>(model: &M, mut grads: GradientsParams, limit: f64, factor: &Factor) -> (GradientsParams, Option<Tensor<1>>) {
    struct All<'a> {
        grads: &'a GradientsParams,
        all: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for All<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                let count = grad.dims().iter().product::<usize>();
                self.all.push(grad.reshape([count]));
            }
        }
    }
    struct Scale<'a> {
        grads: &'a mut GradientsParams,
        by: Tensor<1>,
    }
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.remove::<D>(param.id) {
                self.grads.register(param.id, scale(grad, &self.by));
            }
        }
    }
    factor.set(None);
    let mut all = All { grads: &grads, all: Vec::new() };
    model.visit(&mut all);
    if all.all.is_empty() {
        return (grads, None);
    }
    let norm = norm_of_all(&all.all);
    if limit > 0.0 {
        let by = norm.clone().clamp_min(limit).recip() * limit;
        if norm.device() == Device::flex() {
            model.visit(&mut Scale { grads: &mut grads, by });
        } else {
            factor.set(Some(by));
        }
    }
    (grads, Some(norm))
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{Linear, LinearConfig},
        tensor::{Device, Distribution},
    };

    use super::{super::tests::alone, *};
    use regard::{MixerConfig, softmax_attention::SoftmaxAttentionConfig};
    use regard_models::DecoderConfig;

    fn gradients(scale: f64) -> (Linear, GradientsParams) {
        let device = Device::default().autodiff();
        let linear = LinearConfig::new(3, 2).init(&device);
        let x = Tensor::<2>::random([4, 3], Distribution::Default, &device) * scale;
        let grads = linear.forward(x).sum().backward();
        (linear.clone(), GradientsParams::from_grads(grads, &linear))
    }

    fn norm(linear: &Linear, grads: &GradientsParams) -> f64 {
        let weight = grads.get::<2>(linear.weight.id).unwrap().square().sum();
        let bias = grads.get::<1>(linear.bias.as_ref().unwrap().id).unwrap().square().sum();
        (weight + bias).sqrt().into_scalar::<f32>().into()
    }

    #[test]
    fn gradients_above_the_limit_are_scaled_together_to_it() {
        let _turn = alone();
        let (linear, grads) = gradients(5.0);
        let [before, bias] =
            [norm(&linear, &grads), grads.get::<1>(linear.bias.as_ref().unwrap().id).unwrap().max().into_scalar::<f32>().into()];
        let (grads, reported) = clip(&linear, grads, 0.5, &Factor::default());
        assert!((f64::from(reported.unwrap().into_scalar::<f32>()) - before).abs() < 1e-5 * before);
        assert!((norm(&linear, &grads) - 0.5).abs() < 1e-6);
        let scaled: f64 = grads.get::<1>(linear.bias.as_ref().unwrap().id).unwrap().max().into_scalar::<f32>().into();
        assert!((scaled - bias * 0.5 / before).abs() < 1e-6, "all by the same factor");
    }

    #[test]
    fn gradients_below_the_limit_or_without_one_stay_as_they_are() {
        let _turn = alone();
        for limit in [1e6, 0.0] {
            let (linear, grads) = gradients(1.0);
            let before = grads.get::<2>(linear.weight.id).unwrap().into_data();
            let (grads, _) = clip(&linear, grads, limit, &Factor::default());
            grads.get::<2>(linear.weight.id).unwrap().into_data().assert_eq(&before, true);
        }
    }

    #[test]
    fn the_step_in_one_pass_is_that_of_burn() {
        let _turn = alone();
        let device = Device::flex();
        let draw = |seed: u64| {
            device.seed(seed);
            Tensor::<2>::random([33, 1025], Distribution::Normal(0.0, 1.0), &device)
        };
        let config = OptimizerConfig { weight_decay: 0.1, ..OptimizerConfig::default() };
        let adamw = AdamW::new(&config, config.weight_decay, Factor::default());
        let (mut ours, mut theirs) = ((draw(0), None), (draw(0), None));
        for step in 1..8 {
            ours = adamw.step(1e-2, ours.0, draw(step), ours.1);
            theirs = adamw.portable.step(1e-2, theirs.0, draw(step), theirs.1);
        }
        let near = |a: &Tensor<2>, b: &Tensor<2>| {
            a.to_data().assert_approx_eq::<f32>(&b.to_data(), burn::tensor::Tolerance::relative(1e-5).set_absolute(1e-6));
        };
        near(&ours.0, &theirs.0);
        let [ours, theirs] = [ours.1, theirs.1].map(|state| state.unwrap().momentum);
        near(&ours.moment_1, &theirs.moment_1);
        near(&ours.moment_2, &theirs.moment_2);
        assert_eq!(ours.time, theirs.time);
    }

    #[test]
    fn weight_decay_is_for_matrices_alone() {
        let _turn = alone();
        let device = Device::default().autodiff();
        let mixers = vec![MixerConfig::Softmax(SoftmaxAttentionConfig { bias: true, ..SoftmaxAttentionConfig::new(2) })];
        let model = DecoderConfig { bias: true, ..DecoderConfig::new(11, 8, 1, mixers, 4) }.init(&device).unwrap();
        let ids = matrices(&model);
        let mlp = model.blocks[0].mlp.dense().unwrap();
        assert!(ids.contains(&model.embedding.weight.id));
        assert!(ids.contains(&mlp.down.weight.id));
        assert!(!ids.contains(&mlp.down.bias.as_ref().unwrap().id));

        // With gradients of zero AdamW does nothing but decay.
        let zero = |x: Tensor<3>| (x * 0.0).sum();
        let ids = Tensor::<2, burn::tensor::Int>::zeros([1, 4], &device);
        let grads = GradientsParams::from_grads(zero(model.forward(ids, None)).backward(), &model);
        let config = OptimizerConfig { weight_decay: 0.5, ..OptimizerConfig::default() };
        let [matrix, bias] = [mlp.down.weight.val().into_data(), mlp.down.bias.as_ref().unwrap().val().into_data()];
        let after = adamw(&config, &model, &Factor::default()).step(0.1, model, grads);
        let down = &after.blocks[0].mlp.dense().unwrap().down;
        down.bias.as_ref().unwrap().val().into_data().assert_eq(&bias, true);
        let want = Tensor::<2>::from_data(matrix, &device) * 0.95;
        down.weight.val().into_data().assert_approx_eq::<f32>(&want.into_data(), burn::tensor::Tolerance::absolute(1e-7));
    }
}
