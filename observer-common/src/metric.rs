//! How counters of a slot are shown as metrics. Each signal describes its counters next to them.

use crate::BUCKETS;

/// Counters that are shown as one metric, `socket_..._total`.
#[derive(Clone, Copy, Debug)]
pub struct CounterMetric {
    /// The metric of a name: all its processes, running and gone.
    pub name: &'static str,
    /// What is counted, in the plural.
    pub unit: &'static str,
    /// Names of the labels, besides those of the series.
    pub labels: &'static [&'static str],
    /// Kernel functions and tracepoints, for docs/metrics.md.
    pub hooks: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// An example in PromQL.
    pub query: &'static str,
    /// The first index in each part that counts failures, which give a process priority among those
    /// shown; `None` if no counter is a failure.
    pub failures_from: Option<usize>,
    /// The metric of one process, if processes have it, too.
    pub process: Option<ProcessMetric>,
    /// The counters.
    pub parts: &'static [Part],
}

/// The same counters as a metric of one process, `socket_process_..._total`.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMetric {
    /// Its name.
    pub name: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// An example in PromQL.
    pub query: &'static str,
}

/// An array of counters, with a dimension for each label.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// `SIGNAL_` number: the samples are absent where the signal is not observed.
    pub signal: u32,
    /// Offset of the first counter in the signal's struct of counters, in bytes.
    pub offset: usize,
    /// The values of each label, outermost dimension first. A counter without labels has none.
    pub values: &'static [Values],
}

impl Part {
    /// Number of counters.
    #[must_use]
    pub const fn len(&self) -> usize {
        let mut len = 1;
        let mut label = 0;
        while label < self.values.len() {
            len *= self.values[label].len();
            label += 1;
        }
        len
    }

    /// Whether there are no counters.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The values of a label, by index.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// These names. Counters whose value is empty are not shown.
    Names(&'static [&'static str]),
    /// Names, errnos by name, and further names.
    Errnos {
        /// Before the errnos.
        first: &'static [&'static str],
        /// The errnos.
        errnos: &'static [u8],
        /// After the errnos.
        last: &'static [&'static str],
    },
    /// The number of reasons of sent RSTs; the running kernel provides the names.
    ResetReasons(usize),
}

impl Values {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Names(names) => names.len(),
            Self::Errnos {
                first,
                errnos,
                last,
            } => first.len() + errnos.len() + last.len(),
            Self::ResetReasons(len) => *len,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A histogram of a name, `socket_..._seconds`.
#[derive(Clone, Copy, Debug)]
pub struct HistogramMetric {
    /// Its name.
    pub name: &'static str,
    /// Kernel functions and tracepoints, for docs/metrics.md.
    pub hooks: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// An example in PromQL.
    pub query: &'static str,
    /// `SIGNAL_` number: it is absent where the signal is not observed.
    pub signal: u32,
    /// Offset in the signal's struct of counters, in bytes: of the histogram, or of an array of them.
    pub offset: usize,
    /// Upper bounds of the buckets, in nanoseconds.
    pub bounds: &'static [u64; BUCKETS - 1],
    /// A label, and the value of each histogram in the array.
    pub label: Option<(&'static str, &'static [&'static str])>,
}

impl HistogramMetric {
    /// Number of histograms of each name.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.label {
            Some((_, values)) => values.len(),
            None => 1,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The metrics of a signal's struct of counters.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Offset of the struct in [`Slot`](crate::Slot), in bytes.
    pub offset: usize,
    /// Its counters.
    pub counters: &'static [CounterMetric],
    /// Its histograms.
    pub histograms: &'static [HistogramMetric],
}
