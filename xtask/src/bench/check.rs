//! Compares the cost of an event with the committed baseline.
//!
//! Nanoseconds differ between machines, so the observer's time is compared relative to that of an
//! empty program on the same hooks in the same run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{proc::Runs, statistics::Spread};

/// An event may become more expensive by this factor.
const TOLERANCE: f64 = 0.15;
/// A hook with fewer runs is ignored: its time is noise.
const FEWEST_RUNS: u64 = 1000;
/// Name of the sum over all hooks.
const ALL: &str = "all hooks";

/// Cost relative to no-op programs, by hook and of all together.
pub type Costs = BTreeMap<String, Spread>;

/// The committed baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    pub machine: BTreeMap<String, String>,
    pub event_cost: Costs,
}

/// A cost that increased.
#[derive(Clone, Debug, PartialEq)]
pub struct Regression {
    pub hook: String,
    pub baseline: f64,
    pub now: f64,
}

/// Costs from the runs of observer and no-op programs, by repetition. Each is a map by hook.
pub fn costs(observer: &[BTreeMap<String, Runs>], noop: &[BTreeMap<String, Runs>]) -> Costs {
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (observer, noop) in observer.iter().zip(noop) {
        let (mut ours, mut empty) = (Runs::default(), Runs::default());
        for (hook, runs) in observer {
            let Some(base) = noop.get(hook) else {
                continue;
            };
            ours.add(*runs);
            empty.add(*base);
            if runs.runs.min(base.runs) >= FEWEST_RUNS {
                let ratios = ratios.entry(hook.as_str()).or_default();
                ratios.push(runs.each() / base.each());
            }
        }
        if ours.runs.min(empty.runs) >= FEWEST_RUNS {
            // Per run, because both may have counted events of other processes, too.
            let ratio = ours.each() / empty.each();
            ratios.entry(ALL).or_default().push(ratio);
        }
    }
    ratios
        .into_iter()
        .filter_map(|(hook, ratios)| Some((hook.to_owned(), Spread::of(ratios)?)))
        .collect()
}

/// The cost of all hooks together.
pub fn overall(costs: &Costs) -> Option<Spread> {
    costs.get(ALL).copied()
}

/// Costs that exceed `baseline`. Hooks that are in only one of them are not compared, because hooks differ between kernels.
pub fn compare(baseline: &Costs, now: &Costs) -> Vec<Regression> {
    now.iter()
        .filter_map(|(hook, now)| {
            let baseline = baseline.get(hook)?.median;
            (now.median > baseline * (1.0 + TOLERANCE)).then(|| Regression {
                hook: hook.clone(),
                baseline,
                now: now.median,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(each: u64) -> Runs {
        Runs {
            runs: 5000,
            nanoseconds: 5000 * each,
        }
    }

    fn measured(state: u64, connect: u64) -> BTreeMap<String, Runs> {
        BTreeMap::from([
            ("state".to_owned(), runs(state)),
            ("connect".to_owned(), runs(connect)),
        ])
    }

    fn medians(costs: &Costs) -> Vec<(&str, f64)> {
        costs
            .iter()
            .map(|(hook, spread)| (hook.as_str(), spread.median))
            .collect()
    }

    #[test]
    fn cost_is_relative_to_noop() {
        // The second repetition ran on a machine half as fast, and the third was disturbed.
        let observer = [measured(200, 100), measured(400, 200), measured(900, 100)];
        let noop = [measured(50, 50), measured(100, 100), measured(50, 50)];
        assert_eq!(
            medians(&costs(&observer, &noop)),
            [("all hooks", 3.0), ("connect", 2.0), ("state", 4.0)]
        );
    }

    #[test]
    fn rare_and_unknown_hooks_are_left_out() {
        let mut observer = measured(200, 100);
        observer.insert("only here".to_owned(), runs(9000));
        let rare = Runs {
            runs: 10,
            nanoseconds: 90_000,
        };
        observer.insert("connect".to_owned(), rare);
        let costs = costs(&[observer], &[measured(50, 50)]);
        let names: Vec<&str> = costs.keys().map(String::as_str).collect();
        assert_eq!(names, ["all hooks", "state"]);
    }

    #[test]
    fn fifteen_percent_are_allowed_and_no_more() {
        let at = |state: u64| costs(&[measured(state, 100)], &[measured(100, 100)]);
        let baseline = at(200);
        assert_eq!(compare(&baseline, &at(229)), []);
        assert_eq!(compare(&baseline, &at(100)), []);
        let regressions = compare(&baseline, &at(232));
        assert_eq!(regressions.len(), 1);
        assert_eq!(
            regressions[0],
            Regression {
                hook: "state".to_owned(),
                baseline: 2.0,
                now: 2.32
            }
        );
        // One expensive hook is not hidden by the others, and an expensive sum is found, too.
        assert_eq!(compare(&baseline, &at(400)).len(), 2);
    }

    #[test]
    fn a_hook_of_another_kernel_is_not_compared() {
        let baseline = costs(&[measured(100, 100)], &[measured(100, 100)]);
        let now = Costs::from([(
            "fexit".to_owned(),
            Spread {
                median: 99.0,
                low: 99.0,
                high: 99.0,
            },
        )]);
        assert_eq!(compare(&baseline, &now), []);
    }
}
