/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its shape. Axes of length 1 may be there or not when it is read.
    pub shape: Vec<usize>,
}

impl Stored {
    /// A tensor of that name and shape.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }
}

/// Where a kind of checkpoint keeps the parameters of a network.
pub trait Layout {
    /// The tensors whose elements, one behind the other, are those of the parameter `path`.
    ///
    /// `path` is the way to it through the fields of the module and the variants of its enums, with `weight` and `bias` for γ and β of a
    /// norm. `shape` is that of PyTorch: a linear layer has one row per output.
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored>;

    /// Whether a checkpoint of this kind may hold a tensor of that name which the network does not need.
    fn ignores(&self, name: &str) -> bool {
        let _ = name;
        false
    }
}

/// A layout that gives each parameter one tensor of its shape, and renames.
///
/// Pairs of the begin of a path here and of a name there, of which the first that fits is taken; `{}` stands for a number. A path that no
/// pair fits keeps its name.
#[derive(Clone, Copy, Debug)]
pub struct Names(pub &'static [(&'static str, &'static str)]);

impl Names {
    /// The name of a parameter.
    pub fn rename(&self, path: &str) -> String {
        self.0.iter().find_map(|(here, there)| replaced(path, here, there)).unwrap_or_else(|| path.into())
    }
}

impl Layout for Names {
    fn stored(&self, path: &str, shape: &[usize]) -> Vec<Stored> {
        vec![Stored::new(self.rename(path), shape)]
    }
}

/// `path` with its begin `here` replaced by `there`, if it begins so.
fn replaced(path: &str, here: &str, there: &str) -> Option<String> {
    let mut rest = path;
    let mut numbers = Vec::new();
    for (i, part) in here.split("{}").enumerate() {
        if i > 0 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            numbers.push(rest.get(..digits).filter(|n| !n.is_empty())?);
            rest = &rest[digits..];
        }
        rest = rest.strip_prefix(part)?;
    }
    let mut numbers = numbers.into_iter();
    let mut name = String::new();
    for (i, part) in there.split("{}").enumerate() {
        if i > 0 {
            name.push_str(numbers.next()?);
        }
        name.push_str(part);
    }
    Some(name + rest)
}
