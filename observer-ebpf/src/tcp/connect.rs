//! Outcomes of connection attempts: from the state machine, and from the return of connect() for
//! failures without an errno in the state machine, or before it.
//!
//! All system calls, 32-bit ones included, call `__sys_connect`; io_uring calls `io_connect` instead.
//! Hooks on the protocol's functions would miss calls that security modules refuse before. Only
//! 64-bit system calls pass `tracepoint/syscalls/sys_exit_connect`, which makes every system call of
//! the host slower. There are no kretprobes, because these calls wait for the peer.
//!
//! Each attempt has one outcome. A failing blocking connect() is seen in both places; a non-blocking
//! one returns its errno from a second connect() or through SO_ERROR. Flags in the socket's entry
//! prevent a second count.

use core::ops::RangeInclusive;

use aya_ebpf::{
    macros::{fexit, tracepoint},
    programs::{FExitContext, TracePointContext},
};
use observer_common::{
    CONN_ATTEMPT_COUNTED, CONN_ATTEMPT_PENDING, CONN_SYN_RETRANSMITTED, CONNECT_BOUNDS,
    CONNECT_GAVE_UP, CONNECT_INDICES, CONNECT_OTHER, CONNECT_RESULTS, Conn, IPPROTO_MPTCP,
    PORT_SEARCH_CONNECT, RECORD_CONNECT_FAILED, Record, SIGNAL_CONNECT, SLOT_UNATTRIBUTED,
    SYN_SENT,
};

use crate::{
    core::{
        attempts,
        counters::{self, add, index_in, observe},
        fd_lookup,
        fields::{CONNECT_EXIT_SEEN, CONNECT_NR, PORTS_BY_FUNCTION, SYSCALL_RET, at, has},
        outcome::{count_lost, count_outcome, seen},
        process,
        read::{Memory, Probe, User},
        records, regs,
        sockaddr::SockAddr,
        socket,
    },
    tcp::{entry, ownership, ports::search},
};

/// Errno for attempts whose socket the program closed before they had an outcome.
const ECANCELED: u32 = 125;

/// Errnos of connect() that are not the outcome of an attempt: EINTR, EBADF, EAGAIN, ENOTSOCK,
/// EISCONN, EALREADY, EINPROGRESS.
const NO_OUTCOME: [i64; 7] = [4, 9, 11, 88, 106, 114, 115];
/// ERESTARTSYS to ERESTART_RESTARTBLOCK: the kernel restarts the call.
const RESTARTS: RangeInclusive<i64> = 512..=516;
/// Returned for an earlier attempt that failed and whose errno the program has fetched with SO_ERROR
/// (`__inet_stream_connect`). The next call is a new attempt.
const ECONNABORTED: i64 = 103;

/// Whether the socket became ESTABLISHED without a SYN: a program restores a connection (TCP_REPAIR,
/// `tcp_connect`), and the kernel does not count that as an attempt either.
#[inline(always)]
pub fn is_restored(sk: *const u8) -> bool {
    // SAFETY: a tcp_sock, offset from BTF.
    has::OFF_TP_SEGS_OUT() && unsafe { Probe::read::<u32>(sk, at::OFF_TP_SEGS_OUT()) } == 0
}

/// Counts a success, and its duration if that is known.
#[inline(always)]
pub fn succeeded(slot: u32, latency_ns: Option<u64>) {
    seen(SIGNAL_CONNECT);
    count_outcome(SIGNAL_CONNECT, slot);
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        unsafe {
            add((&raw mut (*slot).connect.results).cast::<u64>(), 1);
            if let Some(latency_ns) = latency_ns {
                observe(
                    &raw mut (*slot).connect.seconds,
                    &CONNECT_BOUNDS,
                    latency_ns,
                );
            }
        }
    }
}

/// Counts a failure.
#[inline(always)]
pub fn count_failure(slot: u32, errno: u32) {
    if let Some(index) = index_of(errno) {
        count(slot, index);
    }
}

