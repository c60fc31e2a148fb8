use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Distribution, Tensor},
};

/// Draws the weights of all linear layers, experts and embeddings from N(0, std), those of the projections back into the residual stream
/// from N(0, residual). What else a mixer has (decay rates, gates, convolutions, positions of its own) keeps the values of its paper.
pub(crate) fn initialise<M: Module>(network: M, std: f64, residual: f64) -> M {
    network.map(&mut Initialise { std, residual, names: Vec::new(), types: Vec::new() })
}

/// The fields that project back into the residual stream.
const RESIDUAL: [&str; 3] = ["out_proj", "down", "down_proj"];

struct Initialise {
    std: f64,
    residual: f64,
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
        let owner = self.types.iter().rev().find(|t| t.starts_with("Struct"));
        let is = |kind: &str| owner.is_some_and(|t| t == kind);
        let name = self.names.last().map_or("", String::as_str);
        // Of a matrix of experts the name is the field's own, of a linear layer that of the layer.
        let experts = is("Struct:Experts") || is("Struct:Router") && name == "weight";
        if !(is("Struct:Linear") || is("Struct:Embedding") || experts) {
            // Drawn now, so that the order of the draws does not depend on the first use.
            drop(param.val());
            return param;
        }
        if name == "bias" {
            return param.map(|b| leaf(b.zeros_like()));
        }
        let field = self.names.iter().rev().nth(usize::from(!experts)).map_or("", String::as_str);
        let std = if RESIDUAL.contains(&field) { self.residual } else { self.std };
        param.map(|w| leaf(w.random_like(Distribution::Normal(0.0, std))))
    }
}

/// A mapped value is a new leaf of the graph: where there is a graph, it has to ask for its gradient itself.
pub(crate) fn leaf<const D: usize>(value: Tensor<D>) -> Tensor<D> {
    let tracked = value.device().is_autodiff();
    if tracked { value.require_grad() } else { value }
}
