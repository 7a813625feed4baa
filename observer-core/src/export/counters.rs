//! The samples of counters in slots, as the signals describe them.

use observer_common::{
    BUCKETS, COUNTERS, CounterMetric, Histogram, METRICS, Metrics, Part, SIGNALS, Values,
};

use super::{
    family::{Family, OfSlots},
    names::Index,
    sink::{Extra, Sink},
};
use crate::{contract::KernelSource, names::errno_name, table::Labels};

/// The metrics of the counters of a slot, with their label values.
pub(super) struct Counters {
    counters: Vec<Counter>,
    histograms: Vec<Buckets>,
}

struct Counter {
    name: Family,
    process: Option<Family>,
    arrays: Vec<Array>,
}

/// An array of histograms, which has one element if there is no label.
struct Buckets {
    family: Family,
    signal: usize,
    first: usize,
    bounds: &'static [u64; BUCKETS - 1],
    label: Option<(&'static str, &'static [&'static str])>,
}

/// Counters in a histogram: the sum and the buckets.
const WIDTH: usize = 1 + BUCKETS;

/// The most labels of a counter.
const MAX_LABELS: usize = 3;

/// An array of counters with a value of each label by index.
struct Array {
    signal: usize,
    first: usize,
    /// The outer labels and their values, of each combination; one without any if there is at most one label.
    rows: Vec<Vec<(&'static str, String)>>,
    /// The only or innermost label; `None` for a single counter.
    columns: Option<(&'static str, Index)>,
    /// Counters in a row.
    width: usize,
}

impl Counters {
    /// Looks up label values, so `source` must be attached.
    pub fn new(source: &dyn KernelSource) -> Self {
        let mut place = OfSlots::START;
        let mut counters = Vec::new();
        let mut histograms = Vec::new();
        for signal in METRICS {
            for counter in signal.counters {
                let (name, process) = place.counters(counter);
                let parts = counter.parts.iter();
                let arrays = parts.map(|part| Array::new(signal, counter, part, source));
                counters.push(Counter {
                    name,
                    process,
                    arrays: arrays.collect(),
                });
            }
            for histogram in signal.histograms {
                histograms.push(Buckets {
                    family: place.histogram(),
                    signal: histogram.signal as usize,
                    first: signal.index_of(histogram.offset),
                    bounds: histogram.bounds,
                    label: histogram.label,
                });
            }
        }
        Self {
            counters,
            histograms,
        }
    }

    /// Writes the counters and histograms of a name.
    pub fn name(
        &self,
        sink: &mut dyn Sink,
        observed: &[bool; SIGNALS],
        labels: &Labels,
        counts: &[u64; COUNTERS],
    ) {
        self.write(|it| Some(it.name), sink, observed, labels, counts);
        for it in self.histograms.iter().filter(|it| observed[it.signal]) {
            it.write(sink, labels, counts);
        }
    }

    /// Writes the counters of a process.
    pub fn process(
        &self,
        sink: &mut dyn Sink,
        observed: &[bool; SIGNALS],
        labels: &Labels,
        counts: &[u64; COUNTERS],
    ) {
        self.write(|it| it.process, sink, observed, labels, counts);
    }

    /// Writes the counters that have a `family`.
    fn write(
        &self,
        family: impl Fn(&Counter) -> Option<Family>,
        sink: &mut dyn Sink,
        observed: &[bool; SIGNALS],
        labels: &Labels,
        counts: &[u64; COUNTERS],
    ) {
        for counter in &self.counters {
            let Some(family) = family(counter) else {
                continue;
            };
            for array in counter.arrays.iter().filter(|it| observed[it.signal]) {
                array.write(sink, family, labels, counts);
            }
        }
    }
}

impl Buckets {
    fn write(&self, sink: &mut dyn Sink, labels: &Labels, counts: &[u64; COUNTERS]) {
        let mut put = |extra: Extra<'_>, first| {
            let histogram = histogram(counts, first);
            if histogram.buckets.iter().any(|&count| count != 0) {
                sink.histogram(self.family, labels, extra, self.bounds, &histogram);
            }
        };
        let Some((name, values)) = self.label else {
            return put(&[], self.first);
        };
        for (index, value) in values.iter().enumerate() {
            put(&[(name, value)], self.first + index * WIDTH);
        }
    }
}

impl Array {
    fn new(
        signal: &Metrics,
        counter: &CounterMetric,
        part: &Part,
        source: &dyn KernelSource,
    ) -> Self {
        let mut rows = vec![Vec::new()];
        let mut columns = None;
        let mut width = 1;
        let labels = counter.labels.iter().zip(part.values);
        for (at, (&label, values)) in labels.enumerate() {
            let texts = texts(values, source);
            if at + 1 == part.values.len() {
                width = values.len();
                columns = Some((label, Index::new(texts)));
                break;
            }
            let with = |row: &Vec<_>, text: &String| {
                let mut row = row.clone();
                row.push((label, text.clone()));
                row
            };
            let longer = rows
                .iter()
                .flat_map(|row| texts.iter().map(move |it| with(row, it)));
            rows = longer.collect();
        }
        assert!(
            rows[0].len() < MAX_LABELS,
            "{}: too many labels",
            counter.name
        );
        assert_eq!(
            counter.labels.len(),
            part.values.len(),
            "{}: its labels and their values differ",
            counter.name
        );
        Self {
            signal: part.signal as usize,
            first: signal.index_of(part.offset),
            rows,
            columns,
            width,
        }
    }

    fn write(
        &self,
        sink: &mut dyn Sink,
        family: Family,
        labels: &Labels,
        counts: &[u64; COUNTERS],
    ) {
        let counts = &counts[self.first..];
        let Some((column, columns)) = &self.columns else {
            sink.sample(family, Some(labels), &[], counts[0].into());
            return;
        };
        for (row, counts) in self.rows.iter().zip(counts.chunks_exact(self.width)) {
            // An index that is not in use has no name.
            if row.iter().any(|(_, value)| value.is_empty()) {
                continue;
            }
            let mut outer = [("", ""); MAX_LABELS];
            for (place, (label, value)) in outer.iter_mut().zip(row) {
                *place = (label, value);
            }
            columns.nonzero(counts, |value, count| {
                let mut extra = outer;
                extra[row.len()] = (column, value);
                sink.sample(family, Some(labels), &extra[..=row.len()], count.into());
            });
        }
    }
}

fn texts(values: &Values, source: &dyn KernelSource) -> Vec<String> {
    let owned = |names: &[&str]| -> Vec<String> { names.iter().map(|&it| it.to_owned()).collect() };
    match values {
        Values::Names(names) => owned(names),
        Values::Errnos {
            first,
            errnos,
            last,
        } => {
            let errnos = errnos.iter();
            let errnos = errnos.map(|&errno| errno_name(errno.into()).into_owned());
            let first = owned(first).into_iter();
            first.chain(errnos).chain(owned(last)).collect()
        }
        // The kernel's own reason and our class for it have one name.
        Values::ResetReasons(len) => (0..*len as u32).map(|it| source.reset_reason(it)).collect(),
    }
}

fn histogram(counts: &[u64; COUNTERS], first: usize) -> Histogram {
    let mut buckets = [0; BUCKETS];
    buckets.copy_from_slice(&counts[first + 1..][..BUCKETS]);
    Histogram {
        sum_ns: counts[first],
        buckets,
    }
}
