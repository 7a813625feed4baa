//! What the connections of a process wait for, in numbers.

use observer_common::{
    AGE_BOUNDS, BUCKETS, CLOSE_WAIT, ESTABLISHED, Histogram, PORT_BOUND, SEEN_ASKED,
    SEEN_MUCH_UNREAD, SEEN_PARTLY_READ, SEEN_PASSIVE, STALL_NAMES, STALLS, SocketSeen, TURN_NAMES,
    TURNS, WAIT_NOBODY, WAIT_NOTHING, WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE,
    WAIT_PEER_WINDOW, WAIT_PROGRAM, WAIT_PROGRAM_EOF, WAIT_PROGRAM_READ, WAIT_UNUSED, bucket_of,
};

/// Seconds of quiet from which on connections are counted.
pub const QUIET_SECONDS: [u32; 4] = [10, 60, 600, 3600];

/// Seconds without an answer after which a request on a connection that worked before is [`Waits::unanswered`]: slow
/// queries take tens of seconds.
pub const UNANSWERED_SECONDS: u32 = 60;

/// Index of nobody's turn in [`Waits::quiet`].
pub const NOBODY: usize = (WAIT_NOBODY - WAIT_PEER) as usize;

/// Waits of the connections of a process or a name, in ESTABLISHED and CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Connections in ESTABLISHED and CLOSE_WAIT.
    pub connections: u32,
    /// Connections that have been stalled for `--stall-after` or longer, in the order of [`STALL_NAMES`].
    pub stalled: [u32; STALLS],
    /// The longest of those waits, milliseconds.
    pub longest_ms: [u32; STALLS],
    /// Connections in ESTABLISHED that are not stalled and have been quiet for each of [`QUIET_SECONDS`], in the order of
    /// [`TURN_NAMES`].
    pub quiet: [[u32; QUIET_SECONDS.len()]; TURNS],
    /// Of the connections [in use](Self::in_use), those that were opened here.
    pub in_use_of_clients: u32,
    /// Connections in CLOSE_WAIT.
    pub close_wait: u32,
    /// Of the quiet ones, those of nobody's turn that came from a listener, for each of [`QUIET_SECONDS`].
    pub idle_of_servers: [u32; QUIET_SECONDS.len()],
    /// Requests on connections that have received data before, without an answer for 60 s or longer.
    pub unanswered: u32,
    /// The same of those that follow data of the peer at once, as the statement after BEGIN does, or an acknowledgement that
    /// needs no answer.
    pub unanswered_at_once: u32,
    /// Connections from its listeners that have sent it data and have received nothing at all, for `--stall-after`.
    pub owed_by_program: u32,
    /// The longest of those waits, milliseconds.
    pub owed_ms: u32,
    /// Connections with unread data, those of servers, and those with more than a TLS session ticket or close_notify.
    pub unread: u32,
    /// Of those, the ones that came from a listener.
    pub unread_of_servers: u32,
    /// Time since connections began, or the observer found them; by [`AGE_BOUNDS`].
    pub ages: [u32; BUCKETS],
    /// Sum of those times, in units of [`observer_common::coarse_time`].
    pub age_sum: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            connections: 0,
            stalled: [0; STALLS],
            longest_ms: [0; STALLS],
            quiet: [[0; QUIET_SECONDS.len()]; TURNS],
            in_use_of_clients: 0,
            close_wait: 0,
            idle_of_servers: [0; QUIET_SECONDS.len()],
            unanswered: 0,
            unanswered_at_once: 0,
            owed_by_program: 0,
            owed_ms: 0,
            unread: 0,
            unread_of_servers: 0,
            ages: [0; BUCKETS],
            age_sum: 0,
        }
    }
}

impl Waits {
    pub(super) fn add(&mut self, socket: &SocketSeen, stall_after_ms: u32, is_judged: bool) {
        self.connections += 1;
        let alive_ns = u64::from(socket.alive) << 20;
        self.ages[bucket_of(&AGE_BOUNDS, alive_ns)] += 1;
        self.age_sum += u64::from(socket.alive);
        let is_server = u32::from(is_server(socket));
        let is_nobodys = turn(socket.waits_for) == Some(NOBODY);
        let is_idle = is_nobodys && waited(socket, QUIET_SECONDS[0]);
        if !is_idle {
            self.in_use_of_clients += 1 - is_server;
        }
        self.close_wait += u32::from(socket.state == CLOSE_WAIT);
        let has = |flag| socket.flags & flag != 0;
        let is_asked = has(SEEN_ASKED);
        // php-fpm leaves the end of a request unread while it works on it.
        let is_at_work = match socket.waits_for {
            WAIT_PROGRAM_READ => has(SEEN_PARTLY_READ) && !has(SEEN_MUCH_UNREAD),
            it => [WAIT_PROGRAM, WAIT_PROGRAM_EOF].contains(&it),
        };
        match socket.waits_for {
            WAIT_PEER if !is_asked => {
                self.unanswered_at_once += u32::from(waited(socket, UNANSWERED_SECONDS));
            }
            // Also if the client has gone meanwhile, which no data shows.
            _ if is_asked && is_at_work => {
                self.owed_by_program += u32::from(socket.idle_ms >= stall_after_ms);
                self.owed_ms = self.owed_ms.max(socket.idle_ms);
            }
            _ => {}
        }
        if is_judged {
            match socket.waits_for {
                WAIT_PEER => self.unanswered += 1,
                WAIT_PROGRAM_READ => {
                    self.unread += 1;
                    self.unread_of_servers += is_server;
                }
                _ => {}
            }
        }
        if let Some(stall) = stall(socket.waits_for) {
            if socket.waited_ms >= stall_after_ms {
                self.stalled[stall] += 1;
                self.longest_ms[stall] = self.longest_ms[stall].max(socket.waited_ms);
            }
        } else if let Some(turn) = turn(socket.waits_for) {
            for (index, seconds) in QUIET_SECONDS.into_iter().enumerate() {
                let is_quiet = u32::from(waited(socket, seconds));
                self.quiet[turn][index] += is_quiet;
                self.idle_of_servers[index] += is_quiet * u32::from(is_nobodys) * is_server;
            }
        }
    }

