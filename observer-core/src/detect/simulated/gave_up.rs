//! Programs that give up before their peers answer, and processes of a name that each wait for one peer.

use std::collections::VecDeque;

use observer_common::{WAIT_PEER_FIRST_BYTE, WAIT_PROGRAM_ACCEPT};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, name, process},
};
use crate::{
    detect::{Anomaly, Awaited, ConnectResult, Counts, Name, Sample},
    walk::{Peer, PeerWait, Waits},
};

/// Of each second: connections that a client gave up, others that ended, and those in use.
type Second = (u64, u64, u32);

/// What the server does when its client has gone.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    Hangs,
    Closes,
}

fn client(onset: u64, server: Server, seconds: Vec<Second>) -> Series {
    let mut counts = Counts::default();
    let mut samples = vec![Sample {
        processes: vec![process(counts)],
        ..Sample::default()
    }];
    let mut last = VecDeque::new();
    for (gave_up, others, in_use) in seconds {
        // They are in FIN_WAIT2 for a minute.
        last.push_back(gave_up);
        if last.len() > 60 {
            last.pop_front();
        }
        let not_closed = match server {
            Server::Hangs => last.iter().sum::<u64>() as u32,
            Server::Closes => 0,
        };
        counts.gave_up[0] += gave_up;
        counts.ended += gave_up + others;
        counts.connects[ConnectResult::Ok as usize] += gave_up + others;
        let mut process = process(counts);
        process.not_closed_by_peer = not_closed;
        process.waits.connections = in_use;
        process.waits.in_use_of_clients = in_use;
        samples.push(Sample {
            names: vec![Name {
                not_closed_by_peer: not_closed,
                waits: process.waits.clone(),
                ..name(counts)
            }],
            processes: vec![process],
            ..Sample::default()
        });
    }
    Series::new(onset, samples.into_iter())
}

/// All its clients have a timeout of some seconds, and a server hangs that has answered at once.
fn server_hangs(draw: &mut Draw) -> Series {
    let (clients, timeout) = (draw.number(3, 100), draw.real(1.2, 9.0));
    let (at, rate) = (draw.number(30, 120), draw.real(0.0, 50.0));
    let seconds = (0..at + 120).map(|second| {
        if second < at {
            return (0, draw.events(rate), 1);
        }
        let is_over = (second - at) as f64 > timeout;
        let gave_up = draw.events(if is_over {
            clients as f64 / timeout
        } else {
            0.0
        });
        (gave_up, 0, clients as u32)
    });
    let seconds = seconds.collect();
    client(at, Server::Hangs, seconds)
}

/// Up to a third of its requests time out.
fn some_time_out(draw: &mut Draw) -> Series {
    let (rate, share) = (draw.real(0.5, 100.0), draw.real(0.0, 0.33));
    let seconds = (0..600).map(|_| {
        let (bad, good) = (draw.events(rate * share), draw.events(rate * (1.0 - share)));
        (bad, good, 5)
    });
    let seconds = seconds.collect();
    client(0, Server::Hangs, seconds)
}

/// Sends something that has no answer, and hangs up after a while: logs, metrics.
fn only_sends(draw: &mut Draw) -> Series {
    let rate = draw.real(0.2, 50.0);
    let seconds = (0..600).map(|_| (draw.events(rate), 0, 1));
    let seconds = seconds.collect();
    client(0, Server::Closes, seconds)
}

/// Requests on connections that are kept; those of a request that times out are closed.
fn pool(draw: &mut Draw) -> Series {
    let (size, rate) = (draw.number(20, 500), draw.real(0.0, 0.15));
    let seconds = (0..600).map(|_| (draw.events(rate), 0, size as u32));
    let seconds = seconds.collect();
    client(0, Server::Hangs, seconds)
}

/// Ends now and then, while all its requests are on their way.
fn ends_at_once(draw: &mut Draw) -> Series {
    let requests = draw.number(10, 1_000);
    let seconds = (0..600).map(|second| match second % 100 {
        50 => (requests, 0, 0),
        _ => (0, 0, requests as u32),
    });
    let seconds = seconds.collect();
    client(0, Server::Hangs, seconds)
}

/// Processes of a name with one connection each, of which the ones that `waits_for` gives a port wait for it.
fn workers(
    onset: u64,
    seconds: u64,
    number: u32,
    has_clients: bool,
    waits_for: impl Fn(u64, u32) -> Option<u16> + 'static,
) -> Series {
    let samples = (0..=seconds).map(move |second| {
        let mut peers = Vec::new();
        for worker in 0..number {
            let Some(port) = waits_for(second, worker) else {
                continue;
            };
            let wait = PeerWait {
                owner: (worker, 1),
                peer: Peer {
                    netns: 1,
                    address: [10, 0, 0, 9].into(),
                    port,
                    is_client: false,
                },
                waits_for: WAIT_PEER_FIRST_BYTE,
                is_judged: true,
                connections: 1,
                longest_ms: 12_000,
                server: None,
            };
            peers.push(Awaited { wait, server: None });
        }
        let mut waits = Waits {
            connections: number,
            in_use_of_clients: number,
            ..Waits::default()
        };
        let first_byte = usize::from(WAIT_PEER_FIRST_BYTE - WAIT_PROGRAM_ACCEPT);
        waits.stalled[first_byte] = peers.len() as u32;
        if has_clients {
            waits.owed_by_program = peers.len() as u32;
        }
        Sample {
            names: vec![Name {
                running: number,
                waits,
                peers,
                ..name(Counts::default())
            }],
            ..Sample::default()
        }
    });
    Series::new(onset, samples)
}

/// A service hangs, and one worker after the other waits for it.
fn workers_hang(draw: &mut Draw) -> Series {
    let (number, at, rate) = (
        draw.number(5, 100),
        draw.number(30, 120),
        draw.real(0.3, 20.0),
    );
    workers(at, at + 90, number as u32, true, move |second, worker| {
        let waiting = second.saturating_sub(at + 10) as f64 * rate;
        (f64::from(worker) < waiting).then_some(5432)
    })
}

/// Programs of one name that have nothing to do with each other.
fn each_waits_for_another(draw: &mut Draw) -> Series {
    let number = draw.number(5, 100) as u32;
    workers(0, 300, number, true, |_, worker| {
        Some(8000 + (worker / 2) as u16)
    })
}

fn few_workers(draw: &mut Draw) -> Series {
    let number = draw.number(5, 100) as u32;
    let few = number.min(4);
    workers(0, 300, number, true, move |_, worker| {
        (worker < few).then_some(8000)
    })
}

/// Each has a connection to a collector of logs, or to a queue that is empty, and nobody waits for it.
fn idle_workers(draw: &mut Draw) -> Series {
    let number = draw.number(5, 100) as u32;
    workers(0, 300, number, false, |_, _| Some(12_201))
}

#[test]
fn programs_that_give_up_and_workers_that_wait_are_raised() {
    let bad = |name, median, most, series| Bad {
        name,
        anomaly: Anomaly::ReadStall,
        draws: 40,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("server hangs, timeouts of 1-9 s", 18, 45, server_hangs),
        bad("workers hang", 14, 60, workers_hang),
    ]);
}

#[test]
fn what_times_out_as_usual_is_silent() {
    are_silent(&[
        ("up to a third times out", 30, some_time_out),
        ("pool with rare timeouts", 30, pool),
        ("program that only sends", 30, only_sends),
        ("program that ends", 20, ends_at_once),
        ("programs of one name", 20, each_waits_for_another),
        ("four workers wait", 20, few_workers),
        ("idle workers", 20, idle_workers),
    ]);
}
