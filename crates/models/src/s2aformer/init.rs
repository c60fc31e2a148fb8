use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Distribution, Tensor},
};

use super::model::S2aFormer;
use crate::decoder::leaf;

/// Matrices from N(0, 0.02), filters of k × k for each channel alone from N(0, 2/k²), as for rectifiers; biases 0. What the stem drew stays.
pub(super) fn initialise(network: S2aFormer) -> S2aFormer {
    network.map(&mut Initialise::default())
}

#[derive(Default)]
struct Initialise {
    names: Vec<String>,
    types: Vec<String>,
}

impl ModuleMapper for Initialise {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.names.push(name.into());
        self.types.push(container.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
        self.types.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let owner = self.types.iter().rev().find(|owner| owner.starts_with("Struct")).map_or("", String::as_str);
        let std = match owner {
            "Struct:Linear" | "Struct:PatchMerge" => 0.02,
            "Struct:DepthwiseConv" => {
                let taps = param.lazy_shape().to_vec().iter().rev().take(2).product::<usize>();
                (2.0 / taps as f64).sqrt()
            }
            _ => {
                // Drawn now, so that the order of the draws does not depend on the first use.
                drop(param.val());
                return param;
            }
        };
        let bias = self.names.last().is_some_and(|name| name == "bias");
        param.map(|value| {
            let drawn = if bias { value.zeros_like() } else { value.random_like(Distribution::Normal(0.0, std)) };
            leaf(drawn)
        })
    }
}
