use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Distribution, Gradients, Tensor},
};

/// The module with all matrices drawn from N(0, 0.3): projections are drawn small in some mechanisms, larger ones let every part matter.
pub(crate) fn enlarged<M: Module>(module: M) -> M {
    struct Enlarge;
    impl ModuleMapper for Enlarge {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if D == 2 { Param::from_tensor(param.val().random_like(Distribution::Normal(0.0, 0.3))) } else { param }
        }
    }
    module.map(&mut Enlarge)
}

/// The weights that the loss does not depend on, by their paths; buffers are none.
pub(crate) fn without_gradient<M: Module>(module: &M, gradients: &Gradients) -> Vec<String> {
    struct Missing<'a>(&'a Gradients, Vec<String>, Vec<String>);
    impl ModuleVisitor for Missing<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.into());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.val().is_require_grad() {
                return;
            }
            let gradient = param.val().grad(self.0);
            if !gradient.is_some_and(|g| g.abs().sum().into_scalar::<f32>() > 0.0) {
                self.2.push(self.1.join("."));
            }
        }
    }
    let mut missing = Missing(gradients, Vec::new(), Vec::new());
    module.visit(&mut missing);
    missing.2
}
