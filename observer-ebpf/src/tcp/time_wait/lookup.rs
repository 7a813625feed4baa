//! The start of TIME_WAIT where `inet_twsk_alloc` cannot be hooked: searches for the timewait
//! socket when the full one goes to CLOSE.
//!
//! `tcp_time_wait` inserts the timewait socket into the table of connections in place of the full
//! one (`inet_twsk_hashdance`), and then closes the full one (`tcp_done`). A socket that goes to
//! CLOSE in any other way, for an RST in particular, leaves no timewait socket there, nor does one
//! for which there was no bucket or no memory.

use observer_common::{CLOSE, CLOSING, Conn, FIN_WAIT1, FIN_WAIT2, SIGNAL_TIME_WAIT, TIME_WAIT};

use super::{entered, hash};
use crate::core::{
    fields::{TIME_WAIT_LOOKUP, at},
    outcome::{count_lost, seen},
    read::{Memory, Probe},
};

/// Maximum number of sockets per lookup. The kernel has about as many buckets as connections,
/// unless an administrator reduced the size of the table.
const STEPS: u32 = 32;

/// `sk` goes from `old` to `new`. Returns the timewait socket that has replaced it, or null.
///
/// Called first, because the verifier checks the loop once for each state of registers and stack in which it is reached.
#[inline(always)]
pub fn before(sk: *const u8, old: u8, new: u8) -> *const u8 {
    // FIN_WAIT1 only if the kernel skipped the program for the following transition.
    if TIME_WAIT_LOOKUP.load() == 0
        || new != CLOSE
        || !matches!(old, FIN_WAIT1 | FIN_WAIT2 | CLOSING)
    {
        return core::ptr::null();
    }
    find(sk)
}

/// `sk`, with the entry `conn` and the owner `slot`, went to CLOSE and was replaced by `timewait`, if
/// that is not null.
#[inline(always)]
pub fn closed(sk: *const u8, conn: Option<*mut Conn>, slot: u32, timewait: *const u8) {
    if TIME_WAIT_LOOKUP.load() == 0 || timewait.is_null() {
        return;
    }
    // SAFETY: an inet_timewait_sock, offset from BTF.
    let substate = unsafe { Probe::read(timewait, at::OFF_TW_SUBSTATE()) };
    entered(sk, conn, slot, timewait, substate);
}

/// Searches for the timewait socket that has replaced `sk`, as `__inet_lookup_established` searches for a connection.
#[inline(always)]
fn find(sk: *const u8) -> *const u8 {
    // SAFETY: a full socket, its `struct net`, the inet_hashinfo of that, and the chain of a bucket,
    // offsets from BTF. The chain can lead anywhere if one of its sockets is freed concurrently; all
    // reads are safe.
    unsafe {
        let hash = hash::<Probe>(sk);
        // Since 6.15 the hash is a sum with the local port (`inet_ehashfn`), so that connections to
        // different peers can have the same. `skc_num` is 0 by now (`inet_put_port`).
        let ports = u32::from(Probe::read::<u16>(sk, at::OFF_SKC_DPORT()))
            | u32::from(u16::from_be(Probe::read(sk, at::OFF_INET_SPORT()))) << 16;
        let net = Probe::read::<u64>(sk, at::OFF_SKC_NET());
        let hashinfo = Probe::read::<u64>(net as *const u8, at::OFF_NET_HASHINFO());
        let hashinfo = hashinfo as *const u8;
        let table = Probe::read::<u64>(hashinfo, at::OFF_HASHINFO_EHASH()) as *const u8;
        let bucket = hash & Probe::read::<u32>(hashinfo, at::OFF_HASHINFO_MASK());
        // A bucket is one pointer.
        let head = bucket as usize * size_of::<u64>();
        let mut node = Probe::read::<u64>(table, head);
        let mut i = 0;
        while i < STEPS {
            if node & 1 != 0 {
                // The end of a chain contains the number of its bucket
                // (include/linux/list_nulls.h).
                if node >> 1 == u64::from(bucket) {
                    return core::ptr::null();
                }
                // A socket of the chain was moved to another bucket meanwhile.
                node = Probe::read(table, head);
            } else {
                let found = (node as *const u8).wrapping_sub(at::OFF_SKC_NODE());
                // One comparison, for the verifier. `skc_dport` and `skc_num` are `skc_portpair`.
                let other = u64::from(Probe::read::<u32>(found, at::OFF_SKC_HASH()) ^ hash)
                    | u64::from(Probe::read::<u32>(found, at::OFF_SKC_DPORT()) ^ ports)
                    | u64::from(Probe::read::<u8>(found, at::OFF_SKC_STATE()) ^ TIME_WAIT)
                    | (Probe::read::<u64>(found, at::OFF_SKC_NET()) ^ net);
                if other == 0 {
                    return found;
                }
                node = Probe::read(node as *const u8, 0);
            }
            i += 1;
        }
    }
    // The bucket is too long.
    seen(SIGNAL_TIME_WAIT);
    count_lost(SIGNAL_TIME_WAIT);
    core::ptr::null()
}
