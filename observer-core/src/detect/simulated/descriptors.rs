//! Open descriptors.

use std::iter;

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, clock, process},
};
use crate::detect::{Anomaly, Counts, Descriptors, Sample};

/// A level in each second, as the daemon sees it: each second if the limit is small, if there are many, or if they
/// have grown; else every 15 s.
fn measured(onset: u64, limit: u64, levels: impl Iterator<Item = u64> + 'static) -> Series {
    let mut last: Option<(u64, Descriptors)> = None;
    let samples = (0..).zip(levels).map(move |(second, open)| {
        let open = open.min(limit);
        let due = last.is_none_or(|(at, seen)| {
            let grown = open.saturating_sub(seen.open) as f64;
            let hot =
                open as f64 >= 0.3 * limit as f64 || grown >= 8.0 && grown >= 0.02 * limit as f64;
            limit <= 256 || second - at >= if hot { 1 } else { 15 }
        });
        if due {
            let seen = Descriptors {
                open,
                limit,
                measured_at: clock(second as i64),
            };
            last = Some((second, seen));
        }
        let mut process = process(Counts::default());
        process.descriptors = last.map(|(_, seen)| seen);
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    });
    let before = Sample {
        processes: vec![process(Counts::default())],
        ..Sample::default()
    };
    Series::new(onset, iter::once(before).chain(samples))
}

/// A leak of `rate` a second from `onset` on, over `base` descriptors with `noise`, until past the limit. The
/// levels, and the first second at which one cannot be opened.
fn leak(
    draw: &mut Draw,
    limit: u64,
    rate: f64,
    (base, noise): (f64, f64),
    onset: u64,
    length: Option<u64>,
) -> (Vec<u64>, Option<u64>) {
    let (mut open, mut wave, mut error) = (base, 0.0, None);
    let until_full = ((limit as f64 / rate) * 1.3 + 60.0).min(40_000.0) as u64;
    let mut levels = Vec::new();
    for second in 0..length.unwrap_or(until_full + onset) {
        if second >= onset {
            open += draw.events(rate) as f64;
        }
        if noise > 0.0 {
            wave = 0.9 * wave + draw.normal(noise);
        }
        let level = (open + f64::abs(wave)) as u64;
        if level > limit {
            error = error.or(Some(second));
            open -= (level - limit) as f64;
        }
        levels.push(level);
    }
    (levels, error)
}

fn leaking(
    draw: &mut Draw,
    limit: u64,
    rates: (f64, f64),
    level: (f64, f64),
    latest: u64,
) -> Series {
    let rate = draw.real(rates.0, rates.1);
    let onset = if latest > 0 {
        draw.number(0, latest)
    } else {
        0
    };
    let (levels, error) = leak(draw, limit, rate, level, onset, None);
    Series {
        error,
        ..measured(onset, limit, levels.into_iter())
    }
}

fn batch(draw: &mut Draw) -> Series {
    let limit = draw.choice(&[20_000, 65_536, 1_048_576]);
    let (up, hold) = (draw.real(2.0, 25.0), draw.real(0.0, 60.0));
    let period = draw.number(120, 900);
    let level = move |second: u64| {
        let since = (second % period) as f64;
        let open = if since < up + hold {
            10_000.0 * f64::min(1.0, since / up)
        } else {
            0.0
        };
        20 + open as u64
    };
    measured(0, limit, (0..3_000).map(level))
}

fn warm_up(draw: &mut Draw) -> Series {
    let limit = draw.choice(&[1_024, 4_096, 1_048_576]);
    let (top, time, noise) = (
        draw.real(60.0, 700.0),
        draw.real(2.0, 90.0),
        draw.real(0.0, 6.0),
    );
    let levels: Vec<u64> = (0..1_800)
        .map(|second| {
            let level = top * (1.0 - f64::exp(-f64::from(second) / time));
            (20.0 + level + draw.normal(noise).abs()) as u64
        })
        .collect();
    measured(0, limit, levels.into_iter())
}

fn database_pool(draw: &mut Draw) -> Series {
    let (size, mut walk) = (draw.real(20.0, 200.0), 0.0);
    let levels: Vec<u64> = (0..3_600)
        .map(|_| {
            walk += draw.normal(0.3);
            (10.0 + size / 2.0 * (1.0 + f64::tanh(walk / 8.0))) as u64
        })
        .collect();
    measured(0, 1_024, levels.into_iter())
}

