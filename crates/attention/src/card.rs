use burn::tensor::Device;

/// The name that a GPU gives itself; none for the CPU.
pub fn card_name(device: &Device) -> Option<String> {
    #[cfg(feature = "cube")]
    if let burn::backend::DispatchDevice::Cube(card) = device.clone().inner().as_dispatch() {
        return Some(card.client().properties().identity.name.clone());
    }
    let _ = device;
    None
}
