//! Early data of QUIC that is lost, and rejections that a program copes with.

use observer_common::{
    QUIC_ABANDONED, QUIC_ACCEPTED, QUIC_CANCELLED, QUIC_FAILED, QUIC_REJECTED, QUIC_RESUMED,
    QUIC_SENT,
};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, changes, process, raises},
};
use crate::detect::{Anomaly, Change, Counts, Sample, finding_summary};

/// What is counted in a second.
#[derive(Clone, Copy, Default)]
struct Second {
    accepted: u64,
    failed: u64,
    resumed: u64,
    cancelled: u64,
    abandoned: u64,
    frames: u64,
}

fn series(onset: u64, seconds: Vec<Second>) -> Series {
    let mut counts = Counts::default();
    let totals = seconds.into_iter().map(move |it| {
        let quic = &mut counts.quic;
        quic.attempts[QUIC_ACCEPTED] += it.accepted;
        quic.attempts[QUIC_REJECTED] += it.resumed + it.cancelled + it.abandoned;
        quic.attempts[QUIC_FAILED] += it.failed;
        quic.rejections[QUIC_RESUMED] += it.resumed;
        quic.rejections[QUIC_CANCELLED] += it.cancelled;
        quic.rejections[QUIC_ABANDONED] += it.abandoned;
        quic.resets[QUIC_SENT][0] += it.frames / 2;
        quic.resets[QUIC_SENT][1] += it.frames.div_ceil(2);
        counts
    });
    Series::of_process(onset, totals)
}

/// Seconds in which nothing goes wrong, with some connections that begin.
fn quiet(draw: &mut Draw, seconds: u64) -> Vec<Second> {
    let rate = draw.real(0.0, 2.0);
    let second = |_| Second {
        accepted: draw.events(rate),
        ..Second::default()
    };
    (0..seconds).map(second).collect()
}

/// The server of a pool is restarted, and each connection cancels its old streams.
fn pool_cancels(draw: &mut Draw) -> Series {
    let (at, connections) = (draw.number(10, 200), draw.number(3, 100));
    let mut seconds = quiet(draw, at + 30);
    // Some frames are on their way before NextConnection, some after it.
    let (early, late) = (draw.number(0, 3), draw.number(0, 3));
    seconds[at as usize + early as usize].cancelled = connections;
    seconds[at as usize + late as usize].frames = 2 * connections;
    series(at, seconds)
}

/// One connection, and a server that rejects all early data for the next minutes.
fn one_after_the_other(draw: &mut Draw) -> Series {
    let (at, period) = (draw.number(10, 100), draw.number(5, 120));
    let mut seconds = quiet(draw, at + 4 * period);
    for turn in 0..4 {
        let second = &mut seconds[(at + turn * period) as usize];
        (second.cancelled, second.frames) = (1, 2);
    }
    series(at + 2 * period, seconds)
}

/// A program that does not know of NextConnection.
fn pool_gives_up(draw: &mut Draw) -> Series {
    let (at, connections) = (draw.number(10, 200), draw.number(3, 100));
    let mut seconds = quiet(draw, at + 30);
    seconds[at as usize].abandoned = connections;
    series(at, seconds)
}

/// The server is gone; a connection gives up after five seconds.
fn server_is_gone(draw: &mut Draw) -> Series {
    let (at, connections) = (draw.number(10, 200), draw.number(2, 20));
    let mut seconds: Vec<_> = (0..at + 120).map(|_| Second::default()).collect();
    for turn in (at + 5..at + 120).step_by(5) {
        seconds[turn as usize].failed = connections;
    }
    series(at, seconds)
}

#[test]
fn early_data_that_is_lost_is_raised() {
    let bad = |name, median, most, series| Bad {
        name,
        anomaly: Anomaly::Quic0RttLost,
        draws: 30,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("a pool cancels its streams", 2, 2, pool_cancels),
        bad("one after the other", 0, 0, one_after_the_other),
        bad("a pool gives up", 0, 0, pool_gives_up),
        bad("the server is gone", 15, 25, server_is_gone),
    ]);
}

/// Nothing is known of a process with UDP sockets alone until it loses something.
#[test]
fn a_loss_in_the_first_sample_counts() {
    let mut counts = Counts::default();
    counts.quic.attempts[QUIC_REJECTED] = 5;
    counts.quic.rejections[QUIC_CANCELLED] = 5;
    counts.quic.resets[QUIC_SENT] = [5, 5];
    let lost = Sample {
        processes: vec![process(counts)],
        ..Sample::default()
    };
    let series = Series::new(0, [Sample::default(), lost].into_iter());
    let raised: Vec<_> = raises(series).map(|(second, _)| second).collect();
    assert_eq!(raised, [0]);
}

/// What is said of each.
#[test]
fn each_cause_is_told_apart() {
    type Play = fn(&mut Draw) -> Series;
    let cases: [(_, Play); 3] = [
        ("cancelled_early_streams", pool_cancels),
        ("never_resumed", pool_gives_up),
        ("early_data_unanswered", server_is_gone),
    ];
    for (cause, scenario) in cases {
        for mut draw in Draw::all_of(cause, 10) {
            let found: Vec<_> = raises(scenario(&mut draw)).collect();
            let [(_, finding)] = found.as_slice() else {
                panic!("{cause}: {found:?}");
            };
            assert_eq!(finding.causes.len(), 1, "{}", finding_summary(finding));
            assert_eq!(finding.causes[0].cause.id, cause);
        }
    }
}

