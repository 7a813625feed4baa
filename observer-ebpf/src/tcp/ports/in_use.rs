//! Connections and local ports in use: `iter/bpf_map_elem` over the map of connections and over sockets in
//! TIME_WAIT.
//!
//! Nothing is counted at events. When the daemon reads the iterators, they write a record for each socket,
//! and the daemon counts. A port that is used again while its last user is in TIME_WAIT is written
//! twice and counted once.
//!
//! Every element writes a record, even an empty one: a read(2) ends when the buffer is full, which
//! limits the number of elements per call.

use core::ffi::c_void;

use observer_common::{
    CLOSE, CLOSE_WAIT, CONN_PARENT, CONN_PASSIVE, Conn, ESTABLISHED, FIN_WAIT2, LEAST_WAIT_MS,
    LISTEN, PORT_BOUND, PORT_UNCONNECTED, SEEN_DESCRIPTOR, SEEN_PASSIVE, SEEN_UNGUARDED,
    SocketSeen, TIME_WAIT, TimeWait, WALK_CONNECTIONS, WALK_TIME_WAITS, Walk, coarse_time,
};

use crate::{
    core::{
        clock::now,
        counters,
        fields::{at, has},
        read::{Direct, Memory},
        seq,
        socket::{SOCK_KEEPOPEN, is_bound, local_address, remote_address},
        walk,
    },
    tcp::{
        ownership,
        ports::{namespaces, reuse},
        time_wait, waiting,
    },
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn connections_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of connections.
    let Some((output, key, conn)) = (unsafe { seq::element::<u64, Conn>(ctx) }) else {
        walk::end(WALK_CONNECTIONS);
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let (sk, flags, state, born_ns, entered_ns) = unsafe {
        (
            *key as *const u8,
            (*conn).flags,
            (*conn).state,
            (*conn).born_ns,
            (*conn).entered_ns,
        )
    };
    let mut socket = SocketSeen::default();
    // The subflows of an MPTCP parent have entries of their own.
    if flags & CONN_PARENT == 0
        && let Some(walk) = walk::visit_connection(sk)
    {
        let fields = walk::fields(walk);
        let time = now();
        socket.slot = ownership::of_entry(conn);
        socket.generation = counters::generation(socket.slot);
        socket.state = state;
        // SAFETY: points into the map.
        socket.netns = unsafe { (*walk).netns };
        let age = time.saturating_sub(entered_ns);
        socket.age = coarse_time(age.min(LONGEST));
        if matches!(state, CLOSE_WAIT | FIN_WAIT2) && has_descriptor(fields) {
            socket.flags |= SEEN_DESCRIPTOR;
        }
        if matches!(state, ESTABLISHED | CLOSE_WAIT) {
            let waiting = waiting::now_of(sk, conn, walk);
            socket.waits_for = waiting.what;
            socket.waited_ms = waiting.ms;
            socket.idle_ms = waiting.idle_ms;
            socket.flags |= waiting.flags;
            socket.alive = coarse_time(time.saturating_sub(born_ns).min(LONGEST));
        }
        if state == ESTABLISHED && is_unguarded(fields) {
            socket.flags |= SEEN_UNGUARDED;
        }
        let has_port = if flags & CONN_PASSIVE != 0 {
            // It uses the port of its listener.
            socket.flags |= SEEN_PASSIVE;
            let is_kept = state == CLOSE_WAIT && age >= LEAST_CLOSE_WAIT;
            // Whom it waits for, or who has closed it.
            socket.waited_ms >= LEAST_WAIT_MS || is_kept
        } else {
            is_live_port(&mut socket, fields)
        };
        if has_port {
            port(&mut socket, fields, walk);
        }
    }
    output.write(&raw const socket);
    0
}

/// Age in nanoseconds from which a connection in CLOSE_WAIT may be one that is never closed.
const LEAST_CLOSE_WAIT: u64 = 10_000_000_000;

/// Longest age that [`coarse_time`] can express, nanoseconds.
const LONGEST: u64 = (1 << 52) - 1;

/// Whether a full socket that is not the child of a listener has a port. Adds flags of the port.
#[inline(always)]
fn is_live_port(socket: &mut SocketSeen, fields: *const u8) -> bool {
    let mut taken = 0;
    if socket.state == LISTEN || is_bound::<Direct>(fields) {
        taken |= PORT_BOUND;
    }
    if matches!(socket.state, LISTEN | CLOSE) {
        taken |= PORT_UNCONNECTED;
    }
    // A closed socket keeps its port only if it was bound to it.
    if taken == PORT_UNCONNECTED {
        return false;
    }
    socket.flags |= taken;
    true
}

/// Whether a descriptor refers to the socket, see [`SEEN_DESCRIPTOR`].
#[inline(always)]
fn has_descriptor(fields: *const u8) -> bool {
    // SAFETY: of a full socket, offset from BTF.
    has::OFF_SK_SOCKET() && unsafe { Direct::read::<u64>(fields, at::OFF_SK_SOCKET()) } != 0
}

/// See [`SEEN_UNGUARDED`].
#[inline(always)]
fn is_unguarded(fields: *const u8) -> bool {
    if !has::OFF_SKC_FLAGS() || !has::OFF_ICSK_USER_TIMEOUT() {
        return false;
    }
    // SAFETY: of an inet_connection_sock, offsets from BTF.
    let (flags, timeout) = unsafe {
        (
            Direct::read::<u64>(fields, at::OFF_SKC_FLAGS()),
            Direct::read::<u32>(fields, at::OFF_ICSK_USER_TIMEOUT()),
        )
    };
    flags & SOCK_KEEPOPEN == 0 && timeout == 0
}

/// Adds the port, the addresses and the network namespace of a socket of any kind.
#[inline(always)]
fn port(socket: &mut SocketSeen, fields: *const u8, walk: *mut Walk) {
    socket.local = local_address::<Direct>(fields);
    socket.remote = remote_address::<Direct>(fields);
    // SAFETY: of a `struct sock_common`, offsets from BTF; `walk` points into the map.
    unsafe {
        // 0: connect() is still searching for a port.
        socket.local_port = Direct::read(fields, at::OFF_SKC_NUM());
        socket.remote_port = u16::from_be(Direct::read(fields, at::OFF_SKC_DPORT()));
        socket.netns = (*walk).netns;
        if (*walk).noted == 0 {
            (*walk).noted = 1;
            namespaces::note((*walk).net, (*walk).netns);
        }
    }
}

/// Ports in TIME_WAIT, and sockets in TIME_WAIT that ended. The key is the timewait socket's address.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn time_waits_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of sockets in TIME_WAIT.
    let Some((output, key, entry)) = (unsafe { seq::element::<u64, TimeWait>(ctx) }) else {
        walk::end(WALK_TIME_WAITS);
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let (sk, entry) = unsafe { (*key, *entry) };
    let age = coarse_time(now()).wrapping_sub(entry.entered);
    let mut socket = SocketSeen::default();
    if let Some(walk) = walk::visit_time_wait(sk as *const u8)
        && !time_wait::remove_if_ended(sk, walk::fields(walk), &entry, age)
    {
        let fields = walk::fields(walk);
        let facts = reuse::facts(fields);
        socket.slot = entry.slot;
        socket.generation = entry.generation;
        socket.flags = facts.flags;
        socket.state = TIME_WAIT;
        socket.age = age;
        socket.idle_ms = facts.waited_ms;
        port(&mut socket, fields, walk);
    }
    output.write(&raw const socket);
    0
}
