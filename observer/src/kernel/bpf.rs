//! bpf(2), for commands that aya does not support.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// Commands of bpf(2), `enum bpf_cmd` (include/uapi/linux/bpf.h).
pub const BPF_PROG_LOAD: libc::c_long = 5;
pub const BPF_LINK_CREATE: libc::c_long = 28;
pub const BPF_ITER_CREATE: libc::c_long = 33;

/// bpf(2), for commands that return a descriptor.
///
/// # Errors
///
/// What the kernel returns.
///
/// # Safety
///
/// `attr` is what `command` takes, without padding, and what it points to is valid.
pub unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
