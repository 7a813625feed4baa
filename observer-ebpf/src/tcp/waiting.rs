//! What a connection waits for: fields of its socket, in ESTABLISHED and CLOSE_WAIT.
//!
//! The fields are read without a lock. An inconsistent read of a busy socket cannot look like a
//! wait, because waits count from one second on.
//!
//! Events that update the times (kernel 5.10 to 7.3): `lsndtime`: data sent or retransmitted;
//! `lrcvtime`: data received, not ACKs or a FIN without data; `delivered_mstamp` (microseconds of
//! CLOCK_MONOTONIC): sent data acknowledged; `chrono_start`: data queued, or the window or the
//! buffer closed.

use core::marker::PhantomData;

use observer_common::{
    CLOSE, CLOSE_WAIT, CONN_ACTIVE, CONN_PASSIVE, Conn, ENDED_ACK, ENDED_NONE, ENDED_PEER_CLOSED,
    ENDED_RESET, ENDED_TIMEOUT, ENDED_UNREAD, ENDED_UNUSED, ENDED_WINDOW, ESTABLISHED, FIN_WAIT1,
    LEAST_WAIT_MS, MUCH_UNREAD, SEEN_ASKED, SEEN_MUCH_UNREAD, SEEN_PARTLY_READ, WAIT_NOBODY,
    WAIT_NOTHING, WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW, WAIT_PROGRAM,
    WAIT_PROGRAM_ACCEPT, WAIT_PROGRAM_EOF, WAIT_PROGRAM_READ, WAIT_UNUSED, Walk, coarse_time,
};

use crate::core::{
    clock::now,
    fields::{at, has},
    jiffies,
    read::{Direct, Memory, Probe},
    socket, walk,
};

/// `ICSK_TIME_PROBE0` (include/net/inet_connection_sock.h): the timer that probes a closed window.
const PROBES_WINDOW: u8 = 3;

/// Maximum time in milliseconds until a sent segment is acknowledged: less than the minimum of TCP_KEEPIDLE.
const NO_KEEPALIVE_MS: u32 = 1000;

/// See [`SEEN_ASKED`], milliseconds.
const ASKED_MS: u32 = 100;

/// `RCV_SHUTDOWN` (include/net/sock.h).
const RCV_SHUTDOWN: u8 = 1;

/// What a connection waits for.
#[derive(Clone, Copy)]
pub struct Waiting {
    /// A `WAIT_` number.
    pub what: u8,
    /// For how long at least, milliseconds.
    pub ms: u32,
    /// Since data was sent or received, or the connection established, milliseconds.
    pub idle_ms: u32,
    /// [`SEEN_ASKED`], [`SEEN_MUCH_UNREAD`] and [`SEEN_PARTLY_READ`].
    pub flags: u16,
}

/// Unknown.
const UNKNOWN: Waiting = Waiting {
    what: WAIT_NOTHING,
    ms: 0,
    idle_ms: 0,
    flags: 0,
};

/// Whether the kernel has the fields.
#[inline(always)]
fn is_readable() -> bool {
    has::OFF_TP_LSNDTIME()
        && has::OFF_ICSK_LRCVTIME()
        && has::OFF_TP_RCV_NXT()
        && has::OFF_TP_COPIED_SEQ()
        && has::OFF_TP_WRITE_SEQ()
        && has::OFF_TP_SND_UNA()
        && has::OFF_TP_SND_WND()
        && has::OFF_TP_SND_WL1()
        && has::OFF_TP_PACKETS_OUT()
        && has::OFF_TP_RCV_TSTAMP()
        && has::OFF_TP_BYTES_RECEIVED()
        && has::OFF_TP_BYTES_SENT()
        && has::OFF_TP_CHRONO_START()
        && has::OFF_TP_DELIVERED_MSTAMP()
        && has::OFF_TP_RETRANS_STAMP()
        && has::OFF_ICSK_PENDING()
        && has::OFF_ICSK_RETRANSMITS()
        && has::OFF_SK_SOCKET()
}

/// A socket and the time.
struct Reader<M> {
    sk: *const u8,
    /// Its fields, as `memory` reads them.
    fields: *const u8,
    memory: PhantomData<M>,
    jiffies: u64,
    /// CONFIG_HZ.
    rate: u64,
}

impl<M: Memory> Reader<M> {
    #[inline(always)]
    fn u32(&self, offset: usize) -> u32 {
        // SAFETY: a tcp_sock, offset from BTF.
        unsafe { M::read(self.fields, offset) }
    }

