//! Notes about a process with a finding: its limit of descriptors, and connections that stay open if the peer vanishes.

use std::collections::HashMap;

use observer_common::ProcessKey;

use crate::{
    detect::{Anomaly, Finding, Subject, cause, number},
    net::sysctls::Sysctls,
    table::Resources,
};

/// Properties of a process for the notes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessState {
    /// Descriptors and limits.
    pub resources: Resources,
    /// [`crate::walk::ProcessUse::unguarded`].
    pub unguarded: u32,
}

/// Of the processes that the finding is about.
pub(super) fn notes(
    finding: &Finding,
    processes: &HashMap<ProcessKey, ProcessState>,
    sysctls: &Sysctls,
) -> Vec<String> {
    let of = match &finding.subject {
        Subject::Process(key) => Some(key),
        _ => finding
            .evidence
            .holders()
            .iter()
            .find_map(|it| it.process.as_ref()),
    };
    let Some((key, state)) = of.and_then(|key| Some((key, processes.get(key)?))) else {
        return Vec::new();
    };
    let runs_out = matches!(finding.anomaly, Anomaly::FdLeak | Anomaly::FdExhaustion);
    let limit = runs_out.then(|| limit(key.tgid, &state.resources, sysctls));
    [limit.flatten(), unguarded(finding, state.unguarded)]
        .into_iter()
        .flatten()
        .collect()
}

/// How to raise the limit.
fn limit(pid: u32, resources: &Resources, sysctls: &Sysctls) -> Option<String> {
    let (soft, hard) = (resources.max_fds?, resources.hard_max_fds?);
    if soft < hard {
        let hard = match hard {
            u64::MAX => "unlimited".to_owned(),
            hard => hard.to_string(),
        };
        return Some(format!(
            "its limit of descriptors (RLIMIT_NOFILE) is {soft}, and may be raised to {hard}, which is its hard \
             limit: `prlimit --pid {pid} --nofile={hard}:` does so without a restart"
        ));
    }
    let most = sysctls
        .host
        .get("fs.nr_open")
        .map_or_else(String::new, |most| format!(", up to fs.nr_open ({most})"));
    Some(format!(
        "its limit of descriptors (RLIMIT_NOFILE) is {soft}, soft and hard: raising it takes root \
         (`prlimit --pid {pid} --nofile=N:N`), or LimitNOFILE= of its unit and a restart{most}"
    ))
}

/// For findings about long-lived connections or vanished peers.
fn unguarded(finding: &Finding, count: u32) -> Option<String> {
    let causes = [
        &cause::PEERS_SILENT,
        &cause::NOT_ACKNOWLEDGED,
        &cause::FD_CONNECTIONS,
        &cause::FULL_OF_CONNECTIONS,
        &cause::IDLE_CONNECTIONS,
        &cause::NO_FIRST_BYTE,
        &cause::NO_ANSWER,
        &cause::UNUSED_CONNECTIONS,
        &cause::CLIENTS_STAY,
    ];
    let matters = finding.causes.iter().any(|it| causes.contains(&it.cause));
    (matters && count > 0).then(|| {
        let have = if count == 1 { "has" } else { "have" };
        format!(
            "{} of its connections {have} carried no data for over a minute and {have} neither SO_KEEPALIVE nor \
             TCP_USER_TIMEOUT: if the peer has vanished, such a connection stays open indefinitely",
            number(count)
        )
    })
}
