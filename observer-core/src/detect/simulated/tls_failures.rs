//! TLS handshakes that fail, and clients that end some of theirs.

use observer_common::{TLS_CLIENT, TLS_FAILED, TLS_OK};

use super::{
    draw::Draw,
    play::{Bad, Series, are_raised, are_silent, changes, name},
};
use crate::detect::{Anomaly, Change, ConnectResult, Counts, Name, Sample, Severity};

/// Each second, handshakes that succeed and that fail.
type Second = (u64, u64);

fn totals(seconds: Vec<Second>) -> impl Iterator<Item = Counts> {
    let mut counts = Counts::default();
    seconds.into_iter().map(move |(ok, failed)| {
        let client = &mut counts.handshakes[TLS_CLIENT as usize];
        client[TLS_OK] += ok;
        client[TLS_FAILED] += failed;
        counts.connects[ConnectResult::Ok as usize] += ok + failed;
        counts.ended += ok + failed;
        counts
    })
}

fn process(onset: u64, seconds: Vec<Second>) -> Series {
    Series::of_process(onset, totals(seconds))
}

/// Of processes that each live too short to be seen.
fn names(onset: u64, seconds: Vec<Second>) -> Series {
    let totals = std::iter::once(Counts::default()).chain(totals(seconds));
    let sample = |counts| Sample {
        names: vec![name(counts)],
        ..Sample::default()
    };
    Series::new(onset, totals.map(sample))
}

/// From a moment on no handshake succeeds.
fn expires(draw: &mut Draw) -> (u64, Vec<Second>) {
    let (at, rate) = (draw.number(0, 200), draw.real(2.0, 500.0));
    let seconds = (0..at + 120).map(|second| match second < at {
        true => (draw.events(rate), 0),
        false => (0, draw.events(rate)),
    });
    (at, seconds.collect())
}

fn certificate_expires(draw: &mut Draw) -> Series {
    let (at, seconds) = expires(draw);
    process(at, seconds)
}

fn certificate_expires_for_cron(draw: &mut Draw) -> Series {
    let (at, seconds) = expires(draw);
    names(at, seconds)
}

/// Connections to other servers are kept, and only now and then one is made anew.
fn others_are_kept(draw: &mut Draw) -> Series {
    let (at, rate) = (draw.number(30, 120), draw.real(5.0, 50.0));
    let seconds = (0..at + 120).map(|second| match second < at {
        true => (draw.events(0.1 * rate), 0),
        false => (draw.events(0.1 * rate), draw.events(rate)),
    });
    let seconds = seconds.collect();
    process(at, seconds)
}

fn slow_retries(draw: &mut Draw) -> Series {
    let period = draw.number(3, 11);
    let seconds = (0..240_u64).map(|second| (0, u64::from(second.is_multiple_of(period))));
    process(0, seconds.collect())
}

#[test]
fn handshakes_that_fail_are_raised() {
    let bad = |name, median, most, series| Bad {
        name,
        anomaly: Anomaly::TlsFailures,
        draws: 40,
        median,
        most,
        in_time: 0.0,
        series,
    };
    are_raised(&[
        bad("certificate expires", 8, 10, certificate_expires),
        bad(
            "the same for curl in a loop",
            9,
            11,
            certificate_expires_for_cron,
        ),
        bad("other connections are kept", 9, 20, others_are_kept),
        bad("server hangs", 9, 11, server_hangs),
        bad("a try every 3-10 s", 63, 90, slow_retries),
    ]);
}

/// The worst severity of findings about these seconds, of a name with so many running processes.
fn severity(running: u32, seconds: Vec<Second>) -> Option<Severity> {
    let sample = move |counts| Sample {
        names: vec![Name {
            running,
            ..name(counts)
        }],
        ..Sample::default()
    };
    let series = Series::new(0, totals(seconds).map(sample));
    changes(series).map(|(_, it)| it.finding().severity).max()
}

/// A client in the background that tries again every ten seconds is no emergency, and workers that all do so are.
#[test]
fn rare_failures_of_one_client_are_no_emergency() {
    let every = |seconds: u64| {
        let second = move |it: u64| (0, u64::from(it.is_multiple_of(seconds)));
        (0..300).map(second).collect::<Vec<_>>()
    };
    for running in [0, 1, 5] {
        assert_eq!(severity(running, every(10)), Some(Severity::Warning));
        assert_eq!(severity(running, every(1)), Some(Severity::Critical));
    }
    assert_eq!(severity(6, every(10)), Some(Severity::Critical));
}

/// The server hangs, and the client gives each handshake up in less than a second.
fn server_hangs(draw: &mut Draw) -> Series {
    let (at, seconds) = expires(draw);
    let all = totals(seconds).map(|counts| Counts {
        nothing_read: counts.handshakes[TLS_CLIENT as usize][TLS_FAILED],
        ..counts
    });
    Series::of_process(at, all)
}

