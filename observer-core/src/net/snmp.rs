//! /proc/PID/net/snmp and netstat: the TCP counters of a network namespace.

use std::collections::BTreeMap;

use crate::process::{ProcError, ProcRoot, identity::parse_u64};

/// The `Tcp` counters of RFC 4022, from /proc/PID/net/snmp (`snmp_seq_show` in
/// net/ipv4/proc.c). Totals since the namespace was made, IPv4 and IPv6 together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpCounters {
    /// Transitions from CLOSE to SYN_SENT.
    pub active_opens: u64,
    /// Transitions from LISTEN to SYN_RECV, counted when the child is made.
    pub passive_opens: u64,
    /// Transitions from SYN_SENT or SYN_RECV to CLOSE, or from SYN_RECV back to LISTEN.
    pub attempt_fails: u64,
    /// Transitions from ESTABLISHED or CLOSE_WAIT to CLOSE.
    pub estab_resets: u64,
    /// Connections in ESTABLISHED or CLOSE_WAIT now: a gauge.
    pub curr_estab: u64,
    /// Segments received.
    pub in_segs: u64,
    /// Segments sent, retransmitted ones excluded.
    pub out_segs: u64,
    /// Segments sent again.
    pub retrans_segs: u64,
    /// Segments received in error.
    pub in_errs: u64,
    /// Segments sent with RST set.
    pub out_rsts: u64,
}

impl TcpCounters {
    /// Parses the text of /proc/PID/net/snmp.
    ///
    /// # Errors
    ///
    /// [`ProcError::Missing`] and [`ProcError::NotANumber`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProcError> {
        const FILE: &str = "net/snmp";
        let table = parse_table(FILE, "Tcp:", bytes)?;
        let get = |name: &str| {
            table
                .get(name)
                .copied()
                .ok_or_else(|| ProcError::missing(FILE, &format!("Tcp: {name}")))
        };
        Ok(Self {
            active_opens: get("ActiveOpens")?,
            passive_opens: get("PassiveOpens")?,
            attempt_fails: get("AttemptFails")?,
            estab_resets: get("EstabResets")?,
            curr_estab: get("CurrEstab")?,
            in_segs: get("InSegs")?,
            out_segs: get("OutSegs")?,
            retrans_segs: get("RetransSegs")?,
            in_errs: get("InErrs")?,
            out_rsts: get("OutRsts")?,
        })
    }

    /// Reads it for the network namespace of process `pid`; `None` if the process has ended.
    ///
    /// # Errors
    ///
    /// As [`ProcRoot::read`] and [`Self::parse`].
    pub fn read(root: &ProcRoot, pid: u32) -> Result<Option<Self>, ProcError> {
        root.read(pid, "net/snmp")?
            .map(|bytes| Self::parse(&bytes))
            .transpose()
    }
}

/// The `TcpExt` counters, from /proc/PID/net/netstat (`netstat_seq_show` in net/ipv4/proc.c). Totals since the creation of
/// the namespace. They are stored by name, because they depend on the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpExtCounters(BTreeMap<String, u64>);

impl TcpExtCounters {
    /// Parses the text of /proc/PID/net/netstat.
    ///
    /// # Errors
    ///
    /// [`ProcError::Missing`] and [`ProcError::NotANumber`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProcError> {
        parse_table("net/netstat", "TcpExt:", bytes).map(Self)
    }

    /// Reads it for the network namespace of process `pid`; `None` if the process has ended.
    ///
    /// # Errors
    ///
    /// As [`ProcRoot::read`] and [`Self::parse`].
    pub fn read(root: &ProcRoot, pid: u32) -> Result<Option<Self>, ProcError> {
        root.read(pid, "net/netstat")?
            .map(|bytes| Self::parse(&bytes))
            .transpose()
    }

    /// A counter by its name in the file, such as `ListenOverflows`, `ListenDrops`,
    /// `EmbryonicRsts`, `TW`, `TWRecycled`, `TWKilled`, `TCPTimeWaitOverflow`,
    /// `TCPAbortOnData` or `TCPAbortOnClose`; `None` when this kernel has no such counter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// All counters, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

