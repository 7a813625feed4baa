//! Attaching a program to instructions of a file, for all processes. aya 0.14 has no call for uprobe_multi links.

use std::{
    ffi::{CStr, CString},
    fs,
    io::{self, Error},
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{PERF_FLAG_FD_CLOEXEC, perf_event_attr};

use crate::kernel::bpf::{BPF_LINK_CREATE, bpf};

/// What is attached to a file; dropping it detaches it.
pub struct Links(#[expect(dead_code, reason = "held")] Vec<OwnedFd>);

impl Links {
    /// `links` are those of ends before those of beginnings. They are detached in the other order, so that what has
    /// begun is seen to end.
    pub fn new(mut links: Vec<OwnedFd>) -> Self {
        links.reverse();
        Self(links)
    }
}

/// `BPF_TRACE_UPROBE_MULTI` and `BPF_PERF_EVENT` of `enum bpf_attach_type`.
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
const BPF_PERF_EVENT: u32 = 41;
/// The program runs when the function returns.
const BPF_F_UPROBE_MULTI_RETURN: u32 = 1;
/// Where the kernel describes its perf events on user space (`perf_uprobe` in kernel/events/core.c).
const PERF_UPROBE: &str = "/sys/bus/event_source/devices/uprobe";

/// An instruction, and what the program is told about it.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Offset in the file.
    pub offset: u64,
    /// `bpf_get_attach_cookie`.
    pub cookie: u64,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// A link of type uprobe_multi for many instructions (`bpf_uprobe_multi_link_attach` in
    /// kernel/trace/bpf_trace.c, 6.6). Needs no capability.
    Multi,
    /// A perf event for each instruction. Needs CAP_SYS_ADMIN.
    Perf(PerfUprobe),
}

/// The kernel's numbers for perf events on user space.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerfUprobe {
    /// `perf_event_attr.type`.
    kind: u32,
    /// `perf_event_attr.config` of an event on the return of a function.
    on_return: u64,
}

/// The parts of `union bpf_attr` that belong to BPF_LINK_CREATE with these types.
#[repr(C)]
struct LinkMulti {
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
#[repr(C)]
struct LinkPerf {
    prog_fd: u32,
    event_fd: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

impl Way {
    /// The one that a kernel has.
    ///
    /// # Errors
    ///
    /// When it has neither.
    pub fn find(has_multi: bool) -> io::Result<Self> {
        if has_multi {
            Ok(Self::Multi)
        } else {
            PerfUprobe::find().map(Self::Perf)
        }
    }

    /// What a program has to be loaded with, `expected_attach_type`.
    pub fn expected_attach_type(self) -> u32 {
        match self {
            Self::Multi => BPF_TRACE_UPROBE_MULTI,
            Self::Perf(_) => 0,
        }
    }

    /// Attaches `program` to the instructions `points` of the file at `path`, for all processes. With `returns`, they
    /// are entries of functions, and it runs when these return. Dropping all links detaches it.
    ///
    /// # Errors
    ///
    /// When an instruction cannot be probed, a capability is missing, or the file cannot be opened.
    pub fn attach(
        self,
        program: BorrowedFd<'_>,
        path: &Path,
        points: &[Point],
        returns: bool,
    ) -> io::Result<Vec<OwnedFd>> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(Error::other)?;
        match self {
            Self::Multi => Ok(vec![attach_multi(program, &path, points, returns)?]),
            Self::Perf(events) => points
                .iter()
                .map(|point| events.attach(program, &path, *point, returns))
                .collect(),
        }
    }
}

fn attach_multi(
    program: BorrowedFd<'_>,
    path: &CStr,
    points: &[Point],
    returns: bool,
) -> io::Result<OwnedFd> {
    let offsets: Vec<_> = points.iter().map(|point| point.offset).collect();
    let cookies: Vec<_> = points.iter().map(|point| point.cookie).collect();
    let attr = LinkMulti {
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

impl PerfUprobe {
    fn find() -> io::Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("{PERF_UPROBE}/{file}"));
        let number = |text: Option<&str>| text?.trim().parse().ok();
        // `config:0`.
        let bit = read("format/retprobe")?;
        let (kind, bit) = (
            number(Some(&read("type")?)),
            number(bit.strip_prefix("config:")),
        );
        let (Some(kind), Some(bit @ 0..64)) = (kind, bit) else {
            return Err(Error::other(format!("{PERF_UPROBE} is not understood")));
        };
        Ok(Self {
            kind,
            on_return: 1 << bit,
        })
    }

    fn attach(
        self,
        program: BorrowedFd<'_>,
        path: &CStr,
        point: Point,
        returns: bool,
    ) -> io::Result<OwnedFd> {
        // SAFETY: all zero is a valid value.
        let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
        attr.size = size_of::<perf_event_attr>() as u32;
        attr.type_ = self.kind;
        attr.config = if returns { self.on_return } else { 0 };
        // `uprobe_path` and `probe_offset` (include/uapi/linux/perf_event.h).
        attr.__bindgen_anon_3.config1 = path.as_ptr() as u64;
        attr.__bindgen_anon_4.config2 = point.offset;
        // All processes. The CPU does not matter: an event that a program is attached to counts nothing.
        let (pid, cpu, group) = (-1, 0, -1);
        // SAFETY: the attributes of this call; the path outlives it.
        let event = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attr,
                pid,
                cpu,
                group,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let event = match i32::try_from(event) {
            // SAFETY: a new descriptor that nobody else has.
            Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
            _ => return Err(Error::last_os_error()),
        };
        let attr = LinkPerf {
            prog_fd: program.as_raw_fd() as u32,
            event_fd: event.as_raw_fd() as u32,
            attach_type: BPF_PERF_EVENT,
            flags: 0,
            cookie: point.cookie,
        };
        // The link keeps the event.
        // SAFETY: the attributes of this command.
        unsafe { bpf(BPF_LINK_CREATE, &attr) }
    }
}
