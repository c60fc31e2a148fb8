use burn::lr_scheduler::{
    LrSchedulerConfig, cosine::CosineAnnealingLrSchedulerConfig, linear::LinearLrSchedulerConfig, module_lr_scheduler::ModuleLrScheduler,
    sequential::SequentialLrSchedulerConfig,
};

use super::config::{OptimizerConfig, ScheduleKind};
use crate::{Error, Result};

/// The rates of a run, from any step on.
pub(super) struct Schedule {
    /// Yields shares of the highest rate: Burn's schedules know no rate above 1.
    shares: ModuleLrScheduler,
    rate: f64,
}

impl Schedule {
    /// The schedule of a run of `steps` steps with `done` of them behind it. With W steps of warm-up, step t from 0 has the rate
    /// `rate (t + 1) / (W + 1)` before W, `rate` at W, and `final_rate` would follow the last step.
    pub(super) fn new(config: &OptimizerConfig, steps: usize, done: usize) -> Result<Self> {
        let warmup = config.warmup.min(steps.saturating_sub(1));
        let lowest = config.final_rate / config.rate;
        let line = |from, to, length| LrSchedulerConfig::from(LinearLrSchedulerConfig::new(from, to, length));
        let mut parts = vec![];
        if warmup > 0 {
            parts.push((line(1.0 / (warmup + 1) as f64, 1.0, warmup), warmup));
        }
        match config.schedule {
            ScheduleKind::Cosine => {
                let length = steps - warmup;
                parts.push((CosineAnnealingLrSchedulerConfig::new(1.0, length).with_min_lr(lowest).into(), length));
            }
            ScheduleKind::Wsd => {
                let decay = ((config.decay * steps as f64).round() as usize).clamp(1, steps - warmup);
                let stable = steps - warmup - decay;
                if stable > 0 {
                    parts.push((line(1.0, 1.0, stable), stable));
                }
                parts.push((line(1.0, lowest, decay), decay));
            }
        }
        let mut milestones: Vec<usize> = parts
            .iter()
            .scan(0, |end, (_, length)| {
                *end += length;
                Some(*end)
            })
            .collect();
        milestones.pop();
        let shares = SequentialLrSchedulerConfig::new(parts.into_iter().map(|(part, _)| part).collect(), milestones)
            .init()
            .map_err(|message| Error::value("optimizer.schedule", "possible", message))?;
        let mut schedule = Self { shares, rate: config.rate };
        // The rate depends on the step alone: those already done are taken again.
        for _ in 0..done {
            schedule.next();
        }
        Ok(schedule)
    }

    /// The rate of the next step.
    pub(super) fn next(&mut self) -> f64 {
        self.rate * self.shares.step().base()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(config: &OptimizerConfig, steps: usize) -> Vec<f64> {
        let mut schedule = Schedule::new(config, steps, 0).unwrap();
        (0..steps).map(|_| schedule.next()).collect()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs().max(1.0)
    }

    #[test]
    fn cosine_follows_its_formula_after_a_linear_warm_up() {
        let config = OptimizerConfig { rate: 2.0, final_rate: 0.5, warmup: 4, ..OptimizerConfig::default() };
        for (t, rate) in rates(&config, 20).into_iter().enumerate() {
            let want = if t < 4 {
                2.0 * (t + 1) as f64 / 5.0
            } else {
                let share = (t - 4) as f64 / 16.0;
                0.5 + 0.5 * (1.0 + (std::f64::consts::PI * share).cos()) * 1.5
            };
            assert!(close(rate, want), "step {t}: {rate} against {want}");
        }
    }

    #[test]
    fn wsd_warms_up_stays_and_decays_over_its_share() {
        let config = OptimizerConfig {
            rate: 1e-2,
            final_rate: 0.0,
            warmup: 2,
            schedule: ScheduleKind::Wsd,
            decay: 0.4,
            ..OptimizerConfig::default()
        };
        let want = [1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25].map(|share| share * 1e-2);
        for (rate, want) in rates(&config, 10).into_iter().zip(want) {
            assert!(close(rate, want), "{rate} against {want}");
        }
    }

    #[test]
    fn a_schedule_that_starts_late_goes_on_as_the_whole_one() {
        for schedule in [ScheduleKind::Cosine, ScheduleKind::Wsd] {
            let config = OptimizerConfig { schedule, warmup: 3, ..OptimizerConfig::default() };
            let whole = rates(&config, 12);
            for (done, rate) in whole.into_iter().enumerate() {
                assert_eq!(Schedule::new(&config, 12, done).unwrap().next().to_bits(), rate.to_bits());
            }
        }
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_still_has_a_schedule() {
        for (steps, schedule) in [(1, ScheduleKind::Cosine), (2, ScheduleKind::Wsd), (1, ScheduleKind::Wsd), (50, ScheduleKind::Cosine)] {
            let config = OptimizerConfig { schedule, ..OptimizerConfig::default() };
            assert!(rates(&config, steps).iter().all(|rate| *rate > 0.0 && *rate <= config.rate));
        }
    }
}
