//! The first transition of a socket, which gives it its entry and its owner.

use observer_common::{
    CLOSE, CONN_ACTIVE, CONN_PASSIVE, Conn, LISTEN, RECORD_STATE, SIGNAL_STATE, SLOT_UNATTRIBUTED,
    SYN_RECV, SYN_SENT, TIMED_STATES,
};

use crate::{
    core::{
        fields::{at, has},
        outcome::settle,
        read::{Memory, Probe},
        records,
    },
    tcp::{
        connect,
        entry::{self, Inserted},
        gauges::{self, count_transition},
        ownership,
    },
};

/// How a transition finds its socket.
pub enum Birth {
    /// With this entry; the transition is still to be counted.
    Entered(*mut Conn),
    /// The entry is made and the transition counted.
    Complete,
    /// There is no room for an entry.
    Full,
}

impl Birth {
    #[inline(always)]
    pub fn of(conn: Option<*mut Conn>) -> Self {
        match conn {
            Some(conn) => Self::Entered(conn),
            None => Self::Full,
        }
    }
}

/// connect() or listen(), in the process that calls it. A socket may have an entry already
/// from an earlier attempt.
#[inline(always)]
pub fn opened(sk: *const u8, new: u8, time: u64) -> Birth {
    let slot = ownership::current_or_parent(sk);
    let flags = if new == SYN_SENT { CONN_ACTIVE } else { 0 };
    if let Some(birth) = born(sk, slot, flags, CLOSE, new, time) {
        return birth;
    }
    let Some(conn) = entry::get(sk as u64) else {
        return Birth::Full;
    };
    // SAFETY: points into the map.
    unsafe {
        if (*conn).state != CLOSE {
            // The end of an older socket at this address was skipped; see `transition`.
            entry::end(sk as u64, conn);
            return Birth::of(entry::create(sk as u64, slot, flags, CLOSE, time));
        }
        ownership::settle_handover(conn, CLOSE);
        connect::unreturned(conn);
        if (*conn).slot != slot {
            gauges::hold(slot);
            gauges::release((*conn).slot);
            (*conn).slot = slot;
        }
        (*conn).flags = flags;
        (*conn).born_ns = time;
        (*conn).entered_ns = time;
        (*conn).retransmits = 0;
        (*conn).error = 0;
        (*conn).spent = [0; TIMED_STATES.len()];
    }
    Birth::Entered(conn)
}

/// A child socket, in softirq. It belongs to its listener's owner until it is accepted.
///
/// The tracepoint does not name the listener, and looking for it by port would have to
/// guess among SO_REUSEPORT sockets of several processes. But the child is a byte copy of
/// its listener at this point (`sk_clone_lock`), and `tsorted_sent_queue`, an empty list
/// whose head points to itself in the listener, is set up anew only later, in
/// `tcp_create_openreq_child`. So the copied pointer leads to the listener; it is believed
/// only if a listening socket is known there.
#[inline(always)]
pub fn child(sk: *const u8, new: u8, time: u64) -> Birth {
    let mut slot = SLOT_UNATTRIBUTED;
    if has::OFF_TP_TSORTED() {
        // SAFETY: a tcp_sock, offset from BTF.
        let head = unsafe { Probe::read::<u64>(sk, at::OFF_TP_TSORTED()) };
        let listener = head.wrapping_sub(at::OFF_TP_TSORTED() as u64);
        if let Some(conn) = entry::get(listener) {
            // SAFETY: points into the map.
            if unsafe { (*conn).state } == LISTEN {
                slot = ownership::of_entry(conn);
            }
        }
    }
    if let Some(birth) = born(sk, slot, CONN_PASSIVE, LISTEN, new, time) {
        return birth;
    }
    if let Some(stale) = entry::get(sk as u64) {
        // The end of an older socket at this address was skipped; see `transition`.
        entry::end(sk as u64, stale);
    }
    Birth::of(entry::create(sk as u64, slot, CONN_PASSIVE, LISTEN, time))
}

/// Makes an entry for a socket that goes from `old` to `new`. `None` when it has one.
///
/// To SYN_SENT or SYN_RECV, nothing else is to be done, so the entry is made as the
/// transition leaves it: it need not be looked up for that.
#[inline(always)]
fn born(sk: *const u8, slot: u32, flags: u16, old: u8, new: u8, time: u64) -> Option<Birth> {
    let at_once = matches!(new, SYN_SENT | SYN_RECV);
    let state = if at_once { new } else { old };
    match entry::insert(sk as u64, slot, flags, old, state, time) {
        Inserted::Known => None,
        Inserted::Full => Some(Birth::Full),
        Inserted::New if at_once => {
            count_transition(slot, old, new);
            settle(SIGNAL_STATE, slot);
            records::write(RECORD_STATE, sk, core::ptr::null(), slot, |record| {
                record.flags = flags;
                record.from = old;
                record.to = new;
            });
            Some(Birth::Complete)
        }
        Inserted::New => Some(Birth::of(entry::get(sk as u64))),
    }
}