#[test]
fn a_server_that_does_not_answer_is_no_matter_of_certificates() {
    for mut draw in Draw::all_of("server hangs", 10) {
        let history = changes(server_hangs(&mut draw));
        let causes = history.flat_map(|(_, it)| it.finding().causes.clone());
        let causes: Vec<_> = causes.map(|it| it.cause.id).collect();
        assert!(!causes.is_empty());
        assert!(
            causes.iter().all(|it| *it == "handshakes_given_up"),
            "{causes:?}"
        );
    }
}

/// Two addresses at once: the slower one is given up before it is done, each time.
fn happy_eyeballs(draw: &mut Draw) -> Series {
    let rate = draw.real(0.5, 200.0);
    let seconds = (0..600).map(|_| {
        let connects = draw.events(rate);
        (connects, connects)
    });
    let seconds = seconds.collect();
    process(0, seconds)
}

/// Of many at once, the first is used. The others have sent a ClientHello, and nothing of the answers has been read; a few
/// had gone further.
fn many_at_once(draw: &mut Draw) -> Series {
    let (rate, others) = (draw.real(0.5, 30.0), draw.number(4, 12));
    let mut nothing_read = 0;
    let mut seconds = Vec::new();
    for _ in 0..600 {
        let connects = draw.events(rate);
        let further = draw.events(0.1 * rate);
        nothing_read += others * connects;
        seconds.push(((connects, others * connects + further), nothing_read));
    }
    let (seconds, nothing_read): (Vec<_>, Vec<_>) = seconds.into_iter().unzip();
    let all = totals(seconds).zip(nothing_read);
    Series::of_process(
        0,
        all.map(|(counts, nothing_read)| Counts {
            nothing_read,
            ..counts
        }),
    )
}

/// Up to a third of what a browser opens in advance is not needed.
fn preconnects(draw: &mut Draw) -> Series {
    let (rate, share) = (draw.real(0.5, 50.0), draw.real(0.0, 0.33));
    let seconds = (0..600).map(|_| {
        let cancelled = draw.events(rate * share);
        (draw.events(rate * (1.0 - share)), cancelled)
    });
    let seconds = seconds.collect();
    process(0, seconds)
}

/// Ends now and then, in the middle of all its handshakes, which are too many at once.
fn ends_at_once(draw: &mut Draw) -> Series {
    let number = draw.number(10, 500);
    let seconds = (0..600).map(|second| match second % 100 {
        50 => (0, number),
        _ => (0, 0),
    });
    names(0, seconds.collect())
}

/// The server is restarted, and its port belongs to a proxy that goes on.
fn backend_restarts(draw: &mut Draw) -> Series {
    let (start, length) = (draw.number(100, 300), draw.number(1, 5));
    let rate = draw.real(5.0, 300.0);
    let seconds = (0..600).map(|second| match (start..start + length).contains(&second) {
        true => (0, draw.events(rate)),
        false => (draw.events(rate), 0),
    });
    let seconds = seconds.collect();
    process(0, seconds)
}

/// One of many targets has no certificate that is trusted.
fn monitor(_: &mut Draw) -> Series {
    let check = |second: u64| match second.is_multiple_of(15) {
        true => (19, 1),
        false => (0, 0),
    };
    process(0, (0..1_800).map(check).collect())
}

#[test]
fn clients_that_end_some_handshakes_are_silent() {
    are_silent(&[
        ("two addresses at once", 20, happy_eyeballs),
        ("many addresses at once", 20, many_at_once),
        ("connections in advance", 20, preconnects),
        ("client that ends", 20, ends_at_once),
        ("server away for 1-4 s", 30, backend_restarts),
        ("monitor with an expired target", 1, monitor),
    ]);
}

/// It clears once handshakes succeed, also of a client that ends half of them.
#[test]
fn a_finding_clears_when_handshakes_succeed() {
    for failed in [0, 5] {
        let seconds = (0..150).map(|second| match second {
            30..60 => (0, 10),
            _ => (5, failed),
        });
        let history = changes(process(30, seconds.collect()));
        let history = history.filter(|(_, it)| !matches!(it, Change::Updated(_)));
        let history: Vec<_> = history.map(|(second, it)| (second, it.name())).collect();
        let [(raised, "raised"), (cleared, "cleared")] = history[..] else {
            panic!("{history:?}");
        };
        assert!((35..40).contains(&raised), "{history:?}");
        assert!((90..105).contains(&cleared), "{history:?}");
    }
}

/// The next failure after a finding has cleared is not raised with those from before.
#[test]
fn a_finding_that_is_over_is_not_raised_again() {
    let seconds = (0..300).map(|second| match second {
        30..70 => (0, 10),
        115 => (0, 1),
        _ => (0, 0),
    });
    let history = changes(process(30, seconds.collect()));
    let raised = history.filter(|(_, it)| matches!(it, Change::Raised(_)));
    assert_eq!(raised.count(), 1);
}
