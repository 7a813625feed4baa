//! Local ports that run out.

use std::{collections::VecDeque, iter, time::Duration};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, clock, raises},
};
use crate::{
    detect::{Anomaly, Ports, Sample, Subject},
    walk::Destination,
};

/// The default range.
const RANGE: u32 = 28_232;

fn nothing(available: u32, blocked_for: u64) -> Ports {
    Ports {
        subject: Subject::Destination(Destination {
            netns: 1,
            source: "10.0.0.1".parse().unwrap(),
            remote: "10.0.0.2:80".parse().unwrap(),
        }),
        walked_at: clock(-1),
        available,
        blocked: 0,
        syn_sent: 0,
        established: 0,
        idle: 0,
        closing: 0,
        time_wait: 0,
        fin_wait2: 0,
        opened: 0,
        blocked_for: Duration::from_secs(blocked_for),
        searches_failed: 0,
        holders: Vec::new(),
    }
}

/// Short connections, `opened(second)` of them a second, beside `kept` ones. Walks every `pace` seconds.
fn short_connections(
    draw: &mut Draw,
    available: u32,
    blocked_for: u64,
    kept: u32,
    pace: u64,
    length: u64,
    opened: impl Fn(u64) -> f64,
) -> Series {
    let mut ports = nothing(available, blocked_for);
    let mut closed: VecDeque<(u64, u32)> = VecDeque::new();
    let (mut error, mut walks) = (None, vec![ports.clone()]);
    for second in 0..length {
        let wanted = draw.events(opened(second)) as u32;
        while closed
            .front()
            .is_some_and(|(born, _)| born + blocked_for <= second)
        {
            closed.pop_front();
        }
        let used = kept + closed.iter().map(|(_, ports)| ports).sum::<u32>();
        let born = wanted.min(available - used);
        closed.push_back((second, born));
        if born < wanted {
            error = error.or(Some(second));
        }
        ports.walked_at = clock(second as i64);
        ports.blocked = used + born;
        ports.established = kept + born / 20;
        ports.time_wait = ports.blocked - ports.established;
        ports.opened += u64::from(born);
        ports.searches_failed += u64::from(wanted - born);
        let walked = second.is_multiple_of(pace) && (second > 0 || pace == 1);
        let last = walks.last().cloned().expect("there is a first one");
        walks.push(if walked { ports.clone() } else { last });
    }
    Series {
        error,
        ..Series::new(0, walks.into_iter().map(sample))
    }
}

fn sample(ports: Ports) -> Sample {
    Sample {
        ports: vec![ports],
        ..Sample::default()
    }
}

fn steady(draw: &mut Draw, rate: (f64, f64), available: u32, pace: u64, length: u64) -> Series {
    let rate = draw.real(rate.0, rate.1);
    short_connections(draw, available, 60, 0, pace, length, |_| rate)
}

fn never_closed(draw: &mut Draw) -> Series {
    let rate = draw.real(5.0, 50.0);
    let mut ports = nothing(RANGE, 0);
    let (mut error, mut walks) = (None, Vec::new());
    for second in 0..(f64::from(RANGE) / rate) as i64 + 60 {
        let wanted = draw.events(rate) as u32;
        let born = wanted.min(RANGE - ports.blocked);
        if born < wanted {
            error = error.or(Some(second as u64));
        }
        ports.walked_at = clock(second);
        ports.blocked += born;
        ports.established = ports.blocked;
        ports.opened += u64::from(born);
        ports.searches_failed += u64::from(wanted - born);
        walks.push(ports.clone());
    }
    let walks = iter::once(nothing(RANGE, 0)).chain(walks);
    Series {
        error,
        ..Series::new(0, walks.map(sample))
    }
}

#[test]
fn ports_that_run_out_are_raised_in_time() {
    let bad = |name, draws, median, most, series| Bad {
        name,
        anomaly: Anomaly::PortExhaustion,
        draws,
        median,
        most,
        in_time: 1.0,
        series,
    };
    are_raised(&[
        bad("ports: 500-600/s to one place", 40, 29, 31, |draw| {
            steady(draw, (500.0, 600.0), RANGE, 1, 120)
        }),
        bad("ports: 1,000/s to one place", 40, 17, 18, |draw| {
            steady(draw, (950.0, 1050.0), RANGE, 1, 120)
        }),
        bad(
            "ports: 1,000/s, counted every 15 s only",
            40,
            15,
            15,
            |draw| steady(draw, (950.0, 1050.0), RANGE, 15, 120),
        ),
        bad("ports: 5,000/s to one place", 40, 3, 3, |draw| {
            steady(draw, (4500.0, 5500.0), RANGE, 1, 120)
        }),
        bad("ports: 50/s, range of 1,000", 40, 13, 15, |draw| {
            steady(draw, (40.0, 60.0), 1_000, 1, 90)
        }),
        bad("ports: 20/s, range of 200", 40, 6, 7, |draw| {
            steady(draw, (20.0, 25.0), 200, 1, 60)
        }),
        bad(
            "ports: connections never closed",
            20,
            1_000,
            4_400,
            never_closed,
        ),
    ]);
}