/// Origins of messages in an error queue (`include/uapi/linux/errqueue.h`).
const SO_EE_ORIGIN_ICMP: u8 = 2;
const SO_EE_ORIGIN_ICMP6: u8 = 3;

#[inline(always)]
fn index_of(errno: u32) -> Option<usize> {
    index_in(&CONNECT_INDICES, errno, CONNECT_OTHER, CONNECT_RESULTS)
}

/// Counts an attempt that the program ended before it had an outcome. `again`: whether a SYN had been
/// retransmitted by then.
#[inline(always)]
fn count_given_up(slot: u32, again: bool) {
    if again {
        count(slot, CONNECT_GAVE_UP);
    } else {
        count_failure(slot, ECANCELED);
    }
}

/// Counts an outcome by its index, which is below [`CONNECT_RESULTS`].
#[inline(always)]
fn count(slot: u32, index: usize) {
    seen(SIGNAL_CONNECT);
    count_outcome(SIGNAL_CONNECT, slot);
    add_result(slot, index);
}

#[inline(always)]
fn add_result(slot: u32, index: usize) {
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map; the index was checked.
        unsafe {
            add(
                (&raw mut (*slot).connect.results).cast::<u64>().add(index),
                1,
            )
        };
    }
}

/// A socket without an entry begins an attempt: its process is not known when it has an outcome.
#[inline(always)]
pub fn untracked_started(sk: *const u8) {
    attempts::save(sk, 0);
}

/// A socket without an entry went from `old` to ESTABLISHED.
#[inline(always)]
pub fn untracked_succeeded(sk: *const u8, old: u8) {
    // Without an attempt, it is the child of a listener.
    if attempts::take(sk).is_some() || old == SYN_SENT {
        count_untracked(sk, 0);
    }
}

/// A socket without an entry went from `old` to CLOSE.
#[inline(always)]
pub fn untracked_failed(sk: *const u8, old: u8, errno: u32) {
    if attempts::take(sk).is_none() && old != SYN_SENT {
        return;
    }
    if errno == 0 && in_connect() {
        attempts::save(sk, CONN_ATTEMPT_PENDING);
        return;
    }
    // SAFETY: a full socket.
    let errno = match errno {
        0 => unsafe { icmp_error(sk) }.unwrap_or(ECANCELED),
        errno => errno,
    };
    if let Some(index) = index_of(errno) {
        count_untracked(sk, index);
    }
}

/// A socket without an entry is destroyed.
#[inline(always)]
pub fn untracked_destroyed(sk: *const u8) {
    if attempts::take(sk) == Some(CONN_ATTEMPT_PENDING)
        && let Some(index) = index_of(ECANCELED)
    {
        count_untracked(sk, index);
    }
}

#[inline(always)]
fn count_untracked(sk: *const u8, index: usize) {
    seen(SIGNAL_CONNECT);
    count_lost(SIGNAL_CONNECT);
    add_result(SLOT_UNATTRIBUTED, index);
    attempts::save(sk, CONN_ATTEMPT_COUNTED);
}

/// Whether the running task is in a system call connect() whose return will be seen.
#[inline(always)]
fn in_connect() -> bool {
    CONNECT_EXIT_SEEN.load() != 0 && regs::syscall_number() == CONNECT_NR.load()
}

/// Counts an attempt that ended inside a connect() call which returned no errno for it: the thread
/// was killed, or the call was connect(AF_UNSPEC), which ends the attempt.
#[inline(always)]
pub unsafe fn abandoned(conn: *mut Conn) {
    // SAFETY: points into the map.
    unsafe {
        let flags = (*conn).flags;
        if flags & (CONN_ATTEMPT_PENDING | CONN_ATTEMPT_COUNTED) == CONN_ATTEMPT_PENDING {
            let again = flags & CONN_SYN_RETRANSMITTED != 0;
            count_given_up(ownership::of_entry(conn), again);
        }
    }
}