    #[inline(always)]
    fn u64(&self, offset: usize) -> u64 {
        // SAFETY: as above.
        unsafe { M::read(self.fields, offset) }
    }

    #[inline(always)]
    fn u8(&self, offset: usize) -> u8 {
        // SAFETY: as above.
        unsafe { M::read(self.fields, offset) }
    }

    /// Milliseconds since a time in jiffies.
    #[inline(always)]
    fn since(&self, stamp: u32) -> u32 {
        jiffies::milliseconds(jiffies::since(self.jiffies, stamp), self.rate)
    }

    /// Bytes written that the peer has not acknowledged.
    #[inline(always)]
    fn unacknowledged(&self) -> bool {
        let written = self.u32(at::OFF_TP_WRITE_SEQ());
        written.wrapping_sub(self.u32(at::OFF_TP_SND_UNA())) as i32 > 0
    }

    /// Received sequence numbers that the program has not read, including a FIN. 0 for an MPTCP
    /// subflow, whose parent has the data.
    #[inline(always)]
    fn unread(&self, copied: u32) -> u32 {
        let unread = self.u32(at::OFF_TP_RCV_NXT()).wrapping_sub(copied);
        if unread == 0 || unread as i32 <= 0 || socket::mptcp_parent(self.sk) != 0 {
            0
        } else {
            unread
        }
    }

    /// Milliseconds since the peer acknowledged data.
    #[inline(always)]
    fn undelivered(&self) -> u32 {
        let delivered = self.u64(at::OFF_TP_DELIVERED_MSTAMP());
        let ms = (now() / 1000).saturating_sub(delivered) / 1000;
        ms.min(u32::MAX.into()) as u32
    }

    /// Whether data waits for the peer's window.
    #[inline(always)]
    fn window_is_closed(&self) -> bool {
        self.u8(at::OFF_ICSK_PENDING()) == PROBES_WINDOW
            || self.u32(at::OFF_TP_PACKETS_OUT()) == 0 && self.u32(at::OFF_TP_SND_WND()) == 0
    }

    /// What a connection waits for on which nothing is unread, unsent or unacknowledged. `sent` and
    /// `received` are the times since the last data, `fin` is 1 if the peer's FIN has arrived, and `flags` are the entry's.
    #[inline(always)]
    fn turn(&self, sent: u32, received: u32, fin: u32, flags: u16) -> u8 {
        let is_server = self.is_server(flags);
        if self.u64(at::OFF_TP_BYTES_RECEIVED()) <= u64::from(fin) {
            return match (self.u64(at::OFF_TP_BYTES_SENT()) > 0, is_server) {
                (false, _) => WAIT_UNUSED,
                (true, false) => WAIT_PEER_FIRST_BYTE,
                // It has spoken first.
                (true, true) => WAIT_NOBODY,
            };
        }
        if self.owes_first_answer(is_server, fin) {
            // The times may be those of the handshake, if the request came with it.
            return WAIT_PROGRAM;
        }
        let order = sent.wrapping_sub(received) as i32;
        let sent_last = if order == 0 {
            // Both in one jiffy. If a segment without data acknowledged the sent data, this side
            // sent last; but the answer to a keepalive probe is such a segment, too, and a FIN
            // hides it.
            let answered = self.u32(at::OFF_TP_RCV_TSTAMP()).wrapping_sub(sent);
            let is_ack = self.u32(at::OFF_TP_SND_WL1()) == self.u32(at::OFF_TP_RCV_NXT());
            if !is_ack || jiffies::milliseconds(answered, self.rate) >= NO_KEEPALIVE_MS {
                return WAIT_NOBODY;
            }
            true
        } else {
            order > 0
        };
        match (sent_last, is_server) {
            (true, false) => WAIT_PEER,
            (false, true) => WAIT_PROGRAM,
            _ => WAIT_NOBODY,
        }
    }

    /// Whether it is a server's that has received something and has sent nothing at all.
    #[inline(always)]
    fn owes_first_answer(&self, is_server: bool, fin: u32) -> bool {
        is_server
            && self.u64(at::OFF_TP_BYTES_SENT()) == 0
            && self.u64(at::OFF_TP_BYTES_RECEIVED()) > u64::from(fin)
    }

    /// See [`SEEN_ASKED`].
    #[inline(always)]
    fn is_asked(&self, sent: u32, received: u32) -> bool {
        jiffies::milliseconds(sent.wrapping_sub(received), self.rate) >= ASKED_MS
    }

