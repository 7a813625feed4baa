//! Accepted connections: `inet_csk_accept`, or where that cannot be hooked, accept()'s return
//! ([`on_descriptor`], called by the programs of `process::fd`).
//!
//! The owner of a connection moves from the listener's process to the one that accepts it.
//! io_uring and 32-bit programs do not pass the tracepoints of accept(). Where only those are hooked,
//! such connections stay with the listener's process until the next resynchronisation, which also
//! counts them ([`in_use`]), or their end ([`ended`]).

use aya_ebpf::{macros::fexit, programs::FExitContext};
use observer_common::{CONN_PARENT, CONN_PASSIVE, Conn, IPPROTO_MPTCP, IPPROTO_TCP, SIGNAL_ACCEPT};

use crate::{
    core::{
        clock::now,
        counters::{self, add},
        fields::{HAS_FUNC_RET, at, has},
        outcome::{count_outcome, seen},
        process,
        read::{Memory, Probe},
        socket,
    },
    tcp::{entry, ownership},
};

#[fexit(function = "inet_csk_accept")]
pub fn accept_fexit(ctx: FExitContext) -> i32 {
    let child = returned_child(&ctx);
    dequeued(child, entry::get(child as u64));
    0
}

/// Backup of [`accept_fexit`]. The kernel skips a program that is already running on the CPU, and
/// this one can be preempted by other processes that accept. The entry says whether the connection
/// was counted and its owner recorded.
#[fexit(function = "inet_csk_accept")]
pub fn accept_again_fexit(ctx: FExitContext) -> i32 {
    let child = returned_child(&ctx);
    // Without an entry it is unknown whether it was handled.
    if let Some(conn) = entry::get(child as u64) {
        // A child's epoch is 0 until an owner is recorded (`entry::insert`).
        // SAFETY: points into the map.
        if unsafe { (*conn).accepted == 0 || (*conn).epoch == 0 } {
            dequeued(child, Some(conn));
        }
    }
    0
}

/// Return value of `inet_csk_accept`, which takes (sk, flags, err, kern) before 6.10 and (sk, arg)
/// since.
#[inline(always)]
fn returned_child(ctx: &FExitContext) -> *const u8 {
    if HAS_FUNC_RET.load() != 0 {
        return ctx.ret().unwrap_or(core::ptr::null());
    }
    ctx.arg(4)
}

/// A connection with the entry `conn` left the accept queue, in the process that accepts it. For an
/// MPTCP connection, `conn` is the first subflow.
#[inline(always)]
fn dequeued(sk: *const u8, conn: Option<*mut Conn>) {
    if sk.is_null() {
        return;
    }
    // SAFETY: a full socket, offset from BTF.
    if unsafe { Probe::read::<u16>(sk, at::OFF_SK_PROTOCOL()) } != IPPROTO_TCP {
        // DCCP, which the kernel had until 6.15, uses the same function.
        return;
    }
    let slot = process::current();
    let parent = socket::mptcp_parent(sk);
    if parent != 0 {
        note_parent(parent as *const u8, slot);
    }
    accepted(conn, slot);
}

/// accept() returned a descriptor for `sk`.
#[inline(always)]
pub fn on_descriptor(mut sk: *const u8) {
    let Some(protocol) = socket::tcp_protocol(sk) else {
        return;
    };
    let slot = process::current();
    if protocol == IPPROTO_MPTCP {
        note_parent(sk, slot);
        sk = socket::first_subflow(sk) as *const u8;
    }
    accepted(entry::get(sk as u64), slot);
}

/// The process of `slot` has accepted a connection and becomes its owner, even if another program has counted the accept.
#[inline(always)]
fn accepted(conn: Option<*mut Conn>, slot: u32) {
    count(conn, slot);
    if let Some(conn) = conn {
        ownership::record(conn, slot);
    }
}

/// Stores the owner of an MPTCP parent, for subflows that join later.
#[inline(always)]
fn note_parent(parent: *const u8, slot: u32) {
    match entry::get(parent as u64) {
        Some(conn) => _ = ownership::record(conn, slot),
        None => {
            // SAFETY: an mptcp_sock begins with a struct sock, offset from BTF.
            let state = unsafe { Probe::read::<u8>(parent, at::OFF_SKC_STATE()) };
            entry::create(parent as u64, slot, CONN_PARENT, state, now());
        }
    }
}

/// The process of `slot` has a descriptor for the connection `conn`, so it was accepted. Counts it if no
/// program saw that.
#[inline(always)]
pub fn in_use(conn: *mut Conn, slot: u32) {
    // SAFETY: points into the map.
    if unsafe { (*conn).flags } & CONN_PASSIVE != 0 {
        count(Some(conn), slot);
    }
}

/// The connection `conn`, whose socket is `sk`, left ESTABLISHED or a later state. Only a program that
/// has accepted it gives it a `struct socket` (`sock_graft`) and takes that away when it has closed it
/// (`sock_orphan`).
#[inline(always)]
pub fn ended<M: Memory>(sk: *const u8, conn: *mut Conn, slot: u32) {
    // SAFETY: points into the map; a full socket, offset from BTF.
    unsafe {
        if (*conn).flags & CONN_PASSIVE != 0
            && (*conn).accepted == 0
            && has::OFF_SK_SOCKET()
            && M::read::<u64>(sk, at::OFF_SK_SOCKET()) != 0
            // A joined subflow has the `struct socket` of its parent.
            && socket::mptcp_parent(sk) == 0
        {
            count(Some(conn), slot);
        }
    }
}

/// Counts a connection once.
#[inline(always)]
fn count(conn: Option<*mut Conn>, slot: u32) {
    if let Some(conn) = conn {
        // At once, because a FIN that arrives during accept() calls this on another CPU, too. An accept counts twice if
        // both are between these two instructions; BPF has no atomic exchange before 5.12.
        // SAFETY: points into the map.
        unsafe {
            if (*conn).accepted != 0 {
                return;
            }
            (*conn).accepted = 1;
        }
    }
    seen(SIGNAL_ACCEPT);
    count_outcome(SIGNAL_ACCEPT, slot);
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*counters).accept.accepted }, 1);
    }
}