/// The two lines that start with `prefix`: names, then as many values. `Tcp: MaxConn` is
/// -1, "dynamic", as RFC 4022 has it, and left out like any negative value.
fn parse_table(
    file: &'static str,
    prefix: &str,
    bytes: &[u8],
) -> Result<BTreeMap<String, u64>, ProcError> {
    let mut lines = bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.strip_prefix(prefix.as_bytes()))
        .map(|line| {
            line.split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
        });
    let names = lines
        .next()
        .ok_or_else(|| ProcError::missing(file, prefix))?;
    let mut values = lines
        .next()
        .ok_or_else(|| ProcError::missing(file, &format!("{prefix} (values)")))?;
    let mut table = BTreeMap::new();
    for name in names {
        let name = String::from_utf8_lossy(name);
        let field = || format!("{prefix} {name}");
        let value = values
            .next()
            .ok_or_else(|| ProcError::missing(file, &field()))?;
        match (
            parse_u64(value),
            value.strip_prefix(b"-").and_then(parse_u64),
        ) {
            (Some(value), _) => {
                table.insert(name.into_owned(), value);
            }
            (None, Some(_)) => {}
            (None, None) => return Err(ProcError::not_a_number(file, &field(), value)),
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SNMP: &[u8] = b"Ip: Forwarding DefaultTTL\nIp: 1 64
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 105 2 3 82 4 10121 6615 1 5 114 0
Udp: InDatagrams\nUdp: 9
";

    #[test]
    fn tcp_counters() {
        let expected = TcpCounters {
            active_opens: 105,
            passive_opens: 2,
            attempt_fails: 3,
            estab_resets: 82,
            curr_estab: 4,
            in_segs: 10_121,
            out_segs: 6_615,
            retrans_segs: 1,
            in_errs: 5,
            out_rsts: 114,
        };
        assert_eq!(TcpCounters::parse(SNMP).unwrap(), expected);
    }

    #[test]
    fn tcp_ext_counters() {
        let text = b"TcpExt: SyncookiesSent TW ListenDrops\nTcpExt: 0 2 18446744073709551615\nIpExt: A\nIpExt: 1\n";
        let counters = TcpExtCounters::parse(text).unwrap();
        assert_eq!(counters.get("TW"), Some(2));
        assert_eq!(counters.get("ListenDrops"), Some(u64::MAX));
        assert_eq!(counters.get("A"), None);
        assert_eq!(counters.iter().count(), 3);
    }

    #[test]
    fn errors_name_file_and_field() {
        for (text, message) in [
            ("", "net/snmp: there is no field Tcp:"),
            (
                "Tcp: ActiveOpens\n",
                "net/snmp: there is no field Tcp: (values)",
            ),
            (
                "Tcp: ActiveOpens\nTcp: 1\n",
                "net/snmp: there is no field Tcp: PassiveOpens",
            ),
            ("Tcp: A B\nTcp: 1\n", "net/snmp: there is no field Tcp: B"),
            (
                "Tcp: A\nTcp: 1e3\n",
                "net/snmp: field Tcp: A is not a number: \"1e3\"",
            ),
            (
                "Tcp: A\nTcp: --1\n",
                "net/snmp: field Tcp: A is not a number: \"--1\"",
            ),
        ] {
            assert_eq!(
                TcpCounters::parse(text.as_bytes()).unwrap_err().to_string(),
                message
            );
        }
    }

    #[test]
    fn the_real_files_are_understood() {
        let root = ProcRoot::default();
        let pid = std::process::id();
        assert!(TcpCounters::read(&root, pid).unwrap().is_some());
        let ext = TcpExtCounters::read(&root, pid).unwrap().unwrap();
        for name in [
            "ListenOverflows",
            "ListenDrops",
            "TW",
            "TCPTimeWaitOverflow",
            "TCPAbortOnData",
        ] {
            assert!(ext.get(name).is_some(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = TcpCounters::parse(&bytes);
            let _ = TcpExtCounters::parse(&bytes);
        }

        #[test]
        fn arbitrary_tables_never_panic(text in "((Tcp|TcpExt):( [-+A-Za-z0-9]{0,22}){0,20}\n?){0,4}") {
            let _ = TcpCounters::parse(text.as_bytes());
            let _ = TcpExtCounters::parse(text.as_bytes());
        }
    }
}
