//! Links of type uprobe_multi: one program on many instructions of a file (`bpf_uprobe_multi_link_attach` in
//! kernel/trace/bpf_trace.c, 6.6). aya 0.14 has no call for them.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use crate::kernel::bpf::{BPF_LINK_CREATE, bpf};

/// `BPF_TRACE_UPROBE_MULTI` of `enum bpf_attach_type`.
pub const BPF_TRACE_UPROBE_MULTI: u32 = 48;
/// The program runs when the function returns.
const BPF_F_UPROBE_MULTI_RETURN: u32 = 1;

/// An instruction, and what the program is told about it.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Offset in the file.
    pub offset: u64,
    /// `bpf_get_attach_cookie`.
    pub cookie: u64,
}

/// The part of `union bpf_attr` that belongs to BPF_LINK_CREATE with this type.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    padding: u32,
}

/// Attaches `program` to the instructions `points` of the file at `path`, for all processes. With `returns`, they
/// are entries of functions, and it runs when these return.
///
/// # Errors
///
/// EINVAL before 6.6, or when an instruction cannot be probed; what opening the file fails with.
pub fn attach(
    program: BorrowedFd<'_>,
    path: &Path,
    points: &[Point],
    returns: bool,
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let offsets: Vec<_> = points.iter().map(|point| point.offset).collect();
    let cookies: Vec<_> = points.iter().map(|point| point.cookie).collect();
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_UPROBE_MULTI,
        flags: 0,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        ref_ctr_offsets: 0,
        cookies: cookies.as_ptr() as u64,
        count: points.len() as u32,
        multi_flags: if returns {
            BPF_F_UPROBE_MULTI_RETURN
        } else {
            0
        },
        pid: 0,
        padding: 0,
    };
    // SAFETY: the attributes of this command; what they point to outlives the call.
    unsafe { bpf(BPF_LINK_CREATE, &attr) }
}
