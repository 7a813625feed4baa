//! Offsets of the sysctls in `struct net`. The programs copy one range of bytes, from which the values are extracted here.

use std::{collections::BTreeMap, time::Duration};

use nix::time::{ClockId, clock_getres};
use observer_common::{NET_SETTINGS, PortSpace};
use observer_core::btf::KernelBtf;

/// The globals with the start of the range and its length.
pub const START: &str = "NET_SETTINGS_START";
/// See [`START`].
pub const LENGTH: &str = "NET_SETTINGS_LENGTH";

/// The unit that the kernel stores a value in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// As sysctl(8) shows it.
    Shown,
    /// Jiffies, shown as seconds (`proc_dointvec_jiffies`).
    Jiffies,
}

/// Name, member of `struct net` and unit. A kernel does not have all of them.
const SYSCTLS: &[(&str, &str, Unit)] = &[
    ("net.core.somaxconn", "core.sysctl_somaxconn", Unit::Shown),
    (
        "net.ipv4.tcp_abort_on_overflow",
        "ipv4.sysctl_tcp_abort_on_overflow",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_fastopen",
        "ipv4.sysctl_tcp_fastopen",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_fin_timeout",
        "ipv4.sysctl_tcp_fin_timeout",
        Unit::Jiffies,
    ),
    (
        "net.ipv4.tcp_keepalive_intvl",
        "ipv4.sysctl_tcp_keepalive_intvl",
        Unit::Jiffies,
    ),
    (
        "net.ipv4.tcp_keepalive_probes",
        "ipv4.sysctl_tcp_keepalive_probes",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_keepalive_time",
        "ipv4.sysctl_tcp_keepalive_time",
        Unit::Jiffies,
    ),
    (
        "net.ipv4.tcp_max_syn_backlog",
        "ipv4.sysctl_max_syn_backlog",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_max_tw_buckets",
        "ipv4.tcp_death_row.sysctl_max_tw_buckets",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_retries2",
        "ipv4.sysctl_tcp_retries2",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_rfc1337",
        "ipv4.sysctl_tcp_rfc1337",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_syn_linear_timeouts",
        "ipv4.sysctl_tcp_syn_linear_timeouts",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_syn_retries",
        "ipv4.sysctl_tcp_syn_retries",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_synack_retries",
        "ipv4.sysctl_tcp_synack_retries",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_syncookies",
        "ipv4.sysctl_tcp_syncookies",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_timestamps",
        "ipv4.sysctl_tcp_timestamps",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_tw_reuse",
        "ipv4.sysctl_tcp_tw_reuse",
        Unit::Shown,
    ),
    (
        "net.ipv4.tcp_tw_reuse_delay",
        "ipv4.sysctl_tcp_tw_reuse_delay",
        Unit::Shown,
    ),
];

/// One that this kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    name: &'static str,
    /// Offset from the start of the range.
    offset: usize,
    size: usize,
    unit: Unit,
}

/// The sysctls that this kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlFields {
    start: u32,
    length: u32,
    fields: Vec<Field>,
    /// Jiffies in a second.
    hz: u64,
}

impl SysctlFields {
    /// Finds them. Members of another size than a byte or an int are ignored, and so are those too far from the first one.
    #[must_use]
    pub fn find(btf: &KernelBtf) -> Self {
        let found = SYSCTLS.iter().filter_map(|&(name, path, unit)| {
            let member = btf.member("net", path).ok()?;
            matches!(member.size, 1 | 4).then_some((name, member, unit))
        });
        let mut found: Vec<_> = found.collect();
        let start = found.iter().map(|(_, member, _)| member.offset).min();
        let start = start.unwrap_or_default();
        found.retain(|(_, member, _)| {
            (member.offset + member.size - start) as usize <= NET_SETTINGS
        });
        let ends = found
            .iter()
            .map(|(_, member, _)| member.offset + member.size);
        let length = ends.max().map_or(0, |end| end - start);
        let fields = found.into_iter().map(|(name, member, unit)| Field {
            name,
            offset: (member.offset - start) as usize,
            size: member.size as usize,
            unit,
        });
        Self {
            start,
            length,
            fields: fields.collect(),
            hz: ticks_per_second(),
        }
    }

    /// Start of the range in `struct net`.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start.into()
    }

    /// Its length.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length.into()
    }

    /// The values of a namespace, by name; empty if the range could not be read.
    #[must_use]
    pub fn values(&self, space: &PortSpace) -> BTreeMap<&'static str, u64> {
        if space.settings_length != self.length || self.length == 0 {
            return BTreeMap::new();
        }
        let value = |field: &Field| {
            let bytes = space
                .settings
                .get(field.offset..field.offset + field.size)?;
            let value = match *bytes {
                [byte] => byte.into(),
                [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
                _ => return None,
            };
            Some(match field.unit {
                Unit::Shown => value,
                Unit::Jiffies => value / self.hz,
            })
        };
        let values = self.fields.iter();
        let mut values: BTreeMap<_, _> = values
            .filter_map(|field| Some((field.name, value(field)?)))
            .collect();
        for (name, port) in [
            ("net.ipv4.ip_local_port_range_low", space.low),
            ("net.ipv4.ip_local_port_range_high", space.high),
        ] {
            values.insert(name, port.into());
        }
        values
    }
}

/// CONFIG_HZ: coarse clocks advance with each tick (`hrtimer_resolution` is not theirs, see
/// `posix_get_coarse_res`).
fn ticks_per_second() -> u64 {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from);
    // NSEC_PER_SEC / HZ, rounded.
    let tick = tick.as_nanos().max(1) as u64;
    ((1_000_000_000 + tick / 2) / tick).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_one_of_the_kernel_s_choices() {
        let hz = ticks_per_second();
        assert!([100, 250, 300, 1000].contains(&hz), "{hz}");
    }

    #[test]
    fn values_have_the_units_of_sysctl() {
        let fields = SysctlFields {
            start: 100,
            length: 9,
            fields: vec![
                Field {
                    name: "a",
                    offset: 0,
                    size: 4,
                    unit: Unit::Jiffies,
                },
                Field {
                    name: "b",
                    offset: 8,
                    size: 1,
                    unit: Unit::Shown,
                },
            ],
            hz: 250,
        };
        let mut space = PortSpace {
            low: 5,
            high: 6,
            ..PortSpace::zeroed()
        };
        assert!(fields.values(&space).is_empty());
        space.settings[..4].copy_from_slice(&1750_u32.to_ne_bytes());
        space.settings[8] = 3;
        space.settings_length = 9;
        let expected = [
            ("a", 7),
            ("b", 3),
            ("net.ipv4.ip_local_port_range_high", 6),
            ("net.ipv4.ip_local_port_range_low", 5),
        ];
        assert_eq!(fields.values(&space), expected.into());
    }
}
