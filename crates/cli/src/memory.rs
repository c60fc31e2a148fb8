use peak_alloc::PeakAlloc;
use regard_train::MemoryMeter;

/// The system's allocator, counting live bytes and their peak: two relaxed atomic operations per allocation. Sixty steps of
/// `recipes/shakespeare-char.toml --mixer lightning` took 10.9 s of CPU time with it and 10.9 s without (means of three).
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Peak memory of the process for the libraries, which know nothing of allocators.
pub(crate) const METER: MemoryMeter = MemoryMeter { reset: || ALLOCATOR.reset_peak_usage(), peak: || ALLOCATOR.peak_usage() };
