//! Listening sockets: `iter/bpf_map_elem` over the map of listeners, and
//! `tcp_conn_request` and `tcp_v[46]_syn_recv_sock` where functions can be hooked.
//!
//! The accept queue's length, its limit and the dropped requests are fields of the socket, which the
//! iterator reads when the daemon asks. The map is written only when a socket starts and stops
//! listening. The kernel counts a drop in `sk_drops` and in ListenDrops of the namespace
//! (`tcp_listendrop`, `include/net/tcp.h`), but a full accept queue only in ListenOverflows of the
//! namespace, hence the function hooks.

use core::ffi::c_void;

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use observer_common::{
    Conn, LISTEN, Listener, ListenerKey, ListenerSample, MAP_LISTENERS, SIGNAL_LISTEN_OVERFLOW,
    SLOT_UNATTRIBUTED,
};

use crate::{
    core::{
        counters::{self, add},
        fields::{LISTENERS_SHARE, at, has},
        maps::{BPF_NOEXIST, LISTENERS},
        outcome::{self, count_outcome, seen},
        read::{Direct, Memory, Probe},
        seq, socket,
    },
    tcp::{entry, gauges, ownership},
};

/// `ETH_P_IP` (`include/uapi/linux/if_ether.h`).
const ETH_P_IP: u16 = 0x0800;

/// A socket started to listen, or a listening one was found. Returns `conn`, its entry.
#[inline(always)]
pub fn opened(sk: *const u8, conn: Option<*mut Conn>) -> Option<*mut Conn> {
    if let Some(conn) = conn
        && !insert(sk, conn)
    {
        outcome::map_full(MAP_LISTENERS);
    }
    conn
}

/// A listening socket was found again. Inserts it if the map was full before; a failure was counted
/// then.
#[inline(always)]
pub fn found(sk: *const u8, conn: *mut Conn) {
    insert(sk, conn);
}

/// Inserts a listener, and returns whether it is in the map: it is not if the map is full, or the
/// process's share of it. Out of line: it is rare, and the verifier then checks it once per program.
#[inline(never)]
fn insert(sk: *const u8, conn: *mut Conn) -> bool {
    if conn.is_null() {
        return true;
    }
    let slot = ownership::of_entry(conn);
    // This one included, which is in LISTEN by now.
    if gauges::listening(slot) > LISTENERS_SHARE.load().cast_signed() {
        return false;
    }
    let listener = Listener {
        slot,
        generation: counters::generation(slot),
        // Drops of an earlier use of the socket.
        drops_before: socket::drops(sk),
        // Address and port are written when it is closed: the port may not be chosen yet.
        ..Listener::default()
    };
    // -EEXIST: it is in the map.
    matches!(
        LISTENERS.insert(key(sk, conn), listener, BPF_NOEXIST),
        Ok(()) | Err(-17)
    )
}

/// A socket stopped listening: stores values that the daemon has not read yet.
#[inline(always)]
pub fn closed(sk: *const u8, conn: *mut Conn) {
    keep(sk, conn);
}

#[inline(never)]
fn keep(sk: *const u8, conn: *mut Conn) {
    if conn.is_null() {
        return;
    }
    let key = key(sk, conn);
    let Some(listener) = LISTENERS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: points into the map.
    unsafe {
        describe(sk, conn, listener);
        if (*listener).drops != (*listener).drops_before || (*listener).overflows != 0 {
            (*listener).closed = 1;
            return;
        }
    }
    // Removed here and not by the daemon, because a program that listens and closes in a loop would fill the map.
    // If this fails, the iterator finds the entry of a socket that does not listen.
    let _ = LISTENERS.remove(key);
}

#[inline(always)]
fn key(sk: *const u8, conn: *const Conn) -> ListenerKey {
    ListenerKey {
        socket: sk as u64,
        // SAFETY: points into the map.
        born_ns: unsafe { (*conn).born_ns },
    }
}

