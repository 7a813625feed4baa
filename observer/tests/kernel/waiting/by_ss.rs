//! What connections wait for and for how long, derived from `ss`: an independent reading of the same sockets.

use std::collections::BTreeMap;

use observer_common::{SEEN_PASSIVE, SocketSeen, TURN_NAMES};
use observer_core::walk::{QUIET_SECONDS, wait_name};
use observer_test_support::Netns;

/// Milliseconds: a tick of the slowest clock, on either side.
const SLACK: u32 = 20;

/// Local and remote port.
type Ports = (u16, u16);

/// A connection in ESTABLISHED or CLOSE_WAIT, as `ss -tinoe` shows it (inet_diag; `tcp_get_info` in net/ipv4/tcp.c).
#[derive(Clone, Debug)]
pub struct BySs {
    is_close_wait: bool,
    /// `Recv-Q`: bytes that the program has not read, and the FIN.
    unread: u64,
    /// `Send-Q`: bytes that the peer has not acknowledged.
    unacknowledged: u64,
    /// Whether it has an inode, which accept() gives it.
    is_accepted: bool,
    /// Kind of the timer that runs, and how often it expired.
    timer: Option<(String, u32)>,
    bytes_sent: u64,
    bytes_received: u64,
    /// Milliseconds since data was sent or received; since the handshake if none was.
    sent_ms: u32,
    received_ms: u32,
    /// Milliseconds in which data was queued.
    busy_ms: u32,
}

impl BySs {
    fn parse(line: &str) -> Option<(Ports, Self)> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [state, unread, unacknowledged, local, remote, rest @ ..] = &words[..] else {
            panic!("{line}");
        };
        if !matches!(*state, "ESTAB" | "CLOSE-WAIT") {
            return None;
        }
        let port = |address: &str| -> u16 {
            let port = address.rsplit(':').next();
            port.and_then(|it| it.parse().ok()).expect("a port")
        };
        // Values of 0 are omitted.
        let value = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name));
        let number = |name: &str| -> u64 {
            let text = value(name).map(|it| it.split("ms").next().unwrap_or(it));
            text.map_or(0, |it| it.parse().expect("a number"))
        };
        let timer = value("timer:(").map(|it| {
            // `on,200ms,2)`.
            let words: Vec<_> = it.trim_end_matches(')').split(',').collect();
            let expired = words.last().and_then(|it| it.parse().ok());
            (words[0].to_owned(), expired.expect("a number"))
        });
        let this = Self {
            is_close_wait: *state == "CLOSE-WAIT",
            unread: unread.parse().expect("bytes"),
            unacknowledged: unacknowledged.parse().expect("bytes"),
            is_accepted: number("ino:") != 0,
            timer,
            bytes_sent: number("bytes_sent:"),
            bytes_received: number("bytes_received:"),
            sent_ms: number("lastsnd:") as u32,
            received_ms: number("lastrcv:") as u32,
            busy_ms: number("busy:") as u32,
        };
        Some(((port(local), port(remote)), this))
    }

    /// Milliseconds since data was sent or received.
    pub fn idle_ms(&self) -> u32 {
        self.sent_ms.min(self.received_ms)
    }

    /// Whether keepalive probes will be sent, if nothing else happens.
    pub fn has_keepalive(&self) -> bool {
        matches!(&self.timer, Some((kind, _)) if kind == "keepalive")
    }

    /// What it waits for, and the maximum of the wait, milliseconds. `None` if `ss` does not show it.
    fn wait(&self, is_server: bool) -> Option<(&'static str, u32)> {
        let fin = u64::from(self.is_close_wait);
        if !self.is_accepted {
            return Some(("program_accept", self.received_ms));
        }
        if self.unread > fin {
            return Some(("program_read", self.received_ms));
        }
        if self.unread == 1 {
            // A FIN moves no time.
            return Some(("program_eof", self.received_ms));
        }
        if self.unacknowledged > 0 {
            return match self.timer.as_ref()? {
                (kind, _) if kind == "persist" => Some(("peer_window", self.busy_ms)),
                (kind, expired) if kind == "on" && *expired > 0 => Some(("peer_ack", self.busy_ms)),
                _ => None,
            };
        }
        if self.is_close_wait {
            return None;
        }
        let turn = match (self.bytes_received, self.sent_ms, self.received_ms) {
            (0, ..) if !is_server && self.bytes_sent > 0 => "peer_first_byte",
            (0, ..) if self.bytes_sent == 0 => "unused",
            (0, ..) => "nobody",
            _ if is_server && self.bytes_sent == 0 => "program",
            (_, sent, received) if sent < received && !is_server => "peer",
            (_, sent, received) if received < sent && is_server => "program",
            // Both in one jiffy: `ss` does not show snd_wl1, which distinguishes them.
            (_, sent, received) if sent == received => return None,
            _ => "nobody",
        };
        Some((turn, self.idle_ms()))
    }
}

