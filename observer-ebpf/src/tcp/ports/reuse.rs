//! Fields of a timewait socket that say whether connect() may reuse its port (`tcp_twsk_unique`,
//! net/ipv4/tcp_ipv4.c), and whether bind() chose it. The daemon evaluates them.

use observer_common::{
    FIN_WAIT2, PORT_BOUND, PORT_FIN_WAIT2, PORT_LOOPBACK_DEVICE, PORT_TIMESTAMPS,
};

use crate::core::{
    clock::now,
    fields::{at, has},
    read::{Direct, Memory},
    socket::is_bound_bucket,
};

/// `LOOPBACK_IFINDEX` (include/net/flow.h).
const LOOPBACK_IFINDEX: u32 = 1;

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;

/// State of the port of a timewait socket.
#[derive(Clone, Copy, Default)]
pub struct Facts {
    /// `PORT_` flags.
    pub flags: u16,
    /// See [`observer_common::SocketSeen::waited_ms`].
    pub waited_ms: u32,
}

/// Reads a timewait socket, of which `tw` is a copy ([`crate::core::walk`]).
#[inline(always)]
pub fn facts(tw: *const u8) -> Facts {
    let mut facts = Facts::default();
    // SAFETY: a `struct tcp_timewait_sock`, offsets from BTF. It may have been freed, like everything
    // that an iterator reads.
    unsafe {
        if has::OFF_TW_BIND_HASH()
            && is_bound_bucket(Direct::read::<u64>(tw, at::OFF_TW_BIND_HASH()))
        {
            facts.flags |= PORT_BOUND;
        }
        if !has::OFF_TW_SUBSTATE() || !has::OFF_TW_TS_STAMP() {
            // Without these fields, timestamps are unknown: assume none, so no reuse.
            return facts;
        }
        if Direct::read::<u8>(tw, at::OFF_TW_SUBSTATE()) == FIN_WAIT2 {
            facts.flags |= PORT_FIN_WAIT2;
        }
        // Time of the last received timestamp, in seconds.
        let stamp = Direct::read::<u32>(tw, at::OFF_TW_TS_STAMP());
        if stamp != 0 {
            facts.flags |= PORT_TIMESTAMPS;
        }
        if has::OFF_SKC_BOUND_IF()
            && Direct::read::<u32>(tw, at::OFF_SKC_BOUND_IF()) == LOOPBACK_IFINDEX
        {
            facts.flags |= PORT_LOOPBACK_DEVICE;
        }
        let since = if has::OFF_TW_ENTRY_STAMP() {
            Direct::read::<u32>(tw, at::OFF_TW_ENTRY_STAMP())
        } else {
            // Before 6.14 the kernel waits for the next second.
            stamp.wrapping_mul(1000)
        };
        // In these units, the kernel's clocks wrap at 32 bits, too.
        let waited = ((now() / MS) as u32).wrapping_sub(since);
        if waited >> 31 == 0 {
            facts.waited_ms = waited;
        }
    }
    facts
}
