//! The report of `observer doctor`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use observer_common::{BIND_ERRNOS, Slot, TLS_OK};

use super::{collector::Exporter, series::failure_names};
use crate::{
    clock::Clock,
    detect::{Anomaly, ConnectResult, CounterClasses, Counts, LATELY, cut_off, failed_connects},
    doctor::{
        Binds, Counted, FailedHandshakes, FailedOptions, FastOpen, Growth, Inputs, Odd,
        ProcessState, Refused, Report,
    },
    names::errno_name,
    sync::{lock, read},
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
        let (host, unlisted, mut odd, growing, (handshakes, refuses)) = {
            let engine = read(&inner.engine);
            let unlisted: Vec<_> = engine.board().unlisted().collect();
            let odd = Odd {
                strays: engine.strays().to_vec(),
                ..Odd::default()
            };
            let growing: HashMap<_, _> = engine.growing().collect();
            let handshakes = engine.handshakes();
            let handshakes: HashMap<_, _> = handshakes.map(|(of, it)| (of.clone(), it)).collect();
            let refuses = engine.lately(Anomaly::TlsFailures, Duration::from_secs(LATELY));
            let refuses: Vec<_> = refuses.cloned().collect();
            (
                engine.host().clone(),
                unlisted,
                odd,
                growing,
                (handshakes, refuses),
            )
        };
        let classes = CounterClasses::of_kernel(&*inner.source);
        let with = |anomaly| -> HashSet<Labels> {
            let of = findings.iter().filter(|it| it.anomaly == anomaly);
            of.filter_map(|it| it.labels.as_deref().map(name)).collect()
        };
        let (fails, resets) = (with(Anomaly::ConnectFailures), with(Anomaly::RstStorm));
        let mut counted = Vec::new();
        let mut failed_options = Vec::new();
        let mut processes = HashMap::<_, ProcessState>::new();
        let mut of_names = HashMap::<_, Vec<_>>::new();
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let table = read(&inner.table);
        let mut recorded_binds = HashMap::new();
        table.visit_failed_binds(&mut |labels, failed| {
            recorded_binds.insert(labels.clone(), failed.clone());
        });
        table.visit(&*inner.source, &*inner.facts, &mut |view| {
            if let Kind::Process { key, resources, .. } = view.kind {
                processes.entry(key).or_default().resources = resources;
                of_names.entry(name(view.labels)).or_default().push(key);
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
            if is_running && !is_of_several {
                let tls = view.counts.tls.ended.iter().flatten();
                let of = Counted {
                    labels: Arc::clone(view.labels),
                    netns: None,
                    counts: Counts::read(view.counts, &classes),
                };
                counted.push((of, tls.map(|it| it[TLS_OK]).sum::<u64>() > 0));
            }
            let binds = failed_binds(view.counts);
            // A service that finds its port taken ends, and is started again and again.
            if !is_of_several && !binds.is_empty() {
                let recorded = recorded_binds.remove(&**view.labels).unwrap_or_default();
                odd.binds.push(Binds {
                    labels: Arc::clone(view.labels),
                    is_running,
                    failed: binds,
                    last_ago: now.saturating_sub(recorded.last_at),
                    recorded,
                });
            }
            let lately = handshakes.get(&**view.labels).filter(|_| !is_of_several);
            if let Some(lately) = lately {
                let failed = FailedHandshakes::of(view.labels, lately, &view.counts.tls);
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
                    is_running,
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
        table.visit_holders(&mut |place, labels| odd.holders.push((*place, Arc::clone(labels))));
        let is_found = |it: &FailedHandshakes| it.are_of(&refuses, &listening);
        odd.handshakes.retain(|it| !is_found(it));
        for (key, count) in table.unguarded_of_processes() {
            processes.entry(key).or_default().unguarded = count;
        }
        drop(table);
        let all_netns = |labels: &Labels| {
            let keys = of_names.get(&name(labels)).into_iter().flatten();
            keys.filter_map(|key| (host.netns)(key))
                .collect::<Vec<u32>>()
        };
        let netns = |labels: &Labels| all_netns(labels).last().copied();
        for failed in &mut failed_options {
            failed.netns = netns(&failed.labels);
        }
        let engine = read(&inner.engine);
        for (mut of, is_tls) in counted {
            let refused = of.counts.connects[ConnectResult::Refused as usize];
            let fails = failed_connects(&of.counts).sum() > 0 && !fails.contains(&of.labels);
            let cuts_off = !is_tls && cut_off(&of.counts) > 0 && !resets.contains(&of.labels);
            if refused == 0 && !fails && !cuts_off {
                continue;
            }
            of.netns = netns(&of.labels);
            if refused > 0 {
                let to = engine.refused(&of.labels).iter();
                odd.refused.push(Refused {
                    labels: Arc::clone(&of.labels),
                    netns: all_netns(&of.labels),
                    count: refused,
                    to: to
                        .map(|it| (it.netns, SocketAddr::new(it.address, it.port)))
                        .collect(),
                });
            }
            if cuts_off {
                odd.cut_off.push(of.clone());
            }
            if fails {
                odd.connects.push(of);
            }
        }
        drop(engine);
        Report::new(&Inputs {
            findings: &findings,
            unlisted: &unlisted,
            processes: &processes,
            failed_options: &failed_options,
            listening: &listening,
            odd: &odd,
            host: &host,
            verdicts: inner.source.verdicts(),
            observed_for: now.saturating_sub(inner.started),
            losses: &lock(&inner.losses),
            maps: &inner.source.maps(),
            clock,
        })
    }
}
