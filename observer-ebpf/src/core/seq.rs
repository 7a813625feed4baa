//! Context and output of iterators over the elements of a map (`iter/bpf_map_elem`, 5.9 and
//! later). They run when the daemon reads them; their output is what it reads.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_seq_write;

/// `struct bpf_iter__bpf_map_elem` (`kernel/bpf/map_iter.c`); each pointer is in a union of
/// eight bytes.
#[repr(C)]
struct MapElemContext {
    meta: *const Meta,
    map: *const u8,
    key: *const u8,
    value: *mut u8,
}

/// The head of `struct bpf_iter_meta` (`include/linux/bpf.h`).
#[repr(C)]
pub struct Meta {
    seq: *mut u8,
}

/// Output of an iterator.
#[derive(Clone, Copy)]
pub struct Output(*mut u8);

impl Output {
    /// Of the context's `meta`.
    ///
    /// # Safety
    ///
    /// `meta` is the `struct bpf_iter_meta` of the context of the running program.
    #[inline(always)]
    pub unsafe fn of(meta: *const Meta) -> Self {
        // SAFETY: by the contract of this function; never null.
        Self(unsafe { (*meta).seq })
    }

    /// Writes one record. If the buffer (32 KiB) is full, the kernel discards the output for this
    /// element and runs the program on it again at the next read.
    #[inline(always)]
    pub fn write<T>(self, record: *const T) {
        // SAFETY: the seq_file of the context; the record is initialised memory of that size.
        unsafe {
            bpf_seq_write(
                self.0.cast(),
                record.cast::<c_void>(),
                size_of::<T>() as u32,
            )
        };
    }
}

/// Output, key and value of the element that an iterator runs on; `None` in the final call, which
/// has no element. The verifier checks accesses against the sizes in the map.
///
/// # Safety
///
/// `ctx` is the context of an `iter/bpf_map_elem` program over a map of `K` and `V`.
#[inline(always)]
pub unsafe fn element<K, V>(ctx: *mut c_void) -> Option<(Output, *const K, *mut V)> {
    let ctx = ctx.cast::<MapElemContext>();
    // SAFETY: the kernel passes this context to programs of this type.
    let (meta, key, value) = unsafe { ((*ctx).meta, (*ctx).key, (*ctx).value) };
    if key.is_null() || value.is_null() {
        return None;
    }
    // SAFETY: from the context.
    Some((unsafe { Output::of(meta) }, key.cast(), value.cast()))
}
