//! Sockets older than the daemon, and sockets that changed hands unseen (SCM_RIGHTS,
//! pidfd_getfd, fork, io_uring): `iter/task_file`, which walks the open files of every
//! process in every network namespace.
//!
//! The daemon reads the iterator twice. The first pass confirms the owners that still hold
//! their sockets; the second takes in sockets that are not known yet, and gives those whose
//! owner was not confirmed to a process that holds them.

use aya_ebpf::helpers::generated::bpf_sock_from_file;
use observer_common::{
    CLOSE, CONN_PARENT, Conn, IPPROTO_MPTCP, IPPROTO_TCP, LISTEN, ResyncControl, SLOT_FIRST,
};

use crate::{
    core::{
        clock::now,
        fd_lookup,
        fields::{HAS_SOCK_FROM_FILE, at, has},
        maps::{PROCESSES, RESYNC},
        process,
        read::{Memory, Probe},
        socket,
    },
    tcp::{entry, listen, ownership},
};

/// The most connections taken in from one listener's queue, so that the verifier sees an
/// end. A queue is as long as the backlog; the rest stays unattributed until accepted.
const UNACCEPTED: u32 = 128;

/// `struct bpf_iter__task_file` (`kernel/bpf/task_iter.c`); each pointer is in a union of
/// eight bytes.
#[repr(C)]
struct TaskFileContext {
    meta: *const u8,
    task: *const u8,
    fd: u32,
    reserved: u32,
    file: *const u8,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
fn resync_iter(ctx: *mut core::ffi::c_void) -> i32 {
    let ctx = ctx.cast::<TaskFileContext>();
    // SAFETY: the kernel passes this context to programs of this type; the pointers are
    // null in the call that ends the walk.
    let (task, file) = unsafe { ((*ctx).task, (*ctx).file) };
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
        let Some(protocol) = socket::tcp_protocol(sk) else {
            return 0;
        };
        let state = Probe::read::<u8>(sk, at::OFF_SKC_STATE());
        let Some(control) = RESYNC.get_ptr_mut(0) else {
            return 0;
        };
        match protocol {
            IPPROTO_TCP => {
                visit(control, task, sk, state, false);
                if state == LISTEN && (*control).pass == 1 && (*control).epoch == 1 {
                    unaccepted(control, task, sk);
                }
            }
            IPPROTO_MPTCP => {
                visit(control, task, sk, state, true);
                let first = socket::first_subflow(sk) as *const u8;
                if !first.is_null() {
                    let state = Probe::read::<u8>(first, at::OFF_SKC_STATE());
                    visit(control, task, first, state, false);
                }
            }
            _ => {}
        }
    }
    0
}

/// The `struct socket` behind `file`, null when it is no socket.
#[inline(always)]
fn socket_of(file: *const u8) -> *const u8 {
    if HAS_SOCK_FROM_FILE.load() != 0 {
        // SAFETY: takes the file of the context.
        return unsafe { bpf_sock_from_file(file.cast_mut().cast()) } as *const u8;
    }
    fd_lookup::socket_by_inode(file)
}

/// Takes in the connections that wait to be accepted from `listener`: no process has a
/// descriptor for them yet. Done once, by the first resynchronisation; those that come later
/// are seen being born. The queue is read without its lock, which is safe; what is taken
/// off it meanwhile is found in a process or in its end.
#[inline(always)]
unsafe fn unaccepted(control: *mut ResyncControl, task: *const u8, listener: *const u8) {
    if !has::OFF_ACCEPT_HEAD() || !has::OFF_REQ_SK() || !has::OFF_REQ_NEXT() {
        return;
    }
    // SAFETY: an inet_connection_sock and its request_socks, offsets from BTF; `control`
    // points into the map.
    unsafe {
        let mut request = Probe::read::<u64>(listener, at::OFF_ACCEPT_HEAD()) as *const u8;
        if request.is_null() {
            return;
        }
        // Not in the loop, each turn of which the verifier walks through.
        let slot = process::of_task(task);
        let mut left = UNACCEPTED;
        while left > 0 && !request.is_null() {
            let child = Probe::read::<u64>(request, at::OFF_REQ_SK()) as *const u8;
            let state = Probe::read::<u8>(child, at::OFF_SKC_STATE());
            if !child.is_null() && state != 0 && entry::get(child as u64).is_none() {
                if entry::seed(child as u64, slot, state, now()).is_some() {
                    (*control).seeded += 1;
                }
            }
            request = Probe::read::<u64>(request, at::OFF_REQ_NEXT()) as *const u8;
            left -= 1;
        }
    }
}

/// Looks at one socket that `task` holds.
#[inline(always)]
unsafe fn visit(
    control: *mut ResyncControl,
    task: *const u8,
    sk: *const u8,
    state: u8,
    parent: bool,
) {
    // SAFETY: `control` points into the map.
    unsafe {
        let epoch = (*control).epoch;
        let conn = entry::get(sk as u64);
        if (*control).pass == 0 {
            if let Some(conn) = conn {
                confirm(conn, task, epoch);
            }
            return;
        }
        (*control).seen += 1;
        if let Some(conn) = conn
            && state == LISTEN
            && !parent
        {
            listen::found(sk, conn);
        }
        match conn {
            Some(conn) if (*conn).epoch == epoch => {}
            // Opened after the first pass, and maybe inherited by a child since: its owner
            // is given until the next resynchronisation to be confirmed.
            Some(conn) if (*conn).epoch == 0 && ownership::of_entry(conn) >= SLOT_FIRST => {
                (*conn).epoch = epoch;
            }
            Some(conn) => {
                let slot = process::of_task(task);
                if ownership::of_entry(conn) != slot {
                    ownership::hand_over(conn, slot);
                    (*control).moved += 1;
                }
                (*conn).epoch = epoch;
            }
            // A socket that is neither connected nor listening is of no interest yet.
            None if state == CLOSE => {}
            None => {
                let slot = process::of_task(task);
                let conn = if parent {
                    entry::create(sk as u64, slot, CONN_PARENT, state, now())
                } else {
                    entry::seed(sk as u64, slot, state, now())
                };
                if state == LISTEN && !parent {
                    listen::opened(sk, conn);
                }
                if let Some(conn) = conn {
                    (*conn).epoch = epoch;
                    (*control).seeded += u64::from(!parent);
                }
            }
        }
    }
}

/// Marks the entry when `task` is its owner.
#[inline(always)]
unsafe fn confirm(conn: *mut Conn, task: *const u8, epoch: u32) {
    // A process without a slot owns nothing; do not give it one for being looked at.
    let key = process::key_of(task);
    if let Some(slot) = PROCESSES.get_ptr(key) {
        // SAFETY: both point into maps.
        unsafe {
            if *slot == ownership::of_entry(conn) {
                (*conn).epoch = epoch;
                ownership::rebook(conn);
            }
        }
    }
}
