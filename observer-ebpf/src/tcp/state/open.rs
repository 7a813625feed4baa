//! The first transition of a socket, at which its entry is inserted and its owner determined.

use observer_common::{
    CLOSE, CONN_ACTIVE, CONN_PASSIVE, Conn, LISTEN, RECORD_STATE, SIGNAL_STATE, SLOT_UNATTRIBUTED,
    SYN_RECV, SYN_SENT, TIMED_STATES,
};

use crate::{
    core::{
        fields::{at, has},
        outcome::count_outcome,
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

/// The socket of a transition.
pub enum Open {
    /// It has this entry; the transition is not counted yet.
    Entry(*mut Conn),
    /// Its entry was inserted, and the transition counted.
    Counted,
    /// The map takes no entry.
    Untracked,
}

impl Open {
    #[inline(always)]
    pub fn of(conn: Option<*mut Conn>) -> Self {
        match conn {
            Some(conn) => Self::Entry(conn),
            None => Self::Untracked,
        }
    }
}

/// connect() or listen(), in the calling process. The socket may already have an entry from an
/// earlier attempt.
#[inline(always)]
pub fn own(sk: *const u8, new: u8, time: u64) -> Open {
    let slot = ownership::current_or_parent(sk);
    let flags = if new == SYN_SENT { CONN_ACTIVE } else { 0 };
    if let Some(open) = insert_entry(sk, slot, flags, CLOSE, new, time) {
        return open;
    }
    let Some(conn) = entry::get(sk as u64) else {
        return Open::Untracked;
    };
    // SAFETY: points into the map.
    unsafe {
        if (*conn).state != CLOSE {
            // The kernel skipped the program at the end of an older socket at this address.
            entry::end(sk as u64, conn);
            return Open::of(entry::create(sk as u64, slot, flags, CLOSE, time));
        }
        ownership::complete_handover(conn, CLOSE);
        connect::abandoned(conn);
        if (*conn).slot != slot {
            gauges::hold(slot);
            gauges::release((*conn).slot);
            (*conn).slot = slot;
        }
        (*conn).epoch = ownership::epoch();
        (*conn).flags = flags;
        (*conn).born_ns = time;
        (*conn).entered_ns = time;
        (*conn).retransmits = entry::retransmitted(sk);
        (*conn).error = 0;
        (*conn).unread_since = 0;
        (*conn).waited_for = 0;
        (*conn).waited_ms = 0;
        (*conn).spent = [0; TIMED_STATES.len()];
    }
    Open::Entry(conn)
}

/// A child socket, in softirq. It belongs to the owner of its listener until it is accepted.
///
/// The tracepoint does not pass the listener, and a lookup by port is ambiguous among SO_REUSEPORT
/// sockets of several processes. But here the child is still a byte copy of its listener
/// (`sk_clone_lock`), and `tcp_create_openreq_child` initialises `tsorted_sent_queue` only later.
/// In the listener, this is an empty list whose head points to itself, so in the copy it points
/// into the listener. The address is used only if there is an entry in LISTEN for it.
#[inline(always)]
pub fn child(sk: *const u8, new: u8, time: u64) -> Open {
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
    if let Some(open) = insert_entry(sk, slot, CONN_PASSIVE, LISTEN, new, time) {
        return open;
    }
    if let Some(stale) = entry::get(sk as u64) {
        // The kernel skipped the program at the end of an older socket at this address.
        entry::end(sk as u64, stale);
    }
    Open::of(entry::create(sk as u64, slot, CONN_PASSIVE, LISTEN, time))
}

/// Inserts an entry for a socket that goes from `old` to `new`. `None` if it has one already.
///
/// A transition to SYN_SENT or SYN_RECV needs no other work, so the entry is inserted with the new
/// state, which saves a lookup.
#[inline(always)]
fn insert_entry(sk: *const u8, slot: u32, flags: u16, old: u8, new: u8, time: u64) -> Option<Open> {
    let at_once = matches!(new, SYN_SENT | SYN_RECV);
    let state = if at_once { new } else { old };
    match entry::insert(sk as u64, slot, flags, old, state, time) {
        Inserted::Known => None,
        Inserted::Refused => Some(Open::Untracked),
        Inserted::New if at_once => {
            count_transition(slot, old, new);
            count_outcome(SIGNAL_STATE, slot);
            records::write(RECORD_STATE, sk, core::ptr::null(), slot, |record| {
                record.flags = flags;
                record.from = old;
                record.to = new;
            });
            Some(Open::Counted)
        }
        Inserted::New => Some(Open::of(entry::get(sk as u64))),
    }
}