fn morning_rise(draw: &mut Draw) -> Series {
    let (top, limit) = (draw.real(2_000.0, 6_000.0), draw.choice(&[20_000, 65_536]));
    let levels: Vec<u64> = (0..14_400)
        .map(|second| {
            let level = 500.0 + (top - 500.0) * f64::from(second) / 14_400.0;
            (level + draw.normal(60.0).abs()) as u64
        })
        .collect();
    measured(0, limit, levels.into_iter())
}

fn websockets(draw: &mut Draw) -> Series {
    let (rate, top) = (draw.real(5.0, 20.0), draw.real(3_000.0, 9_000.0));
    let levels: Vec<u64> = (0..2_400)
        .map(|second| {
            let level = 100.0 + top.min(rate * f64::from(second));
            (level + draw.normal(5.0).abs()) as u64
        })
        .collect();
    measured(0, 65_536, levels.into_iter())
}

fn benchmark(draw: &mut Draw) -> Series {
    let connections = draw.choice(&[100, 1_000, 4_000]);
    let limit = draw.choice(&[4_096, 20_000, 1_048_576]);
    let level = move |second| {
        12 + if (30..90).contains(&second) && connections < limit {
            connections
        } else {
            0
        }
    };
    measured(0, limit, (0..200).map(level))
}

fn wavering(draw: &mut Draw) -> Series {
    let mut wave: f64 = 0.0;
    let levels: Vec<u64> = (0..3_600)
        .map(|_| {
            wave = (0.97 * wave + 3.0 + draw.normal(8.0)).max(0.0);
            60 + wave as u64
        })
        .collect();
    measured(0, 1_024, levels.into_iter())
}

#[test]
fn leaks_are_raised_in_time() {
    let bad = |name, draws, median, most, in_time, series| Bad {
        name,
        anomaly: Anomaly::FdLeak,
        draws,
        median,
        most,
        in_time,
        series,
    };
    are_raised(&[
        bad("fd leak, ulimit 64, 1-5/s", 60, 14, 42, 1.0, |draw| {
            leaking(draw, 64, (1.0, 5.0), (8.0, 0.0), 0)
        }),
        bad("fd leak, ulimit 64, 5-9/s", 60, 7, 8, 0.95, |draw| {
            leaking(draw, 64, (5.0, 9.0), (8.0, 0.0), 0)
        }),
        bad(
            "fd leak, ulimit 1024, 2-20/s, noise",
            30,
            70,
            200,
            1.0,
            |draw| leaking(draw, 1_024, (2.0, 20.0), (40.0, 5.0), 300),
        ),
    ]);
}

#[test]
fn slow_leaks_are_raised_in_time() {
    let bad = |name, draws, median, most, series| Bad {
        name,
        anomaly: Anomaly::FdLeak,
        draws,
        median,
        most,
        in_time: 1.0,
        series,
    };
    are_raised(&[
        bad(
            "fd leak, ulimit 1024, 3-12 a minute",
            4,
            4_300,
            4_900,
            |draw| leaking(draw, 1_024, (0.05, 0.2), (100.0, 10.0), 0),
        ),
        bad("fd leak, ulimit 65536, 5-100/s", 8, 1_000, 4_300, |draw| {
            leaking(draw, 65_536, (5.0, 100.0), (300.0, 50.0), 300)
        }),
    ]);
}

#[test]
fn levels_that_do_not_leak_are_silent() {
    are_silent(&[
        ("batch opens 10,000 files", 6, batch),
        ("JVM or Go warming up", 10, warm_up),
        ("database pool", 6, database_pool),
        ("websockets arriving, then level", 10, websockets),
        ("benchmark's descriptors", 20, benchmark),
        ("wavering server", 6, wavering),
    ]);
}

#[test]
fn slow_growth_far_from_the_limit_is_silent() {
    are_silent(&[
        ("1 fd/s under a limit of 1,048,576, 10 h", 1, |draw| {
            let (levels, _) = leak(draw, 1_048_576, 1.0, (50.0, 5.0), 0, Some(36_000));
            measured(0, 1_048_576, levels.into_iter())
        }),
        ("morning rise over 4 h", 3, morning_rise),
        ("6 a minute, 20 h from the limit", 1, |draw| {
            let (levels, _) = leak(draw, 16_000, 0.1, (8_500.0, 5.0), 0, Some(12_000));
            measured(0, 16_000, levels.into_iter())
        }),
    ]);
}