/// An attempt ended in the state machine: SYN_SENT -> CLOSE.
#[inline(always)]
pub unsafe fn failed<M: Memory>(sk: *const u8, conn: *mut Conn) {
    // SAFETY: `conn` points into the map; `sk` is a full socket, offsets from BTF.
    unsafe {
        let mut errno = M::read::<u32>(sk, at::OFF_SK_ERR());
        let slot = (*conn).slot;
        if errno != 0 {
            count_failure(slot, errno);
        } else {
            let again = retransmitted(sk, conn);
            if in_connect() {
                // Failed within connect(), which will return the errno: `inet_hash_connect` found
                // no port, or there was no route or no memory.
                (*conn).flags |= CONN_ATTEMPT_PENDING;
                if again {
                    (*conn).flags |= CONN_SYN_RETRANSMITTED;
                }
                return;
            }
            // Through io_uring, or connect()'s return is not hooked. Without a local port, the
            // search for one has failed; otherwise the program closed the socket.
            if Probe::read::<u16>(sk, at::OFF_INET_SPORT()) == 0 {
                errno = search::EADDRNOTAVAIL as u32;
                count_failure(slot, errno);
            } else if let Some(icmp) = icmp_error(sk) {
                errno = icmp;
                count_failure(slot, errno);
            } else {
                errno = ECANCELED;
                count_given_up(slot, again);
            }
        }
        (*conn).flags |= CONN_ATTEMPT_COUNTED;
        records::write(RECORD_CONNECT_FAILED, sk, conn, slot, |record| {
            record.errno = errno as u16;
        });
    }
}

/// The error of an ICMP message that came while the program had the socket locked, as in a non-blocking connect() to which
/// this host answers itself. `tcp_v4_err` then leaves the socket in SYN_SENT, the program gets the error by SO_ERROR,
/// which clears it, and closes the socket; the message stays in the error queue (`ip_icmp_error`, since 5.19).
#[inline(always)]
unsafe fn icmp_error(sk: *const u8) -> Option<u32> {
    if !has::OFF_SK_ERR_SOFT() {
        return None;
    }
    // SAFETY: `sk` is a full socket, offsets from BTF; the head of the queue is followed by what it points to.
    unsafe {
        let soft = Probe::read::<u32>(sk, at::OFF_SK_ERR_SOFT());
        if soft != 0 {
            return Some(soft);
        }
        if !has::OFF_SK_ERROR_QUEUE() || !has::OFF_SKB_CB() || !has::OFF_EXTERR() {
            return None;
        }
        let skb = Probe::read::<u64>(sk, at::OFF_SK_ERROR_QUEUE());
        // An empty queue points to itself.
        if skb == sk.wrapping_add(at::OFF_SK_ERROR_QUEUE()) as u64 {
            return None;
        }
        let cb = (skb as *const u8).wrapping_add(at::OFF_SKB_CB());
        // `struct sock_extended_err` (`include/uapi/linux/errqueue.h`).
        let errno = Probe::read::<u32>(cb, at::OFF_EXTERR());
        let origin = Probe::read::<u8>(cb, at::OFF_EXTERR() + 4);
        (errno != 0 && matches!(origin, SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6)).then_some(errno)
    }
}

/// Whether a SYN of this attempt was retransmitted. Read from the socket, because the program on
/// retransmissions may be skipped; `tcp_connect_init` resets the count for each attempt.
#[inline(always)]
unsafe fn retransmitted(sk: *const u8, conn: *mut Conn) -> bool {
    // SAFETY: `conn` points into the map; `sk` is an inet_connection_sock, offset from BTF.
    unsafe {
        if has::OFF_ICSK_RETRANSMITS() {
            Probe::read::<u8>(sk, at::OFF_ICSK_RETRANSMITS()) != 0
        } else {
            (*conn).retransmits != 0
        }
    }
}

#[fexit(function = "__sys_connect")]
pub fn connect_fexit(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(3);
    if ret < 0 {
        on_failed_call(ctx.arg(0), ctx.arg(1), -i64::from(ret));
    }
    0
}

