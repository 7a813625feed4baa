//! Processes to which nothing happens are not assessed, and that changes no finding.

use super::{
    draw::Draw,
    play::{clock, name, process},
};
use crate::detect::{
    Cause, ConnectResult, Counts, Engine, Process, ReceivedReset, Sample, SentReset, Thresholds,
};

/// Totals at each second of a program that does one thing after the other, with pauses.
fn totals(random: &mut Draw) -> Vec<Counts> {
    let mut counts = Counts::default();
    let mut totals = vec![counts];
    while totals.len() < 2_500 {
        let what = random.number(0, 7);
        let rate = random.choice(&[1, 5, 60, 400]);
        for _ in 0..random.number(1, 90) {
            let number = random.events(rate as f64);
            match what {
                0 => counts.resets_sent[SentReset::LingerZero as usize] += number,
                1 => counts.resets_received[ReceivedReset::Established as usize] += number,
                2 => counts.connects[ConnectResult::Refused as usize] += number,
                3 => counts.connects[ConnectResult::Canceled as usize] += number,
                4 => counts.unanswered += number,
                5 => counts.exhausted[0] += number,
                _ => counts.connects[ConnectResult::Ok as usize] += number,
            }
            counts.ended += u64::from([0, 1, 4].contains(&what)) * number;
            totals.push(counts);
        }
        let pause = random.choice(&[1, 3, 9, 15, 70, 150, 700]);
        totals.extend((0..pause).map(|_| counts));
    }
    totals
}

/// A change of a finding: when, what, whose, its cause, its score.
type Changed = (u64, &'static str, String, Option<&'static Cause>, f64);

/// What changed, and in how many samples there were detectors that did not see them.
fn changes(totals: &[Counts], skips: bool) -> (Vec<Changed>, usize) {
    let mut engine = Engine::new(Thresholds::default());
    let (mut changes, mut skipped) = (Vec::new(), 0);
    for (second, &counts) in (0..).zip(totals) {
        let first = process(counts);
        let mut key = first.key;
        key.tgid += 1;
        // It begins with what its name has learned, and does the same from then on.
        let late = totals[totals.len() / 2];
        let mut second_counts = counts;
        for (now, before) in [
            (&mut second_counts.resets_sent[..], &late.resets_sent[..]),
            (&mut second_counts.connects[..], &late.connects[..]),
        ] {
            for (now, before) in now.iter_mut().zip(before) {
                *now = now.saturating_sub(*before);
            }
        }
        let late = (second as usize > totals.len() / 2).then(|| Process {
            key,
            counts: second_counts,
            ..first.clone()
        });
        let sample = Sample {
            now: clock(second),
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
    let mut found = 0;
    for mut random in Draw::all_of("idle", 40) {
        let totals = totals(&mut random);
        let (expected, none) = changes(&totals, false);
        let (actual, skipped) = changes(&totals, true);
        assert_eq!(none, 0);
        assert!(skipped > totals.len() / 20, "{skipped} of {}", totals.len());
        for (actual, expected) in actual.iter().zip(&expected) {
            let of = |it: &Changed| (it.0, it.1, it.2.clone(), it.3);
            assert_eq!(of(actual), of(expected));
            // Of the same baseline, that was moved in one step or in many.
            let difference = (actual.4 - expected.4).abs();
            assert!(difference <= 1e-6 * expected.4, "{actual:?} {expected:?}");
        }
        assert_eq!(actual.len(), expected.len());
        found += expected.len();
    }
    assert!(found > 100, "{found}");
    println!("{found} changes");
}