/// A server that is down for a while, and a client with the fault: each has its cause.
#[test]
fn a_fault_is_not_hidden_by_an_outage() {
    for mut draw in Draw::all_of("both", 10) {
        let mut seconds = vec![Second::default(); 200];
        for turn in 0..6 {
            seconds[50 + 5 * turn].failed = 30;
        }
        // Some of its connections were rejected before.
        let connections = draw.number(1, 2);
        seconds[60].cancelled = 3 * connections;
        seconds[60].frames = 6 * connections;
        let found: Vec<_> = raises(series(0, seconds)).collect();
        let [(60, finding)] = found.as_slice() else {
            panic!("{found:?}");
        };
        let causes: Vec<_> = finding.causes.iter().map(|it| it.cause.id).collect();
        assert_eq!(causes, ["cancelled_early_streams", "early_data_unanswered"]);
    }
}

/// A server whose tickets are void again and again: one finding, and one end, ten minutes after the last.
#[test]
fn losses_that_come_again_are_one_finding() {
    let mut seconds = vec![Second::default(); 4_000];
    for turn in 0..10 {
        let second = &mut seconds[100 + 200 * turn];
        (second.cancelled, second.frames) = (5, 10);
    }
    let history: Vec<_> = changes(series(0, seconds)).collect();
    // Also those after the last loss has left the window.
    for (second, it) in &history {
        if let Change::Raised(finding) | Change::Updated(finding) = it {
            let summary = finding_summary(finding);
            assert_eq!(finding.causes.len(), 1, "{second}: {summary}");
            assert!(
                summary.contains(" QUIC connections "),
                "{second}: {summary}"
            );
        }
    }
    let history: Vec<_> = history
        .iter()
        .filter(|(_, it)| !matches!(it, Change::Updated(_)))
        .map(|(second, it)| (*second, it.name()))
        .collect();
    let [(100, "raised"), (end, "cleared")] = history.as_slice() else {
        panic!("{history:?}");
    };
    assert!((2_500..2_540).contains(end), "{end}");
}

/// The program goes on.
fn resumes(draw: &mut Draw) -> Series {
    let (at, connections) = (draw.number(10, 200), draw.number(1, 2_000));
    let mut seconds = quiet(draw, at + 700);
    seconds[at as usize].resumed = connections;
    series(0, seconds)
}

/// As above, and some users give up meanwhile; streams are reset now and then.
fn resumes_mostly(draw: &mut Draw) -> Series {
    let (at, connections) = (draw.number(10, 200), draw.number(20, 2_000));
    let mut seconds = quiet(draw, at + 700);
    for second in &mut seconds {
        second.frames = draw.events(0.5);
    }
    seconds[at as usize].resumed = connections;
    seconds[at as usize].abandoned = connections / 4;
    series(0, seconds)
}

/// quic-go 0.48.0 or later: what is cancelled sends nothing. Streams were reset half a minute before.
fn cancels_without_harm(draw: &mut Draw) -> Series {
    let (at, connections) = (draw.number(60, 200), draw.number(1, 100));
    let mut seconds = quiet(draw, at + 700);
    seconds[at as usize].cancelled = connections;
    seconds[at as usize - 30].frames = 50;
    seconds[at as usize + 30].frames = 50;
    series(0, seconds)
}

/// A program that uses many streams and ends most of them early.
fn many_resets(draw: &mut Draw) -> Series {
    let mut seconds = quiet(draw, 900);
    let rate = draw.real(1.0, 200.0);
    for second in &mut seconds {
        second.frames = draw.events(rate);
    }
    series(0, seconds)
}

/// A client by hand: it is ended now and then before the server has answered.
fn few_are_given_up(draw: &mut Draw) -> Series {
    let mut seconds = quiet(draw, 900);
    seconds[100].abandoned = 1;
    seconds[draw.number(200, 600) as usize].abandoned = 1;
    seconds[300].failed = 5;
    series(0, seconds)
}

/// Each connection begins anew with another version of QUIC.
fn version_is_negotiated(draw: &mut Draw) -> Series {
    let rate = draw.real(0.1, 5.0);
    let second = |_| {
        let connections = draw.events(rate);
        Second {
            accepted: connections,
            failed: connections,
            ..Second::default()
        }
    };
    let seconds = (0..900).map(second).collect();
    series(0, seconds)
}

/// A server or its address is away for some seconds: a pool fails at once, and is there again.
fn pool_fails_once(draw: &mut Draw) -> Series {
    let at = draw.number(10, 200);
    let mut seconds = quiet(draw, at + 300);
    let connections = draw.number(10, 200);
    seconds[at as usize].failed = connections;
    seconds[at as usize + 1].accepted = connections / 10;
    series(0, seconds)
}

#[test]
fn rejections_that_cost_nothing_are_silent() {
    are_silent(&[
        ("all go on", 20, resumes),
        ("most go on", 20, resumes_mostly),
        ("cancelled, and nothing is reset", 20, cancels_without_harm),
        ("many resets", 20, many_resets),
        ("few are given up", 10, few_are_given_up),
        ("another version", 10, version_is_negotiated),
        ("a pool fails once", 20, pool_fails_once),
    ]);
}