    /// Whether the program reads on after shutdown() of its side. (close() sets both bits first.)
    #[inline(always)]
    fn reads_on(&self, new: u8) -> bool {
        new == FIN_WAIT1 && self.u8(at::OFF_SK_SHUTDOWN()) & RCV_SHUTDOWN == 0
    }

    /// Whether the socket came from a listener. For one older than the observer this is derived from
    /// its port, so a socket that called bind() before connect() counts as a server's.
    #[inline(always)]
    fn is_server(&self, flags: u16) -> bool {
        flags & CONN_PASSIVE != 0 || flags & CONN_ACTIVE == 0 && socket::is_bound::<M>(self.fields)
    }
}

/// What the connection `conn`, whose socket is `sk` and in ESTABLISHED or CLOSE_WAIT, waits for
/// now. Stores in the entry how far the program has read, so only the walk over connections calls
/// it, whose state is `walk`.
#[inline(always)]
pub fn now_of(sk: *const u8, conn: *mut Conn, walk: *mut Walk) -> Waiting {
    // SAFETY: points into the map.
    let (jiffies, rate) = unsafe { ((*walk).jiffies, (*walk).rate) };
    if !is_readable() || rate == 0 {
        return UNKNOWN;
    }
    let read = Reader {
        sk,
        fields: walk::fields(walk),
        memory: PhantomData::<Direct>,
        jiffies,
        rate,
    };
    // SAFETY: points into the map.
    let (state, flags, entered_ns) = unsafe { ((*conn).state, (*conn).flags, (*conn).entered_ns) };
    let sent = read.u32(at::OFF_TP_LSNDTIME());
    let received = read.u32(at::OFF_ICSK_LRCVTIME());
    let since_received = read.since(received);
    let idle_ms = read.since(sent).min(since_received);
    let waiting = |what, ms| Waiting {
        what,
        ms,
        idle_ms,
        flags: 0,
    };

    let copied = read.u32(at::OFF_TP_COPIED_SEQ());
    let unread = read.unread(copied);
    let fin = u32::from(state == CLOSE_WAIT);
    let unread_ms = if unread > fin {
        unread_for(conn, copied, since_received)
    } else {
        // SAFETY: points into the map.
        unsafe { (*conn).unread_since = 0 };
        0
    };
    if read.u64(at::OFF_SK_SOCKET()) == 0 {
        return waiting(WAIT_PROGRAM_ACCEPT, since_received);
    }
    if unread > 0 {
        let owes = read.owes_first_answer(read.is_server(flags), fin);
        let owes = if owes { SEEN_ASKED } else { 0 };
        if unread > fin {
            let much = if unread >= MUCH_UNREAD {
                SEEN_MUCH_UNREAD
            } else {
                0
            };
            let is_partly_read = read.u64(at::OFF_TP_BYTES_RECEIVED()) > u64::from(unread - fin);
            let partly = if is_partly_read { SEEN_PARTLY_READ } else { 0 };
            return Waiting {
                flags: owes | much | partly,
                ..waiting(WAIT_PROGRAM_READ, unread_ms)
            };
        }
        // The FIN alone.
        let ms = now().saturating_sub(entered_ns) / 1_000_000;
        return Waiting {
            flags: owes,
            ..waiting(WAIT_PROGRAM_EOF, ms.min(u32::MAX.into()) as u32)
        };
    }
    if read.unacknowledged() {
        let queued = read.since(read.u32(at::OFF_TP_CHRONO_START()));
        let ms = read.undelivered().min(queued);
        if read.window_is_closed() {
            return waiting(WAIT_PEER_WINDOW, ms);
        }
        if read.u32(at::OFF_TP_PACKETS_OUT()) > 0 && read.u8(at::OFF_ICSK_RETRANSMITS()) > 0 {
            return waiting(WAIT_PEER_ACK, ms);
        }
        return waiting(WAIT_NOTHING, 0);
    }
    if state != ESTABLISHED {
        return waiting(WAIT_NOTHING, 0);
    }
    let mut turn = read.turn(sent, received, 0, flags);
    if turn == WAIT_PEER_FIRST_BYTE && sends_on(conn, read.u32(at::OFF_TP_WRITE_SEQ()), idle_ms) {
        turn = WAIT_NOBODY;
    }
    let asked = match turn {
        WAIT_PEER => read.is_asked(sent, received),
        WAIT_PROGRAM => read.owes_first_answer(read.is_server(flags), 0),
        _ => false,
    };
    Waiting {
        flags: if asked { SEEN_ASKED } else { 0 },
        ..waiting(turn, idle_ms)
    }
}