#[fexit(function = "io_connect")]
pub fn io_connect_fexit(ctx: FExitContext) -> i32 {
    // Not 0 (`IOU_OK`) if io_uring will call it again. The result in the request is then outdated.
    if ctx.arg::<i32>(2) == 0
        && let Some((sk, errno)) = fd_lookup::failed_request(ctx.arg(0))
    {
        on_failure(sk, core::ptr::null(), errno);
    }
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_connect")]
pub fn connect_exit_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset comes from the event's format.
    let ret: i64 = unsafe { ctx.read_at(SYSCALL_RET.load() as usize) }.unwrap_or(0);
    if ret < 0 {
        let address = regs::argument(1) as *const u8;
        on_failed_call(regs::argument(0) as i32, address, -ret);
    }
    0
}

/// A call by descriptor failed. The descriptor may not be a socket: at the tracepoint, the call may
/// have been refused by seccomp before the kernel checked the descriptor.
#[inline(always)]
fn on_failed_call(fd: i32, address: *const u8, errno: i64) {
    if let Some(sk) = fd_lookup::current_socket(fd as u32) {
        on_failure(sk, address, errno);
    }
}

/// A call on the socket `sk` failed. `address` is the caller's, null if it is not known.
#[inline(always)]
fn on_failure(mut sk: *const u8, address: *const u8, errno: i64) {
    if RESTARTS.contains(&errno) {
        return;
    }
    let mut i = 0;
    while i < NO_OUTCOME.len() {
        if NO_OUTCOME[i] == errno {
            return;
        }
        i += 1;
    }
    match socket::tcp_protocol(sk) {
        Some(IPPROTO_MPTCP) => {
            let subflow = socket::first_subflow(sk);
            if subflow != 0 {
                sk = subflow as *const u8;
            }
        }
        Some(_) => {}
        None => return,
    }
    let entry = entry::get(sk as u64);
    let (slot, conn) = match entry {
        Some(conn) => {
            // SAFETY: points into the map.
            let flags = unsafe { (*conn).flags };
            if flags & CONN_ATTEMPT_COUNTED != 0 {
                // SAFETY: as above.
                unsafe { (*conn).flags = flags & !CONN_ATTEMPT_COUNTED };
                return;
            }
            // SAFETY: as above.
            unsafe { (*conn).flags = flags & !CONN_ATTEMPT_PENDING };
            if PORTS_BY_FUNCTION.load() == 0
                && errno == i64::from(search::EADDRNOTAVAIL)
                && flags & CONN_ATTEMPT_PENDING != 0
            {
                // SAFETY: a full socket, offset from BTF.
                let port = unsafe { Probe::read::<u16>(sk, at::OFF_INET_SPORT()) };
                // The socket was in SYN_SENT, so it had a source address, and the search for a
                // port failed.
                if port == 0 {
                    search::exhausted(sk, PORT_SEARCH_CONNECT);
                }
            }
            (ownership::of_entry(conn), conn.cast_const())
        }
        None => {
            if attempts::take(sk) == Some(CONN_ATTEMPT_COUNTED) {
                return;
            }
            // Refused before the attempt began: no route, an invalid address, a policy.
            (process::current(), core::ptr::null())
        }
    };
    if errno == ECONNABORTED {
        return;
    }
    count_failure(slot, errno as u32);
    records::write(RECORD_CONNECT_FAILED, sk, conn, slot, |record| {
        record.errno = errno as u16;
        if record.remote_port == 0 {
            // Refused before the address was stored in the socket.
            destination(address, record);
        }
    });
}

/// Fills in the destination of connect().
#[inline(always)]
fn destination(address: *const u8, record: &mut Record) {
    if let Some(to) = SockAddr::read::<User>(address, u32::MAX) {
        record.family = to.family;
        record.remote = to.address;
        record.remote_port = to.port;
    }
}
