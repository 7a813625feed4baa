//! Whether connect() can reuse a port in TIME_WAIT.

use std::net::{IpAddr, Ipv4Addr};

use observer_common::{
    PORT_FIN_WAIT2, PORT_LOOPBACK_DEVICE, PORT_TIMESTAMPS, PortSpace, SocketSeen, TIME_WAIT,
    TW_REUSE_ALWAYS, TW_REUSE_LOOPBACK,
};

use super::destination::Destination;

/// The properties of one use of a port by which the kernel decides (`tcp_twsk_unique`,
/// net/ipv4/tcp_ipv4.c, the same from 5.10 to 7.3 except for the clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reuse {
    pub in_time_wait: bool,
    timestamps: bool,
    /// For the peer's FIN.
    pub waits: bool,
    /// Bound to the loopback device.
    on_loopback: bool,
    idle_ms: u32,
}

impl Reuse {
    pub fn of(socket: &SocketSeen) -> Self {
        let has = |flag| socket.flags & flag != 0;
        Self {
            in_time_wait: socket.state == TIME_WAIT,
            timestamps: has(PORT_TIMESTAMPS),
            waits: has(PORT_FIN_WAIT2),
            on_loopback: has(PORT_LOOPBACK_DEVICE),
            idle_ms: socket.idle_ms,
        }
    }

    /// That of a connection with timestamps, as nearly all have.
    pub fn usual() -> Self {
        Self {
            in_time_wait: true,
            timestamps: true,
            waits: false,
            on_loopback: false,
            idle_ms: 0,
        }
    }

    /// Whether connect() in the namespace `space` cannot use the port for `destination`.
    pub fn blocks(&self, space: &PortSpace, destination: &Destination) -> bool {
        let waited = !self.waits && self.idle_ms > space.tw_reuse_delay_ms;
        !(self.in_time_wait && waited && self.applies(space, destination))
    }

    /// Whether connect() can use the port once it has been in TIME_WAIT for `tcp_tw_reuse_delay`.
    pub fn applies(&self, space: &PortSpace, destination: &Destination) -> bool {
        let allowed = match space.tw_reuse {
            TW_REUSE_ALWAYS => true,
            TW_REUSE_LOOPBACK => {
                self.on_loopback
                    || is_loopback(destination.source)
                    || is_loopback(destination.remote.ip())
            }
            _ => false,
        };
        allowed && self.timestamps
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
