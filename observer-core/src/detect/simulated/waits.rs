//! Connections that wait, and connections that carry nothing.

use observer_common::{WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW, WAIT_PROGRAM_ACCEPT};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, clock, process},
};
use crate::{
    detect::{Anomaly, Counts, Engine, Sample, Thresholds},
    walk::{NOBODY, QUIET_SECONDS, Waits},
};

/// What the connections of a process wait for in each second.
fn series(onset: u64, seconds: impl IntoIterator<Item = Waits>) -> Series {
    let mut seconds: Vec<_> = seconds.into_iter().collect();
    seconds.insert(0, Waits::default());
    let samples = seconds.into_iter().map(|waits| {
        let mut process = process(Counts::default());
        process.waits = waits;
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    });
    Series::new(onset, samples)
}

fn stalled(connections: u64, waits_for: u8, count: u64) -> Waits {
    let mut waits = Waits {
        connections: connections as u32,
        in_use_of_clients: connections as u32,
        ..Waits::default()
    };
    let index = usize::from(waits_for - WAIT_PROGRAM_ACCEPT);
    waits.stalled[index] = count as u32;
    waits.longest_ms[index] = 10_000 * u32::from(count > 0);
    waits
}

/// So many of nobody's turn in each second, none of which is used again, and so many others.
fn idle(counts: &[u64], others: u64) -> Vec<Waits> {
    let at = |second: usize| {
        let mut waits = Waits {
            connections: (counts[second] + others) as u32,
            ..Waits::default()
        };
        // What there was all the time.
        waits.quiet[NOBODY] = QUIET_SECONDS.map(|seconds| {
            let since = second.saturating_sub(seconds as usize);
            let least = counts[since..=second].iter().min();
            least.map_or(0, |&it| it as u32)
        });
        waits
    };
    (0..counts.len()).map(at).collect()
}

/// A pool whose backend hangs: one connection after the other is never answered.
fn backend_hangs(draw: &mut Draw) -> Series {
    let (size, rate) = (draw.number(8, 200), draw.real(0.5, 20.0));
    let at = draw.number(30, 120);
    let hangs = move |second: u64| {
        let since = second.saturating_sub(at + 10) as f64;
        ((since * rate) as u64).min(size)
    };
    let seconds =
        (0..at + 90).map(move |second| stalled(size, WAIT_PEER_FIRST_BYTE, hangs(second)));
    series(at, seconds)
}

fn reader_stops(draw: &mut Draw) -> Series {
    let (connections, at) = (draw.number(3, 500), draw.number(30, 120));
    let seconds = (0..at + 60).map(move |second| {
        let unread = if second < at + 10 { 0 } else { connections };
        Waits {
            unread: unread as u32,
            unread_of_servers: unread as u32,
            ..stalled(connections, WAIT_PROGRAM_ACCEPT, 0)
        }
    });
    series(at, seconds)
}

fn pool_leaks(draw: &mut Draw) -> Series {
    let rate = draw.real(0.4, 50.0);
    let mut count = draw.number(0, 30);
    let counts: Vec<_> = (0..1_200)
        .map(|_| {
            count += draw.events(rate);
            count
        })
        .collect();
    series(0, idle(&counts, 5))
}

#[test]
fn stalls_and_leaks_are_raised() {
    let bad = |name, anomaly, median, most, series| Bad {
        name,
        anomaly,
        draws: 30,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("backend hangs", Anomaly::ReadStall, 16, 60, backend_hangs),
        bad(
            "database is locked",
            Anomaly::ReadStall,
            60,
            60,
            database_is_locked,
        ),
        bad(
            "reader stops",
            Anomaly::ProgramNotReading,
            11,
            12,
            reader_stops,
        ),
        bad(
            "pool leaks, 0.4-50/s",
            Anomaly::IdlePoolLeak,
            235,
            330,
            pool_leaks,
        ),
    ]);
}

/// Afterwards, a few of many are slow as ever.
#[test]
fn a_stall_clears_when_few_of_many_are_left() {
    let mut engine = Engine::new(Thresholds::default());
    let mut history = Vec::new();
    for second in 0..300 {
        let slow = if (60..120).contains(&second) {
            2_000
        } else {
            100
        };
        let mut process = process(Counts::default());
        process.waits = stalled(5_000, WAIT_PEER_WINDOW, slow);
        let sample = Sample {
            now: clock(second),
            processes: vec![process],
            ..Sample::default()
        };
        let changes = engine.step(&sample).into_iter();
        history.extend(changes.map(|it| (second, it.name())));
    }
    assert_eq!(history, [(60, "raised"), (150, "cleared")]);
}

/// A server with thousands of clients, some of which are slow.
fn slow_clients(draw: &mut Draw) -> Series {
    let (clients, share) = (draw.number(50, 5_000), draw.real(0.0, 0.1));
    let seconds: Vec<_> = (0..600)
        .map(|_| {
            stalled(
                clients,
                WAIT_PEER_WINDOW,
                draw.events(clients as f64 * share),
            )
        })
        .collect();
    series(0, seconds)
}

