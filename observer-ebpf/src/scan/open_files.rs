//! Finds sockets older than the daemon, and changes of owner that no hook saw (SCM_RIGHTS,
//! pidfd_getfd, fork, io_uring): `iter/task_file`, which walks the open files of all processes in
//! all network namespaces.
//!
//! The daemon reads the iterator twice. The first pass confirms owners that still have their sockets
//! open. The second inserts sockets without an entry, and hands sockets whose owner was not confirmed
//! over to a process that has them open. It writes the processes that have UDP sockets open.

use aya_ebpf::helpers::generated::bpf_sock_from_file;
use observer_common::{CLOSE, CONN_PARENT, Conn, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, LISTEN};

use crate::{
    core::{
        clock::now,
        fd_lookup,
        fields::{HAS_SOCK_FROM_FILE, at, has},
        maps::{PROCESSES, RESYNC},
        process,
        read::{Memory, Probe},
        seq::{Meta, Output},
        socket,
    },
    scan::udp,
    tcp::{accept, entry, listen, ownership},
};

/// Limit for the connections that are read from one accept queue, so that the verifier accepts the
/// loop. The rest of a longer queue is not moved, or stays unattributed, until it is accepted.
const UNACCEPTED: u32 = 128;

/// `struct bpf_iter__task_file` (`kernel/bpf/task_iter.c`); each pointer is in a union of
/// eight bytes.
#[repr(C)]
struct TaskFileContext {
    meta: *const Meta,
    task: *const u8,
    fd: u32,
    reserved: u32,
    file: *const u8,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
fn resync_iter(ctx: *mut core::ffi::c_void) -> i32 {
    let ctx = ctx.cast::<TaskFileContext>();
    // SAFETY: the kernel passes this context to programs of this type; the pointers are null in the
    // final call, which has no file.
    let (meta, task, file) = unsafe { ((*ctx).meta, (*ctx).task, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let socket = socket_of(file);
    if socket.is_null() {
        return 0;
    }
    // SAFETY: a struct socket and its struct sock, offsets from BTF.
    unsafe {
        let sk = Probe::read::<u64>(socket, at::OFF_SOCKET_SK()) as *const u8;
        if sk.is_null() {
            return 0;
        }
        let Some(protocol) = socket::protocol(sk) else {
            return 0;
        };
        let Some(control) = RESYNC.get_ptr_mut(0) else {
            return 0;
        };
        if protocol == IPPROTO_UDP {
            udp::visit(control, Output::of(meta), task, file, sk);
            return 0;
        }
        // The verifier takes no pointer of the context for a number.
        let leader = Probe::read::<u64>(task, at::OFF_TASK_LEADER());
        match protocol {
            IPPROTO_TCP => {
                resync_socket(leader, sk as u64, 0);
                let is_listener = Probe::read::<u8>(sk, at::OFF_SKC_STATE()) == LISTEN;
                if is_listener && (*control).pass == 1 {
                    unaccepted(sk);
                }
            }
            IPPROTO_MPTCP => {
                resync_socket(leader, sk as u64, 1);
                let first = socket::first_subflow(sk);
                if first != 0 {
                    resync_socket(leader, first, 0);
                }
            }
            _ => {}
        }
    }
    0
}

/// The `struct socket` behind `file`; null if it is not a socket.
#[inline(always)]
fn socket_of(file: *const u8) -> *const u8 {
    if HAS_SOCK_FROM_FILE.load() != 0 {
        // SAFETY: the helper takes the file of the context.
        return unsafe { bpf_sock_from_file(file.cast_mut().cast()) } as *const u8;
    }
    fd_lookup::socket_by_inode(file)
}

/// Sets the owner of connections in the accept queue of `listener`, for which no process has a
/// descriptor, to the listener's owner: connections older than the observer, and those of a
/// listener whose owner changed. The queue is read without its lock, which is safe. A connection
/// that is accepted concurrently may be attributed to the listener's owner again, until the next
/// resynchronisation.
#[inline(always)]
unsafe fn unaccepted(listener: *const u8) {
    if !has::OFF_ACCEPT_HEAD() || !has::OFF_REQ_SK() || !has::OFF_REQ_NEXT() {
        return;
    }
    // SAFETY: an inet_connection_sock and its request_socks, offsets from BTF; entries point into maps.
    unsafe {
        let mut request = Probe::read::<u64>(listener, at::OFF_ACCEPT_HEAD()) as *const u8;
        if request.is_null() {
            return;
        }
        let Some(entry) = entry::get(listener as u64) else {
            return;
        };
        let owner = ownership::of_entry(entry);
        let mut left = UNACCEPTED;
        while left > 0 && !request.is_null() {
            resync_unaccepted(Probe::read(request, at::OFF_REQ_SK()), owner);
            request = Probe::read::<u64>(request, at::OFF_REQ_NEXT()) as *const u8;
            left -= 1;
        }
    }
}

/// Handles one connection of an accept queue, whose listener `owner` has. A function of its own that is exported, so that
/// the verifier checks it once, and not once per iteration. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn resync_unaccepted(child: u64, owner: u32) -> u32 {
    if child == 0 {
        return 0;
    }
    let Some(control) = RESYNC.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a socket, offset from BTF; `control` and entries point into maps.
    unsafe {
        let state = Probe::read::<u8>(child as *const u8, at::OFF_SKC_STATE());
        if state == 0 {
            return 0;
        }
        match entry::get(child) {
            Some(conn) => {
                if (*conn).accepted == 0 && ownership::hand_over(conn, owner) {
                    (*control).moved += 1;
                }
            }
            None => {
                if entry::seed(child, owner, state, now()).is_some() {
                    (*control).seeded += 1;
                }
            }
        }
    }
    0
}

/// Handles the socket `sk` that the process of `leader`, its first thread, has open; an MPTCP parent if `parent` is 1.
/// Exported so that the verifier checks it once. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn resync_socket(leader: u64, sk: u64, parent: u32) -> u32 {
    let Some(control) = RESYNC.get_ptr_mut(0) else {
        return 0;
    };
    let task = leader as *const u8;
    let parent = parent != 0;
    // SAFETY: a task and a socket, offset from BTF; `control` and entries point into maps.
    unsafe {
        let epoch = (*control).epoch;
        let conn = entry::get(sk);
        if (*control).pass == 0 {
            if let Some(conn) = conn {
                confirm(conn, task, epoch);
            }
            return 0;
        }
        (*control).seen += 1;
        let state = Probe::read::<u8>(sk as *const u8, at::OFF_SKC_STATE());
        if let Some(conn) = conn
            && state == LISTEN
            && !parent
        {
            listen::found(sk as *const u8, conn);
        }
        match conn {
            Some(conn) => {
                // Or recorded since the first pass began.
                let confirmed = (*conn).epoch == epoch;
                let owner = if confirmed {
                    ownership::of_entry(conn)
                } else {
                    process::of_task(task)
                };
                if (*conn).accepted == 0 {
                    accept::in_use(conn, owner);
                }
                if !confirmed && ownership::record(conn, owner) {
                    (*control).moved += 1;
                }
            }
            // Neither connected nor listening: it gets its entry at its first transition.
            None if state == CLOSE => {}
            None => {
                let slot = process::of_task(task);
                let conn = if parent {
                    entry::create(sk, slot, CONN_PARENT, state, now())
                } else {
                    entry::seed(sk, slot, state, now())
                };
                if state == LISTEN && !parent {
                    listen::opened(sk as *const u8, conn);
                }
                if conn.is_some() {
                    (*control).seeded += u64::from(!parent);
                }
            }
        }
    }
    0
}

/// Confirms the owner of the entry if it is the process of `task`.
#[inline(always)]
unsafe fn confirm(conn: *mut Conn, task: *const u8, epoch: u32) {
    // A process without a slot owns no socket. Do not assign one here.
    let key = process::key_of(task);
    if let Some(slot) = PROCESSES.get_ptr(key) {
        // SAFETY: both point into maps.
        unsafe {
            if *slot == ownership::of_entry(conn) {
                (*conn).epoch = epoch;
                ownership::readjust(conn);
            }
        }
    }
}
