//! Sysctls and verdicts on them: any value is fine unless a finding is related to it.

use serde::{Deserialize, Serialize};

use crate::{
    detect::{Anomaly, Cause, Evidence, Finding, cause},
    net::sysctls::{Sysctls, Values},
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

    /// Whether one of these causes is that of a finding.
    fn is_explained_by(&self, causes: &[&Cause]) -> bool {
        let mut here = self
            .findings
            .iter()
            .filter(|it| it.netns == Some(self.netns));
        here.any(|it| is_explained_by(it, causes))
    }

    fn has_with(&self, anomaly: Anomaly, is_like: impl Fn(&Evidence) -> bool) -> bool {
        let mut all = self.findings.iter();
        all.any(|it| it.anomaly == anomaly && it.netns == Some(self.netns) && is_like(&it.evidence))
    }
}

fn is_explained_by(finding: &Finding, causes: &[&Cause]) -> bool {
    finding.causes.iter().any(|it| causes.contains(&it.cause))
}

/// All sysctls with their verdicts: those of the host first.
pub(super) fn settings(sysctls: &Sysctls, findings: &[Finding]) -> Vec<Setting> {
    let host = sysctls.host.iter().map(|(name, value)| {
        let why = of_host(name, *value, sysctls, findings);
        (None, *name, *value, why)
    });
    let namespaces = sysctls.namespaces.iter().flat_map(|(netns, values)| {
        let raised = Raised {
            findings,
            netns: *netns,
        };
        values.iter().map(move |(name, value)| {
            let why = of_namespace(name, *value, values, &raised);
            (Some(*netns), *name, *value, why)
        })
    });
    host.chain(namespaces)
        .map(|(netns, name, value, why)| Setting {
            name: name.to_owned(),
            netns,
            value,
            verdict: match why {
                Some(_) => Verdict::Warn,
                None => Verdict::Ok,
            },
            why: why.unwrap_or_default(),
        })
        .collect()
}

/// Seconds without an answer after which devices between drop idle connections: the shortest of common clouds.
const IDLE_TIMEOUT: u64 = 240;
/// Seconds for which a call may hang.
const LONG: f64 = 60.0;
/// The same for data on a connection that worked; RFC 1122 demands 100 s at least.
const LONG_FOR_DATA: f64 = 120.0;
/// `TCP_TIMEOUT_INIT`, `TCP_RTO_MIN` and `TCP_RTO_MAX` (include/net/tcp.h) in seconds.
const RTO_OF_SYN: f64 = 1.0;
const RTO_MIN: f64 = 0.2;
const RTO_MAX: f64 = 120.0;

/// Seconds until the kernel gives up after this number of retries, the first after `rto` (`retransmits_timed_out`).
fn given_up_after(rto: f64, retries: u64) -> f64 {
    let waits = (0..=retries.min(255)).map(|retry| (rto * 2_f64.powf(retry as f64)).min(RTO_MAX));
    waits.sum()
}

/// A warning, or `None` if nothing here is hurt by the value.
type Warning = Option<String>;

fn of_host(name: &str, value: u64, sysctls: &Sysctls, findings: &[Finding]) -> Warning {
    let explained = |causes: &[&Cause]| findings.iter().any(|it| is_explained_by(it, causes));
    let limit_is_highest =
        |it: &Finding| matches!(it.evidence, Evidence::Descriptors { limit, .. } if limit >= value);
    let why = match name {
        "net.netfilter.nf_conntrack_max" if sysctls.conntrack_is_full() => {
            "connection tracking is over 90 % full; when it is full, new connections are dropped"
        }
        "fs.file-max" if explained(&[&cause::FILE_TABLE]) => {
            "calls fail with ENFILE because this many files are open on the host"
        }
        "fs.nr_open" if findings.iter().any(limit_is_highest) => {
            "the limit of a process that runs out of descriptors cannot be raised above it"
        }
        "net.ipv4.tcp_max_orphans" if explained(&[&cause::ORPHANS]) => {
            "closed connections are dropped early: with more orphans than this, if `nstat TcpExtTCPAbortOnMemory` grows"
        }
        _ => return None,
    };
    Some(why.to_owned())
}

fn of_namespace(name: &str, value: u64, values: &Values, raised: &Raised<'_>) -> Warning {
    let out_of_ports = || raised.has(Anomaly::PortExhaustion) || raised.has(Anomaly::TimeWaitSurge);
    let why = match name {
        "net.ipv4.ip_local_port_range_high" if out_of_ports() => {
            "local ports run out here: a wider range delays it"
        }
        "net.ipv4.tcp_tw_reuse" if value != 1 && raised.has(Anomaly::TimeWaitSurge) => {
            "with 1, connect() may use ports in TIME_WAIT again after a second (clients; takes timestamps)"
        }
        "net.ipv4.tcp_tw_reuse"
            if value != 1 && raised.has_with(Anomaly::PortExhaustion, is_mostly_time_wait) =>
        {
            "with 1, connect() may use ports in TIME_WAIT again after a second, unless bind() chose them"
        }
        "net.ipv4.tcp_timestamps" if value == 0 && out_of_ports() => {
            "without timestamps, tcp_tw_reuse has no effect"
        }
        "net.ipv4.tcp_abort_on_overflow" if value != 0 && raised.has(Anomaly::ListenOverflow) => {
            "a full accept queue resets clients that would have tried again; 0 is better"
        }
        "net.ipv4.tcp_max_tw_buckets" if raised.has(Anomaly::TimeWaitOverflow) => {
            "connections are closed without TIME_WAIT because this many are in it"
        }
        "net.core.somaxconn"
            if raised.has_with(Anomaly::ListenOverflow, |it| has_maximum(it, value)) =>
        {
            "an accept queue with this maximum overflows here"
        }
        "net.ipv4.tcp_syncookies" if value == 0 && raised.has(Anomaly::ListenOverflow) => {
            "without SYN cookies, a flood of SYNs keeps clients out"
        }
        "net.ipv4.tcp_keepalive_time"
            if value > IDLE_TIMEOUT
                && raised.is_explained_by(&[&cause::PEERS_SILENT, &cause::NOT_ACKNOWLEDGED]) =>
        {
            "peers fall silent here; devices that drop idle connections do so after minutes, before the first probe of \
             programs that set SO_KEEPALIVE without TCP_KEEPIDLE"
        }
        "net.ipv4.tcp_syn_retries" => {
            let linear = values.get("net.ipv4.tcp_syn_linear_timeouts");
            let linear = linear.map_or(0.0, |it| *it as f64 * RTO_OF_SYN);
            let seconds = linear + given_up_after(RTO_OF_SYN, value);
            let runs_into = [&cause::SYN_DROPPED, &cause::SILENT_DESTINATION];
            return (seconds > LONG && raised.is_explained_by(&runs_into)).then(|| {
                format!("connect() to a destination that does not answer hangs for {seconds:.0} s")
            });
        }
        "net.ipv4.tcp_retries2" => {
            let seconds = given_up_after(RTO_MIN, value);
            let runs_into = [&cause::NOT_ACKNOWLEDGED, &cause::NOT_RECEIVED];
            return (seconds > LONG_FOR_DATA && raised.is_explained_by(&runs_into)).then(|| {
                format!(
                    "a connection whose data is not acknowledged ends after {seconds:.0} s at the earliest, unless the \
                     program sets TCP_USER_TIMEOUT"
                )
            });
        }
        _ => return None,
    };
    Some(why.to_owned())
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