#[test]
fn ports_that_suffice_are_silent() {
    are_silent(&[
        ("client at a steady 250-330/s", 20, |draw| {
            steady(draw, (250.0, 330.0), RANGE, 1, 300)
        }),
        ("benchmark on loopback, 500-10,000/s", 20, |draw| {
            let rate = draw.real(500.0, 10_000.0);
            short_connections(draw, RANGE, 1, 0, 1, 120, |_| rate)
        }),
        ("proxy with 2,000 kept connections", 20, |draw| {
            let rate = draw.real(0.0, 20.0);
            short_connections(draw, RANGE, 60, 2_000, 1, 300, |_| rate)
        }),
        ("script, 500/s for 5-20 s", 20, |draw| {
            let length = draw.number(5, 20);
            let opened = move |second| if second < length { 500.0 } else { 0.0 };
            short_connections(draw, RANGE, 60, 0, 1, 200, opened)
        }),
    ]);
}

/// A client whose connections come `rate(time)` a second, until the ports run out. From half of the range on, each connect()
/// takes `search` seconds, in which the client does nothing else. Walks end up to 0.3 s before the tick.
fn until_none_is_left(
    draw: &mut Draw,
    available: u32,
    search: f64,
    rate: impl Fn(f64) -> f64,
) -> (f64, Vec<Ports>) {
    let mut ports = nothing(available, 60);
    let mut walks = vec![ports.clone()];
    let mut blocked = VecDeque::new();
    let (mut due, mut now, mut walk) = (0.0_f64, 0.0_f64, 0.0_f64);
    loop {
        due += -(1.0 - draw.real(0.0, 1.0)).ln() / rate(due);
        let searches = 2 * blocked.len() as u32 >= available;
        now = due.max(now + if searches { search } else { 0.0 });
        while walk <= now {
            while blocked.front().is_some_and(|born| born + 60.0 <= walk) {
                blocked.pop_front();
            }
            ports.walked_at = clock(0) + Duration::from_secs_f64(walk);
            ports.blocked = blocked.len() as u32;
            ports.time_wait = ports.blocked;
            walks.push(ports.clone());
            walk = walks.len() as f64 - 1.0 - draw.real(0.0, 0.3);
        }
        while blocked.front().is_some_and(|born| born + 60.0 <= now) {
            blocked.pop_front();
        }
        if blocked.len() as u32 == available {
            return (now, walks);
        }
        blocked.push_back(now);
        ports.opened += 1;
    }
}

/// The time left when it is raised, and the time until the first error.
fn time_left((error, walks): (f64, Vec<Ports>)) -> (f64, f64) {
    let series = Series::new(0, walks.into_iter().map(sample));
    let (second, finding) = raises(series)
        .find(|(_, it)| it.anomaly == Anomaly::PortExhaustion)
        .expect("it is raised");
    let left = finding.time_left.expect("it is finite").as_secs_f64();
    (left, error - second as f64)
}

/// Of many draws.
fn is_right_within_a_quarter(name: &str, mut series: impl FnMut(&mut Draw) -> (f64, Vec<Ports>)) {
    let draws = Draw::all_of(name, 20).map(|mut draw| time_left(series(&mut draw)));
    let draws: Vec<_> = draws.collect();
    let ratios = draws.iter().map(|(left, really)| left / really);
    let least = ratios.clone().fold(f64::INFINITY, f64::min);
    let most = ratios.fold(0.0, f64::max);
    let lead = draws
        .iter()
        .fold(f64::INFINITY, |least, it| least.min(it.1));
    println!("{name}: {least:.2} to {most:.2} of the time, at least {lead:.1} s before");
    assert!(
        least >= 0.75 && most <= 1.25 && lead > 0.0,
        "{name}: {least}, {most}, {lead}"
    );
}

#[test]
fn the_time_left_is_right_within_a_quarter() {
    for (rate, available) in [
        (20.0, 1_000),
        (100.0, 1_000),
        (100.0, 5_000),
        (500.0, 5_000),
        (500.0, RANGE),
        (1_000.0, 5_000),
        (1_000.0, 15_000),
        (1_000.0, RANGE),
    ] {
        is_right_within_a_quarter(&format!("{rate}/s of {available}"), |draw| {
            until_none_is_left(draw, available, 0.0, |_| rate)
        });
    }
}

/// Above half of the range, each connect() takes so long that the client is late.
#[test]
fn the_time_left_is_that_of_a_client_that_slows_down() {
    for (rate, available, slowest) in [
        (500.0, 20_000, 0.0035),
        (1_000.0, 8_000, 0.0015),
        (1_000.0, 12_000, 0.0025),
        (1_000.0, 15_000, 0.0025),
        (1_000.0, RANGE, 0.0025),
    ] {
        is_right_within_a_quarter(&format!("{rate}/s of {available}, slower"), |draw| {
            let search = draw.real(0.5 / rate, slowest);
            until_none_is_left(draw, available, search, |_| rate)
        });
    }
}

/// The ports of earlier connections are free again while the new ones take others.
#[test]
fn the_time_left_knows_which_ports_will_be_free() {
    is_right_within_a_quarter("300/s, then 600/s", |draw| {
        let (before, then) = (draw.real(250.0, 350.0), draw.real(560.0, 700.0));
        let change = draw.real(20.0, 120.0);
        let rate = |time| if time < change { before } else { then };
        until_none_is_left(draw, RANGE, 0.0, rate)
    });
}
