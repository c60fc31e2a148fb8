use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Gradients, Tensor, TensorData},
};

use super::Case;

/// From paths in a module to names in a file.
#[derive(Clone)]
pub(super) struct Renames(Vec<(String, String)>);

impl Renames {
    pub(super) fn new(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect())
    }

    fn stored(&self, stack: &Stack) -> String {
        let mut path = stack.names.clone();
        if stack.is("Norm")
            && let Some(last) = path.last_mut()
        {
            match last.as_str() {
                "gamma" => *last = "weight".into(),
                "beta" => *last = "bias".into(),
                _ => {}
            }
        }
        let path = path.join(".");
        let renamed = self.0.iter().find_map(|(from, to)| Some(format!("{to}{}", path.strip_prefix(from.as_str())?)));
        format!("param.{}", renamed.unwrap_or(path))
    }
}

/// Where a traversal of a module is: the names on the way and the types of the structs around.
#[derive(Default)]
struct Stack {
    names: Vec<String>,
    types: Vec<String>,
}

impl Stack {
    fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.into());
        self.types.push(container.into());
    }

    fn exit(&mut self) {
        self.names.pop();
        self.types.pop();
    }

    /// Whether the parameter at hand is a field of a struct whose name ends so.
    fn is(&self, name: &str) -> bool {
        self.types.iter().rev().find(|t| t.starts_with("Struct")).is_some_and(|t| t.ends_with(name))
    }

    fn is_linear_weight(&self) -> bool {
        self.is(":Linear") && self.names.last().is_some_and(|n| n == "weight")
    }
}

struct Loader<'a> {
    case: &'a Case,
    renames: &'a Renames,
    stack: Stack,
}

pub(super) fn load<M: Module>(module: M, case: &Case, renames: &Renames) -> M {
    module.map(&mut Loader { case, renames, stack: Stack::default() })
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.stack.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.stack.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.renames.stored(&self.stack);
        let data = self.case.data(&name);
        let mut shape: Vec<usize> = param.lazy_shape().to_vec();
        let transposed = self.stack.is_linear_weight();
        if transposed {
            shape.reverse();
        }
        let squeezed = |shape: &[usize]| shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        assert_eq!(squeezed(&shape), squeezed(data.shape()), "{name}: shape in the module and in the file");
        let data = TensorData::new(data.try_to_vec::<f32>().expect("stored as f32"), shape);
        let (id, _, mapper) = param.consume();
        let tensor = Tensor::<D>::from_data(data, (self.case.device(), DType::F32));
        let tensor = if transposed { Tensor::from_data(tensor.swap_dims(0, 1).into_data(), self.case.device()) } else { tensor };
        let tracked = self.case.has(&format!("grad.{name}"));
        Param::from_mapped_value(id, tensor.set_require_grad(tracked), mapper)
    }
}

struct Collector<'a> {
    grads: &'a Gradients,
    renames: &'a Renames,
    stack: Stack,
    found: Vec<(String, Option<Vec<f64>>)>,
}

pub(super) fn gradients<M: Module>(module: &M, grads: &Gradients, renames: &Renames) -> Vec<(String, Option<Vec<f64>>)> {
    let mut collector = Collector { grads, renames, stack: Stack::default(), found: Vec::new() };
    module.visit(&mut collector);
    collector.found
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.stack.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.stack.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.grads).map(|g| {
            let g = if self.stack.is_linear_weight() { g.swap_dims(0, 1) } else { g };
            crate::f64s(&g.into_data())
        });
        self.found.push((self.renames.stored(&self.stack), gradient));
    }
}
