//! Sockets that the peer has closed are not closed, and become more.

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, Settled, all, share},
    finding::{Evidence, Severity},
    sample::Process,
    settings::Thresholds,
    windows::Floor,
};

/// Seconds of a bucket of each scale.
const SCALES: [u64; 2] = [30, 300];

/// State of the detector.
#[derive(Debug)]
pub struct CloseWaitLeak {
    floors: [Floor; SCALES.len()],
}

impl Detector for CloseWaitLeak {
    const ANOMALY: Anomaly = Anomaly::CloseWaitLeak;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        Self {
            floors: SCALES.map(Floor::new),
        }
    }

    fn settled(&self) -> Settled {
        Settled::UntilWalk
    }

    fn wants_walk(&self, _: &Process, _: &Thresholds) -> Option<bool> {
        Some(false)
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        let mut score: f64 = 0.0;
        for floor in &mut self.floors {
            floor.add(
                sample.walked_at.unwrap_or(at.now),
                sample.close_wait_over_60s.into(),
            );
            if let Some(rise) = floor.rise() {
                score = score.max(all(&[
                    rise.last() / thresholds.close_wait_least,
                    rise.steady_height() / (thresholds.close_wait_rise_share * rise.last()),
                ]));
            }
        }
        let few = f64::from(sample.close_wait_over_10s);
        let limit = sample
            .descriptors
            .map_or(f64::INFINITY, |it| it.limit as f64);
        score = score.max(all(&[
            few / thresholds.close_wait_few,
            share(few, limit) / thresholds.close_wait_fd_share,
        ]));
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: few < thresholds.close_wait_few
                && f64::from(sample.close_wait_over_60s) < thresholds.close_wait_clear,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &Process) -> (Evidence, Vec<Explanation>) {
        let evidence = Evidence::CloseWait {
            over_10s: sample.close_wait_over_10s,
            over_60s: sample.close_wait_over_60s,
            peers: sample.culprits.close_wait.clone(),
        };
        let (all, served) = (sample.close_wait_over_10s, sample.close_wait_of_servers);
        let (proxied, unanswered) = (
            sample.owned_fin_wait2.min(all),
            sample.close_wait_unanswered,
        );
        let is_most = |part: u32| 5 * part >= 3 * all && all > 0;
        // A proxy has a socket in FIN_WAIT2 for each in CLOSE_WAIT, on either side.
        let causes = match is_most(proxied) {
            true => vec![(&cause::PROXY_HALF_CLOSED, 1)],
            false if is_most(unanswered) => vec![(&cause::CLIENTS_UNANSWERED, 1)],
            false => vec![
                (&cause::SERVER_KEEPS_CLOSED, served.into()),
                (
                    &cause::CLIENT_KEEPS_CLOSED,
                    all.saturating_sub(served).into(),
                ),
            ],
        };
        (evidence, cause::explain(&causes))
    }
}
