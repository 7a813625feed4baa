//! Segments for closed ports.

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, changes, clock},
};
use crate::detect::{Anomaly, Sample, Source};

/// The closed ports of each second. The bitmap begins anew every 60 s.
fn series(onset: u64, seconds: Vec<Vec<u64>>) -> Series {
    let mut source = Source {
        netns: 1,
        address: "192.0.2.1".parse().unwrap(),
        ports: [0; 4],
        segments: 0,
        last_at: clock(-1),
    };
    let samples = (0..).zip(seconds).map(move |(second, ports)| {
        if second % 60 == 0 {
            (source.ports, source.segments) = ([0; 4], 0);
        }
        for port in &ports {
            source.ports[(port % 256 / 64) as usize] |= 1 << (port % 64);
            source.segments += 1;
            source.last_at = clock(second);
        }
        Sample {
            sources: vec![source],
            ..Sample::default()
        }
    });
    Series::new(onset, std::iter::once(Sample::default()).chain(samples))
}

fn scan(draw: &mut Draw, rate: f64, length: u64) -> Series {
    let seconds = (0..length).map(|second| {
        let ports = if second < 5 { 0 } else { draw.events(rate) };
        (0..ports).map(|_| draw.number(1, 65_535)).collect()
    });
    series(5, seconds.collect())
}

fn stray_client(draw: &mut Draw) -> Series {
    let ports: Vec<u64> = (0..3).map(|_| draw.number(1, 65_535)).collect();
    let seconds = (0..600).map(|_| {
        let tries = draw.events(50.0) as usize;
        ports.iter().copied().cycle().take(tries).collect()
    });
    series(0, seconds.collect())
}

#[test]
fn scans_are_raised() {
    let bad = |name, draws, median, most, series| Bad {
        name,
        anomaly: Anomaly::SynScan,
        draws,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("SYN scan, 5,000/s", 10, 0, 0, |draw| {
            scan(draw, 5_000.0, 30)
        }),
        bad("SYN scan, 1/s", 60, 17, 30, |draw| scan(draw, 1.0, 120)),
    ]);
}

#[test]
fn a_stray_client_is_silent() {
    are_silent(&[("stray client, 3 dead ports", 10, stray_client)]);
}

/// What was raised and cleared of a scan of a minute that goes on with so many ports of each second's.
fn then(ports: &[u64]) -> Vec<&'static str> {
    let scan = (0..60).map(|second| (10 * second..10 * second + 10).collect());
    let after = (0..600).map(|second| {
        let port = ports.get(second as usize % ports.len()).copied();
        Vec::from_iter(port)
    });
    let changes = changes(series(0, scan.chain(after).collect()));
    changes.map(|(_, change)| change.name()).collect()
}

#[test]
fn a_scan_that_becomes_a_stray_client_clears() {
    assert_eq!(then(&[80]), ["raised", "cleared"]);
    // Twenty ports a minute are a scan still.
    let slow: Vec<_> = (0..600).map(|second| second / 3).collect();
    assert_eq!(then(&slow)[..2], ["raised", "updated"]);
}
