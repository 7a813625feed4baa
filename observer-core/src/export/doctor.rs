//! The report of `observer doctor`.

use std::{collections::HashMap, sync::Arc};

use super::{collector::Exporter, series::failure_names};
use crate::{
    clock::Clock,
    doctor::{FailedOptions, Inputs, ProcessState, Report},
    sync::read,
    table::{Kind, Labels},
};

impl Exporter {
    /// The report on this host, from the data since the start. Reads the table and slots.
    #[must_use]
    pub fn doctor(&self, clock: Clock) -> Report {
        let inner = &self.inner;
        let findings = self.findings();
        let host = read(&inner.engine).host().clone();
        let mut failed_options = Vec::new();
        let mut processes = HashMap::<_, ProcessState>::new();
        let mut of_names = HashMap::new();
        let named = |labels: &Labels| Labels::name(labels.comm(), labels.unit());
        let table = read(&inner.table);
        table.visit(&*inner.source, &*inner.facts, &mut |view| {
            if let Kind::Process { key, resources, .. } = view.kind {
                processes.entry(key).or_default().resources = resources;
                of_names.insert(named(view.labels), key);
                return;
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
        for (key, count) in table.unguarded_of_processes() {
            processes.entry(key).or_default().unguarded = count;
        }
        drop(table);
        for failed in &mut failed_options {
            let process = of_names.get(&named(&failed.labels));
            failed.netns = process.and_then(|key| (host.netns)(key));
        }
        Report::new(&Inputs {
            findings: &findings,
            processes: &processes,
            failed_options: &failed_options,
            host: &host,
            verdicts: inner.source.verdicts(),
            clock,
        })
    }
}
