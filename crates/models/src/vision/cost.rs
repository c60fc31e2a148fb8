use burn::{
    module::{Module, ModuleVisitor, Param},
    nn::{Linear, conv::Conv2d},
    tensor::Tensor,
};

/// Number of trained weights: without the running statistics of batch norms. No weight is made for it.
pub fn trained_weights<M: Module>(model: &M) -> usize {
    #[derive(Default)]
    struct Count {
        owners: Vec<String>,
        fields: Vec<String>,
        sum: usize,
    }
    impl ModuleVisitor for Count {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.owners.push(container.into());
            self.fields.push(name.into());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.owners.pop();
            self.fields.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let owner = self.owners.iter().rev().find(|owner| owner.starts_with("Struct"));
            let statistic = self.fields.last().is_some_and(|field| field.starts_with("running_"));
            if !(statistic && owner.is_some_and(|owner| owner.ends_with(":BatchNorm"))) {
                self.sum += param.lazy_shape().num_elements();
            }
        }
    }
    let mut count = Count::default();
    model.visit(&mut count);
    count.sum
}

/// Multiply-adds of a convolution for one image that it makes a map of Y × X tokens.
pub fn conv_multiply_adds(conv: &Conv2d, [y, x]: [usize; 2]) -> f64 {
    conv.weight.lazy_shape().num_elements() as f64 * (y * x) as f64
}

/// Multiply-adds of a linear layer for `rows` vectors.
pub fn linear_multiply_adds(layer: &Linear, rows: usize) -> f64 {
    layer.weight.lazy_shape().num_elements() as f64 * rows as f64
}
