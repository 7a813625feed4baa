//! Listening sockets and ports in use.

use std::net::Ipv6Addr;

use observer_common::{Listener, ListenerSample, SLOT_FIRST};

use super::{exporter_of, kernel, parse, text};
use crate::{
    ports::{Destination, Share, Usage},
    table::{Overflows, TableConfig},
};

#[test]
fn addresses_are_labels() {
    let sample = ListenerSample {
        listener: Listener {
            slot: SLOT_FIRST,
            netns: 77,
            port: 443,
            drops: 9,
            drops_before: 4,
            ..Listener::default()
        },
        backlog: 3,
        max_backlog: 128,
        ..ListenerSample::default()
    };
    let overflows = Overflows {
        certain: vec![(sample, 2)],
        unattributed: 1,
    };
    let share = |port, used| Share {
        destination: Destination {
            netns: 77,
            source: Ipv6Addr::LOCALHOST.into(),
            remote: (Ipv6Addr::LOCALHOST, port).into(),
        },
        owner: (SLOT_FIRST, 0),
        used,
        used_by_all: 2 * used,
        available: 40,
    };
    let usage = Usage {
        shares: vec![share(80, 10), share(81, 4), share(82, 3)],
        available: [(77, 40)].into(),
    };
    let exporter = exporter_of(kernel(), TableConfig::default(), |table| {
        table.update_listeners(&[sample], Some(&overflows));
        table.update_ports(&usage, 1);
    });
    let text = text(&exporter);
    let samples = parse(&text);
    let values: Vec<_> = samples
        .iter()
        .filter(|((name, _), _)| {
            ["listen_", "syn_", "ephemeral_"]
                .iter()
                .any(|part| name.starts_with(&format!("socket_{part}")))
        })
        .map(|((name, labels), value)| {
            let label = |name: &str| labels.get(name).map_or("-", String::as_str);
            let place = [label("address"), label("source"), label("destination")];
            let place: Vec<_> = place.into_iter().filter(|it| *it != "-").collect();
            (
                format!("{name} {} {}", label("pid"), label("netns")),
                place.join(" "),
                *value,
            )
        })
        .collect();
    let expected = [
        ("socket_ephemeral_ports_available - 77", "", 40.0),
        ("socket_ephemeral_ports_ratio 100 77", "::1 [::1]:80", 0.5),
        ("socket_ephemeral_ports_ratio 100 ", "other other", 0.2),
        ("socket_ephemeral_ports_used 100 77", "::1 [::1]:80", 10.0),
        ("socket_ephemeral_ports_used 100 ", "other other", 7.0),
        ("socket_listen_backlog 100 77", "[::]:443", 3.0),
        ("socket_listen_backlog_max 100 77", "[::]:443", 128.0),
        ("socket_listen_overflows_total 100 77", "[::]:443", 2.0),
        ("socket_listen_overflows_total unattributed ", "other", 1.0),
        ("socket_syn_drops_total 100 77", "[::]:443", 5.0),
        ("socket_syn_drops_total unattributed ", "other", 0.0),
    ];
    assert_eq!(values.len(), expected.len(), "{values:#?}");
    for (name, place, value) in expected {
        let expected = (name.to_owned(), place.to_owned(), value);
        assert!(values.contains(&expected), "{expected:?} in {values:#?}");
    }
    for signal in ["listen", "ports"] {
        assert!(text.contains(&format!("observer_signal_info{{signal=\"{signal}\"")));
    }
}
