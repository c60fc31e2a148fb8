use std::time::{Duration, Instant};

use regard_train::MemoryMeter;

/// Cost of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Seconds, median.
    pub(crate) seconds: f64,
    /// Largest number of bytes in use beyond those before, if measured.
    pub(crate) peak_bytes: Option<usize>,
    /// Number of times that were measured.
    pub(crate) repetitions: usize,
}

/// How often work is repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// This often at most, once at least.
    pub(crate) repetitions: usize,
    /// No more once this time is over.
    pub(crate) enough: Duration,
}

/// Measures `work`, which waits for its device. A first time warms up and shows the memory: later ones use no more.
pub(crate) fn measure(memory: Option<MemoryMeter>, patience: Patience, mut work: impl FnMut()) -> Cost {
    let before = memory.map(|meter| {
        (meter.reset)();
        (meter.peak)()
    });
    work();
    let peak_bytes = memory.zip(before).map(|(meter, before)| (meter.peak)().saturating_sub(before));
    let begun = Instant::now();
    let mut times = Vec::with_capacity(patience.repetitions);
    while times.is_empty() || (times.len() < patience.repetitions && begun.elapsed() < patience.enough) {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Cost { seconds: times[times.len() / 2], peak_bytes, repetitions: times.len() }
}
