use peak_alloc::PeakAlloc;

/// The system's allocator, counting live bytes and their peak: two relaxed atomic operations per allocation.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;
