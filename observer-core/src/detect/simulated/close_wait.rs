//! Sockets in CLOSE_WAIT.

use std::iter;

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, clock, process},
};
use crate::detect::{Anomaly, Counts, Descriptors, Sample};

/// Sockets in CLOSE_WAIT for over 60 s and for over 10 s, in each second.
fn series(limit: u64, levels: Vec<(u64, u64)>) -> Series {
    let before = iter::once((-1, (0, 0)));
    let samples = before
        .chain((0..).zip(levels))
        .map(move |(second, (old, young))| {
            let mut process = process(Counts::default());
            process.close_wait_over_60s = old as u32;
            process.close_wait_over_10s = young as u32;
            process.descriptors = Some(Descriptors {
                open: 30,
                limit,
                measured_at: clock(second),
            });
            Sample {
                processes: vec![process],
                ..Sample::default()
            }
        });
    Series::new(0, samples)
}

/// Those that entered so long ago, of as many as entered in each second, until all are closed.
fn kept(entered: &[u64], closed_at: usize) -> Vec<(u64, u64)> {
    let mut totals = vec![0];
    for count in entered {
        totals.push(totals.last().unwrap_or(&0) + count);
    }
    let over = |second: usize, age: usize| match second < closed_at {
        true => totals[(second + 1).saturating_sub(age)],
        false => 0,
    };
    (0..entered.len())
        .map(|second| (over(second, 60), over(second, 10)))
        .collect()
}

fn leak(draw: &mut Draw, limit: u64, rates: (f64, f64), length: u64) -> Series {
    let rate = draw.real(rates.0, rates.1);
    let entered: Vec<u64> = (0..length).map(|_| draw.events(rate)).collect();
    series(limit, kept(&entered, usize::MAX))
}

fn idle_pool(draw: &mut Draw) -> Series {
    let mut entered = vec![0; 3_600];
    let size = draw.number(5, 100);
    for _ in 0..draw.number(1, 4) {
        entered[draw.number(60, 600) as usize] = size;
    }
    series(65_536, kept(&entered, draw.number(1_200, 3_000) as usize))
}

fn late_closes(draw: &mut Draw) -> Series {
    let (rate, life) = (draw.real(0.05, 1.0), draw.real(20.0, 120.0));
    let mut over = |age: f64| draw.events(rate * life * f64::exp(-age / life));
    series(
        65_536,
        (0..3_600).map(|_| (over(60.0), over(10.0))).collect(),
    )
}

fn large_pool(draw: &mut Draw) -> Series {
    let mut entered: Vec<u64> = (0..1_800).map(|_| draw.events(0.05)).collect();
    entered[0] = draw.number(300, 500);
    series(65_536, kept(&entered, usize::MAX))
}

#[test]
fn leaks_are_raised() {
    let bad = |name, draws, median, most, series| Bad {
        name,
        anomaly: Anomaly::CloseWaitLeak,
        draws,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("CLOSE_WAIT leak, 0.2-5/s", 30, 230, 260, |draw| {
            leak(draw, 65_536, (0.2, 5.0), 900)
        }),
        bad(
            "CLOSE_WAIT leak, 0.6-1.8 a minute",
            6,
            2_400,
            4_500,
            |draw| leak(draw, 65_536, (0.01, 0.03), 7_200),
        ),
        bad("CLOSE_WAIT leak under ulimit 64", 60, 24, 45, |draw| {
            leak(draw, 64, (0.5, 2.0), 90)
        }),
    ]);
}

#[test]
fn pools_are_silent() {
    are_silent(&[
        ("idle pool whose peers closed", 8, idle_pool),
        ("client pool, late closes", 8, late_closes),
        ("large pool, 3 more a minute", 4, large_pool),
    ]);
}
