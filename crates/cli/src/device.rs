use std::{fmt, panic, str::FromStr};

#[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm"))]
use burn::tensor::DeviceType;
use burn::tensor::{Device, Tensor};
use regard_train::MemoryMeter;

use crate::{failure::Failure, memory::METER};

/// The backends by name, and whether this build has them.
pub(crate) const BACKENDS: &[(&str, bool)] = &[
    ("cpu", true),
    ("cuda", cfg!(feature = "cuda")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
    ("rocm", cfg!(feature = "rocm")),
];

/// Has Burn read the state of optimisers on the CPU, from where it goes to the run's device. Otherwise it reads it on its default device,
/// which in a build for GPUs is one, there or not.
///
/// To be called before there are other threads.
pub(crate) fn load_on_the_cpu() {
    if std::env::var_os("BURN_DEVICE").is_none() {
        // SAFETY: nobody else reads the environment yet.
        unsafe { std::env::set_var("BURN_DEVICE", "flex") };
    }
}

/// `--device`, shared by all commands that compute.
#[derive(clap::Args)]
pub(crate) struct DeviceArg {
    /// Where to compute: cpu, cuda, vulkan, metal or rocm, with `:N` for card N
    ///
    /// A build has the GPUs whose features it was compiled with: `cargo build --release --features cuda`. `regard doctor` shows which.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", hide_default_value = false)]
    pub(crate) device: DeviceName,
}

/// A device as written on the command line: `cpu`, `cuda`, `cuda:1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceName {
    backend: &'static str,
    card: usize,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, card) = text.split_once(':').map_or((text, None), |(name, card)| (name, Some(card)));
        let known = || BACKENDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let Some((backend, _)) = BACKENDS.iter().find(|(known, _)| *known == name) else {
            return Err(format!("no such device; there are {}", known()));
        };
        let card = match card {
            None => 0,
            Some(_) if *backend == "cpu" => return Err("the CPU has no number".into()),
            Some(card) => card.parse().map_err(|_| format!("`{card}` is not the number of a card"))?,
        };
        Ok(Self { backend, card })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.backend, self.card) {
            (backend, 0) => f.write_str(backend),
            (backend, card) => write!(f, "{backend}:{card}"),
        }
    }
}

impl DeviceName {
    /// One of [`BACKENDS`].
    pub(crate) fn backend(&self) -> &'static str {
        self.backend
    }

    /// What measures the memory that computing takes there: the allocator, which sees that of the CPU alone.
    pub(crate) fn memory(&self) -> Option<MemoryMeter> {
        (self.backend == "cpu").then_some(METER)
    }

    /// The device, after it has computed something.
    ///
    /// # Errors
    /// If this build lacks the backend, no such card is there, or its driver does not work.
    pub(crate) fn open(&self) -> Result<Device, Failure> {
        let backend = self.backend;
        if !BACKENDS.iter().any(|(name, built)| *name == backend && *built) {
            return Err(Failure::new(format!("device {self}: this build of regard has no {backend} support"))
                .with_hint(format!("build it with `cargo build --release --features {backend}`, or leave --device out for the CPU")));
        }
        let cards = cards(backend)?;
        let Some(device) = cards.get(self.card).cloned() else {
            let found = match cards.len() {
                0 => "none was found".to_owned(),
                1 => format!("the only one is {backend}:0"),
                n => format!("there are {backend}:0 to {backend}:{}", n - 1),
            };
            return Err(Failure::new(format!("device {self}: no such card, {found}"))
                .with_hint("check the driver with its own tool (nvidia-smi, vulkaninfo, rocminfo), or leave --device out for the CPU"));
        };
        let probe = device.clone();
        let sum = quietly(move || Tensor::<1>::ones([256], &probe).sum().into_data().try_to_vec::<f32>());
        match sum {
            Ok(Ok(sum)) if sum == [256.0] => Ok(device),
            Ok(result) => Err(Failure::new(format!("device {self}: a sum of 256 ones gave {result:?}"))),
            Err(reason) => Err(Failure::new(format!("device {self} cannot be used: {reason}"))
                .with_hint("check its driver, or leave --device out for the CPU")),
        }
    }
}

/// The devices of a backend of this build, in the order of their numbers.
pub(crate) fn cards(backend: &str) -> Result<Vec<Device>, Failure> {
    let found: Result<_, String> = match backend {
        #[cfg(feature = "cuda")]
        "cuda" => quietly(|| Device::enumerate(DeviceType::Cuda).into_vec()),
        #[cfg(feature = "vulkan")]
        "vulkan" => quietly(|| Device::enumerate(DeviceType::Vulkan).into_vec()),
        #[cfg(feature = "metal")]
        "metal" => quietly(|| Device::enumerate(DeviceType::Metal).into_vec()),
        #[cfg(feature = "rocm")]
        "rocm" => quietly(|| Device::enumerate(DeviceType::Rocm).into_vec()),
        _ => Ok(vec![Device::flex()]),
    };
    found.map_err(|reason| Failure::new(format!("device {backend}: its driver cannot be asked: {reason}")))
}

/// Runs what panics where a driver is missing, and gives the panic's first line instead of a backtrace.
fn quietly<T>(f: impl FnOnce() -> T + panic::UnwindSafe) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(f);
    panic::set_hook(hook);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        text.and_then(|t| t.lines().next()).unwrap_or("its driver does not answer").to_owned()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_a_backend_and_the_number_of_a_card() {
        for (text, shown) in [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:0", "cuda"), ("vulkan:3", "vulkan:3")] {
            assert_eq!(text.parse::<DeviceName>().unwrap().to_string(), shown);
        }
        for (text, error) in [
            ("gpu", "no such device; there are cpu, cuda, vulkan, metal, rocm"),
            ("cuda:first", "`first` is not the number of a card"),
            ("cpu:1", "the CPU has no number"),
        ] {
            assert_eq!(text.parse::<DeviceName>().unwrap_err(), error);
        }
    }

    #[test]
    fn the_cpu_opens() {
        assert!("cpu".parse::<DeviceName>().unwrap().open().is_ok());
    }

    #[test]
    fn a_panicking_driver_is_an_error_of_one_line() {
        assert_eq!(quietly(|| -> () { panic!("no adapter\nfound") }), Err("no adapter".to_owned()));
    }
}
