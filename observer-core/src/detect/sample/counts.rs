//! Totals of a process or name, by class of events.

use observer_common::{
    CLOSE, CONNECT_ERRNOS, CONNECT_GAVE_UP, CONNECT_RESULTS, GAVE_UPS, LISTEN, PORT_SEARCH_BIND,
    PORT_SEARCH_CONNECT, QuicCounters, RESETS_RECEIVED, RESETS_SENT, Record, SIGNAL_FD,
    SIGNAL_NAMES, SIGNAL_RESET_RECEIVED, SYN_SENT, Slot, TLS_FAILED, TLS_RESULTS, TLS_ROLES,
    connection_error_index, reset_received_name,
};

use crate::contract::{AttachType, KernelSource, Status};

/// A class of events: a number in an array of counts, and a name.
macro_rules! classes {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $class:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $doc])+ $class,)+ }

        impl $name {
            /// Names, in the order of the classes.
            pub const NAMES: &[&str] = &[$($text),+];
            /// Number of classes.
            pub const COUNT: usize = Self::NAMES.len();
        }
    };
}

classes! {
    /// Why RSTs were sent for sockets. Those sent without a socket are in none.
    SentReset {
        /// Data came after this side had closed: TCP_ABORT_ON_DATA, or TCP_TIMEWAIT_SOCKET, which
        /// `tcp_timewait_state_process` (6.12) decides in the substate FIN_WAIT2 alone.
        DataAfterClose = "data_after_close",
        /// close() with unread data after shutdown(SHUT_WR).
        UnreadAfterShutdown = "unread_after_shutdown",
        /// The same without shutdown().
        UnreadData = "unread_data",
        /// SO_LINGER {1, 0}.
        LingerZero = "linger_zero",
        /// connect(AF_UNSPEC).
        Disconnect = "disconnect",
        /// The listener was closed with connections in its accept queue.
        Unaccepted = "unaccepted",
        /// `ss -K` and the like.
        Aborted = "aborted",
        /// Keepalive probes were not answered.
        Keepalive = "keepalive",
        /// Orphans past a limit.
        Orphan = "orphan",
        /// A listener refused: INVALID_SYN since 6.10.
        Listener = "listener",
        /// An invalid acknowledgement, as for a connection that the peer still has.
        InvalidAck = "invalid_ack",
        /// Any other reason.
        Other = "other",
    }
}

classes! {
    /// When RSTs were received. Refused connects (in SYN_SENT) are in none.
    ReceivedReset {
        /// In ESTABLISHED.
        Established = "established",
        /// In CLOSE_WAIT: the peer closed first and then threw data away.
        CloseWait = "close_wait",
        /// In FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK.
        BothClosing = "both_closing",
        /// In any other state.
        Other = "other",
    }
}

classes! {
    /// How connects ended.
    ConnectResult {
        /// Established.
        Ok = "ok",
        /// ECONNREFUSED.
        Refused = "refused",
        /// ETIMEDOUT.
        TimedOut = "timed_out",
        /// The program ended it after a SYN was sent again.
        GaveUp = "gave_up",
        /// The program ended it before.
        Canceled = "canceled",
        /// EHOSTUNREACH.
        HostUnreachable = "host_unreachable",
        /// ENETUNREACH.
        NetUnreachable = "net_unreachable",
        /// ENOPROTOOPT, EHOSTDOWN, ENONET.
        Icmp = "icmp",
        /// EACCES, EPERM.
        Denied = "denied",
        /// EADDRNOTAVAIL.
        AddressNotAvailable = "address_not_available",
        /// EAFNOSUPPORT.
        FamilyNotSupported = "family_not_supported",
        /// EINVAL.
        Invalid = "invalid",
        /// Any other errno.
        Other = "other",
    }
}

