use burn::tensor::{Device, Tensor};

/// The CPU device of the default build.
pub fn cpu() -> Device {
    Device::flex()
}

/// The devices that tests run on: the CPU always, and the one that `REGARD_TEST_DEVICE` names (`cuda`, `vulkan`, `metal`, `rocm`).
///
/// # Panics
/// If the variable names a device for which this build has no feature: such a run would prove nothing.
pub fn devices() -> Vec<Device> {
    #[allow(unused_mut, reason = "only builds with a GPU feature add to it")]
    let mut devices = vec![cpu()];
    match std::env::var("REGARD_TEST_DEVICE").ok().as_deref() {
        None | Some("" | "cpu") => {}
        #[cfg(feature = "cuda")]
        Some("cuda") => devices.push(Device::cuda(0)),
        #[cfg(feature = "vulkan")]
        Some("vulkan") => devices.push(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "metal")]
        Some("metal") => devices.push(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "rocm")]
        Some("rocm") => devices.push(Device::rocm(0)),
        Some(other) => panic!("REGARD_TEST_DEVICE = {other}: this build has no such device (features: cuda, vulkan, metal, rocm)"),
    }
    devices
}

/// The device besides the CPU that tests run on; without one, says that the test is skipped.
#[allow(clippy::print_stdout)]
pub fn gpu() -> Option<Device> {
    let device = devices().into_iter().nth(1);
    if device.is_none() {
        println!("skipped: REGARD_TEST_DEVICE names no GPU");
    }
    device
}

/// Leaves NaN in free memory of a device: what a kernel does not write, or reads before it does, shows.
pub fn poison(device: &Device) {
    let sizes = (4..22).map(|power| Tensor::<1>::full([1 << power], f32::NAN, device));
    drop(sizes.collect::<Vec<_>>());
}
