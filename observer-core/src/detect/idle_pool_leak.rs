//! Connections that carry nothing become more.

use std::time::Duration;

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, Settled, all, share},
    finding::{Evidence, Severity},
    sample::Process,
    settings::Thresholds,
    windows::Floor,
};
use crate::walk::NOBODY;

/// Seconds of a bucket of each scale.
const SCALES: [u64; 2] = [30, 300];
/// Indices in [`QUIET_SECONDS`]: of the connections that grow, and of two buckets of each scale.
///
/// [`QUIET_SECONDS`]: crate::walk::QUIET_SECONDS
const IDLE: usize = 0;
const UNUSED: [usize; SCALES.len()] = [1, 2];

/// State of the detector.
#[derive(Debug)]
pub struct IdlePoolLeak {
    floors: [Floor; SCALES.len()],
    slope: f64,
    /// The highest number since it was raised, and when it was reached.
    highest: u32,
    grew_at: Duration,
}

impl Detector for IdlePoolLeak {
    const ANOMALY: Anomaly = Anomaly::IdlePoolLeak;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        Self {
            floors: SCALES.map(Floor::new),
            slope: 0.0,
            highest: 0,
            grew_at: Duration::ZERO,
        }
    }

    fn settled(&self) -> Settled {
        Settled::UntilWalk
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        let waits = &sample.waits;
        let idle = waits.idle();
        let mut score: f64 = 0.0;
        self.slope = 0.0;
        let all_of = |quiet: usize| waits.quiet[NOBODY][quiet];
        let opened = |quiet: usize| all_of(quiet).saturating_sub(waits.idle_of_servers[quiet]);
        // Clients that move to another server do so for minutes: only the longer scale judges them.
        let levels = [[IDLE, UNUSED[0]].map(opened), [IDLE, UNUSED[1]].map(all_of)];
        for (floor, [level, unused]) in self.floors.iter_mut().zip(levels) {
            floor.add(sample.walked_at.unwrap_or(at.now), level.into());
            if let Some(rise) = floor.rise() {
                let height = thresholds.idle_pool_rise_share * rise.last();
                score = score.max(all(&[
                    rise.last() / thresholds.idle_pool_least,
                    rise.steady_height() / height,
                    rise.continues() / thresholds.idle_pool_step_share,
                    share(unused.into(), level.into()) / thresholds.idle_pool_unused_share,
                ]));
                self.slope = self.slope.max(rise.slope());
            }
        }
        if !at.raised || idle > self.highest {
            self.highest = idle;
            self.grew_at = at.now;
        }
        let since = at.now.saturating_sub(self.grew_at).as_secs_f64();
        let fewer = thresholds.idle_pool_clear_share * f64::from(self.highest);
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: !at.raised
                || f64::from(idle) < fewer
                || since > thresholds.idle_pool_rest_seconds,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &Process) -> (Evidence, Vec<Explanation>) {
        let waits = &sample.waits;
        let evidence = Evidence::Idle {
            idle: waits.idle(),
            idle_10min: waits.quiet[NOBODY][2],
            connections: waits.connections,
            growth_per_second: self.slope,
        };
        let served = waits.idle_of_servers[IDLE];
        let causes = [
            (
                &cause::UNUSED_CONNECTIONS,
                waits.idle().saturating_sub(served).into(),
            ),
            (&cause::CLIENTS_STAY, served.into()),
        ];
        (evidence, cause::explain(&causes))
    }
}
