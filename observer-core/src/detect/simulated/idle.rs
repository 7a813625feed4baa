//! Processes to which nothing happens are not assessed, and that changes no finding.

use std::collections::BTreeSet;

use super::{
    draw::Draw,
    play::{clock, name, process},
};
use crate::detect::{
    Cause, ConnectResult, Counts, Descriptors, Engine, Process, ReceivedReset, Sample, SentReset,
    Thresholds,
};
use crate::walk::{NOBODY, QUIET_SECONDS, Waits};

/// A program at a time.
#[derive(Clone, Copy, Default)]
struct Moment {
    counts: Counts,
    /// Sockets in CLOSE_WAIT, connections that carry nothing, and descriptors.
    levels: [u64; 3],
}

/// A program at each second, which does one thing after the other, with pauses.
fn moments(random: &mut Draw) -> Vec<Moment> {
    let mut now = Moment::default();
    let mut all = vec![now];
    while all.len() < 4_000 {
        let what = random.number(0, 10) as usize;
        let rate = random.choice(&[1, 5, 60, 400]);
        for _ in 0..random.number(1, 90) {
            let number = random.events(rate as f64);
            let counts = &mut now.counts;
            match what {
                0 => counts.resets_sent[SentReset::LingerZero as usize] += number,
                1 => counts.resets_received[ReceivedReset::Established as usize] += number,
                2 => counts.connects[ConnectResult::Refused as usize] += number,
                3 => counts.connects[ConnectResult::Canceled as usize] += number,
                4 => counts.unanswered += number,
                5 => counts.exhausted[0] += number,
                6 => {}
                7..10 => now.levels[what - 7] = number,
                _ => counts.connects[ConnectResult::Ok as usize] += number,
            }
            counts.ended += u64::from([0, 1, 4].contains(&what)) * number;
            all.push(now);
        }
        if what == 6 {
            // Sometimes a leak that goes on for minutes.
            let level = random.number(0, 3) as usize;
            for _ in 0..random.choice(&[100, 300, 900]) {
                now.levels[level] += random.number(0, 3);
                all.push(now);
            }
        }
        let pause = random.choice(&[1, 3, 9, 15, 70, 150, 700]);
        all.extend((0..pause).map(|_| now));
    }
    all
}

/// The process as detectors see it: there was a walk each `walks` seconds, and its descriptors were counted each `fds`.
fn seen(moments: &[Moment], second: usize, [walks, fds]: [usize; 2]) -> Process {
    let (walked, measured) = (second / walks * walks, second / fds * fds);
    let [close_wait, idle, _] = moments[walked].levels.map(|it| it as u32);
    let mut waits = Waits {
        connections: close_wait + idle,
        ..Waits::default()
    };
    waits.quiet[NOBODY] = [idle; QUIET_SECONDS.len()];
    Process {
        walked_at: Some(clock(walked as i64)),
        close_wait_over_10s: close_wait,
        close_wait_over_60s: close_wait,
        waits,
        descriptors: Some(Descriptors {
            open: 10 + moments[measured].levels[2],
            limit: 1_024,
            measured_at: clock(measured as i64),
        }),
        ..process(moments[second].counts)
    }
}

/// A change of a finding: when, what, whose, its cause, its score.
type Changed = (u64, &'static str, String, Option<&'static Cause>, f64);

/// What changed, and in how many samples there were detectors that did not see them.
fn changes(moments: &[Moment], every: [usize; 2], skips: bool) -> (Vec<Changed>, usize) {
    let mut engine = Engine::new(Thresholds::default());
    let (mut changes, mut skipped) = (Vec::new(), 0);
    for (second, moment) in moments.iter().enumerate() {
        let counts = moment.counts;
        let first = seen(moments, second, every);
        let mut key = first.key;
        key.tgid += 1;
        // It begins with what its name has learned, and does the same from then on.
        let late = moments[moments.len() / 2].counts;
        let mut second_counts = counts;
        for (now, before) in [
            (&mut second_counts.resets_sent[..], &late.resets_sent[..]),
            (&mut second_counts.connects[..], &late.connects[..]),
        ] {
            for (now, before) in now.iter_mut().zip(before) {
                *now = now.saturating_sub(*before);
            }
        }
        // With a gap, as of a process that the walk over /proc missed.
        let is_there = second > moments.len() / 2 && second % 500 > 20;
        let late = is_there.then(|| Process {
            key,
            counts: second_counts,
            ..first.clone()
        });
        let sample = Sample {
            now: clock(second as i64),
            processes: [first].into_iter().chain(late).collect(),
            names: vec![name(counts)],
            ..Sample::default()
        };
        if !skips {
            // After that, everything is assessed.
            engine.set_thresholds(Thresholds::default());
        }
        for change in engine.step(&sample) {
            let finding = change.finding();
            let whose = format!("{:?} {:?}", finding.anomaly, finding.subject);
            let cause = finding.causes.first().map(|it| it.cause);
            changes.push((second as u64, change.name(), whose, cause, finding.score));
        }
        skipped += usize::from(engine.has_idle());
    }
    (changes, skipped)
}

#[test]
fn what_is_idle_is_skipped_without_a_difference() {
    let (mut found, mut anomalies) = (0, BTreeSet::new());
    for mut random in Draw::all_of("idle", 8) {
        let moments = moments(&mut random);
        let every = [&[1, 3, 12], &[1, 5, 10]].map(|all| random.choice(all) as usize);
        let (expected, none) = changes(&moments, every, false);
        let (actual, skipped) = changes(&moments, every, true);
        assert_eq!(none, 0);
        assert!(
            skipped > moments.len() / 20,
            "{skipped} of {}",
            moments.len()
        );
        for (actual, expected) in actual.iter().zip(&expected) {
            let of = |it: &Changed| (it.0, it.1, it.2.clone(), it.3);
            assert_eq!(of(actual), of(expected));
            // Of the same baseline, that was moved in one step or in many.
            let difference = (actual.4 - expected.4).abs();
            assert!(difference <= 1e-6 * expected.4, "{actual:?} {expected:?}");
        }
        assert_eq!(actual.len(), expected.len());
        found += expected.len();
        anomalies.extend(expected.iter().map(|it| it.2.clone()));
    }
    assert!(found > 100, "{found}");
    // Each detector that skips by a walk was raised, too.
    for anomaly in ["CloseWaitLeak", "IdlePoolLeak", "FdLeak"] {
        assert!(
            anomalies.iter().any(|it| it.starts_with(anomaly)),
            "{anomaly} of {anomalies:?}"
        );
    }
    println!("{found} changes");
}
