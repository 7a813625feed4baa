//! The kernel's counters of each network namespace that detectors use.

use std::time::Instant;

use super::{netns::Representatives, snmp::TcpExtCounters};
use crate::process::ProcError;

/// Counters of a network namespace, since it was made (`TcpExt` in /proc/PID/net/netstat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceCounters {
    /// Inode number of the namespace.
    pub netns: u32,
    /// `TCPTimeWaitOverflow`: connections that were closed without TIME_WAIT, because
    /// `tcp_max_tw_buckets` was reached or memory ran out (`tcp_time_wait`).
    pub time_wait_overflows: u64,
    /// `SyncookiesSent`: SYNs that were answered with a SYN cookie, because the listener's queue of
    /// requests was full (`tcp_conn_request`).
    pub syncookies_sent: u64,
}

impl NamespaceCounters {
    /// Reads those of the network namespace `netns`; `None` if no process is known to be in it.
    ///
    /// # Errors
    ///
    /// As [`TcpExtCounters::read`]; [`ProcError::Missing`] if the kernel lacks a counter.
    pub fn read(
        netns: u32,
        processes: &mut Representatives,
        now: Instant,
    ) -> Result<Option<Self>, ProcError> {
        let Some(pid) = processes.process_in(netns, None, now) else {
            return Ok(None);
        };
        let Some(counters) = TcpExtCounters::read(processes.root(), pid)? else {
            return Ok(None);
        };
        let get = |name| {
            let missing = || ProcError::missing("net/netstat", name);
            counters.get(name).ok_or_else(missing)
        };
        Ok(Some(Self {
            netns,
            time_wait_overflows: get("TCPTimeWaitOverflow")?,
            syncookies_sent: get("SyncookiesSent")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn counters_are_read_through_a_process() {
        let proc = Fixture::new();
        let namespace = proc.write(9, "ns/net", b"");
        let netns = fs::metadata(namespace).unwrap().ino() as u32;
        let mut processes = Representatives::new(proc.root().clone());
        let mut read = || NamespaceCounters::read(netns, &mut processes, Instant::now());
        assert_eq!(read().unwrap(), None);
        proc.write(
            9,
            "net/netstat",
            b"TcpExt: SyncookiesSent TCPTimeWaitOverflow\nTcpExt: 3 4\n",
        );
        let expected = NamespaceCounters {
            netns,
            time_wait_overflows: 4,
            syncookies_sent: 3,
        };
        assert_eq!(read().unwrap(), Some(expected));
        proc.write(9, "net/netstat", b"TcpExt: SyncookiesSent\nTcpExt: 3\n");
        assert!(read().is_err());
    }
}
