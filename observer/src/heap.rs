//! Memory that the C library keeps after it was freed. Others than glibc give it back on their own,
//! or cannot be asked.

/// Gives free memory back to the kernel, in the middle of the heap as well as at its end.
///
/// Reading the kernel's types at the start takes tens of megabytes and leaves a few small
/// allocations spread over them, which hold the heap's end where it was. A look at all
/// sockets does the same on a smaller scale.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the C library keep less. To be called before there are threads.
///
/// By default each thread has a heap of its own; and once a large block was freed, such as the
/// kernel's types, blocks of up to that size stay in the heap from then on.
pub fn keep_less() {
    /// Larger blocks are the kernel's again once they are freed, and so is more than that at the
    /// heap's end.
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
