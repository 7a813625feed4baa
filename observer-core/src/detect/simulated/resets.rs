//! RST storms.

use std::{collections::HashMap, iter};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, name, process},
};
use crate::detect::{Anomaly, Counts, Sample, SentReset};

/// Totals of RSTs and ended connections, from those of each second.
fn totals(seconds: Vec<(u64, u64)>) -> impl Iterator<Item = Counts> {
    let mut counts = Counts::default();
    let after = seconds.into_iter().map(move |(resets, ended)| {
        counts.resets_sent[SentReset::UnreadData as usize] += resets;
        counts.ended += ended;
        counts
    });
    iter::once(Counts::default()).chain(after)
}

fn of_process(onset: u64, seconds: Vec<(u64, u64)>) -> Series {
    Series::new(
        onset,
        totals(seconds).map(|counts| Sample {
            processes: vec![process(counts)],
            ..Sample::default()
        }),
    )
}

fn of_name(seconds: Vec<(u64, u64)>) -> Series {
    Series::benign(totals(seconds).map(|counts| Sample {
        names: vec![name(counts)],
        ..Sample::default()
    }))
}

/// Each second, what `resets` says, and as many connections more as end without.
fn seconds(
    draw: &mut Draw,
    length: u64,
    traffic: f64,
    mut resets: impl FnMut(&mut Draw, u64) -> u64,
) -> Vec<(u64, u64)> {
    let second = |second| {
        let resets = resets(draw, second);
        (resets, resets + draw.events(traffic))
    };
    (0..length).map(second).collect()
}

fn half_close_ramp(draw: &mut Draw) -> Series {
    let (quiet, traffic, up) = (
        draw.number(150, 400),
        draw.real(20.0, 200.0),
        draw.real(5.0, 40.0),
    );
    let storm = |draw: &mut Draw, second: u64| {
        let ramp = up * second.saturating_sub(quiet) as f64;
        draw.events(0.2) + draw.events(ramp.min(800.0))
    };
    of_process(quiet, seconds(draw, quiet + 120, traffic, storm))
}

fn steady(draw: &mut Draw, rate: (f64, f64), traffic: f64) -> Vec<(u64, u64)> {
    let rate = draw.real(rate.0, rate.1);
    let traffic = draw.real(0.0, traffic);
    seconds(draw, 120, traffic, |draw, _| draw.events(rate))
}

fn linger_zero(draw: &mut Draw) -> Series {
    let (quiet, rate) = (draw.number(150, 600), draw.real(50.0, 3000.0));
    let (traffic, base) = (draw.real(10.0, 500.0), draw.real(0.0, 2.0));
    let storm = |draw: &mut Draw, second| {
        draw.events(base)
            + if second >= quiet {
                draw.events(rate)
            } else {
                0
            }
    };
    of_process(quiet, seconds(draw, quiet + 120, traffic, storm))
}

fn over_noise(draw: &mut Draw) -> Series {
    let (quiet, base) = (900, draw.real(2.0, 10.0));
    let storm = |draw: &mut Draw, second| {
        let rate = if second >= quiet {
            base * draw.real(8.0, 20.0)
        } else {
            0.0
        };
        draw.events(base) + draw.events(rate)
    };
    of_process(quiet, seconds(draw, quiet + 120, base * 10.0, storm))
}

fn rolling_deploy(draw: &mut Draw) -> Series {
    let (workers, gap, start) = (
        draw.number(4, 25),
        draw.real(0.7, 3.0),
        draw.number(100, 1200),
    );
    let mut at: HashMap<u64, u64> = HashMap::new();
    for worker in 0..workers {
        let resets = draw.number(20, 2000) / 2;
        let second = start + (worker as f64 * gap) as u64;
        for second in [second, second + 1] {
            *at.entry(second).or_default() += resets;
        }
    }
    let traffic = draw.real(50.0, 2000.0);
    let resets = |draw: &mut Draw, second| at.get(&second).unwrap_or(&0) + draw.events(0.1);
    of_name(seconds(draw, 1400, traffic, resets))
}

fn health_checks(draw: &mut Draw) -> Series {
    let period = draw.number(1, 3);
    let phases: Vec<u64> = (0..draw.number(1, 20)).map(|_| draw.number(0, 2)).collect();
    let traffic = draw.real(0.0, 100.0);
    let checks = |_: &mut Draw, second: u64| {
        let due = phases
            .iter()
            .filter(|phase| (second + **phase).is_multiple_of(period));
        due.count() as u64
    };
    of_process(0, seconds(draw, 900, traffic, checks))
}

