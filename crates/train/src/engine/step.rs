use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::{
    module::{Module, ModuleMapper, Param},
    optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer},
    tensor::{DType, Device, Tensor},
};
use regard::blocks::round;
use regard_models::Model;

use super::{
    checkpoint::Checkpoint,
    config::{Precision, RunConfig},
    objective,
    optimizer::{Factor, adamw, clip},
};
use crate::{
    Result,
    tasks::{Order, Task},
};

/// Burn's generator belongs to the process: of trainings side by side one draws its initial values at a time, and no other seeds it then.
/// The masks of dropout, drawn in every step, are those of a training that runs alone only if it does.
static GENERATOR: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The model in training with its optimiser.
pub(super) struct Learner {
    pub(super) model: Model,
    pub(super) optimizer: ModuleOptimizer,
    order: Order,
    clip: f64,
    factor: Factor,
    precision: Precision,
    device: Device,
}

/// What a step leaves on the device.
pub(super) struct StepOutput {
    /// Mean loss of the batch before the step.
    pub(super) loss: Tensor<1>,
    /// Norm of the gradient before clipping; nothing if no weight has one.
    pub(super) norm: Option<Tensor<1>>,
}

impl Learner {
    /// The model with its initial values.
    pub(super) fn new(config: &RunConfig, device: &Device) -> Result<Self> {
        let mut device = device.clone().autodiff();
        if config.train.activation_checkpointing {
            device = device.gradient_checkpointing();
        }
        let turn = turn();
        // Every device draws other numbers from a seed: a run starts with those of the CPU, wherever it goes on.
        let elsewhere = device.clone().inner() != Device::flex();
        let home = if elsewhere { Device::flex().autodiff() } else { device.clone() };
        home.seed(config.seed);
        let mut model = config.model.init(&home)?;
        // It looks at every parameter, and Burn draws what nobody has looked at before.
        let factor = Factor::default();
        let mut optimizer = adamw(&config.optimizer, &model, &factor);
        drop(turn);
        if elsewhere {
            model = model.fork(&device);
            optimizer = adamw(&config.optimizer, &model, &factor);
        }
        Ok(Self {
            optimizer,
            model,
            order: Order {
                seed: config.seed,
                batch: config.train.batch,
                accumulation: config.train.grad_accumulation,
                context: config.model.context(),
                rank: 0,
                world: 1,
            },
            clip: config.optimizer.clip,
            factor,
            precision: config.train.precision,
            device,
        })
    }

    /// Takes weights and optimiser from a checkpoint.
    pub(super) fn load(&mut self, checkpoint: &Checkpoint, config: &RunConfig) -> Result<()> {
        self.model = checkpoint.model(self.model.clone())?;
        // Parameters come with the identities by which the optimiser knows them.
        self.optimizer = checkpoint.optimizer(adamw(&config.optimizer, &self.model, &self.factor))?;
        Ok(())
    }

    /// Takes step `step`, from 0.
    pub(super) fn step(&mut self, task: &Task, step: usize, rate: f64) -> StepOutput {
        // Dropout of a step depends on the run's seed and the step alone: odd multipliers keep the seeds of all steps apart.
        let turn = turn();
        self.device.seed(self.order.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(step as u64 + 1));
        drop(turn);
        let (grads, loss) = self.gradients(task, step);
        let (grads, norm) = clip(&self.model, grads, self.clip, &self.factor);
        self.model = self.optimizer.step(rate, self.model.clone(), grads).rebalance();
        StepOutput { loss, norm }
    }

    /// Mean loss of a step's batch and its gradients: the one place where gradients of several passes come together.
    fn gradients(&self, task: &Task, step: usize) -> (GradientsParams, Tensor<1>) {
        let passes = self.order.accumulation;
        let pass = |pass| {
            let samples = task.batch(&self.order, step, pass);
            // The gradients of the rounded weights go on to those that were rounded: in their type, unless they are added up, or to an
            // optimiser on the CPU.
            let wide = passes > 1 || self.device.clone().inner() == Device::flex();
            let (rounded, dtype) = match self.precision {
                Precision::F32 => (None, DType::F32),
                Precision::Bf16 => (Some(self.model.clone().map(&mut Rounded { dtype: DType::BF16, wide })), DType::BF16),
            };
            let model = rounded.as_ref().unwrap_or(&self.model);
            let loss = objective::loss(model, &samples, task.ignore(), dtype, &self.device) / passes as f64;
            let mut grads = loss.backward();
            (GradientsParams::from_module(&mut grads, &self.model), loss.inner())
        };
        if passes == 1 {
            return pass(0);
        }
        let mut accumulator = GradientsAccumulator::new();
        let losses = (0..passes).map(|number| {
            let (grads, loss) = pass(number);
            accumulator.accumulate(&self.model, grads);
            loss
        });
        let loss = Tensor::cat(losses.collect(), 0).sum();
        (accumulator.grads(), loss)
    }
}

/// Weights rounded to a float type, as a differentiable operation; `wide`: with gradients in the type of the weights.
struct Rounded {
    dtype: DType,
    wide: bool,
}

impl ModuleMapper for Rounded {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        Param::initialized(param.id, if self.wide { value.cast(self.dtype) } else { round(value, self.dtype) })
    }
}
