use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use burn::{
    module::Module,
    tensor::{DType, Device, Gradients, Int, Tensor, TensorData},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::module::{Renames, gradients, load};

type GradientOf = Box<dyn Fn(&Gradients) -> Vec<(String, Option<Vec<f64>>)>>;

/// One golden file under test.
///
/// Reading an input or a parameter that has a stored gradient tracks it; handing over an output compares it and, if it has a
/// cotangent, adds it to the loss. [`run`](super::run) then compares the gradients and complains of what nobody read.
pub struct Case {
    name: String,
    config: Value,
    rtol: f64,
    atol: f64,
    device: Device,
    tensors: BTreeMap<String, TensorData>,
    read: RefCell<BTreeSet<String>>,
    gradients: RefCell<Vec<GradientOf>>,
    loss: RefCell<Option<Tensor<1>>>,
    failures: RefCell<Vec<String>>,
    repeats: Cell<bool>,
}

impl Case {
    pub(super) fn open(path: &Path, device: Device) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|e| e.to_string())?;
        let (_, meta) = SafeTensors::read_metadata(&bytes).map_err(|e| e.to_string())?;
        let meta = meta.metadata().clone().unwrap_or_default();
        let text = |key: &str| meta.get(key).ok_or_else(|| format!("no `{key}` in the metadata"));
        let number = |key: &str| text(key)?.parse::<f64>().map_err(|e| format!("`{key}`: {e}"));
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?.tensors() {
            let shape = view.shape().to_vec();
            let words = view.data();
            let data = match view.dtype() {
                Dtype::F32 => TensorData::new(words.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), shape),
                Dtype::I64 => TensorData::new(words.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(), shape),
                other => return Err(format!("{name}: unexpected element type {other:?}")),
            };
            tensors.insert(name, data);
        }
        Ok(Self {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            config: serde_json::from_str(text("config")?).map_err(|e| format!("config: {e}"))?,
            rtol: number("rtol")?,
            atol: number("atol")?,
            device,
            tensors,
            read: RefCell::default(),
            gradients: RefCell::default(),
            loss: RefCell::default(),
            failures: RefCell::default(),
            repeats: Cell::new(false),
        })
    }

    /// The file's name without its extension.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The autodiff device of this run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The configuration of the case.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// A whole number of the configuration.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("config.{key} must be a whole number, got {}", self.config[key])) as usize
    }

    /// A number of the configuration.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn number(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap_or_else(|| panic!("config.{key} must be a number, got {}", self.config[key]))
    }

    /// A flag of the configuration.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn flag(&self, key: &str) -> bool {
        self.config[key].as_bool().unwrap_or_else(|| panic!("config.{key} must be true or false, got {}", self.config[key]))
    }

    /// A text of the configuration.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn text(&self, key: &str) -> &str {
        self.config[key].as_str().unwrap_or_else(|| panic!("config.{key} must be a text, got {}", self.config[key]))
    }

    /// Whether the file holds this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    #[track_caller]
    pub(super) fn data(&self, name: &str) -> TensorData {
        self.read.borrow_mut().insert(name.to_string());
        self.tensors.get(name).unwrap_or_else(|| panic!("the file has no tensor {name}")).clone()
    }

    /// A float tensor, tracked if the file stores its gradient.
    ///
    /// # Panics
    /// If the file has no such tensor or its rank is not `D`.
    #[track_caller]
    pub fn float<const D: usize>(&self, name: &str) -> Tensor<D> {
        let tensor = Tensor::<D>::from_data(self.data(name), (&self.device, DType::F32));
        if !self.has(&format!("grad.{name}")) {
            return tensor;
        }
        let tensor = tensor.require_grad();
        let (key, leaf) = (name.to_string(), tensor.clone());
        self.track(Box::new(move |grads| vec![(key.clone(), leaf.grad(grads).map(|g| crate::f64s(&g.into_data())))]));
        tensor
    }

    /// A tensor of whole numbers.
    ///
    /// # Panics
    /// If the file has no such tensor or its rank is not `D`.
    #[track_caller]
    pub fn int<const D: usize>(&self, name: &str) -> Tensor<D, Int> {
        Tensor::from_data(self.data(name), &self.device)
    }

    /// The number of axes of a tensor.
    ///
    /// # Panics
    /// If the file has no such tensor.
    #[track_caller]
    pub fn rank(&self, name: &str) -> usize {
        self.data(name).shape().num_dims()
    }

    /// The elements of a float tensor.
    ///
    /// # Panics
    /// If the file has no such tensor.
    #[track_caller]
    pub fn values(&self, name: &str) -> Vec<f64> {
        crate::f64s(&self.data(name))
    }

    /// The module with every parameter replaced by the tensor `param.<path>` and tracked.
    ///
    /// `renames` maps the path of a parameter in the module (`norm.gamma`) to the stored name, by the first pair whose left side the
    /// path starts with; `""` renames everything. Weights of `Linear` are transposed, `gamma` and `beta` of norms read `weight` and
    /// `bias` before the renames apply.
    ///
    /// # Panics
    /// If the file has no such tensor or one of another shape, up to axes of length 1.
    #[track_caller]
    pub fn load<M: Module + 'static>(&self, module: M, renames: &[(&str, &str)]) -> M {
        let renames = Renames::new(renames);
        let module = load(module, self, &renames);
        let leaf = module.clone();
        self.track(Box::new(move |grads| gradients(&leaf, grads, &renames)));
        module
    }

    fn track(&self, gradient: GradientOf) {
        self.gradients.borrow_mut().push(gradient);
    }

    /// Compares an output and, if the file has a cotangent for it, adds it to the loss.
    ///
    /// A kind whose algorithms must all pass calls it once for each of them with inputs read anew; gradients then are compared for
    /// each: see [`Self::again`].
    ///
    /// # Panics
    /// If the file has no such output.
    #[track_caller]
    pub fn output<const D: usize>(&self, name: &str, got: Tensor<D>) {
        let want = self.data(&format!("out.{name}"));
        let shape: Vec<usize> = want.shape().to_vec();
        if got.dims().iter().filter(|&&d| d != 1).ne(shape.iter().filter(|&&d| d != 1)) {
            self.fail(format!("out.{name} has shape {:?}, stored {shape:?}", got.dims()));
            return;
        }
        self.compare(&format!("out.{name}"), &crate::f64s(&got.clone().into_data()), &crate::f64s(&want));
        let cotangent = format!("cot.{name}");
        if self.has(&cotangent) && !self.tensors[&cotangent].shape().contains(&0) {
            let data = self.data(&cotangent);
            let cotangent = Tensor::<1>::from_data(
                TensorData::new(data.try_to_vec::<f32>().expect("stored as f32"), [got.dims().iter().product::<usize>()]),
                (&self.device, DType::F32),
            );
            let part = (got.reshape([-1]) * cotangent).sum();
            let mut loss = self.loss.borrow_mut();
            *loss = Some(match loss.take() {
                Some(sum) => sum + part,
                None => part,
            });
        } else if self.has(&cotangent) {
            self.data(&cotangent);
        }
    }

    /// Compares an output of whole numbers.
    #[track_caller]
    pub fn output_int<const D: usize>(&self, name: &str, got: Tensor<D, Int>) {
        let want: Vec<i64> = self.data(&format!("out.{name}")).iter::<i64>().collect();
        let got: Vec<i64> = got.into_data().iter::<i64>().collect();
        if got != want {
            self.fail(format!("out.{name} differs"));
        }
    }

    /// Ends the check of one algorithm (outputs and gradients) so that the same file can be run through another one.
    pub fn again(&self) {
        self.check_gradients();
        self.repeats.set(true);
    }

    fn check_gradients(&self) {
        let tracked = std::mem::take(&mut *self.gradients.borrow_mut());
        let Some(loss) = self.loss.borrow_mut().take() else { return };
        let grads = loss.backward();
        for (name, got) in tracked.iter().flat_map(|g| g(&grads)) {
            let key = format!("grad.{name}");
            if !self.has(&key) {
                continue;
            }
            let want = self.values(&key);
            match got {
                Some(got) => self.compare(&key, &got, &want),
                None if want.iter().all(|x| *x == 0.0) => {}
                None => self.fail(format!("{key}: no gradient")),
            }
        }
    }

    /// `|a − b| ≤ atol + rtol·|b|` everywhere and, unless the stored tensor is tiny, `max|a − b| ≤ 0.5·max|b|`.
    fn compare(&self, what: &str, got: &[f64], want: &[f64]) {
        if got.len() != want.len() {
            self.fail(format!("{what} has {} elements, stored {}", got.len(), want.len()));
            return;
        }
        let scale = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let mut largest = 0.0_f64;
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            let error = (a - b).abs();
            // Written so that NaN fails.
            if !(error <= self.atol + self.rtol * b.abs()) {
                self.fail(format!("{what}[{i}] = {a}, stored {b} (atol {}, rtol {})", self.atol, self.rtol));
                return;
            }
            largest = largest.max(error);
        }
        if scale >= self.atol / 10.0 && largest > 0.5 * scale {
            self.fail(format!("{what} is off by {largest}, half of its scale {scale} or more"));
        }
    }

    fn fail(&self, failure: String) {
        self.failures.borrow_mut().push(failure);
    }

    pub(super) fn finish(self) -> Result<(), String> {
        self.check_gradients();
        let read = self.read.borrow();
        let unread: Vec<_> = self.tensors.keys().filter(|k| !k.starts_with("ref.") && !read.contains(*k)).collect();
        if !unread.is_empty() {
            self.fail(format!("unread tensors {unread:?}"));
        }
        let failures = self.failures.borrow();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }
}