/// Writes the current owner, address and drops.
#[inline(always)]
unsafe fn describe(sk: *const u8, conn: *const Conn, listener: *mut Listener) {
    let slot = ownership::of_entry(conn);
    // SAFETY: `listener` is writable; `sk` is a full socket, offsets from BTF.
    unsafe {
        (*listener).slot = slot;
        (*listener).generation = counters::generation(slot);
        (*listener).drops = socket::drops(sk);
        (*listener).netns = socket::netns::<Probe>(sk);
        // skc_num is already 0 when an auto-bound socket closes; inet_sport is still set.
        (*listener).port = u16::from_be(Probe::read(sk, at::OFF_INET_SPORT()));
        (*listener).address = socket::local_address::<Probe>(sk);
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn listeners_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of listeners.
    let Some((output, key, value)) = (unsafe { seq::element::<ListenerKey, Listener>(ctx) }) else {
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let (key, listener) = unsafe { (*key, *value) };
    let mut sample = ListenerSample {
        key,
        listener,
        backlog: 0,
        max_backlog: 0,
        fast_open: 0,
        reserved: 0,
    };
    if listener.closed == 0 {
        let sk = key.socket as *const u8;
        match entry::get(key.socket) {
            // SAFETY: points into the map; the socket is not destroyed as long as it has an
            // entry.
            Some(conn) if unsafe { (*conn).state == LISTEN && (*conn).born_ns == key.born_ns } => unsafe {
                describe(sk, conn, &raw mut sample.listener);
                if has::OFF_SK_BACKLOG() && has::OFF_SK_MAX_BACKLOG() {
                    sample.backlog = Probe::read(sk, at::OFF_SK_BACKLOG());
                    sample.max_backlog = Probe::read(sk, at::OFF_SK_MAX_BACKLOG());
                }
                if has::OFF_ACCEPT_HEAD() && has::OFF_RSKQ_HEAD() && has::OFF_RSKQ_FASTOPEN() {
                    let queue = at::OFF_ACCEPT_HEAD().wrapping_sub(at::OFF_RSKQ_HEAD());
                    sample.fast_open = Probe::read(sk, queue + at::OFF_RSKQ_FASTOPEN());
                }
            },
            // The kernel skipped the program at its end.
            _ => {
                sample.listener.closed = 1;
                sample.listener.drops = sample.listener.drops_before;
            }
        }
    }
    output.write(&raw const sample);
    0
}

/// Called for a SYN.
#[fentry(function = "tcp_conn_request")]
pub fn conn_request_fentry(ctx: FEntryContext) -> i32 {
    on_request::<Direct>(ctx.arg(2));
    0
}

#[kprobe(function = "tcp_conn_request")]
pub fn conn_request_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(2) {
        on_request::<Probe>(sk);
    }
    0
}

/// Called for the segment that completes a handshake, over IPv4.
#[fentry(function = "tcp_v4_syn_recv_sock")]
pub fn handshake_v4_fentry(ctx: FEntryContext) -> i32 {
    on_request::<Direct>(ctx.arg(0));
    0
}

#[kprobe(function = "tcp_v4_syn_recv_sock")]
pub fn handshake_v4_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        on_request::<Probe>(sk);
    }
    0
}

/// Called for the segment that completes a handshake, over IPv6.
#[fentry(function = "tcp_v6_syn_recv_sock")]
pub fn handshake_v6_fentry(ctx: FEntryContext) -> i32 {
    if is_ipv6(ctx.arg(1)) {
        on_request::<Direct>(ctx.arg(0));
    }
    0
}

#[kprobe(function = "tcp_v6_syn_recv_sock")]
pub fn handshake_v6_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(0), ctx.arg(1))
        && is_ipv6(skb)
    {
        on_request::<Probe>(sk);
    }
    0
}

/// Whether a segment is an IPv6 one. An IPv6 listener passes IPv4 segments on to
/// `tcp_v4_syn_recv_sock`, where they are counted.
#[inline(always)]
fn is_ipv6(skb: *const u8) -> bool {
    if !has::OFF_SKB_PROTOCOL() {
        return false;
    }
    // SAFETY: an sk_buff from the kernel, offset from BTF.
    u16::from_be(unsafe { Probe::read(skb, at::OFF_SKB_PROTOCOL()) }) != ETH_P_IP
}

/// The listener `sk` received a segment that creates or completes a request. If the accept queue is
/// full (`sk_acceptq_is_full`), the kernel drops it.
#[inline(always)]
fn on_request<M: Memory>(sk: *const u8) {
    if !has::OFF_SK_BACKLOG() || !has::OFF_SK_MAX_BACKLOG() {
        return;
    }
    // SAFETY: a full socket, offsets from BTF.
    let (backlog, max_backlog) = unsafe {
        (
            M::read::<u32>(sk, at::OFF_SK_BACKLOG()),
            M::read::<u32>(sk, at::OFF_SK_MAX_BACKLOG()),
        )
    };
    if backlog <= max_backlog {
        return;
    }
    seen(SIGNAL_LISTEN_OVERFLOW);
    let mut slot = SLOT_UNATTRIBUTED;
    if let Some(conn) = entry::get(sk as u64) {
        if let Some(listener) = LISTENERS.get_ptr_mut(key(sk, conn)) {
            slot = ownership::of_entry(conn);
            // SAFETY: points into the map.
            add(unsafe { &raw mut (*listener).overflows }, 1);
        }
    }
    count_outcome(SIGNAL_LISTEN_OVERFLOW, slot);
}
