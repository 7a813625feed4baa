//! Failing connects.

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, process},
};
use crate::detect::{Anomaly, ConnectResult, Counts, Sample};

/// Each second, connects that succeed and that are refused.
fn series(onset: u64, seconds: Vec<(u64, u64)>) -> Series {
    let mut counts = Counts::default();
    let after = seconds.into_iter().map(move |(ok, refused)| {
        counts.connects[ConnectResult::Ok as usize] += ok;
        counts.connects[ConnectResult::Refused as usize] += refused;
        counts
    });
    Series::of_process(onset, after)
}

fn dead_backend(draw: &mut Draw) -> Series {
    let (quiet, rate) = (draw.number(0, 200), draw.real(5.0, 2000.0));
    let seconds = (0..quiet + 120).map(|second| match second < quiet {
        true => (draw.events(rate), 0),
        false => (0, draw.events(rate)),
    });
    series(quiet, seconds.collect())
}

fn two_of_three_dead(draw: &mut Draw) -> Series {
    let (quiet, rate) = (draw.number(50, 200), draw.real(30.0, 500.0));
    let seconds = (0..quiet + 120).map(|second| match second < quiet {
        true => (draw.events(rate), 0),
        false => (draw.events(rate * 0.35), draw.events(rate * 0.65)),
    });
    series(quiet, seconds.collect())
}

fn slow_retries(draw: &mut Draw) -> Series {
    let period = draw.number(3, 11);
    let seconds = (0..240_u64).map(|second| (0, u64::from(second.is_multiple_of(period))));
    series(0, seconds.collect())
}

fn some_fail(draw: &mut Draw) -> Series {
    let (rate, share) = (draw.real(1.0, 300.0), draw.real(0.0, 0.15));
    let seconds = (0..900).map(|_| (draw.events(rate * (1.0 - share)), draw.events(rate * share)));
    series(0, seconds.collect())
}

fn backend_restarts(draw: &mut Draw) -> Series {
    let (start, length, rate) = (
        draw.number(100, 300),
        draw.number(1, 5),
        draw.real(5.0, 300.0),
    );
    let seconds = (0..600).map(|second| match (start..start + length).contains(&second) {
        true => (0, draw.events(rate)),
        false => (draw.events(rate), 0),
    });
    series(0, seconds.collect())
}

fn one_target_is_dead(_: &mut Draw) -> Series {
    let check = |second: u64| {
        if second.is_multiple_of(15) {
            (19, 1)
        } else {
            (0, 0)
        }
    };
    series(0, (0..1800).map(check).collect())
}

/// For each connect an address without a route is tried first.
fn without_ipv6(draw: &mut Draw) -> Series {
    let rate = draw.real(1.0, 50.0);
    let mut counts = Counts::default();
    let mut ok = Vec::new();
    for _ in 0..300 {
        ok.push(draw.events(rate));
    }
    let samples = ok.into_iter().map(move |ok| {
        counts.connects[ConnectResult::Ok as usize] += ok;
        counts.connects[ConnectResult::NetUnreachable as usize] += ok + ok / 2;
        Sample {
            processes: vec![process(counts)],
            ..Sample::default()
        }
    });
    Series::benign(samples)
}

/// Nothing answers: connects are not over, and wait.
fn black_hole(draw: &mut Draw) -> Series {
    let rate = draw.number(5, 50) as u32;
    let samples = (0..30_u32).map(move |second| {
        let mut process = process(Counts::default());
        process.syn_sent_over_3s = rate * second.saturating_sub(3);
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    });
    Series::new(0, samples)
}

#[test]
fn failing_connects_are_raised() {
    let bad = |name, median, most, series| Bad {
        name,
        anomaly: Anomaly::ConnectFailures,
        draws: 60,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("dead backend, 5-2000 connects/s", 5, 9, dead_backend),
        bad("2 of 3 backends dead", 8, 8, two_of_three_dead),
        bad("dead backend, a try every 3-10 s", 63, 90, slow_retries),
        bad("black hole", 5, 5, black_hole),
    ]);
}

#[test]
fn some_failing_connects_are_silent() {
    are_silent(&[
        ("0-15 % of connects fail", 20, some_fail),
        ("deploy: refused for 1-4 s", 30, backend_restarts),
        ("monitor with a dead target", 1, one_target_is_dead),
        ("no route for IPv6", 20, without_ipv6),
    ]);
}