impl SentReset {
    /// The class of a reason, by its name as a label value; `None` without a socket.
    #[must_use]
    pub fn of_reason(reason: &str) -> Option<Self> {
        Some(match reason {
            "NO_SOCKET" => return None,
            "TCP_ABORT_ON_DATA" | "TCP_TIMEWAIT_SOCKET" => Self::DataAfterClose,
            "UNREAD_AFTER_SHUTDOWN" => Self::UnreadAfterShutdown,
            "TCP_ABORT_ON_CLOSE" => Self::UnreadData,
            "LINGER_ZERO" => Self::LingerZero,
            "DISCONNECT" | "TCP_DISCONNECT_WITH_DATA" => Self::Disconnect,
            "UNACCEPTED_CHILD" => Self::Unaccepted,
            "ABORTED_BY_ADMIN" => Self::Aborted,
            "TCP_KEEPALIVE_TIMEOUT" => Self::Keepalive,
            "TCP_ABORT_ON_LINGER" | "TCP_ABORT_ON_MEMORY" => Self::Orphan,
            "INVALID_SYN" | "REFUSED_BY_LISTENER" => Self::Listener,
            "TCP_INVALID_ACK_SEQUENCE" => Self::InvalidAck,
            _ => Self::Other,
        })
    }
}

impl ReceivedReset {
    /// The class of a state; `None` for a refused connect.
    #[must_use]
    pub fn in_state(name: &str) -> Option<Self> {
        Some(match name {
            "REFUSED" => return None,
            "IN_ESTABLISHED" => Self::Established,
            "IN_CLOSE_WAIT" => Self::CloseWait,
            "IN_FIN_WAIT1" | "IN_FIN_WAIT2" | "IN_CLOSING" | "IN_LAST_ACK" => Self::BothClosing,
            _ => Self::Other,
        })
    }
}

impl ConnectResult {
    /// The class of an index of [`observer_common::ConnectCounters::results`].
    #[must_use]
    pub fn of_index(index: usize) -> Self {
        if index == 0 {
            return Self::Ok;
        }
        if index == CONNECT_GAVE_UP {
            return Self::GaveUp;
        }
        let errno = CONNECT_ERRNOS.get(index - 1);
        errno.map_or(Self::Other, |errno| Self::of_errno(i32::from(*errno)))
    }

