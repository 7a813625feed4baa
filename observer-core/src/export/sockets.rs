//! Listening sockets and ports in use, which are read from sockets periodically.

use super::{
    bound::SYSCTL_NAMESPACES,
    family::Family,
    series::ProcessMetrics,
    sink::{Number, Sink},
};
use crate::{
    contract::{POLLED_LISTEN, POLLED_PORTS},
    net::sysctls::Sysctls,
    table::{Labels, ListenAddress, ListenerStats, PortsView, Table},
    walk::Waits,
};
use observer_common::AGE_BOUNDS;

/// Writes the metrics of the signals in `polled` (names and methods).
pub(super) fn write(
    sink: &mut dyn Sink,
    table: &Table,
    polled: &[(&str, &str)],
    process_metrics: ProcessMetrics,
) {
    let shows = |labels: &Labels| labels.pid().is_none() || process_metrics != ProcessMetrics::None;
    tls(sink, table);
    let reads = |signal| polled.iter().any(|(name, _)| *name == signal);
    if reads(POLLED_LISTEN) {
        table.visit_listeners(&mut |labels, address, stats| {
            if shows(labels) {
                listener(sink, labels, address, stats, process_metrics);
            }
        });
    }
    if reads(POLLED_PORTS) {
        for view in table.ports().filter(|view| shows(&view.labels)) {
            ports(sink, view);
        }
        for (labels, waits) in table.waits().filter(|(labels, _)| shows(labels)) {
            self::waits(sink, &labels, waits);
        }
        if let Some((took, interval)) = table.walked() {
            sink.sample(Family::WalkSeconds, None, &[], took.as_secs_f64().into());
            let interval = interval.as_secs_f64().into();
            sink.sample(Family::WalkInterval, None, &[], interval);
        }
        for (labels, count) in table.unguarded_of_names() {
            let count = u64::from(count).into();
            sink.sample(Family::Unguarded, Some(&labels), &[], count);
        }
        sysctls(sink, table.sysctls());
        for (netns, available) in table.ports_available() {
            let extra = [("netns", netns.to_string())];
            let extra = extra
                .each_ref()
                .map(|(name, value)| (*name, value.as_str()));
            sink.sample(
                Family::PortsAvailable,
                None,
                &extra,
                u64::from(*available).into(),
            );
        }
    }
}

/// Empty if handshakes are not observed.
fn tls(sink: &mut dyn Sink, table: &Table) {
    for (labels, handshakes) in table.handshakes() {
        for (role, count, oldest) in handshakes.roles() {
            let extra = [("role", role)];
            let count = u64::from(count).into();
            sink.sample(Family::TlsInProgress, Some(&labels), &extra, count);
            let oldest = oldest.as_secs_f64().into();
            sink.sample(Family::TlsOldest, Some(&labels), &extra, oldest);
        }
    }
    for (library, how, count) in table.tls_files() {
        let extra = [("library", *library), ("how", *how)];
        sink.sample(Family::TlsFiles, None, &extra, (*count).into());
    }
}

fn waits(sink: &mut dyn Sink, labels: &Labels, waits: &Waits) {
    let is_process = labels.pid().is_some();
    let stalled = if is_process {
        Family::ProcessStalled
    } else {
        Family::Stalled
    };
    for (reason, count, longest_ms) in waits.stalls() {
        let extra = [("reason", reason)];
        let count = u64::from(count).into();
        sink.sample(stalled, Some(labels), &extra, count);
        if !is_process {
            let longest = (f64::from(longest_ms) / 1e3).into();
            sink.sample(Family::StalledSeconds, Some(labels), &extra, longest);
        }
    }
    if is_process {
        return;
    }
    for (turn, seconds, count) in waits.quiets() {
        let seconds = seconds.to_string();
        let extra = [("turn", turn), ("quiet", &*seconds)];
        sink.sample(Family::Quiet, Some(labels), &extra, u64::from(count).into());
    }
    let ages = waits.age_histogram();
    sink.histogram(Family::LiveAge, labels, &[], &AGE_BOUNDS, &ages);
}

fn sysctls(sink: &mut dyn Sink, sysctls: &Sysctls) {
    let Sysctls { host, namespaces } = sysctls;
    let namespaces = namespaces.iter().take(SYSCTL_NAMESPACES);
    let namespaces = namespaces.map(|(netns, values)| (netns.to_string(), values));
    for (netns, values) in [(String::new(), host)].into_iter().chain(namespaces) {
        for (name, value) in values {
            let extra = [("name", *name), ("netns", netns.as_str())];
            sink.sample(Family::Sysctl, None, &extra, (*value).into());
        }
    }
}

fn listener(
    sink: &mut dyn Sink,
    labels: &Labels,
    at: Option<&ListenAddress>,
    it: &ListenerStats,
    process_metrics: ProcessMetrics,
) {
    let address = at.map_or_else(|| "other".to_owned(), |at| at.address.to_string());
    let netns = at.map_or_else(String::new, |at| at.netns.to_string());
    let extra = [("address", address.as_str()), ("netns", netns.as_str())];
    let mut put = |family, value: Number| sink.sample(family, Some(labels), &extra, value);
    if labels.pid().is_some() {
        if it.backlog > 0 {
            put(Family::ProcessListenBacklog, it.backlog.into());
            put(Family::ProcessListenBacklogMax, it.max_backlog.into());
        }
        if it.overflows > 0 && process_metrics == ProcessMetrics::All {
            put(Family::ProcessListenOverflows, it.overflows.into());
        }
        return;
    }
    if it.sockets > 0 {
        put(Family::ListenBacklog, it.backlog.into());
        put(Family::ListenBacklogMax, it.max_backlog.into());
        put(Family::ListenFullest, it.fullest.into());
    }
    for (family, count) in [
        (Family::ListenOverflows, it.overflows),
        (Family::ListenDrops, it.drops),
    ] {
        if count > 0 {
            put(family, count.into());
        }
    }
}

fn ports(sink: &mut dyn Sink, view: &PortsView) {
    let other = || "other".to_owned();
    let (source, destination, netns) = match &view.destination {
        Some(it) => (
            it.source.to_string(),
            it.remote.to_string(),
            it.netns.to_string(),
        ),
        None => (other(), other(), String::new()),
    };
    let extra = [
        ("source", source.as_str()),
        ("destination", destination.as_str()),
        ("netns", netns.as_str()),
    ];
    let used = u64::from(view.used);
    let labels = Some(&*view.labels);
    if view.labels.pid().is_some() {
        sink.sample(Family::ProcessPortsUsed, labels, &extra, used.into());
        return;
    }
    let blocked = u64::from(view.blocked);
    sink.sample(Family::PortsUsed, labels, &extra, used.into());
    sink.sample(Family::PortsBlocked, labels, &extra, blocked.into());
    sink.sample(Family::PortsRatio, labels, &extra, view.ratio().into());
}
