//! TLS handshakes that hang, and handshakes that are only slow, many or somebody else's fault.

use std::{net::Ipv4Addr, time::Duration};

use observer_common::{TLS_CLIENT, TLS_SERVER, WAIT_PEER_FIRST_BYTE, WAIT_UNUSED};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, changes, process},
};
use crate::{
    detect::{Anomaly, Awaited, Change, Counts, Sample, Thresholds},
    table::Handshakes,
    walk::{Peer, PeerWait, Waits},
};

/// The first second of a handshake, and how many seconds it takes. `HANGS`: for ever.
type Handshake = (u64, f64);

const HANGS: f64 = f64::INFINITY;

/// Those of a process with so many connections that it has besides.
fn series(
    onset: u64,
    seconds: u64,
    role: u32,
    others: u64,
    handshakes: impl IntoIterator<Item = Handshake>,
) -> Series {
    let slow_after = Thresholds::default().tls_slow_seconds;
    let handshakes: Vec<_> = handshakes.into_iter().collect();
    let at = move |second: u64| {
        let ages = handshakes.iter().filter_map(|(began, takes)| {
            let age = second.checked_sub(*began)? as f64;
            (age < *takes).then_some(age)
        });
        let (mut seen, role) = (Handshakes::default(), role as usize);
        for age in ages {
            seen.in_progress[role] += 1;
            seen.slow[role] += u32::from(age >= slow_after);
            seen.oldest[role] = seen.oldest[role].max(Duration::from_secs_f64(age));
        }
        let mut process = process(Counts::default());
        process.waits = Waits {
            connections: others as u32 + seen.in_progress[role],
            ..Waits::default()
        };
        // The walk sees peers that have sent nothing for two seconds.
        if seen.oldest[role] >= Duration::from_secs(2) {
            process.peers = vec![peer(role == TLS_SERVER as usize)];
        }
        process.handshakes = seen;
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    };
    // The sample before the first second has none, as no handshake begins at 0.
    Series::new(onset, (0..=seconds).map(at))
}

fn peer(is_client: bool) -> Awaited {
    let wait = PeerWait {
        owner: (0, 0),
        peer: Peer {
            netns: 1,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 443,
            is_client,
        },
        waits_for: if is_client {
            WAIT_UNUSED
        } else {
            WAIT_PEER_FIRST_BYTE
        },
        is_judged: false,
        connections: 1,
        longest_ms: 2_000,
        server: None,
    };
    Awaited { wait, server: None }
}

/// Without a walk, a finding has no peers, and waits for them a while.
#[test]
fn peers_are_awaited_for_seconds() {
    for (role, raised_at) in [(TLS_CLIENT, 30), (TLS_SERVER, 35)] {
        let hanging = vec![(21, HANGS); 5];
        let series = series(20, 60, role, 5, hanging);
        // Those of the other role are no answer.
        let without = series.samples.map(move |mut sample| {
            sample.processes[0].peers = vec![peer(role == TLS_CLIENT)];
            sample
        });
        let history = changes(Series::new(20, without));
        let history: Vec<_> = history.map(|(second, it)| (second, it.name())).collect();
        assert_eq!(history.first(), Some(&(raised_at, "raised")));
    }
}

/// A server whose clients are not silent has held their handshakes up itself.
#[test]
fn a_server_that_owes_answers_holds_them_up() {
    let causes = |owed: u32, silent: u32| {
        let hanging = vec![(21, HANGS); 5];
        let series = series(20, 60, TLS_SERVER, 5, hanging);
        let samples = series.samples.map(move |mut sample| {
            let process = &mut sample.processes[0];
            process.waits.owed_by_program = owed;
            process.peers.retain(|_| silent > 0);
            for peer in &mut process.peers {
                peer.wait.connections = silent;
            }
            sample
        });
        let mut history = changes(Series::new(20, samples));
        let (_, raised) = history.next().expect("a finding");
        let causes = raised.finding().causes.iter();
        causes.map(|it| it.cause.id).collect::<Vec<_>>()
    };
    assert_eq!(causes(5, 0), ["handshakes_held_up"]);
    assert_eq!(causes(5, 1), ["handshakes_held_up"]);
    assert_eq!(causes(5, 5), ["handshakes_not_finished"]);
    assert_eq!(causes(1, 0), ["handshakes_not_finished"]);
    // It owes others, too.
    assert_eq!(causes(50, 0).len(), 2);
}

/// Handshakes that begin at a rate from one second to another.
fn arrivals(draw: &mut Draw, from: u64, to: u64, rate: f64, takes: f64) -> Vec<Handshake> {
    let mut all = Vec::new();
    for second in from..to {
        for _ in 0..draw.events(rate) {
            all.push((second, takes));
        }
    }
    all
}

