//! The input of the detectors: numbers at one time. Counters are totals since the start of the
//! process, listener or namespace; detectors compute the differences.

mod counts;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use observer_common::ProcessKey;

pub use self::counts::{ConnectResult, CounterClasses, Counts, ReceivedReset, SentReset};

use super::finding::{Awaited, Holder, PeerShare, Subject};
use crate::{
    process::fd_kinds::FdKinds,
    table::{Handshakes, Labels, ListenAddress},
    walk::Waits,
};

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
    /// Of connections that the program gave up while it waited for the peer, from records.
    pub gave_up: Vec<PeerShare>,
    /// Of short connections that it had opened, from records while TLS handshakes fail.
    pub short: Vec<PeerShare>,
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
    /// Whether calls that failed for want of a descriptor are seen where the kernel allocates it. Else a seccomp filter of the
    /// process may have made them fail.
    pub sees_allocations: bool,
    /// The kinds of the newest descriptors, if they were read.
    pub fd_kinds: Option<Arc<FdKinds>>,
    /// Sockets in SYN_SENT.
    pub syn_sent: u32,
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
    /// Of these, the ones on which it was sent something and has sent nothing at all.
    pub close_wait_unanswered: u32,
    /// Sockets in FIN_WAIT2 that have a descriptor.
    pub owned_fin_wait2: u32,
    /// Connections that it has closed, and the peer has not for over 2 s.
    pub not_closed_by_peer: u32,
    /// The local process at the other end of most of its connections that were reset, by records.
    pub reset_peer: Option<ProcessKey>,
    /// Its labels.
    pub reset_peer_labels: Option<Arc<Labels>>,
    /// What its connections wait for.
    pub waits: Waits,
    /// For whom, most connections first.
    pub peers: Vec<Awaited>,
    /// With whom its connections fail.
    pub culprits: Culprits,
    /// TLS handshakes in progress.
    pub handshakes: Handshakes,
    /// Running processes of its name, if one of its handshakes has failed.
    pub of_name: u32,
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
            sees_allocations: false,
            fd_kinds: None,
            walked_at: None,
            syn_sent: 0,
            syn_sent_over_3s: 0,
            close_wait_over_10s: 0,
            close_wait_over_60s: 0,
            close_wait_of_servers: 0,
            close_wait_unanswered: 0,
            owned_fin_wait2: 0,
            not_closed_by_peer: 0,
            reset_peer: None,
            reset_peer_labels: None,
            waits: Waits::default(),
            peers: Vec::new(),
            culprits: Culprits::default(),
            handshakes: Handshakes::default(),
            of_name: 1,
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
    /// Sockets in SYN_SENT.
    pub syn_sent: u32,
    /// The same, for over 3 s.
    pub syn_sent_over_3s: u32,
    /// Connections that its processes have closed, and the peer has not for over 2 s; of ended processes only if records of
    /// their connections were read.
    pub not_closed_by_peer: u32,
    /// What the connections of its running processes wait for; nothing unless one of them waits for a peer.
    pub waits: Waits,
    /// For whom, most connections first: only those that [may be for a request](Waits::is_for_request).
    pub peers: Vec<Awaited>,
    /// With whom its connections fail.
    pub culprits: Culprits,
}

#[cfg(any(test, feature = "testing"))]
impl Name {
    /// One without processes that has done nothing.
    #[must_use]
    pub fn new(labels: Arc<Labels>) -> Self {
        Self {
            labels,
            running: 0,
            counts: Counts::default(),
            syn_sent: 0,
            syn_sent_over_3s: 0,
            not_closed_by_peer: 0,
            waits: Waits::default(),
            peers: Vec::new(),
            culprits: Culprits::default(),
        }
    }
}

/// What processes and names have in common.
pub trait Connecting {
    /// Whether it is a name.
    const IS_NAME: bool;
    /// Number of processes of the name that are running.
    fn running(&self) -> u32;
    /// Totals.
    fn counts(&self) -> &Counts;
    /// Sockets in SYN_SENT.
    fn connecting(&self) -> u32;
    /// Of those, as of the last walk, for over 3 s.
    fn waiting(&self) -> u32;
    /// Connections that it has closed, and the peer has not for over 2 s.
    fn not_closed_by_peer(&self) -> u32;
    /// What connections wait for, as of the last walk.
    fn waits(&self) -> &Waits;
    /// For whom, most connections first.
    fn awaited(&self) -> &[Awaited];
    /// With whom connections fail.
    fn culprits(&self) -> &Culprits;
}

macro_rules! connecting {
    ($($of:ty, $is_name:literal, $running:expr;)+) => {$(
        impl Connecting for $of {
            const IS_NAME: bool = $is_name;

            fn running(&self) -> u32 {
                $running(self)
            }

            fn counts(&self) -> &Counts {
                &self.counts
            }

            fn connecting(&self) -> u32 {
                self.syn_sent
            }

            fn waiting(&self) -> u32 {
                self.syn_sent_over_3s
            }

            fn not_closed_by_peer(&self) -> u32 {
                self.not_closed_by_peer
            }

            fn waits(&self) -> &Waits {
                &self.waits
            }

            fn awaited(&self) -> &[Awaited] {
                &self.peers
            }

            fn culprits(&self) -> &Culprits {
                &self.culprits
            }
        }
    )+};
}

connecting!(Process, false, |it: &Self| it.of_name; Name, true, |it: &Self| it.running;);

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
    /// Of those, in the substate FIN_WAIT2: the peer has not closed.
    pub fin_wait2: u32,
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
    /// Connections that had waited for accept() for `--stall-after` or longer at the last walk: those of its processes, at
    /// most the backlog.
    pub stalled: u64,
    /// The longest of these waits, milliseconds.
    pub stalled_ms: u32,
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
    /// Addresses at which connections to it wait.
    pub queued_at: Vec<SocketAddr>,
    /// What its processes wait for.
    pub busy: Workers,
}

impl Listener {
    /// An address without a socket.
    pub(super) fn new(place: ListenAddress) -> Self {
        Self {
            place,
            sockets: 0,
            backlog: 0,
            max_backlog: 0,
            fullest: 0.0,
            stalled: 0,
            stalled_ms: 0,
            overflows: 0,
            accepts: 0,
            exhausted: 0,
            syncookies: None,
            holders: Vec::new(),
            workers: Vec::new(),
            queued_at: Vec::new(),
            busy: Workers::default(),
        }
    }
}

/// The processes of the names that listen at an address, which may accept there. Nothing while no connection waits.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    /// Those that have accepted connections, here or elsewhere.
    pub processes: u32,
    /// Those with connections that wait for servers.
    pub waiting: u32,
    /// These waits, most connections first.
    pub waits: Vec<Awaited>,
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
