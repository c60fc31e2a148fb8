use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::Tensor,
};

/// A parameter of a network.
pub(super) struct Parameter {
    /// The way to it, as Burn names it.
    pub(super) path: String,
    /// The same, with `weight` and `bias` for γ and β of a norm.
    pub(super) name: String,
    /// Its shape, rows = outputs.
    pub(super) shape: Vec<usize>,
    /// Whether Burn keeps it with its two axes swapped.
    pub(super) swapped: bool,
}

/// Where a traversal of a module is: the names on the way and the types around.
#[derive(Default)]
pub(super) struct Place {
    names: Vec<String>,
    types: Vec<String>,
}

impl Place {
    pub(super) fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.into());
        self.types.push(container.into());
    }

    pub(super) fn exit(&mut self) {
        self.names.pop();
        self.types.pop();
    }

    pub(super) fn parameter<const D: usize>(&self, param: &Param<Tensor<D>>) -> Parameter {
        let owner = self.types.iter().rev().find(|t| t.starts_with("Struct")).map_or("", String::as_str);
        let field = self.names.last().map_or("", String::as_str);
        let swapped = owner == "Struct:Linear" && field == "weight";
        let renamed = match field {
            "gamma" if owner.ends_with("Norm") => "weight",
            "beta" if owner.ends_with("Norm") => "bias",
            field => field,
        };
        let path = self.names.join(".");
        let name = format!("{}{renamed}", path.strip_suffix(field).unwrap_or(&path));
        let mut shape = param.lazy_shape().to_vec();
        if swapped {
            shape.reverse();
        }
        Parameter { path, name, shape, swapped }
    }
}

/// The float parameters of a network. None is made for it.
pub(super) fn parameters<M: Module>(model: &M) -> Vec<Parameter> {
    #[derive(Default)]
    struct All {
        place: Place,
        found: Vec<Parameter>,
    }
    impl ModuleVisitor for All {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.place.enter(name, container);
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.place.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push(self.place.parameter(param));
        }
    }
    let mut all = All::default();
    model.visit(&mut all);
    all.found
}

/// What each parameter is called here and in a checkpoint that gives each one tensor.
#[cfg(test)]
pub(crate) fn names<M: Module>(model: &M, layout: &impl super::Layout) -> Vec<(String, String)> {
    let stored = |p: Parameter| match layout.stored(&p.name, &p.shape).as_slice() {
        [one] => (p.name, one.name.clone()),
        several => panic!("{} is kept in {several:?}", p.name),
    };
    parameters(model).into_iter().map(stored).collect()
}