fn browser(draw: &mut Draw) -> Series {
    let traffic = draw.real(1.0, 20.0);
    let tabs = |draw: &mut Draw, _| match draw.is(1.0 / 60.0) {
        true => draw.number(5, 90),
        false => draw.events(0.1),
    };
    of_process(0, seconds(draw, 900, traffic, tabs))
}

fn web_server(draw: &mut Draw) -> Series {
    let (traffic, share) = (draw.real(50.0, 3000.0), draw.real(0.005, 0.08));
    let resets = |draw: &mut Draw, second: u64| {
        let wave = 1.0 + 0.5 * (second as f64 / 50.0).sin();
        let rate = traffic * share * wave * draw.waver(4);
        draw.events(rate)
    };
    of_process(0, seconds(draw, 900, traffic, resets))
}

/// More clients than usual cancel, but far from most.
fn more_cancel(draw: &mut Draw) -> Series {
    let (traffic, share) = (draw.real(300.0, 800.0), draw.real(0.02, 0.035));
    let resets = |draw: &mut Draw, second| {
        let share = if second < 300 { 0.001 } else { share };
        draw.events(traffic * share)
    };
    of_process(0, seconds(draw, 420, traffic, resets))
}

fn worker_ends(draw: &mut Draw) -> Series {
    let (end, open, traffic) = (
        draw.number(200, 600),
        draw.number(50, 3000),
        draw.real(20.0, 300.0),
    );
    let resets = |draw: &mut Draw, second| match second == end || second == end + 1 {
        true => open / 2,
        false => draw.events(0.05),
    };
    of_process(0, seconds(draw, end + 5, traffic, resets))
}

fn benchmark_ends(draw: &mut Draw) -> Series {
    let (end, open, traffic) = (
        draw.number(30, 120),
        draw.number(100, 5000),
        draw.real(500.0, 5000.0),
    );
    let resets = |_: &mut Draw, second| if second == end { open } else { 0 };
    of_process(0, seconds(draw, end + 30, traffic, resets))
}

fn bursts(draw: &mut Draw) -> Series {
    let (base, burst, traffic) = (
        draw.real(0.5, 4.0),
        draw.number(100, 3000),
        draw.real(10.0, 500.0),
    );
    let resets =
        |draw: &mut Draw, _| draw.events(base) + if draw.is(1.0 / 90.0) { burst } else { 0 };
    of_process(0, seconds(draw, 900, traffic, resets))
}

fn always(draw: &mut Draw) -> Series {
    let (rate, traffic) = (draw.real(8.0, 25.0), draw.real(0.0, 20.0));
    let resets = |draw: &mut Draw, second: u64| {
        let rate = rate * (1.0 + 0.6 * (second as f64 / 200.0).sin()) * draw.waver(8);
        draw.events(rate)
    };
    of_process(0, seconds(draw, 3600, traffic, resets))
}

#[test]
fn storms_are_raised() {
    let bad = |name, median, most, series| Bad {
        name,
        anomaly: Anomaly::RstStorm,
        draws: 25,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad(
            "half-close misuse, ramp over traffic",
            7,
            8,
            half_close_ramp,
        ),
        bad("half-close misuse, new process, 80-1000/s", 5, 6, |draw| {
            of_process(0, steady(draw, (80.0, 1000.0), 50.0))
        }),
        bad("half-close misuse, new process, 55-80/s", 8, 10, |draw| {
            of_process(0, steady(draw, (55.0, 80.0), 20.0))
        }),
        bad("SO_LINGER 0, 50-3000/s", 6, 6, linger_zero),
        bad("storm of 8-20x over steady 2-10/s", 6, 7, over_noise),
        bad("resets by processes that live < 1 s", 54, 58, |draw| {
            of_name(steady(draw, (60.0, 1000.0), 20.0))
        }),
    ]);
}

#[test]
fn what_is_no_storm_is_silent() {
    are_silent(&[
        (
            "load balancers' checks that reset, 1-20/s",
            8,
            health_checks,
        ),
        ("browser", 8, browser),
        ("busy web server, 0.5-8 % reset", 8, web_server),
        ("2-3.5 % cancel instead of 0.1 %", 8, more_cancel),
        ("a worker ends in a deploy", 20, worker_ends),
        ("rolling deploy of 4-24 workers", 8, rolling_deploy),
        ("nightly cron that resets, 5-35/s", 60, |draw| {
            of_process(0, steady(draw, (5.0, 35.0), 0.0))
        }),
        ("end of a benchmark", 60, benchmark_ends),
        ("bursts of 100-3000 over noise", 8, bursts),
        ("always resets, 8-25/s, wavering", 4, always),
    ]);
}
