//! One source tries many closed ports.

use std::time::Duration;

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector},
    finding::{Evidence, Severity},
    sample::Source,
    settings::Thresholds,
};

/// Seconds without a segment after which a scan counts as ended. A slow scan continues as long as segments arrive.
const SILENT: Duration = Duration::from_secs(2);
/// A scan also counts as ended below this fraction of the ports of a scan: the source is then a
/// stray client. The bitmap is reset each minute, so a scan is below this value for a moment then,
/// too.
const FEW: f64 = 0.5;

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
        let silent = at.now.saturating_sub(source.last_at);
        let over = silent.as_secs_f64() >= at.thresholds.scan_hold_seconds;
        Assessment {
            raise: (score >= 1.0 && !over).then_some(Severity::Warning),
            calm: silent >= SILENT || score < FEW,
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
