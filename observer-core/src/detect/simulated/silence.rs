//! Peers that fall silent.

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent},
};
use crate::detect::{Anomaly, Counts, SentReset};

/// Each second, connections that end: those that nothing answered, those of them that keepalive ended, and others.
fn series(onset: u64, seconds: impl Iterator<Item = (u64, u64, u64)> + 'static) -> Series {
    let mut counts = Counts::default();
    let after = seconds.map(move |(unanswered, keepalive, others)| {
        counts.unanswered += unanswered;
        counts.resets_sent[SentReset::Keepalive as usize] += keepalive;
        counts.ended += unanswered + others;
        counts
    });
    Series::of_process(onset, after)
}

/// A NAT forgets idle connections, which end one after the other when they are used again.
fn nat_forgets(draw: &mut Draw) -> Series {
    let (quiet, rate) = (draw.number(150, 300), draw.real(0.3, 30.0));
    let traffic = draw.real(0.0, rate);
    let seconds: Vec<_> = (0..quiet + 240)
        .map(|second| {
            let unanswered = if second < quiet { 0 } else { draw.events(rate) };
            (unanswered, 0, draw.events(traffic))
        })
        .collect();
    series(quiet, seconds.into_iter())
}

fn mobile_clients(draw: &mut Draw) -> Series {
    let (traffic, share) = (draw.real(10.0, 1_000.0), draw.real(0.0, 0.1));
    let seconds: Vec<_> = (0..900)
        .map(|_| (draw.events(traffic * share), 0, draw.events(traffic)))
        .collect();
    series(0, seconds.into_iter())
}

/// All connections of a browser end when it wakes up.
fn suspended(draw: &mut Draw) -> Series {
    let (at, open) = (draw.number(100, 300), draw.number(5, 200));
    let seconds = (0..600).map(move |second| (if second == at { open } else { 0 }, 0, 0));
    series(0, seconds)
}

/// Below the rate of a storm.
fn keepalive(draw: &mut Draw) -> Series {
    let rate = draw.real(0.5, 8.0);
    let seconds: Vec<_> = (0..600).map(|_| draw.events(rate)).collect();
    series(0, seconds.into_iter().map(|count| (count, count, 0)))
}

#[test]
fn silent_peers_are_raised() {
    are_raised(&[Bad {
        name: "a NAT forgets connections, 0.3-30/s",
        anomaly: Anomaly::SilentPeers,
        draws: 40,
        median: 15,
        most: 30,
        in_time: 0.0,
        series: nat_forgets,
    }]);
}

#[test]
fn single_losses_are_silent() {
    are_silent(&[
        ("mobile clients, 0-10 % vanish", 20, mobile_clients),
        ("wakes up from a suspension", 20, suspended),
        ("keepalive ends 0.5-8/s", 20, keepalive),
    ]);
}