    /// Adds the waits of another process.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.in_use_of_clients += other.in_use_of_clients;
        self.close_wait += other.close_wait;
        self.unanswered += other.unanswered;
        self.unanswered_at_once += other.unanswered_at_once;
        self.owed_by_program += other.owed_by_program;
        self.owed_ms = self.owed_ms.max(other.owed_ms);
        self.unread += other.unread;
        self.unread_of_servers += other.unread_of_servers;
        self.age_sum += other.age_sum;
        let pairs = |all: &mut [u32], others: &[u32]| {
            all.iter_mut()
                .zip(others)
                .for_each(|(all, other)| *all += other);
        };
        pairs(&mut self.stalled, &other.stalled);
        pairs(&mut self.ages, &other.ages);
        pairs(&mut self.idle_of_servers, &other.idle_of_servers);
        pairs(self.quiet.as_flattened_mut(), other.quiet.as_flattened());
        for (longest, other) in self.longest_ms.iter_mut().zip(other.longest_ms) {
            *longest = (*longest).max(other);
        }
    }

    /// Stalled connections, and the longest wait in milliseconds, of one of the kinds of wait in [`STALL_NAMES`].
    #[must_use]
    pub fn stalled_for(&self, waits_for: u8) -> (u32, u32) {
        stall(waits_for).map_or((0, 0), |it| (self.stalled[it], self.longest_ms[it]))
    }

    /// Connections that have been nobody's turn for 10 s or longer.
    #[must_use]
    pub fn idle(&self) -> u32 {
        self.quiet[NOBODY][0]
    }

    /// The others.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.connections.saturating_sub(self.idle())
    }

    /// Stalled connections by reason, where there are any: reason, number, longest wait in milliseconds.
    pub fn stalls(&self) -> impl Iterator<Item = (&'static str, u32, u32)> {
        let all = STALL_NAMES.into_iter().zip(self.stalled);
        let all = all.zip(self.longest_ms);
        let all = all.map(|((name, count), longest)| (name, count, longest));
        all.filter(|(_, count, _)| *count > 0)
    }

    /// Quiet connections, where there are any: whose turn it is, for how many seconds, number.
    pub fn quiets(&self) -> impl Iterator<Item = (&'static str, u32, u32)> {
        let all = TURN_NAMES.into_iter().zip(self.quiet);
        let all = all.flat_map(|(turn, counts)| {
            let by_seconds = QUIET_SECONDS.into_iter().zip(counts);
            by_seconds.map(move |(seconds, count)| (turn, seconds, count))
        });
        all.filter(|(_, _, count)| *count > 0)
    }

    /// [`Self::ages`] as a histogram.
    #[must_use]
    pub fn age_histogram(&self) -> Histogram {
        Histogram {
            sum_ns: self.age_sum << 20,
            buckets: self.ages.map(u64::from),
        }
    }
}

/// Whether the connection came from a listener. For a connection older than the observer, this is derived from its port.
pub(super) fn is_server(socket: &SocketSeen) -> bool {
    socket.flags & (SEEN_PASSIVE | PORT_BOUND) != 0
}

/// Whether it has waited for this number of seconds.
fn waited(socket: &SocketSeen, seconds: u32) -> bool {
    socket.waited_ms / 1000 >= seconds
}

/// Whether detectors count the wait: a stall by the peer; a request without an answer, unless it
/// looks like traffic of an idle client; and unread data, if it is more than a TLS session ticket
/// or close_notify.
pub(super) fn is_judged(socket: &SocketSeen, stall_after_ms: u32) -> bool {
    let has = |flag| socket.flags & flag != 0;
    let is_stalled = socket.waited_ms >= stall_after_ms;
    match socket.waits_for {
        WAIT_PEER => has(SEEN_ASKED) && waited(socket, UNANSWERED_SECONDS),
        WAIT_PROGRAM_READ => {
            let is_much = is_server(socket) || has(SEEN_MUCH_UNREAD);
            is_stalled && socket.state == ESTABLISHED && is_much
        }
        WAIT_PEER_WINDOW | WAIT_PEER_ACK | WAIT_PEER_FIRST_BYTE => is_stalled,
        _ => false,
    }
}

/// Index of a `WAIT_` number in [`STALL_NAMES`].
pub(super) fn stall(waits_for: u8) -> Option<usize> {
    let index = usize::from(waits_for.checked_sub(WAIT_NOTHING + 1)?);
    (index < STALLS).then_some(index)
}

/// Index of a `WAIT_` number in [`TURN_NAMES`].
fn turn(waits_for: u8) -> Option<usize> {
    if waits_for == WAIT_UNUSED {
        return Some(NOBODY);
    }
    let index = usize::from(waits_for.checked_sub(WAIT_PEER)?);
    (index < TURNS).then_some(index)
}

/// The reason of a wait: one of [`STALL_NAMES`] or [`TURN_NAMES`], or `unused`.
#[must_use]
pub fn wait_name(waits_for: u8) -> &'static str {
    if waits_for == WAIT_UNUSED {
        return "unused";
    }
    match (stall(waits_for), turn(waits_for)) {
        (Some(stall), _) => STALL_NAMES[stall],
        (_, Some(turn)) => TURN_NAMES[turn],
        _ => "nothing",
    }
}
