//! Listening sockets and ports in use: what is read from sockets now and then.

use super::{family::Family, sink::Sink};
use crate::{
    kernel::{POLLED_LISTEN, POLLED_PORTS},
    table::{Labels, Listening, Place, PortsView, Table},
};

/// Writes what `polled` says is read: signals and their methods.
pub(super) fn write(sink: &mut dyn Sink, table: &Table, polled: &[(&str, &str)]) {
    let reads = |signal| polled.iter().any(|(name, _)| *name == signal);
    if reads(POLLED_LISTEN) {
        table.visit_listeners(&mut |labels, place, listening| {
            listener(sink, labels, place, listening);
        });
    }
    if reads(POLLED_PORTS) {
        for view in table.ports() {
            ports(sink, view);
        }
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

fn listener(sink: &mut dyn Sink, labels: &Labels, place: Option<&Place>, it: &Listening) {
    let address = place.map_or_else(|| "other".to_owned(), |place| place.address.to_string());
    let netns = place.map_or_else(String::new, |place| place.netns.to_string());
    let extra = [("address", address.as_str()), ("netns", netns.as_str())];
    let mut put = |family, value: u64| sink.sample(family, Some(labels), &extra, value.into());
    if it.sockets > 0 {
        put(Family::ListenBacklog, it.backlog);
        put(Family::ListenBacklogMax, it.max_backlog);
    }
    put(Family::ListenOverflows, it.overflows);
    put(Family::SynDrops, it.drops);
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
    let labels = Some(&*view.labels);
    sink.sample(
        Family::PortsUsed,
        labels,
        &extra,
        u64::from(view.used).into(),
    );
    sink.sample(Family::PortsRatio, labels, &extra, view.ratio.into());
}
