use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use regard_train::MemoryMeter;

/// What a caller lends to long work, with an observer of its events.
pub struct Context<'a, O: ?Sized> {
    /// Where tensors live.
    pub device: Device,
    /// Measures memory.
    pub memory: Option<MemoryMeter>,
    /// Set to `true` from anywhere, it ends the work; what is finished is kept.
    pub stop: Option<&'a AtomicBool>,
    /// Sees what happens.
    pub observer: Option<&'a mut O>,
    /// The command line that the report shows.
    pub command: Option<String>,
}

impl<O: ?Sized> Context<'_, O> {
    /// A context with a device alone.
    pub fn new(device: Device) -> Self {
        Self { device, memory: None, stop: None, observer: None, command: None }
    }

    /// Whether `stop` is set.
    pub(crate) fn interrupted(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}
