use burn::module::{Flag, Module, ModuleMapper, Param};

/// The network with batch norms that keep the statistics they have, in training too.
///
/// Without automatic differentiation they do so in any case.
pub fn freeze_statistics<M: Module>(model: M) -> M {
    model.map(&mut Freeze::default())
}

#[derive(Default)]
struct Freeze {
    owners: Vec<String>,
}

impl ModuleMapper for Freeze {
    fn enter_module(&mut self, _: &str, container: &str) {
        self.owners.push(container.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.owners.pop();
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        let owner = self.owners.iter().rev().find(|owner| owner.starts_with("Struct"));
        if owner.is_some_and(|owner| owner.ends_with(":BatchNorm")) { flag.with_value(false) } else { flag }
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig};
    use regard_testkit::cpu;

    use super::*;

    #[test]
    fn norms_stop_and_dropout_goes_on() {
        #[derive(Module, Debug)]
        struct Both {
            norms: Vec<Option<BatchNorm>>,
            dropout: Dropout,
        }
        let norm = Some(BatchNormConfig::new(2).init(&cpu()));
        let both = freeze_statistics(Both { norms: vec![None, norm], dropout: DropoutConfig::new(0.5).init() });
        assert!(!both.norms[1].as_ref().unwrap().training.is_enabled() && both.dropout.training.is_enabled());
    }
}
