//! Early data and stream resets of quic-go.
//!
//! One program on all functions; the cookie says which. A connection is identified by the receiver of its methods: the
//! goroutine changes, and Go does not move what is on its heap. A stream does not lead to its connection, as its
//! fields are at other offsets in each version. So streams that are cancelled are counted for each process, and a
//! connection compares that at its rejection and when the program goes on.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::uprobe, programs::ProbeContext};
use observer_common::{
    QUIC_ABANDONED, QUIC_ACCEPTED, QUIC_ATTEMPTED, QUIC_CANCEL, QUIC_CANCEL_BY, QUIC_CANCELLED,
    QUIC_CLOSED, QUIC_COMPLETE, QUIC_DIRECTIONS, QUIC_FAILED, QUIC_FRAME, QUIC_FRAMES,
    QUIC_LEVEL_0RTT, QUIC_LEVEL_DROPPED, QUIC_NEXT, QUIC_REJECTED, QUIC_REJECTIONS, QUIC_RESULTS,
    QUIC_RESUMED, QuicConnection, QuicKey, SIGNAL_QUIC,
};

use crate::{
    core::{
        counters,
        maps::{BPF_ANY, QUIC_CANCELS, QUIC_CONNECTIONS},
        outcome::{count_outcome, seen},
        process,
    },
    uprobes::regs,
};

/// Places of the counters in `QuicCounters`, which are all of one type.
const REJECTIONS: usize = QUIC_RESULTS.len();
const FRAMES: usize = REJECTIONS + QUIC_REJECTIONS.len();
const COUNTERS: usize = FRAMES + QUIC_DIRECTIONS.len() * QUIC_FRAMES.len();

#[uprobe]
pub fn quic_event(ctx: ProbeContext) -> u32 {
    let event = regs::cookie(&ctx) as u32;
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let key = QuicKey {
        connection: regs::go_first(&ctx),
        tgid,
        reserved: 0,
    };
    match event {
        QUIC_ATTEMPTED => {
            // An entry that is there is that of a process that has ended: its pid and addresses were reused.
            let _ = QUIC_CONNECTIONS.insert(key, QuicConnection::default(), BPF_ANY);
        }
        QUIC_LEVEL_DROPPED => {
            // The type is one byte.
            if regs::go_second(&ctx) as u8 == QUIC_LEVEL_0RTT {
                reject(&key);
            }
        }
        QUIC_COMPLETE => {
            if rejected(&key) == Some(false) && QUIC_CONNECTIONS.remove(key).is_ok() {
                count(QUIC_ACCEPTED);
            }
        }
        QUIC_NEXT => go_on(&key),
        QUIC_CLOSED => {
            if let Some(rejected) = rejected(&key)
                && QUIC_CONNECTIONS.remove(key).is_ok()
            {
                count(if rejected {
                    REJECTIONS + QUIC_ABANDONED
                } else {
                    QUIC_FAILED
                });
            }
        }
        QUIC_CANCEL => cancel(tgid),
        QUIC_CANCEL_BY => {
            // A bool is one byte.
            if regs::go_third(&ctx) as u8 == 0 {
                cancel(tgid);
            }
        }
        frame => count(FRAMES + frame.wrapping_sub(QUIC_FRAME) as usize),
    }
    0
}

/// Whether the early data of a connection was rejected; `None` if it sent none, or its outcome is counted.
#[inline(always)]
fn rejected(key: &QuicKey) -> Option<bool> {
    // SAFETY: points into the map.
    QUIC_CONNECTIONS
        .get_ptr(key)
        .map(|it| unsafe { (*it).rejected != 0 })
}

#[inline(always)]
fn reject(key: &QuicKey) {
    let Some(connection) = QUIC_CONNECTIONS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: points into the map.
    let next = unsafe {
        if (*connection).rejected != 0 {
            // A second probe on the same file.
            return;
        }
        (*connection).cancels = cancels(key.tgid);
        (*connection).rejected = 1;
        (*connection).next
    };
    count(QUIC_REJECTED);
    if next != 0 && QUIC_CONNECTIONS.remove(key).is_ok() {
        count(REJECTIONS + QUIC_RESUMED);
    }
}

#[inline(always)]
fn go_on(key: &QuicKey) {
    let Some(connection) = QUIC_CONNECTIONS.get_ptr_mut(key) else {
        return;
    };
    // NextConnection may be called before the handshake is complete, and waits for that: then the rejection
    // finds it here.
    // SAFETY: points into the map.
    let (before, rejected) = unsafe {
        (*connection).next = 1;
        ((*connection).cancels, (*connection).rejected)
    };
    if rejected != 0 && QUIC_CONNECTIONS.remove(key).is_ok() {
        count(if cancels(key.tgid) > before {
            REJECTIONS + QUIC_CANCELLED
        } else {
            REJECTIONS + QUIC_RESUMED
        });
    }
}

/// Calls that cancelled streams in a process. 0 again if it was evicted, which only hides one.
#[inline(always)]
fn cancels(tgid: u32) -> u64 {
    // SAFETY: points into the map.
    QUIC_CANCELS.get_ptr(tgid).map_or(0, |it| unsafe { *it })
}

#[inline(always)]
fn cancel(tgid: u32) {
    match QUIC_CANCELS.get_ptr_mut(tgid) {
        Some(cancels) => counters::add(cancels, 1),
        None => {
            let _ = QUIC_CANCELS.insert(tgid, 1, BPF_ANY);
        }
    }
}

/// Counts in one of the process's counters.
#[inline(always)]
fn count(counter: usize) {
    let Some(counter) = counters::bounded(counter, COUNTERS) else {
        return;
    };
    let slot = process::current();
    seen(SIGNAL_QUIC);
    count_outcome(SIGNAL_QUIC, slot);
    if let Some(of_process) = counters::slot(slot) {
        // SAFETY: points into the map, and the index was checked in a way that the verifier sees.
        counters::add(
            unsafe { (&raw mut (*of_process).quic).cast::<u64>().add(counter) },
            1,
        );
    }
}