    /// The class of a record of a failed connect.
    #[must_use]
    pub fn of_record(record: &Record) -> Self {
        match Self::of_errno(i32::from(record.errno)) {
            Self::Canceled if record.retransmits > 0 => Self::GaveUp,
            result => result,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    fn of_errno(errno: i32) -> Self {
        match errno {
            libc::ECONNREFUSED => Self::Refused,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::ECANCELED => Self::Canceled,
            libc::EHOSTUNREACH => Self::HostUnreachable,
            libc::ENETUNREACH => Self::NetUnreachable,
            libc::ENOPROTOOPT | libc::EHOSTDOWN | libc::ENONET => Self::Icmp,
            libc::EACCES | libc::EPERM => Self::Denied,
            libc::EADDRNOTAVAIL => Self::AddressNotAvailable,
            libc::EAFNOSUPPORT => Self::FamilyNotSupported,
            libc::EINVAL => Self::Invalid,
            _ => Self::Other,
        }
    }
}

/// The class of each counter of a slot, which depends on the reasons for RSTs that the running kernel has.
#[derive(Clone, Debug)]
pub struct CounterClasses {
    sent: [Option<SentReset>; RESETS_SENT],
    received: [Option<ReceivedReset>; RESETS_RECEIVED],
    connects: [ConnectResult; CONNECT_RESULTS],
    /// Whether received RSTs are counted at all.
    sees_received: bool,
    /// See [`super::Process::sees_allocations`].
    pub(in crate::detect) sees_allocations: bool,
}

impl CounterClasses {
    /// Those of a kernel whose programs are attached.
    #[must_use]
    pub fn of_kernel(source: &dyn KernelSource) -> Self {
        Self {
            sees_received: source.observes(SIGNAL_RESET_RECEIVED),
            sees_allocations: source.verdicts().iter().any(|it| {
                it.signal == SIGNAL_NAMES[SIGNAL_FD as usize]
                    && it.status == Status::Attached
                    && it.attach_type == AttachType::Fexit
            }),
            ..Self::new(|index| source.reset_reason(index))
        }
    }

    /// `reason` names an index of [`observer_common::ResetCounters::sent`].
    #[must_use]
    pub fn new(reason: impl Fn(u32) -> String) -> Self {
        Self {
            sent: std::array::from_fn(|index| SentReset::of_reason(&reason(index as u32))),
            received: std::array::from_fn(|state| {
                reset_received_name(state as u8).and_then(ReceivedReset::in_state)
            }),
            connects: std::array::from_fn(ConnectResult::of_index),
            sees_received: true,
            sees_allocations: false,
        }
    }
}

/// Totals of a process or name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`SentReset`].
    pub resets_sent: [u64; SentReset::COUNT],
    /// By [`ReceivedReset`].
    pub resets_received: [u64; ReceivedReset::COUNT],
    /// Connections that ended: transitions to CLOSE, without refused and given-up connects and listeners.
    pub ended: u64,
    /// Established connections that ended because nothing answered: with ETIMEDOUT, or with
    /// EHOSTUNREACH, if an ICMP message or a failed neighbour entry was the reason
    /// (`tcp_write_err`).
    pub unanswered: u64,
    /// By [`ConnectResult`].
    pub connects: [u64; ConnectResult::COUNT],
    /// Refused connects without an RST; `None` if RSTs are not counted.
    pub refused_by_icmp: Option<u64>,
    /// Searches of connect() for a local port that failed.
    pub port_searches_failed: u64,
    /// The same of bind() and listen().
    pub bind_searches_failed: u64,
    /// socket() and accept() calls that failed with EMFILE and ENFILE.
    pub exhausted: [u64; 2],
    /// Connections that accept() returned.
    pub accepted: u64,
    /// Connections that the program closed after it had waited, or may have waited, for an answer for 1.5 s or longer; by the
    /// `GAVE_UP_` numbers.
    pub gave_up: [u64; GAVE_UPS],
    /// Those that it opened, sent something on, and closed before it had read anything, without those that it gave up.
    pub nothing_read: u64,
    /// TLS handshakes that ended, by the `TLS_` numbers of role and result.
    pub handshakes: [[u64; TLS_RESULTS.len()]; TLS_ROLES.len()],
    /// Early data and stream resets of QUIC.
    pub quic: QuicCounters,
}

impl Counts {
    /// The sum of what is counted: it grows with each event.
    #[must_use]
    pub fn events(&self) -> u64 {
        let QuicCounters {
            attempts,
            rejections,
            resets,
        } = &self.quic;
        let all = self.resets_sent.iter().chain(&self.resets_received);
        let all = all.chain(&self.connects).chain(&self.exhausted);
        let all = all.chain(attempts).chain(rejections);
        let single = [
            self.ended,
            self.unanswered,
            self.port_searches_failed,
            self.bind_searches_failed,
            self.accepted,
            self.nothing_read,
        ];
        let all = all
            .chain(&self.gave_up)
            .chain(resets.as_flattened())
            .chain(&single);
        all.chain(self.handshakes.as_flattened()).sum()
    }

    /// TLS handshakes that failed.
    #[must_use]
    pub fn handshakes_failed(&self) -> u64 {
        self.handshakes.iter().map(|it| it[TLS_FAILED]).sum()
    }