/// The backend of a pool stops to answer; half of its connections are made anew at that moment.
fn half_of_a_pool(draw: &mut Draw) -> Series {
    let (half, at) = (draw.number(5, 100), draw.number(30, 120));
    // The sample before the first second is one more.
    let hanging = (0..half).map(move |_| (at + 1, HANGS));
    series(at, at + 60, TLS_CLIENT, half, hanging)
}

/// The same while the pool grows by one connection after the other.
fn one_after_the_other(draw: &mut Draw) -> Series {
    let (others, at) = (draw.number(0, 20), draw.number(30, 120));
    let rate = draw.real(0.5, 5.0);
    let hanging = arrivals(draw, at + 1, at + 120, rate, HANGS);
    series(at, at + 120, TLS_CLIENT, others, hanging)
}

/// Clients connect to a server with a few others, and say nothing.
fn silent_clients(draw: &mut Draw) -> Series {
    let (others, at) = (draw.number(0, 100), draw.number(30, 120));
    let rate = draw.real(2.0, 50.0);
    // The server gives them up after a minute.
    let silent = arrivals(draw, at + 1, at + 120, rate, 60.0);
    series(at, at + 120, TLS_SERVER, others, silent)
}

#[test]
fn handshakes_that_hang_are_raised() {
    let bad = |name, median, most, series| Bad {
        name,
        anomaly: Anomaly::TlsStall,
        draws: 30,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("half of a pool hangs", 5, 5, half_of_a_pool),
        bad("one after the other hangs", 7, 13, one_after_the_other),
        bad("silent clients of a server", 6, 10, silent_clients),
    ]);
}

/// 5 of 10, as the thresholds are meant: not a second before `tls_slow_seconds`.
#[test]
fn five_of_ten_are_raised_when_they_are_slow() {
    let hanging = vec![(21, HANGS); 5];
    let history = changes(series(20, 60, TLS_CLIENT, 5, hanging));
    let history: Vec<_> = history.map(|(second, it)| (second, it.name())).collect();
    assert_eq!(history.first(), Some(&(25, "raised")));
}

/// The backend answers for ten seconds and hangs for ten, again and again: one finding, and one end.
#[test]
fn a_stall_that_comes_and_goes_is_one_finding() {
    let turns = (1..10_u64).flat_map(|turn| vec![(20 * turn, 10.0); 5]);
    let history = changes(series(20, 400, TLS_CLIENT, 5, turns));
    let history = history.filter(|(_, it)| !matches!(it, Change::Updated(_)));
    let history: Vec<_> = history.map(|(_, it)| it.name()).collect();
    assert_eq!(history, ["raised", "cleared"]);
}

/// A busy server has clients that vanish in the middle.
fn few_of_thousands(draw: &mut Draw) -> Series {
    let others = draw.number(1_000, 5_000);
    let few = draw.number(3, 40);
    let hanging = (0..few).map(move |it| (1 + it, HANGS));
    series(0, 600, TLS_SERVER, others, hanging)
}

/// All clients of a restarted server come back at once, and the handshakes take two seconds.
fn restart(draw: &mut Draw) -> Series {
    let (clients, at) = (draw.number(10, 5_000), draw.number(30, 60));
    let takes = draw.real(0.5, 2.5);
    let burst: Vec<_> = (0..clients)
        .map(|_| (at + draw.number(0, 5), takes))
        .collect();
    series(0, 120, TLS_SERVER, 0, burst)
}

/// Two scanners hold a connection each to a server that nobody else uses.
fn scanners(draw: &mut Draw) -> Series {
    let others = draw.number(0, 5);
    let both = [draw.number(1, 60), draw.number(1, 60)];
    series(
        0,
        600,
        TLS_SERVER,
        others,
        both.map(|second| (second, HANGS)),
    )
}

/// Now and then a segment is lost on the way, and once on both.
fn lossy_path(draw: &mut Draw) -> Series {
    let (others, rate) = (draw.number(20, 500), draw.real(0.1, 2.0));
    let slow = arrivals(draw, 1, 600, rate, 3.5);
    let slowest = arrivals(draw, 1, 600, 0.02, 7.0);
    series(
        0,
        600,
        TLS_CLIENT,
        others,
        slow.into_iter().chain(slowest).collect::<Vec<_>>(),
    )
}

#[test]
fn slow_and_few_handshakes_are_silent() {
    are_silent(&[
        ("few of thousands of clients", 10, few_of_thousands),
        ("all clients come back", 20, restart),
        ("two scanners", 10, scanners),
        ("lossy path", 20, lossy_path),
    ]);
}