/// All statements of a pool follow BEGIN at once, so that they look like what needs no answer; and clients wait for the program.
fn database_is_locked(draw: &mut Draw) -> Series {
    let (size, at) = (draw.number(5, 100), draw.number(30, 120));
    let seconds = (0..at + 120).map(move |second| Waits {
        unanswered_at_once: if second < at + 60 { 0 } else { size as u32 },
        owed_by_program: if second < at + 10 { 0 } else { size as u32 },
        ..stalled(2 * size, WAIT_PROGRAM_ACCEPT, 0)
    });
    series(at, seconds)
}

/// The same as seen of HTTP/2 connections that nobody uses.
fn idle_http2(draw: &mut Draw) -> Series {
    let (size, few) = (draw.number(5, 100), draw.number(0, 5));
    let seconds = (0..600).map(move |_| Waits {
        unanswered_at_once: size as u32,
        owed_by_program: few as u32,
        ..stalled(size, WAIT_PROGRAM_ACCEPT, 0)
    });
    series(0, seconds)
}

/// A few queries that take long.
fn slow_queries(draw: &mut Draw) -> Series {
    let connections = draw.number(1, 100);
    let slow = draw.number(0, connections * 2 / 5 + 1);
    let seconds = (0..600).map(move |_| Waits {
        unanswered: slow as u32,
        ..stalled(connections, WAIT_PROGRAM_ACCEPT, 0)
    });
    series(0, seconds)
}

/// Shippers of logs hear nothing for minutes.
fn log_shipper(draw: &mut Draw) -> Series {
    let connections = draw.number(1, 5);
    series(
        0,
        (0..600).map(move |_| stalled(connections, WAIT_PEER_FIRST_BYTE, connections)),
    )
}

/// A proxy stops reading from some of its clients.
fn proxy(draw: &mut Draw) -> Series {
    let connections = draw.number(20, 1_000);
    let seconds: Vec<_> = (0..600)
        .map(|_| Waits {
            unread: draw.events(connections as f64 * 0.3) as u32,
            ..stalled(connections, WAIT_PROGRAM_ACCEPT, 0)
        })
        .collect();
    series(0, seconds)
}

/// Takes minutes to its size, and stays.
fn pool_warms_up(draw: &mut Draw) -> Series {
    let (size, minutes) = (draw.number(10, 2_000), draw.real(0.1, 2.0));
    let counts: Vec<_> = (0..1_800)
        .map(|second| {
            let part = (f64::from(second) / (60.0 * minutes)).min(1.0);
            // Some are in use at each moment.
            let all = (size as f64 * part) as u64;
            all - draw.events(all as f64 * 0.1).min(all)
        })
        .collect();
    series(0, idle(&counts, size / 10))
}

/// Each user has a connection that is used every 20 to 80 seconds on average, and they become more.
fn users_come(draw: &mut Draw) -> Series {
    let (rate, mean) = (draw.real(0.5, 20.0), draw.real(20.0, 80.0));
    let seconds = (0..1_800).map(move |second| {
        let users = f64::from(second) * rate;
        let mut waits = Waits {
            connections: users as u32,
            ..Waits::default()
        };
        waits.quiet[NOBODY] =
            QUIET_SECONDS.map(|quiet| (users * (-f64::from(quiet) / mean).exp()) as u32);
        waits
    });
    series(0, seconds)
}

/// A load balancer moves clients to this server, one after the other.
fn clients_move_here(draw: &mut Draw) -> Series {
    let (size, minutes) = (draw.number(100, 2_000), draw.real(3.0, 20.0));
    let count = |second| {
        let part = (f64::from(second) / (60.0 * minutes)).min(1.0);
        (size as f64 * part) as u64
    };
    let counts: Vec<_> = (0..3_600).map(count).collect();
    let mut seconds = idle(&counts, 20);
    for waits in &mut seconds {
        waits.idle_of_servers = waits.quiet[NOBODY];
    }
    series(0, seconds)
}

/// Clients come and go over the day.
fn daily(draw: &mut Draw) -> Series {
    let (size, length) = (draw.real(50.0, 2_000.0), draw.real(36_000.0, 86_400.0));
    let start = draw.real(0.0, length);
    let counts: Vec<_> = (0..7_200)
        .map(|second| {
            let turn = (start + f64::from(second)) / length * std::f64::consts::TAU;
            draw.events(size * (2.0 + turn.sin()) / 3.0)
        })
        .collect();
    series(0, idle(&counts, 20))
}

#[test]
fn what_waits_as_usual_is_silent() {
    are_silent(&[
        ("slow clients of a busy server", 10, slow_clients),
        ("slow queries", 10, slow_queries),
        ("idle HTTP/2", 10, idle_http2),
        ("log shipper", 10, log_shipper),
        ("proxy with back-pressure", 10, proxy),
        ("pool warms up in up to 2 min", 20, pool_warms_up),
        ("pool grows with its users", 20, users_come),
        ("clients move here in 3-20 min", 20, clients_move_here),
        ("clients over a day", 10, daily),
    ]);
}