/// Pause after which a program that sends again does not wait for an answer, milliseconds: longer than the one before the
/// body of a request with `Expect: 100-continue`, which is a second in curl.
const PAUSE_MS: u32 = 3000;

/// [`Conn::copied_seq`] of a connection on which the program sends on, though it has received nothing.
const SENDS_ON: u32 = 1;

/// Whether the program has sent again after a pause, although it has never received anything: logs and metrics are sent so.
/// `written` is how far it has written. Nothing was received, so what was read needs no place in the entry.
#[inline(always)]
fn sends_on(conn: *mut Conn, written: u32, idle_ms: u32) -> bool {
    // SAFETY: points into the map; only this program, of which one instance runs, writes the field while nothing is unread.
    unsafe {
        match (*conn).copied_seq {
            SENDS_ON => true,
            0 => {
                if idle_ms >= PAUSE_MS {
                    (*conn).copied_seq = written;
                }
                false
            }
            before if before == written => false,
            _ => {
                (*conn).copied_seq = SENDS_ON;
                true
            }
        }
    }
}

/// Time since the program last read, milliseconds. Data that arrives meanwhile does not change it, and each read resets it.
#[inline(always)]
fn unread_for(conn: *mut Conn, copied: u32, since_received: u32) -> u32 {
    let time = coarse_time(now());
    // SAFETY: points into the map; only this program, of which one instance runs, writes these fields.
    unsafe {
        if (*conn).unread_since == 0 {
            // The last data has waited since its arrival.
            let waited = coarse_time(u64::from(since_received) * 1_000_000);
            (*conn).unread_since = time.wrapping_sub(waited).max(1);
            (*conn).copied_seq = copied;
        } else if (*conn).copied_seq != copied {
            (*conn).unread_since = time.max(1);
            (*conn).copied_seq = copied;
        }
        coarse_ms(time.wrapping_sub((*conn).unread_since))
    }
}

/// Units of [`coarse_time`] as milliseconds.
#[inline(always)]
fn coarse_ms(coarse: u32) -> u32 {
    ((u64::from(coarse) << 20) / 1_000_000) as u32
}

/// Whether a connection that ended certainly waited for an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    No,
    /// To data that was sent some time after the last answer.
    Later,
    /// To the first data.
    First,
}

/// Whether a connection has not waited for [`LEAST_WAIT_MS`]. Most are so young when they end.
#[inline(always)]
pub fn is_young(conn: *const Conn, time: u64) -> bool {
    // SAFETY: points into the map.
    let born_ns = unsafe { (*conn).born_ns };
    time.saturating_sub(born_ns) < u64::from(LEAST_WAIT_MS) * 1_000_000
}

