//! Collects one scrape.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use observer_common::{RESETS_SENT, SIGNALS, Slot};
use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    counters::Counters,
    family::{Family, METRICS},
    findings,
    names::Index,
    own::{BuildInfo, Own},
    series::{ProcessMetrics, Writer},
    sink::{ProtoSink, Sink, seconds},
    sockets,
    text::{Piece, Spare, TextSink},
};
use crate::{
    contract::KernelSource,
    detect::Engine,
    doctor::Losses,
    sync::{lock, read},
    table::{Labels, ProcessFacts, Table},
};

/// Everything this program exports. Can be registered with a [`prometheus::Registry`], or
/// written as text directly, which is several times faster; both give the same samples.
#[derive(Clone)]
pub struct Exporter {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub table: Arc<RwLock<Table>>,
    pub engine: Arc<RwLock<Engine>>,
    pub source: Arc<dyn KernelSource>,
    pub facts: Arc<dyn ProcessFacts>,
    counters: Counters,
    reset_reasons: Index,
    build: BuildInfo,
    process_metrics: ProcessMetrics,
    descriptions: Vec<Desc>,
    spare: Arc<Spare>,
    /// CLOCK_MONOTONIC of the start.
    pub started: Duration,
    pub losses: Mutex<Losses>,
}

impl Exporter {
    /// An exporter of `table` and of what `engine` found. Names are looked up here, so `source` must be attached.
    #[must_use]
    pub fn new(
        table: Arc<RwLock<Table>>,
        engine: Arc<RwLock<Engine>>,
        source: Arc<dyn KernelSource>,
        facts: Arc<dyn ProcessFacts>,
        build: BuildInfo,
        process_metrics: ProcessMetrics,
    ) -> Self {
        let counters = Counters::new(&*source);
        let reasons = (0..RESETS_SENT as u32).map(|index| source.reset_reason(index));
        let reset_reasons = Index::new(reasons);
        let descriptions = METRICS
            .iter()
            .filter_map(|metric| {
                // Labels are left out: the description only has to keep others from taking
                // the name.
                let (name, help) = (metric.name.to_owned(), metric.help.to_owned());
                Desc::new(name, help, Vec::new(), HashMap::new()).ok()
            })
            .collect();
        Self {
            inner: Arc::new(Inner {
                table,
                engine,
                source,
                facts,
                counters,
                reset_reasons,
                build,
                process_metrics,
                descriptions,
                spare: Arc::default(),
                started: clock_gettime(ClockId::CLOCK_MONOTONIC)
                    .map_or(Duration::ZERO, Duration::from),
                losses: Mutex::default(),
            }),
        }
    }

    /// The exposition: the concatenated text of the pieces. Blocks, because it locks the table for
    /// reading; reads the kernel's counters, and changes nothing.
    #[must_use]
    pub fn scrape(&self) -> Vec<Piece> {
        let mut sink = TextSink::new(Arc::clone(&self.inner.spare));
        self.collect_into(&mut sink);
        sink.finish()
    }

    /// Notes when events, entries and records are lost, for `observer doctor`: to be called at each tick, which begins at
    /// `now` (CLOCK_MONOTONIC).
    pub fn note_losses(&self, now: Duration) {
        lock(&self.inner.losses).note(&self.inner.source.stats(), now);
    }

    /// Version and revision of the running build.
    #[must_use]
    pub fn build(&self) -> &BuildInfo {
        &self.inner.build
    }

    /// The kernel side, for its verdicts.
    #[must_use]
    pub fn source(&self) -> &dyn KernelSource {
        &*self.inner.source
    }

    /// Writes the counters of `slot` that are observed as those of a name.
    pub(super) fn write_counters(&self, sink: &mut dyn Sink, labels: &Labels, slot: &Slot) {
        let counts = slot.counters();
        self.inner
            .counters
            .name(sink, &self.observed(), labels, counts);
    }

    /// The observed signals.
    fn observed(&self) -> [bool; SIGNALS] {
        std::array::from_fn(|signal| self.inner.source.observes(signal as u32))
    }

    fn collect_into(&self, sink: &mut dyn Sink) {
        let start = Instant::now();
        let Inner {
            table,
            engine,
            source,
            facts,
            counters,
            reset_reasons,
            build,
            process_metrics,
            descriptions: _,
            spare: _,
            started: _,
            losses: _,
        } = &*self.inner;
        let observed = self.observed();
        let processes = {
            let table = read(table);
            let mut writer = Writer {
                sink: &mut *sink,
                counters,
                reset_reasons,
                observed,
                process_metrics: *process_metrics,
            };
            table.visit(&**source, &**facts, &mut |view| writer.write(view));
            table.stray_resets(&**source, |counts| writer.stray_resets(counts));
            writer.units(&table.units());
            sockets::write(sink, &table, &source.polled(), *process_metrics);
            table.processes()
        };
        findings::write(sink, read(engine).board());
        let mut own = Own { sink: &mut *sink };
        own.kernel(&**source);
        own.table(processes);
        own.build(build);
        own.process(&facts.own());
        let duration = seconds(start.elapsed().as_nanos() as u64);
        sink.sample(Family::ScrapeDuration, None, &[], duration.into());
    }
}

impl Collector for Exporter {
    fn desc(&self) -> Vec<&Desc> {
        self.inner.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut sink = ProtoSink::default();
        self.collect_into(&mut sink);
        sink.finish()
    }
}
