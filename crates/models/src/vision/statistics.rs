use burn::module::{Flag, Module, ModuleMapper, Param};

/// The network with batch norms that keep the statistics they have, in training too.
///
/// Without automatic differentiation they do so in any case.
pub fn freeze_statistics<M: Module>(model: M) -> M {
    struct Freeze;
    impl ModuleMapper for Freeze {
        fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
            flag.with_value(false)
        }
    }
    model.map(&mut Freeze)
}
