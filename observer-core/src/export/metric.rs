//! The description of a metric, for the exposition and the documents.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only increases, except at a restart.
    Counter,
    /// Can increase and decrease.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
    /// A histogram of current values, whose buckets can decrease. The text format has no type for it.
    GaugeHistogram,
}

impl Type {
    /// As the text format spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram | Self::GaugeHistogram => "histogram",
        }
    }
}

/// The subject of a metric's series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All processes of a name, running and ended.
    Name,
    /// One running process.
    Process,
    /// The host, or one of its network namespaces.
    Host,
    /// What is wrong.
    Finding,
    /// The observer.
    Observer,
}

impl Scope {
    /// Labels that all metrics of the scope have, before their own.
    #[must_use]
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Name => &["comm", "unit"],
            Self::Process => &["pid", "comm", "unit"],
            Self::Host | Self::Finding | Self::Observer => &[],
        }
    }
}

/// A metric: all series of one name.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// The subject of its series.
    pub scope: Scope,
    /// The unit of its values.
    pub unit: &'static str,
    /// Labels besides those of the scope. A histogram has `le`, too.
    pub labels: &'static [&'static str],
    /// The hooks or files it comes from, for docs/metrics.md; empty for the observer's own.
    pub hooks: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// An example in PromQL.
    pub query: &'static str,
}
