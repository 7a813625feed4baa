//! Returns freed memory from glibc to the kernel. Other C libraries do so on their own, or have no
//! interface for it.

/// Returns free memory to the kernel, also from the middle of the heap.
///
/// Parsing BTF at the start takes tens of megabytes and leaves a few small allocations spread over
/// them, which keep the heap from shrinking. A walk over all sockets does the same on a smaller scale.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Configures glibc to keep less free memory. To be called before there are threads.
///
/// By default each thread has its own heap, and the mmap threshold grows with each large block that
/// is freed, so that blocks up to that size stay in the heap.
pub fn keep_less() {
    /// Blocks above this size, and free memory above it at the end of the heap, are returned to the
    /// kernel.
    #[cfg(target_env = "gnu")]
    const LARGE: libc::c_int = 1 << 20;
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: sets a number in the allocator.
        unsafe { libc::mallopt(parameter, value) };
    }
}
