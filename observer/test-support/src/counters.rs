//! The kernel's own counters.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// A pair of lines of `/proc/net/snmp` or `/proc/net/netstat`, by column: the names follow a
/// prefix such as `Tcp`, and so do the values.
pub fn columns(text: &str, prefix: &str) -> Result<BTreeMap<String, i64>> {
    let mut rows = text
        .lines()
        .filter_map(|line| line.strip_prefix(prefix)?.strip_prefix(':'));
    let missing = || format!("no {prefix} lines");
    let (names, values) = (
        rows.next().with_context(missing)?,
        rows.next().with_context(missing)?,
    );
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs
        .map(|(name, value)| Ok((name.to_owned(), value.parse().context("no number")?)))
        .collect()
}

/// Whether the running kernel is at least this version. Only for properties that no metric shows: prefer
/// [`Metrics::observes`](crate::Metrics::observes).
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named() {
        let text = "Ip: A\nIp: 1\nTcp: MaxConn OutRsts\nTcp: -1 3\nTcpExt: B\nTcpExt: 2\n";
        let tcp = columns(text, "Tcp").unwrap();
        assert_eq!((tcp["MaxConn"], tcp["OutRsts"]), (-1, 3));
        assert_eq!(columns(text, "TcpExt").unwrap()["B"], 2);
        assert!(columns(text, "Udp").is_err());
    }
}
