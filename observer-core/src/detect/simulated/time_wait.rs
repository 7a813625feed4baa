//! TIME_WAIT of a server.

use std::{collections::VecDeque, iter};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent},
};
use crate::detect::{Anomaly, Namespace, Sample};

fn server(draw: &mut Draw, rate: f64, buckets: u64, length: u64) -> Series {
    let (mut sockets, mut waiting, mut overflows) = (VecDeque::new(), 0, 0);
    let mut totals = Vec::new();
    for second in 0..length {
        let closed = draw.events(rate);
        while sockets
            .front()
            .is_some_and(|(entered, _)| entered + 60 <= second)
        {
            waiting -= sockets.pop_front().map_or(0, |(_, count)| count);
        }
        let entered = closed.min(buckets - waiting);
        sockets.push_back((second, entered));
        waiting += entered;
        overflows += closed - entered;
        totals.push(overflows);
    }
    let samples = iter::once(0)
        .chain(totals)
        .map(|time_wait_overflows| Sample {
            namespaces: vec![Namespace {
                netns: 1,
                time_wait_overflows,
            }],
            ..Sample::default()
        });
    Series::new(0, samples)
}

#[test]
fn an_overflow_is_raised() {
    are_raised(&[Bad {
        name: "TIME_WAIT buckets run out",
        anomaly: Anomaly::TimeWaitOverflow,
        draws: 60,
        median: 22,
        most: 55,
        in_time: 0.0,
        series: |draw| {
            let rate = draw.real(600.0, 3_000.0);
            server(draw, rate, 32_768, 200)
        },
    }]);
}

#[test]
fn time_wait_of_a_server_is_silent() {
    are_silent(&[
        ("nginx without keep-alive, 2,000/s", 40, |draw| {
            let buckets = draw.choice(&[131_072, 262_144]);
            server(draw, 2_000.0, buckets, 200)
        }),
        ("healthy storm, 5,000/s for 50 s", 40, |draw| {
            server(draw, 5_000.0, 262_144, 50)
        }),
    ]);
}
