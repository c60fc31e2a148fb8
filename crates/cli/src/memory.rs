use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::{c_int, c_long},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use mimalloc::MiMalloc;
use regard_train::MemoryMeter;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Peak memory of the process for the libraries, which know nothing of allocators.
pub(crate) const METER: MemoryMeter = MemoryMeter { reset: || PEAK.store(LIVE.load(Relaxed), Relaxed), peak: || PEAK.load(Relaxed) };

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    /// Of mimalloc.
    fn mi_option_set(option: c_int, value: c_long);
}

/// Has freed memory go back to the system after ten seconds instead of one: within a training it is wanted again in the next step, and
/// the kernel would clear every page anew, a tenth of a step's time.
pub(crate) fn keep_freed_memory() {
    /// `mi_option_purge_delay`, in ms.
    const PURGE_DELAY: c_int = 15;
    // SAFETY: it stores a number.
    unsafe { mi_option_set(PURGE_DELAY, 10_000) };
}

/// mimalloc, counting live bytes and their peak. A training step allocates and frees a hundred tensors of a megabyte or more: glibc maps
/// and unmaps each, and the kernel clears every page of it anew.
struct Counting;

impl Counting {
    fn grow(bytes: usize) {
        let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(live, Relaxed);
    }
}

// SAFETY: every call goes to mimalloc as it came; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        let pointer = unsafe { MiMalloc.alloc(layout) };
        if !pointer.is_null() {
            Self::grow(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let pointer = unsafe { MiMalloc.alloc_zeroed(layout) };
        if !pointer.is_null() {
            Self::grow(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(pointer, layout) };
        LIVE.fetch_sub(layout.size(), Relaxed);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let moved = unsafe { MiMalloc.realloc(pointer, layout, size) };
        if !moved.is_null() {
            Self::grow(size);
            LIVE.fetch_sub(layout.size(), Relaxed);
        }
        moved
    }
}
