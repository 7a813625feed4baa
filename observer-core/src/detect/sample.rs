//! The input of the detectors: numbers at one time. Counters are totals since the start of the
//! process, listener or namespace; detectors compute the differences.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use observer_common::{
    CLOSE, CONNECT_ERRNOS, CONNECT_GAVE_UP, CONNECT_RESULTS, LISTEN, PORT_SEARCH_BIND,
    PORT_SEARCH_CONNECT, ProcessKey, QuicCounters, RESETS_RECEIVED, RESETS_SENT, Record,
    SIGNAL_RESET_RECEIVED, SYN_SENT, Slot, connection_error_index, reset_received_name,
};

use super::finding::{Holder, PeerShare, Subject};
use crate::{
    contract::KernelSource,
    process::fd_kinds::FdKinds,
    table::{Handshakes, Labels, ListenAddress},
    walk::{PeerWait, Waits},
};

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
}

impl CounterClasses {
    /// Those of a kernel whose programs are attached.
    #[must_use]
    pub fn of_kernel(source: &dyn KernelSource) -> Self {
        Self {
            sees_received: source.observes(SIGNAL_RESET_RECEIVED),
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
    /// Early data and stream resets of QUIC.
    pub quic: QuicCounters,
}

impl Counts {
    /// From the counters of a slot, or of the sum of several.
    #[must_use]
    pub fn read(slot: &Slot, classes: &CounterClasses) -> Self {
        let mut counts = Self {
            port_searches_failed: slot.ports.exhausted[PORT_SEARCH_CONNECT],
            bind_searches_failed: slot.ports.exhausted[PORT_SEARCH_BIND],
            exhausted: [slot.fd.exhausted[0], slot.fd.exhausted[1]],
            accepted: slot.accept.accepted,
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

/// Open descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Number.
    pub open: u64,
    /// Soft limit, RLIMIT_NOFILE.
    pub limit: u64,
    /// CLOCK_MONOTONIC when they were counted.
    pub measured_at: Duration,
}

/// The peers with whom the connections of a process or name fail, the largest share first. Those from records are
/// empty unless something is suspected.
#[derive(Clone, Debug, Default)]
pub struct Culprits {
    /// Of failed connects, from records.
    pub connects: Vec<PeerShare>,
    /// Of sockets in SYN_SENT for over 3 s.
    pub connecting: Vec<PeerShare>,
    /// Of RSTs sent, from records.
    pub resets_sent: Vec<PeerShare>,
    /// Of RSTs received, from records.
    pub resets_received: Vec<PeerShare>,
    /// Of connections that nothing answered, from records.
    pub unanswered: Vec<PeerShare>,
    /// Of sockets in CLOSE_WAIT for over 10 s; not of names.
    pub close_wait: Vec<PeerShare>,
}

/// A running process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which.
    pub key: ProcessKey,
    /// `pid`, `comm`, `unit`.
    pub labels: Arc<Labels>,
    /// Totals.
    pub counts: Counts,
    /// Descriptors, if they may be counted and have a limit.
    pub descriptors: Option<Descriptors>,
    /// The kinds of the newest descriptors, if they were read.
    pub fd_kinds: Option<Arc<FdKinds>>,
    /// CLOCK_MONOTONIC of the walk that what follows is of; `None` for the time of the sample.
    pub walked_at: Option<Duration>,
    /// Sockets in SYN_SENT for over 3 s.
    pub syn_sent_over_3s: u32,
    /// Accepted or own sockets in CLOSE_WAIT for over 10 s.
    pub close_wait_over_10s: u32,
    /// The same, for over 60 s.
    pub close_wait_over_60s: u32,
    /// Of those over 10 s, the ones whose local port is a listener's.
    pub close_wait_of_servers: u32,
    /// Sockets in FIN_WAIT2 that have a descriptor.
    pub owned_fin_wait2: u32,
    /// The local process at the other end of most of its connections that were reset, by records.
    pub reset_peer: Option<ProcessKey>,
    /// What its connections wait for.
    pub waits: Waits,
    /// For whom, most connections first.
    pub peers: Vec<PeerWait>,
    /// With whom its connections fail.
    pub culprits: Culprits,
    /// TLS handshakes in progress.
    pub handshakes: Handshakes,
}

#[cfg(test)]
impl Process {
    /// One that has done nothing and has nothing open.
    pub(super) fn new(key: ProcessKey, labels: Arc<Labels>) -> Self {
        Self {
            key,
            labels,
            counts: Counts::default(),
            descriptors: None,
            fd_kinds: None,
            walked_at: None,
            syn_sent_over_3s: 0,
            close_wait_over_10s: 0,
            close_wait_over_60s: 0,
            close_wait_of_servers: 0,
            owned_fin_wait2: 0,
            reset_peer: None,
            waits: Waits::default(),
            peers: Vec::new(),
            culprits: Culprits::default(),
            handshakes: Handshakes::default(),
        }
    }
}

/// All processes of a name, ended ones included.
#[derive(Clone, Debug)]
pub struct Name {
    /// `comm`, `unit`.
    pub labels: Arc<Labels>,
    /// Number of its processes that are running.
    pub running: u32,
    /// Totals.
    pub counts: Counts,
    /// Sockets in SYN_SENT for over 3 s.
    pub syn_sent_over_3s: u32,
    /// With whom its connections fail.
    pub culprits: Culprits,
}

/// Local ports of all processes, as of the last walk over sockets: for a destination, or those that bind() took
/// in a network namespace, for all destinations.
#[derive(Clone, Debug)]
pub struct Ports {
    /// [`Subject::Destination`] or [`Subject::Namespace`].
    pub subject: Subject,
    /// CLOCK_MONOTONIC of the walk.
    pub walked_at: Duration,
    /// Ports that there are for it.
    pub available: u32,
    /// Ports that cannot be used: live ones, and TIME_WAIT that may not be reused.
    pub blocked: u32,
    /// Of those, live ones by state: SYN_SENT; ESTABLISHED, those idle for over 5 min, CLOSE_WAIT and FIN_WAIT.
    pub syn_sent: u32,
    /// In ESTABLISHED.
    pub established: u32,
    /// Of those, idle for over 5 min.
    pub idle: u32,
    /// In CLOSE_WAIT, FIN_WAIT1 and FIN_WAIT2.
    pub closing: u32,
    /// Blocked by TIME_WAIT.
    pub time_wait: u32,
    /// Total of connections that took a port.
    pub opened: u64,
    /// How long a port stays blocked after its connection: 60 s, or the delay of tcp_tw_reuse where it applies.
    pub blocked_for: Duration,
    /// Total of searches for a port that failed.
    pub searches_failed: u64,
    /// Whose they are, most first.
    pub holders: Vec<Holder>,
}

impl Ports {
    /// Ports of live sockets.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.blocked.saturating_sub(self.time_wait)
    }
}

/// The listening sockets of an address.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Namespace, address and port.
    pub place: ListenAddress,
    /// Number of sockets.
    pub sockets: u64,
    /// Connections waiting for accept().
    pub backlog: u64,
    /// Maximum of those.
    pub max_backlog: u64,
    /// Backlog divided by its maximum, of the fullest socket.
    pub fullest: f64,
    /// Total of requests dropped because the queue was full.
    pub overflows: u64,
    /// Total of accepted connections of its processes.
    pub accepts: u64,
    /// Total of accept() calls of its processes that failed with EMFILE or ENFILE.
    pub exhausted: u64,
    /// Total of SYN cookies sent in its namespace.
    pub syncookies: Option<u64>,
    /// Whose sockets.
    pub holders: Vec<Holder>,
    /// The same processes one by one, if they have sockets of their own (SO_REUSEPORT).
    pub workers: Vec<Worker>,
}

/// A process with one of several listening sockets of an address.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// Which.
    pub process: ProcessKey,
    /// Backlog divided by its maximum, of its fullest socket.
    pub fullest: f64,
    /// Total of its accepted connections.
    pub accepts: u64,
}

