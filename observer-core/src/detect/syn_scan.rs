//! One source tries many closed ports.

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector},
    finding::{Evidence, Severity},
    sample::Source,
    settings::Thresholds,
};

/// The detector, which has no state: the kernel side keeps the window.
#[derive(Debug)]
pub struct SynScan;

/// Distinct closed ports that it tried.
pub fn ports(source: &Source) -> u32 {
    source.ports.iter().map(|word| word.count_ones()).sum()
}

impl Detector for SynScan {
    const ANOMALY: Anomaly = Anomaly::SynScan;
    type Sample = Source;

    fn new(_: &Thresholds) -> Self {
        Self
    }

    fn hold(thresholds: &Thresholds) -> f64 {
        thresholds.scan_hold_seconds
    }

    fn assess(&mut self, source: &Source, at: &At<'_>) -> Assessment {
        let score = f64::from(ports(source)) / at.thresholds.scan_ports;
        let silent = at.now.saturating_sub(source.last_at).as_secs_f64();
        let over = silent >= at.thresholds.scan_hold_seconds;
        Assessment {
            raise: (score >= 1.0 && !over).then_some(Severity::Warning),
            calm: silent >= at.thresholds.scan_silent_seconds
                || score < at.thresholds.scan_clear_share,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, source: &Source) -> (Evidence, Vec<Explanation>) {
        let evidence = Evidence::Scan {
            ports: ports(source),
            segments: source.segments,
        };
        (evidence, cause::explain(&[(&cause::SCAN, 1)]))
    }
}
