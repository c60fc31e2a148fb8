use burn::tensor::Device;

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