    /// From the counters of a slot, or of the sum of several.
    #[must_use]
    pub fn read(slot: &Slot, classes: &CounterClasses) -> Self {
        let mut counts = Self {
            port_searches_failed: slot.ports.exhausted[PORT_SEARCH_CONNECT],
            bind_searches_failed: slot.ports.exhausted[PORT_SEARCH_BIND],
            exhausted: [slot.fd.exhausted[0], slot.fd.exhausted[1]],
            accepted: slot.accept.accepted,
            gave_up: slot.waiting.gave_up,
            nothing_read: slot.waiting.nothing_read,
            handshakes: std::array::from_fn(|role| {
                let of = |result: usize| slot.tls.ended.iter().map(|it| it[role][result]).sum();
                std::array::from_fn(of)
            }),
            quic: slot.quic,
            unanswered: [libc::ETIMEDOUT, libc::EHOSTUNREACH]
                .map(|errno| slot.state.errors[connection_error_index(errno as u32)])
                .iter()
                .sum(),
            ..Self::default()
        };
        for (class, count) in classes.sent.iter().zip(slot.reset.sent) {
            if let Some(class) = class {
                counts.resets_sent[*class as usize] += count;
            }
        }
        for (class, count) in classes.received.iter().zip(slot.reset.received) {
            if let Some(class) = class {
                counts.resets_received[*class as usize] += count;
            }
        }
        for (class, count) in classes.connects.iter().zip(slot.connect.results) {
            counts.connects[*class as usize] += count;
        }
        let refused = counts.connects[ConnectResult::Refused as usize];
        let resets = slot.reset.received[usize::from(SYN_SENT)];
        counts.refused_by_icmp = classes
            .sees_received
            .then(|| refused.saturating_sub(resets));
        for (from, to) in (0..).zip(&slot.state.transitions) {
            if ![CLOSE, SYN_SENT, LISTEN].contains(&from) {
                counts.ended += to[usize::from(CLOSE)];
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{
        ESTABLISHED, FIN_WAIT2, RESET_LINGER_ZERO, RESET_NO_SOCKET, connect_index,
    };

    use super::*;
    use crate::names::ResetReasons;

    #[test]
    fn a_slot_is_read_by_class() {
        let mut slot = Slot::zeroed();
        slot.reset.sent[3] = 4;
        slot.reset.sent[RESET_LINGER_ZERO as usize] = 5;
        slot.reset.sent[RESET_NO_SOCKET as usize] = 6;
        slot.reset.received[usize::from(ESTABLISHED)] = 7;
        slot.reset.received[usize::from(SYN_SENT)] = 8;
        slot.connect.results[0] = 9;
        slot.connect.results[connect_index(libc::ECONNREFUSED as u32)] = 10;
        slot.connect.results[connect_index(libc::EINVAL as u32)] = 1;
        slot.connect.results[CONNECT_GAVE_UP] = 11;
        slot.quic.rejections = [1, 2, 3];
        slot.tls.ended[0] = [[1, 2], [3, 4], [5, 6]];
        slot.tls.ended[2][0] = [10, 20];
        slot.state.transitions[usize::from(FIN_WAIT2)][usize::from(CLOSE)] = 12;
        slot.state.transitions[usize::from(SYN_SENT)][usize::from(CLOSE)] = 13;
        let reasons = ResetReasons::new([(3, "TCP_ABORT_ON_CLOSE".to_owned())].into());
        for (errno, count) in [
            (libc::ETIMEDOUT, 3),
            (libc::EHOSTUNREACH, 4),
            (libc::EPIPE, 5),
        ] {
            slot.state.errors[connection_error_index(errno as u32)] = count;
        }
        let classes = CounterClasses::new(|index| reasons.name(index).into_owned());
        let counts = Counts::read(&slot, &classes);
        assert_eq!(counts.resets_sent.iter().sum::<u64>(), 9);
        assert_eq!(counts.resets_sent[SentReset::UnreadData as usize], 4);
        assert_eq!(counts.resets_sent[SentReset::LingerZero as usize], 5);
        assert_eq!(counts.resets_received, [7, 0, 0, 0]);
        assert_eq!(counts.connects.iter().sum::<u64>(), 31);
        assert_eq!(counts.connects[ConnectResult::Ok as usize], 9);
        assert_eq!(counts.connects[ConnectResult::Refused as usize], 10);
        assert_eq!(counts.connects[ConnectResult::Invalid as usize], 1);
        assert_eq!(counts.refused_by_icmp, Some(2));
        let without = CounterClasses {
            sees_received: false,
            ..classes.clone()
        };
        assert_eq!(Counts::read(&slot, &without).refused_by_icmp, None);
        assert_eq!(counts.connects[ConnectResult::GaveUp as usize], 11);
        assert_eq!((counts.ended, counts.unanswered), (12, 7));
        assert_eq!(counts.quic.rejections, [1, 2, 3]);
        assert_eq!(counts.handshakes, [[11, 22], [3, 4], [5, 6]]);
        assert_eq!(counts.handshakes_failed(), 32);
    }
}
