//! Sysctls and verdicts on them: any value is fine unless a finding is related to it.

use serde::{Deserialize, Serialize};

use crate::{
    detect::{Anomaly, Evidence, Finding},
    net::sysctls::Sysctls,
};

/// The verdict on a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing here is hurt by it.
    Ok,
    /// Something here is hurt by it.
    Warn,
}

/// A sysctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Name.
    pub name: String,
    /// Inode number of the network namespace; none for one of the host.
    pub netns: Option<u32>,
    /// Value, as sysctl(8) shows it.
    pub value: u64,
    /// The verdict on it.
    pub verdict: Verdict,
    /// The reason; may be empty.
    pub why: String,
}

/// Findings raised in a network namespace.
struct Raised<'a> {
    findings: &'a [Finding],
    netns: u32,
}

impl Raised<'_> {
    fn has(&self, anomaly: Anomaly) -> bool {
        self.has_with(anomaly, |_| true)
    }

    fn has_with(&self, anomaly: Anomaly, is_like: impl Fn(&Evidence) -> bool) -> bool {
        let mut all = self.findings.iter();
        all.any(|it| it.anomaly == anomaly && it.netns == Some(self.netns) && is_like(&it.evidence))
    }
}

/// All sysctls with their verdicts: those of the host first.
pub(super) fn settings(sysctls: &Sysctls, findings: &[Finding]) -> Vec<Setting> {
    let host = sysctls.host.iter().map(|(name, value)| {
        let (verdict, why) = of_host(name, sysctls);
        (None, *name, *value, verdict, why)
    });
    let namespaces = sysctls.namespaces.iter().flat_map(|(netns, values)| {
        let raised = Raised {
            findings,
            netns: *netns,
        };
        values.iter().map(move |(name, value)| {
            let (verdict, why) = of_namespace(name, *value, &raised);
            (Some(*netns), *name, *value, verdict, why)
        })
    });
    host.chain(namespaces)
        .map(|(netns, name, value, verdict, why)| Setting {
            name: name.to_owned(),
            netns,
            value,
            verdict,
            why: why.to_owned(),
        })
        .collect()
}

const FINE: (Verdict, &str) = (Verdict::Ok, "");

fn of_host(name: &str, sysctls: &Sysctls) -> (Verdict, &'static str) {
    match name {
        "net.netfilter.nf_conntrack_max" if sysctls.conntrack_is_full() => (
            Verdict::Warn,
            "connection tracking is over 90 % full; when it is full, new connections are dropped",
        ),
        _ => FINE,
    }
}

fn of_namespace(name: &str, value: u64, raised: &Raised<'_>) -> (Verdict, &'static str) {
    let out_of_ports = || raised.has(Anomaly::PortExhaustion) || raised.has(Anomaly::TimeWaitSurge);
    match name {
        "net.ipv4.ip_local_port_range_high" if out_of_ports() => (
            Verdict::Warn,
            "local ports run out here: a wider range delays it",
        ),
        "net.ipv4.tcp_tw_reuse" if value != 1 && raised.has(Anomaly::TimeWaitSurge) => (
            Verdict::Warn,
            "with 1, connect() may use ports in TIME_WAIT again after a second (clients; takes timestamps)",
        ),
        "net.ipv4.tcp_tw_reuse"
            if value != 1 && raised.has_with(Anomaly::PortExhaustion, is_mostly_time_wait) =>
        {
            (
                Verdict::Warn,
                "with 1, connect() may use ports in TIME_WAIT again after a second, unless bind() chose them",
            )
        }
        "net.ipv4.tcp_timestamps" if value == 0 && out_of_ports() => (
            Verdict::Warn,
            "without timestamps, tcp_tw_reuse has no effect",
        ),
        "net.ipv4.tcp_abort_on_overflow" if value != 0 && raised.has(Anomaly::ListenOverflow) => (
            Verdict::Warn,
            "a full accept queue resets clients that would have tried again; 0 is better",
        ),
        "net.ipv4.tcp_max_tw_buckets" if raised.has(Anomaly::TimeWaitOverflow) => (
            Verdict::Warn,
            "connections are closed without TIME_WAIT because this many are in it",
        ),
        "net.core.somaxconn"
            if raised.has_with(Anomaly::ListenOverflow, |it| has_maximum(it, value)) =>
        {
            (
                Verdict::Warn,
                "an accept queue with this maximum overflows here",
            )
        }
        "net.ipv4.tcp_syncookies" if value == 0 && raised.has(Anomaly::ListenOverflow) => (
            Verdict::Warn,
            "without SYN cookies, a flood of SYNs keeps clients out",
        ),
        _ => FINE,
    }
}

/// Whether TIME_WAIT takes most of the ports, so that reuse would help.
fn is_mostly_time_wait(evidence: &Evidence) -> bool {
    matches!(evidence, Evidence::Ports { blocked, time_wait, .. } if time_wait * 10 >= blocked * 6)
}

/// Whether each of the listening sockets has this maximum.
fn has_maximum(evidence: &Evidence, maximum: u64) -> bool {
    matches!(evidence, Evidence::AcceptQueue { max_backlog, sockets, .. }
        if *max_backlog == maximum * (*sockets).max(1))
}
