//! Accept queues that overflow.

use std::iter;

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent},
};
use crate::{
    detect::{Anomaly, Listener, Sample},
    table::ListenAddress,
};

/// Overflows in each second.
fn series(onset: u64, seconds: Vec<u64>) -> Series {
    let mut total = 0;
    let totals = seconds.into_iter().map(move |overflows| {
        total += overflows;
        total
    });
    let samples = iter::once(0).chain(totals).map(|overflows| Sample {
        listeners: vec![Listener {
            sockets: 1,
            max_backlog: 128,
            overflows,
            ..Listener::new(ListenAddress {
                netns: 1,
                address: "0.0.0.0:80".parse().unwrap(),
            })
        }],
        ..Sample::default()
    });
    Series::new(onset, samples)
}

fn slow_accept(draw: &mut Draw) -> Series {
    let (quiet, rate) = (draw.number(5, 60), draw.real(2.0, 500.0));
    let seconds = (0..quiet + 90).map(|second| if second < quiet { 0 } else { draw.events(rate) });
    series(quiet, seconds.collect())
}

fn burst(draw: &mut Draw) -> Series {
    let (at, size) = (draw.number(5, 60), draw.number(5, 2_000));
    let overflows = |second: u64| match second.checked_sub(at) {
        Some(0) => size,
        Some(1) => size / 8,
        Some(3) => size / 60,
        _ => 0,
    };
    series(0, (0..200).map(overflows).collect())
}

#[test]
fn a_slow_server_is_raised() {
    are_raised(&[Bad {
        name: "slow accept",
        anomaly: Anomaly::ListenOverflow,
        draws: 100,
        median: 3,
        most: 5,
        in_time: 0.0,
        series: slow_accept,
    }]);
}

#[test]
fn a_burst_is_silent() {
    are_silent(&[("burst of connects", 60, burst)]);
}
