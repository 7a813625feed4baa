//! Local ports in use: `iter/bpf_map_elem` over the map of connections and over sockets in TIME_WAIT.
//!
//! Nothing is counted at events. When the daemon reads the iterators, they write the addresses of
//! each socket, and the daemon counts ports. A port that is used again while its last user is in
//! TIME_WAIT is written twice and counted once.

use core::ffi::c_void;

use observer_common::{
    CLOSE, CONN_PARENT, CONN_PASSIVE, Conn, LISTEN, PORT_BOUND, PORT_UNCONNECTED, PortUse,
    TimeWait, coarse_time,
};

use crate::{
    core::{
        clock::now,
        counters,
        fields::{at, has},
        read::{Memory, Probe},
        seq::{self, Output},
        socket::{local_address, remote_address},
    },
    tcp::{
        ownership,
        ports::{
            namespaces,
            reuse::{self, bound_bucket},
        },
        time_wait,
    },
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn connections_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of connections.
    let Some((output, key, conn)) = (unsafe { seq::element::<u64, Conn>(ctx) }) else {
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let (sk, flags, state) = unsafe { (*key as *const u8, (*conn).flags, (*conn).state) };
    // A child uses the port of its listener.
    if flags & (CONN_PASSIVE | CONN_PARENT) != 0 {
        return 0;
    }
    let mut taken = 0;
    if state == LISTEN || bound(sk) {
        taken |= PORT_BOUND;
    }
    if matches!(state, LISTEN | CLOSE) {
        taken |= PORT_UNCONNECTED;
    }
    // A closed socket keeps its port only if it was bound to it.
    if taken != PORT_UNCONNECTED {
        let slot = ownership::of_entry(conn);
        write(output, sk, slot, counters::generation(slot), taken, None);
    }
    0
}

/// Whether the socket's port is taken for every destination. The kernel decides by two fields of the
/// port's bucket (`__inet_hash_connect`), which are negative if only connect() chose it.
#[inline(always)]
fn bound(sk: *const u8) -> bool {
    // SAFETY: an inet_connection_sock, offset from BTF.
    has::OFF_ICSK_BIND_HASH()
        && bound_bucket(unsafe { Probe::read::<u64>(sk, at::OFF_ICSK_BIND_HASH()) })
}

/// Writes the port of a socket, of any kind that begins with a `struct sock_common`. `age` is given
/// for a timewait socket.
#[inline(always)]
fn write(
    output: Output,
    sk: *const u8,
    slot: u32,
    generation: u32,
    mut flags: u32,
    age: Option<u32>,
) {
    let mut waited_ms = 0;
    if age.is_some() {
        let facts = reuse::facts(sk);
        flags |= facts.flags;
        waited_ms = facts.waited_ms;
    }
    // SAFETY: as above, offsets from BTF.
    let record = unsafe {
        let mut net = 0;
        if has::OFF_SKC_NET() {
            net = Probe::read::<u64>(sk, at::OFF_SKC_NET());
        }
        PortUse {
            slot,
            generation,
            netns: namespaces::note(net),
            flags,
            age: age.unwrap_or(0),
            waited_ms,
            local_port: Probe::read(sk, at::OFF_SKC_NUM()),
            remote_port: u16::from_be(Probe::read(sk, at::OFF_SKC_DPORT())),
            local: local_address::<Probe>(sk),
            remote: remote_address::<Probe>(sk),
        }
    };
    // 0: connect() is still searching for a port.
    if record.local_port != 0 {
        output.write(&raw const record);
    }
}

/// Ports in TIME_WAIT, and sockets in TIME_WAIT that ended. The key is the timewait socket's address.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn time_waits_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of sockets in TIME_WAIT.
    let Some((output, key, entry)) = (unsafe { seq::element::<u64, TimeWait>(ctx) }) else {
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let (sk, entry) = unsafe { (*key, *entry) };
    let age = coarse_time(now()).wrapping_sub(entry.entered);
    if time_wait::remove_if_ended(sk, &entry, age) {
        // Without a port, the daemon ignores it. It fills the buffer, so that one read(2) does not
        // walk over any number of ended sockets.
        let ended = PortUse::default();
        output.write(&raw const ended);
        return 0;
    }
    let (slot, generation) = (entry.slot, entry.generation);
    write(output, sk as *const u8, slot, generation, 0, Some(age + 1));
    0
}
