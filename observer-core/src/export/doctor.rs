//! The report of `observer doctor`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use observer_common::{BIND_ERRNOS, Slot};

use super::{collector::Exporter, series::failure_names};
use crate::{
    clock::Clock,
    detect::{Anomaly, CounterClasses, Counts, failed_connects},
    doctor::{
        Binds, Connects, FailedHandshakes, FailedOptions, FastOpen, Growth, Inputs, Odd,
        ProcessState, Report,
    },
    names::errno_name,
    sync::read,
    table::{Kind, Labels},
};

/// Without the pid.
fn name(labels: &Labels) -> Labels {
    Labels::name(labels.comm(), labels.unit())
}

/// Calls of bind() and listen() that failed, by errno.
fn failed_binds(counts: &Slot) -> BTreeMap<String, u64> {
    let names = BIND_ERRNOS.iter().map(|errno| errno_name((*errno).into()));
    let names: Vec<_> = names.chain(["other".into()]).collect();
    let mut failed = BTreeMap::new();
    for by_errno in &counts.bind.failed {
        for (name, count) in names.iter().zip(by_errno).filter(|(_, count)| **count > 0) {
            *failed.entry(name.to_string()).or_default() += count;
        }
    }
    failed
}

impl Exporter {
    /// The report on this host, from the data since the start. Reads the table and slots.
    #[must_use]
    pub fn doctor(&self, clock: Clock) -> Report {
        let inner = &self.inner;
        let findings = self.findings();
        let (host, mut odd, growing) = {
            let engine = read(&inner.engine);
            let odd = Odd {
                strays: engine.strays().to_vec(),
                ..Odd::default()
            };
            let growing: HashMap<_, _> = engine.growing().collect();
            (engine.host().clone(), odd, growing)
        };
        let classes = CounterClasses::of_kernel(&*inner.source);
        let fails: HashSet<_> = findings
            .iter()
            .filter(|it| it.anomaly == Anomaly::ConnectFailures)
            .filter_map(|it| it.labels.as_deref().map(name))
            .collect();
        let mut failed_options = Vec::new();
        let mut processes = HashMap::<_, ProcessState>::new();
        let mut of_names = HashMap::new();
        let table = read(&inner.table);
        table.visit(&*inner.source, &*inner.facts, &mut |view| {
            if let Kind::Process { key, resources, .. } = view.kind {
                processes.entry(key).or_default().resources = resources;
                of_names.insert(name(view.labels), key);
                if let Some(per_second) = growing.get(&key).copied() {
                    odd.growing.push(Growth {
                        process: key,
                        labels: Arc::clone(view.labels),
                        open: resources.open_fds.unwrap_or_default(),
                        limit: resources.max_fds.unwrap_or_default(),
                        per_second,
                    });
                }
                return;
            }
            let is_running = matches!(view.kind, Kind::Name { alive: true });
            let is_of_several = view.labels.is_of_several();
            if is_running && !is_of_several && !fails.contains(&name(view.labels)) {
                odd.connects.push(Connects {
                    labels: Arc::clone(view.labels),
                    netns: None,
                    counts: Counts::read(view.counts, &classes),
                });
            }
            let binds = failed_binds(view.counts);
            // A service that finds its port taken ends, and is started again and again.
            if !is_of_several && !binds.is_empty() {
                odd.binds.push(Binds {
                    labels: Arc::clone(view.labels),
                    failed: binds,
                });
            }
            if !is_of_several {
                let failed = FailedHandshakes::of(view.labels, &view.counts.tls);
                odd.handshakes.extend(failed);
            }
            for (kind, count) in view.failures.iter().filter(|(_, count)| **count > 0) {
                let [family, protocol, _, option, errno] = failure_names(kind);
                failed_options.push(FailedOptions {
                    labels: Arc::clone(view.labels),
                    netns: None,
                    family: family.into_owned(),
                    protocol: protocol.into_owned(),
                    option: option.into_owned(),
                    errno: errno.into_owned(),
                    count: *count,
                });
            }
        });
        let mut listening = Vec::new();
        table.visit_listeners(&mut |labels, place, stats| {
            let Some(place) = place.filter(|_| stats.sockets > 0 && labels.pid().is_none()) else {
                return;
            };
            let labels = Arc::new(labels.clone());
            if stats.fast_open > 0 {
                odd.fast_open.push(FastOpen {
                    place: *place,
                    labels: Arc::clone(&labels),
                });
            }
            listening.push((*place, labels));
        });
        for (key, count) in table.unguarded_of_processes() {
            processes.entry(key).or_default().unguarded = count;
        }
        drop(table);
        let netns = |labels| (host.netns)(of_names.get(&name(labels))?);
        for failed in &mut failed_options {
            failed.netns = netns(&failed.labels);
        }
        odd.connects
            .retain(|it| failed_connects(&it.counts).sum() > 0);
        for connects in &mut odd.connects {
            connects.netns = netns(&connects.labels);
        }
        Report::new(&Inputs {
            findings: &findings,
            processes: &processes,
            failed_options: &failed_options,
            listening: &listening,
            odd: &odd,
            host: &host,
            verdicts: inner.source.verdicts(),
            clock,
        })
    }
}
