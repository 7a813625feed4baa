//! Sockets that a process receives from another one: SCM_RIGHTS, `pidfd_getfd`.
//! `security_file_receive` runs in the receiver.
//!
//! A receiver cannot control which descriptors it receives: a service that accepts descriptors from
//! any user (D-Bus, journald) closes the unwanted ones, and their events must not count for it. So
//! the receiver becomes the owner of a socket only if root or its own user opened the socket. Any
//! other socket stays with its owner, until a resynchronisation finds that the receiver has it and
//! the owner does not.

use aya_ebpf::{
    helpers::bpf_get_current_uid_gid,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use observer_common::{IPPROTO_MPTCP, SIGNAL_RECEIVED};

use crate::{
    core::{
        fd_lookup,
        fields::at,
        outcome::{count_outcome, seen},
        process,
        read::{Memory, Probe},
        socket,
    },
    tcp::{entry, ownership},
};

#[fentry(function = "security_file_receive")]
pub fn file_received_fentry(ctx: FEntryContext) -> i32 {
    on_file(ctx.arg(0));
    0
}

#[kprobe]
pub fn file_received_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(file) = ctx.arg(0) {
        on_file(file);
    }
    0
}

#[inline(always)]
fn on_file(file: *const u8) {
    let socket = fd_lookup::socket_by_inode(file);
    if socket.is_null() {
        return;
    }
    // SAFETY: a struct socket, offset from BTF.
    let sk = unsafe { Probe::read::<u64>(socket, at::OFF_SOCKET_SK()) as *const u8 };
    let Some(protocol) = socket::tcp_protocol(sk) else {
        return;
    };
    if !opened_by_trusted_user(sk) {
        return;
    }
    seen(SIGNAL_RECEIVED);
    let slot = process::current();
    count_outcome(SIGNAL_RECEIVED, slot);
    give(sk as u64, slot);
    if protocol == IPPROTO_MPTCP {
        give(socket::first_subflow(sk), slot);
    }
}

/// Whether the user who opened the socket is root or that of the running process.
#[inline(always)]
fn opened_by_trusted_user(sk: *const u8) -> bool {
    // SAFETY: a full socket, offset from BTF. `sk_uid` is that of the socket's inode, from
    // `sock_alloc`.
    let opener = unsafe { Probe::read::<u32>(sk, at::OFF_SK_UID()) };
    opener == 0 || opener == bpf_get_current_uid_gid() as u32
}

#[inline(always)]
fn give(socket: u64, slot: u32) {
    // A socket without an entry is neither connected nor listening.
    if let Some(conn) = entry::get(socket) {
        ownership::record(conn, slot);
    }
}
