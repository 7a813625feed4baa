//! /proc/PID/net/sockstat and sockstat6: numbers of sockets.

use crate::process::{ProcError, ProcRoot, identity::parse_u64};

/// Socket counts, from `sockstat_seq_show` in net/ipv4/proc.c and `sockstat6_seq_show` in
/// net/ipv6/proc.c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockStat {
    /// IPv4 sockets of the network namespace that have a port and are not in TIME_WAIT,
    /// listeners included.
    pub tcp_inuse: u64,
    /// Orphaned sockets of the whole host.
    pub tcp_orphans: u64,
    /// Timewait sockets of the namespace, IPv4 and IPv6, those in substate FIN_WAIT2
    /// included: what counts against `net.ipv4.tcp_max_tw_buckets`.
    pub tcp_time_wait: u64,
    /// Sockets that are allocated, IPv4 and IPv6. Of the whole host.
    pub tcp_allocated: u64,
    /// Memory charged to TCP, in pages. Of the whole host.
    pub tcp_memory_pages: u64,
    /// As `tcp_inuse`, for IPv6; `None` on a kernel without IPv6.
    pub tcp6_inuse: Option<u64>,
}

impl SockStat {
    /// Parses the text of sockstat, and of sockstat6 if that file exists.
    ///
    /// # Errors
    ///
    /// [`ProcError::Missing`] and [`ProcError::NotANumber`].
    pub fn parse(sockstat: &[u8], sockstat6: Option<&[u8]>) -> Result<Self, ProcError> {
        let tcp = |name| field("net/sockstat", sockstat, "TCP:", name);
        Ok(Self {
            tcp_inuse: tcp("inuse")?,
            tcp_orphans: tcp("orphan")?,
            tcp_time_wait: tcp("tw")?,
            tcp_allocated: tcp("alloc")?,
            tcp_memory_pages: tcp("mem")?,
            tcp6_inuse: sockstat6
                .map(|bytes| field("net/sockstat6", bytes, "TCP6:", "inuse"))
                .transpose()?,
        })
    }

    /// Reads the files of the network namespace of process `pid`; `None` if the process has ended. Needs no privileges.
    ///
    /// # Errors
    ///
    /// As [`ProcRoot::read`] and [`Self::parse`].
    pub fn read(root: &ProcRoot, pid: u32) -> Result<Option<Self>, ProcError> {
        let Some(sockstat) = root.read(pid, "net/sockstat")? else {
            return Ok(None);
        };
        let sockstat6 = root.read(pid, "net/sockstat6")?;
        Self::parse(&sockstat, sockstat6.as_deref()).map(Some)
    }
}

/// The number after the word `name`, on the line that starts with `prefix`.
fn field(file: &'static str, bytes: &[u8], prefix: &str, name: &str) -> Result<u64, ProcError> {
    let missing = || ProcError::missing(file, &format!("{prefix} {name}"));
    let mut words = bytes
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(prefix.as_bytes()))
        .ok_or_else(missing)?
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let value = words.next();
        if word == name.as_bytes() {
            let value = value.ok_or_else(missing)?;
            return parse_u64(value)
                .ok_or_else(|| ProcError::not_a_number(file, &format!("{prefix} {name}"), value));
        }
    }
    Err(missing())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::process::fixture::Fixture;

    const V4: &[u8] = b"sockets: used 23
TCP: inuse 2 orphan 3 tw 4 alloc 5 mem 226
UDP: inuse 0 mem 0
";
    const V6: &[u8] = b"TCP6: inuse 7\nUDP6: inuse 0\n";

    #[test]
    fn reads_both_files() {
        let proc = Fixture::new();
        assert_eq!(SockStat::read(proc.root(), 1).unwrap(), None);
        proc.write(1, "net/sockstat", V4);
        let expected = SockStat {
            tcp_inuse: 2,
            tcp_orphans: 3,
            tcp_time_wait: 4,
            tcp_allocated: 5,
            tcp_memory_pages: 226,
            tcp6_inuse: None,
        };
        assert_eq!(SockStat::read(proc.root(), 1).unwrap(), Some(expected));
        proc.write(1, "net/sockstat6", V6);
        let expected = SockStat {
            tcp6_inuse: Some(7),
            ..expected
        };
        assert_eq!(SockStat::read(proc.root(), 1).unwrap(), Some(expected));
    }

    #[test]
    fn errors_name_file_and_field() {
        for (text, message) in [
            ("", "net/sockstat: there is no field TCP: inuse"),
            ("TCP: inuse", "net/sockstat: there is no field TCP: inuse"),
            (
                "TCP: inuse 2",
                "net/sockstat: there is no field TCP: orphan",
            ),
            (
                "TCP: inuse -2",
                "net/sockstat: field TCP: inuse is not a number: \"-2\"",
            ),
        ] {
            let error = SockStat::parse(text.as_bytes(), None).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = SockStat::parse(V4, Some(b"UDP6: inuse 0\n")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "net/sockstat6: there is no field TCP6: inuse"
        );
    }

    #[test]
    fn the_real_files_are_understood() {
        let pid = std::process::id();
        assert!(SockStat::read(&ProcRoot::default(), pid).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = SockStat::parse(&bytes, Some(&bytes));
        }

        #[test]
        fn arbitrary_lines_never_panic(line in "(TCP6?: )?([a-z]{0,5} ?[-+0-9]{0,22} ?){0,12}") {
            let _ = SockStat::parse(line.as_bytes(), Some(line.as_bytes()));
        }
    }
}