/// What the connection `conn` waited for when it leaves ESTABLISHED or CLOSE_WAIT (`old`) for
/// `new`, for how many milliseconds, and whether that was certainly an answer. An `ENDED_` number; [`ENDED_NONE`] if it did
/// not wait for [`LEAST_WAIT_MS`]. `error` is the error that ends the connection (`sk_err`).
///
/// For a connection that ends with an error, the kernel has already freed the unsent data
/// (`tcp_write_queue_purge`), but the sequence numbers remain.
#[inline(always)]
pub fn ended(
    sk: *const u8,
    conn: *mut Conn,
    old: u8,
    new: u8,
    error: u32,
    time: u64,
) -> (u8, u32, Asked) {
    const NONE: (u8, u32, Asked) = (ENDED_NONE, 0, Asked::No);
    if !is_readable() {
        return NONE;
    }
    // SAFETY: points into the map.
    let flags = unsafe { (*conn).flags };
    let jiffies = jiffies::jiffies();
    let mut read = Reader {
        sk,
        fields: sk,
        memory: PhantomData::<Probe>,
        jiffies,
        rate: 0,
    };
    let received = read.u32(at::OFF_ICSK_LRCVTIME());
    let pending = read.unacknowledged();
    // SAFETY: points into the map.
    let is_unread = unsafe { (*conn).unread_since } != 0;
    // Jiffies are shorter elsewhere.
    if !pending && !is_unread && jiffies::since(jiffies, received) < jiffies::LEAST_RATE {
        return NONE;
    }
    read.rate = jiffies::rate(jiffies);
    if read.rate == 0 {
        return NONE;
    }
    let mut asked = Asked::No;
    let (what, ms) = if pending && new != CLOSE_WAIT {
        let undelivered = read.undelivered();
        if read.window_is_closed() {
            (ENDED_WINDOW, queued_for(&read, undelivered, error))
        } else if read.u8(at::OFF_ICSK_RETRANSMITS()) > 0 {
            (ENDED_ACK, queued_for(&read, undelivered, error))
        } else {
            (ENDED_NONE, 0)
        }
    } else {
        let copied = read.u32(at::OFF_TP_COPIED_SEQ());
        // The FIN has a sequence number, too.
        let fin = u32::from(old == CLOSE_WAIT || new == CLOSE_WAIT);
        let unread = read.unread(copied) > fin;
        if unread && new == CLOSE && error == 0 {
            (
                ENDED_UNREAD,
                not_read_for(&read, conn, copied, received, time),
            )
        } else if unread || pending || old == CLOSE_WAIT {
            (ENDED_NONE, 0)
        } else {
            let sent = read.u32(at::OFF_TP_LSNDTIME());
            let turn = read.turn(sent, received, fin, flags);
            // SAFETY: points into the map.
            let sends_on = unsafe { (*conn).copied_seq == SENDS_ON };
            asked = match turn {
                WAIT_PEER_FIRST_BYTE => Asked::First,
                _ if read.is_asked(sent, received) => Asked::Later,
                _ => Asked::No,
            };
            let what = match turn {
                _ if read.reads_on(new) => ENDED_NONE,
                WAIT_PEER_FIRST_BYTE if sends_on => ENDED_NONE,
                WAIT_PEER | WAIT_PEER_FIRST_BYTE if new == CLOSE_WAIT => ENDED_PEER_CLOSED,
                WAIT_PEER | WAIT_PEER_FIRST_BYTE if error != 0 => ENDED_RESET,
                WAIT_PEER | WAIT_PEER_FIRST_BYTE => ENDED_TIMEOUT,
                // A further subflow of MPTCP may never be needed.
                WAIT_UNUSED
                    if new != CLOSE_WAIT
                        && error == 0
                        && !read.is_server(flags)
                        && socket::mptcp_parent(sk) == 0 =>
                {
                    ENDED_UNUSED
                }
                _ => ENDED_NONE,
            };
            (what, read.since(sent).min(read.since(received)))
        }
    };
    if what == ENDED_NONE || ms < LEAST_WAIT_MS {
        NONE
    } else {
        (what, ms, asked)
    }
}

/// Whether the program, which closes a connection in ESTABLISHED for `new`, has sent something on it and has read nothing.
/// Where data waits unread, close() leaves `copied_seq` as it is (`tcp_close`).
#[inline(always)]
pub fn has_read_nothing(sk: *const u8, new: u8) -> bool {
    if !matches!(new, FIN_WAIT1 | CLOSE) || !is_readable() {
        return false;
    }
    let read = Reader {
        sk,
        fields: sk,
        memory: PhantomData::<Probe>,
        jiffies: 0,
        rate: 0,
    };
    let received = read.u64(at::OFF_TP_BYTES_RECEIVED());
    if received > 0 && received > u64::from(read.unread(read.u32(at::OFF_TP_COPIED_SEQ()))) {
        return false;
    }
    !read.reads_on(new) && read.u64(at::OFF_TP_BYTES_SENT()) > 0
}

/// For how long data has waited to be sent or acknowledged, at the end of the connection.
#[inline(always)]
fn queued_for(read: &Reader<Probe>, undelivered: u32, error: u32) -> u32 {
    if error == 0 {
        return undelivered.min(read.since(read.u32(at::OFF_TP_CHRONO_START())));
    }
    // `chrono_start` was set again. The first retransmission (`tcp_time_stamp`, milliseconds) came soon after the wait
    // began.
    let retransmitted = read.u32(at::OFF_TP_RETRANS_STAMP());
    if retransmitted == 0 {
        return undelivered;
    }
    undelivered.min(((now() / 1_000_000) as u32).wrapping_sub(retransmitted))
}

/// For how long the program has not read, at the end of the connection: since the walk over connections saw
/// unread data, or since data arrived last.
#[inline(always)]
fn not_read_for(
    read: &Reader<Probe>,
    conn: *mut Conn,
    copied: u32,
    received: u32,
    time: u64,
) -> u32 {
    let since_received = read.since(received);
    // SAFETY: points into the map.
    let (noted, since) = unsafe { ((*conn).copied_seq, (*conn).unread_since) };
    if since == 0 || noted != copied {
        return since_received;
    }
    coarse_ms(coarse_time(time).wrapping_sub(since)).max(since_received)
}
