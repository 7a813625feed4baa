//! Whether connect() can reuse a port in TIME_WAIT.

use std::net::{IpAddr, Ipv4Addr};

use observer_common::{
    PORT_FIN_WAIT2, PORT_LOOPBACK_DEVICE, PORT_TIMESTAMPS, PortSpace, PortUse, TW_REUSE_ALWAYS,
    TW_REUSE_LOOPBACK,
};

use super::destination::Destination;

/// The properties of one use of a port by which the kernel decides (`tcp_twsk_unique`,
/// net/ipv4/tcp_ipv4.c, the same from 5.10 to 7.3 except for the clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reuse {
    /// In TIME_WAIT, with timestamps, and not waiting for the peer's FIN.
    may_end: bool,
    /// Bound to the loopback device.
    on_loopback: bool,
    waited_ms: u32,
}

impl Reuse {
    pub fn of(port: &PortUse) -> Self {
        let has = |flag| port.flags & flag != 0;
        Self {
            may_end: port.age != 0 && has(PORT_TIMESTAMPS) && !has(PORT_FIN_WAIT2),
            on_loopback: has(PORT_LOOPBACK_DEVICE),
            waited_ms: port.waited_ms,
        }
    }

    /// Whether connect() in the namespace `space` cannot use the port for `destination`.
    pub fn blocks(&self, space: &PortSpace, destination: &Destination) -> bool {
        let allowed = match space.tw_reuse {
            TW_REUSE_ALWAYS => true,
            TW_REUSE_LOOPBACK => {
                self.on_loopback
                    || is_loopback(destination.source)
                    || is_loopback(destination.remote.ip())
            }
            _ => false,
        };
        !(allowed && self.may_end && self.waited_ms > space.tw_reuse_delay_ms)
    }
}

/// 127.0.0.0/8, also as `::ffff:127.0.0.0/104`, and `::1`.
fn is_loopback(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::is_loopback(&address),
        IpAddr::V6(address) => address.is_loopback(),
    }
}

#[cfg(test)]
mod tests;
