//! [`Sink`] receives samples and separates them from their representation.

use observer_common::{BUCKETS, Histogram};
use prometheus::proto;

use super::{
    family::{Family, METRICS},
    metric::Type,
};
use crate::table::Labels;

/// Extra labels of a sample: names and values.
pub type Extra<'a> = &'a [(&'static str, &'a str)];

/// A sample's value. Counters stay integers up to the point where they are written.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// A whole number.
    Integer(u64),
    /// Any other.
    Float(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl Number {
    fn as_f64(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// Takes samples, in any order of families.
pub trait Sink {
    /// One sample of a counter or gauge. `process` comes before `extra`.
    fn sample(&mut self, family: Family, process: Option<&Labels>, extra: Extra<'_>, value: Number);
    /// One histogram; `bounds` are in nanoseconds. `process` comes before `extra`.
    fn histogram(
        &mut self,
        family: Family,
        process: &Labels,
        extra: Extra<'_>,
        bounds: &'static [u64; BUCKETS - 1],
        histogram: &Histogram,
    );
}

/// Collects into the client library's own representation.
pub struct ProtoSink {
    metrics: Vec<Vec<proto::Metric>>,
}

impl Default for ProtoSink {
    fn default() -> Self {
        Self {
            metrics: METRICS.iter().map(|_| Vec::new()).collect(),
        }
    }
}

impl ProtoSink {
    /// The families that have samples.
    #[must_use]
    pub fn finish(self) -> Vec<proto::MetricFamily> {
        self.metrics
            .into_iter()
            .zip(METRICS)
            .filter(|(metrics, _)| !metrics.is_empty())
            .map(|(metrics, metric)| {
                let mut family = proto::MetricFamily::default();
                family.set_name(metric.name.to_owned());
                family.set_help(metric.help.to_owned());
                family.set_field_type(match metric.kind {
                    Type::Counter => proto::MetricType::COUNTER,
                    Type::Gauge => proto::MetricType::GAUGE,
                    Type::Histogram | Type::GaugeHistogram => proto::MetricType::HISTOGRAM,
                });
                family.set_metric(metrics);
                family
            })
            .collect()
    }
}

fn labels(process: Option<&Labels>, extra: Extra<'_>) -> Vec<proto::LabelPair> {
    process
        .into_iter()
        .flat_map(Labels::pairs)
        .chain(extra.iter().copied())
        .map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        })
        .collect()
}

impl Sink for ProtoSink {
    fn sample(
        &mut self,
        family: Family,
        process: Option<&Labels>,
        extra: Extra<'_>,
        value: Number,
    ) {
        let mut metric = proto::Metric::from_label(labels(process, extra));
        if family.metric().kind == Type::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value.as_f64());
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value.as_f64());
            metric.set_gauge(gauge);
        }
        self.metrics[family.index()].push(metric);
    }

    fn histogram(
        &mut self,
        family: Family,
        process: &Labels,
        extra: Extra<'_>,
        bounds: &'static [u64; BUCKETS - 1],
        histogram: &Histogram,
    ) {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BUCKETS - 1);
        for (bound, observations) in bounds.iter().zip(&histogram.buckets) {
            count += observations;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(seconds(*bound));
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut value = proto::Histogram::default();
        value.set_sample_count(count + histogram.buckets[BUCKETS - 1]);
        value.set_sample_sum(seconds(histogram.sum_ns));
        value.set_bucket(buckets);
        let mut metric = proto::Metric::from_label(labels(Some(process), extra));
        metric.set_histogram(value);
        self.metrics[family.index()].push(metric);
    }
}

/// Nanoseconds as seconds.
#[must_use]
pub fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
