//! Datagrams that were dropped before a UDP socket's process could read them.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, ProcessMetric},
    signal::SIGNAL_UDP_DROPS,
};

/// Counters of UDP.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct UdpCounters {
    /// Received datagrams that were dropped.
    pub receive_drops: u64,
}

crate::assert_layout!(UdpCounters, 8, [
    receive_drops: u64,
]);

/// Key of the map of UDP sockets with drops. Another socket can get the address, but not with the same
/// inode number as long as that does not wrap around, which has 32 bits (`get_next_ino`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UdpSocketKey {
    /// The socket's address.
    pub socket: u64,
    /// Inode number of its file.
    pub inode: u64,
}

crate::assert_layout!(UdpSocketKey, 16, [socket: u64, inode: u64]);

/// Value of the map of UDP sockets with drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UdpSocket {
    /// The socket's count (`sk_drops`) at the last walk over open files.
    pub drops: u32,
    /// [`ResyncControl::epoch`](crate::ResyncControl::epoch) of that walk.
    pub epoch: u32,
}

crate::assert_layout!(UdpSocket, 8, [drops: u32, epoch: u32]);

impl UdpSocket {
    /// Drops since the last walk, given the socket's count now. The count has 32 bits and may wrap around.
    /// An increase by more than half of the range is not from the same socket: another socket has the key,
    /// and its whole count is new.
    #[must_use]
    pub const fn new_drops(&self, now: u32) -> u32 {
        let new = now.wrapping_sub(self.drops);
        if new > i32::MAX as u32 { now } else { new }
    }
}

/// Metrics of [`UdpCounters`].
pub const UDP_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_udp_receive_drops_total",
    unit: "datagrams",
    labels: &[],
    hooks: "`task_file`",
    help: "Received datagrams that the kernel dropped at UDP sockets: the receive buffer was full (UdpRcvbufErrors), the checksum was wrong, or a socket filter refused them. Read from open sockets every --resync-interval: what a socket drops between the last reading and its close is missing, and what it dropped before the observer started is not counted. A socket of several processes counts for the one with the lowest pid, for pid 1 only if no other has it.",
    query: "topk(5, sum by (comm, unit) (rate(socket_udp_receive_drops_total[5m])))",
    failures_from: Some(0),
    process: Some(ProcessMetric {
        name: "socket_process_udp_receive_drops_total",
        help: "Received datagrams that the kernel dropped at UDP sockets of the process.",
        query: "topk(5, rate(socket_process_udp_receive_drops_total[5m])) > 0",
    }),
    parts: &[Part {
        signal: SIGNAL_UDP_DROPS,
        offset: offset_of!(UdpCounters, receive_drops),
        values: &[],
    }],
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_across_the_wrap_around_and_a_change_of_socket() {
        let seen = |drops| UdpSocket { drops, epoch: 1 };
        assert_eq!(seen(7).new_drops(7), 0);
        assert_eq!(seen(7).new_drops(10), 3);
        assert_eq!(seen(u32::MAX - 1).new_drops(3), 5);
        assert_eq!(seen(1000).new_drops(4), 4);
    }
}