/// The connections of a namespace.
pub fn connections(netns: &Netns) -> BTreeMap<Ports, BySs> {
    let text = netns.run("ss", &["-HtinoeO"]);
    text.lines().filter_map(BySs::parse).collect()
}

/// Quiet connections by whose turn it is and for how many seconds, of which servers have this local port.
pub fn quiet(all: &BTreeMap<Ports, BySs>, server: u16) -> BTreeMap<(&'static str, u32), u32> {
    let mut counts = BTreeMap::new();
    for ((local, _), connection) in all {
        let Some((wait, ms)) = connection.wait(*local == server) else {
            continue;
        };
        let turn = if wait == "unused" { "nobody" } else { wait };
        for seconds in QUIET_SECONDS {
            if TURN_NAMES.contains(&turn) && ms / 1000 >= seconds {
                *counts.entry((turn, seconds)).or_default() += 1;
            }
        }
    }
    counts
}

/// What [`compare`] is given.
pub struct Walk<'a> {
    pub seen: &'a [SocketSeen],
    /// The connections before and after.
    pub before: BTreeMap<Ports, BySs>,
    pub after: BTreeMap<Ports, BySs>,
    /// Minimum wait of each, milliseconds.
    pub least_ms: u32,
    /// Clients' ports of connections on which data moves all the time.
    pub busy: &'a [u16],
}

/// Compares a walk with `ss`, and returns the kinds of wait on which both agree, each with the number of connections.
pub fn compare(walk: &Walk<'_>) -> BTreeMap<&'static str, u32> {
    let Walk {
        seen,
        before,
        after,
        least_ms,
        busy,
    } = walk;
    let mut agreed = BTreeMap::new();
    for socket in *seen {
        let ports = (socket.local_port, socket.remote_port);
        let (Some(first), Some(second)) = (before.get(&ports), after.get(&ports)) else {
            continue;
        };
        if busy.contains(&ports.0) || busy.contains(&ports.1) {
            continue;
        }
        let shown = format!("{socket:?}\n{first:?}\n{second:?}");
        let range = first.idle_ms().saturating_sub(SLACK)..=second.idle_ms() + SLACK;
        // A retransmission in between begins anew.
        let is_again = second.idle_ms() < first.idle_ms();
        let is_idle = is_again || range.contains(&socket.idle_ms);
        assert!(is_idle, "idle {range:?}: {shown}");
        let is_server = socket.flags & SEEN_PASSIVE != 0;
        let Some((wait, most_ms)) = second.wait(is_server) else {
            continue;
        };
        assert_eq!(wait_name(socket.waits_for), wait, "{shown}");
        let least_ms = match wait {
            // `ss` has no time of these waits alone.
            "program_eof" | "peer_window" | "peer_ack" => *least_ms,
            _ => first.wait(is_server).map_or(*least_ms, |(_, ms)| ms),
        };
        let range = least_ms.saturating_sub(SLACK)..=most_ms + SLACK;
        assert!(range.contains(&socket.waited_ms), "{range:?}: {shown}");
        *agreed.entry(wait).or_default() += 1;
    }
    agreed
}