/// A network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Namespace {
    /// Inode number.
    pub netns: u32,
    /// TcpExtTCPTimeWaitOverflow.
    pub time_wait_overflows: u64,
}

/// Where segments for closed ports come from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Network namespace in which they arrived.
    pub netns: u32,
    /// Source address.
    pub address: IpAddr,
    /// A bit for each closed port by its lowest 8 bits, over at most 60 s: then a new bitmap is begun.
    pub ports: [u64; 4],
    /// Segments over the same time.
    pub segments: u64,
    /// CLOCK_MONOTONIC of the last one.
    pub last_at: Duration,
}

/// The destinations of the last failed searches, for processes and names for which they are known.
#[derive(Clone, Debug, Default)]
pub struct SearchesFailedAt {
    /// By process.
    pub processes: HashMap<ProcessKey, Subject>,
    /// By name.
    pub names: HashMap<Arc<Labels>, Subject>,
}

impl SearchesFailedAt {
    /// Forgets ports that `keep` refuses.
    pub(super) fn retain(&mut self, keep: impl Fn(&Subject) -> bool) {
        self.processes.retain(|_, subject| keep(subject));
        self.names.retain(|_, subject| keep(subject));
    }
}

/// The whole host.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// CLOCK_MONOTONIC.
    pub now: Duration,
    /// Running processes.
    pub processes: Vec<Process>,
    /// Names.
    pub names: Vec<Name>,
    /// Ports by destination.
    pub ports: Vec<Ports>,
    /// Of those, where searches failed.
    pub searches_failed_at: SearchesFailedAt,
    /// Listening sockets by address.
    pub listeners: Vec<Listener>,
    /// Network namespaces.
    pub namespaces: Vec<Namespace>,
    /// Sources of segments for closed ports.
    pub sources: Vec<Source>,
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
        slot.connect.results[CONNECT_GAVE_UP] = 11;
        slot.quic.rejections = [1, 2, 3];
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
        assert_eq!(counts.connects.iter().sum::<u64>(), 30);
        assert_eq!(counts.connects[ConnectResult::Ok as usize], 9);
        assert_eq!(counts.connects[ConnectResult::Refused as usize], 10);
        assert_eq!(counts.refused_by_icmp, Some(2));
        let without = CounterClasses {
            sees_received: false,
            ..classes.clone()
        };
        assert_eq!(Counts::read(&slot, &without).refused_by_icmp, None);
        assert_eq!(counts.connects[ConnectResult::GaveUp as usize], 11);
        assert_eq!((counts.ended, counts.unanswered), (12, 7));
        assert_eq!(counts.quic.rejections, [1, 2, 3]);
    }
}
