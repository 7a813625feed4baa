//! `observer check`: loads and attaches everything once, and reports.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use observer_core::{
    config::RunArgs,
    contract::{Status, Verdict},
};

use crate::{
    cli::{
        CheckArgs,
        check::{Conclusion, Host, Report, gather},
    },
    daemon::load_options,
    kernel::{Absent, Kernel, LoadOptions, mount_tracefs, table},
    output, privileges,
};

/// Prints the report. The exit status is that of its conclusion, or of an observer that cannot run if the settings are
/// invalid or the report cannot be printed.
pub fn run(args: &CheckArgs) -> ExitCode {
    let code = check(args).unwrap_or_else(|error| {
        // Nobody may read that either.
        let _ = writeln!(io::stderr(), "observer: {error:#}");
        Conclusion::Impossible.exit_code()
    });
    ExitCode::from(code)
}

fn check(args: &CheckArgs) -> anyhow::Result<u8> {
    let settings = RunArgs::for_file(args.config.clone()).settings()?;
    // Unmounted at the end, if it was not mounted before.
    let _tracefs = mount_tracefs();
    let mut report = gather(&Host::default());
    if let Err(error) = privileges::is_root_or_capable() {
        report.notes.push(error.to_string());
    } else {
        privileges::raise_memlock();
        examine(
            &mut report,
            &LoadOptions {
                record_mask: 0,
                ..load_options(&settings)
            },
        );
    }
    let text = match args.json {
        true => report.to_json() + "\n",
        false => report.to_text(args.verbose, output::width()),
    };
    output::print(&text).context("cannot print the report")?;
    Ok(report.exit_code())
}

/// Loads and attaches everything, adds the results to the report, and detaches.
fn examine(report: &mut Report, options: &LoadOptions) {
    let kernel = match Kernel::examine(&options.btf) {
        Ok(kernel) => kernel,
        Err(error) => {
            report
                .notes
                .push(format!("{:#}", anyhow::Error::from(error)));
            return;
        }
    };
    report.absent_fields = kernel
        .absent()
        .iter()
        .map(|Absent { global, reason }| {
            let feature = feature_of(global).unwrap_or("detail of records");
            (format!("{global}: {reason}"), feature.to_owned())
        })
        .collect();
    match kernel.load(options) {
        Ok(loaded) => {
            report
                .notes
                .extend(cost_of_syscall_tracepoints(&loaded.verdicts));
            report.verdicts = loaded.verdicts;
            let untested = loaded.untested.into_iter();
            report
                .notes
                .extend(untested.map(|why| format!("self-test skipped: {why}")));
        }
        Err(error) => {
            let detail = format!("{:#}", anyhow::Error::from(error));
            let required = table::chains().filter(|chain| chain.required);
            report.verdicts = required
                .flat_map(|chain| chain.variants.iter().map(move |variant| (chain, variant)))
                .flat_map(|(chain, variant)| {
                    variant.programs.iter().map(move |program| (chain, program))
                })
                .map(|(chain, program)| Verdict {
                    signal: chain.signal,
                    attach_type: program.attach_type(),
                    hook: program.hook,
                    program: program.name,
                    status: Status::Refused,
                    detail: detail.clone(),
                    required: true,
                })
                .collect();
        }
    }
}

/// The cost of the attached tracepoints of system calls, if there are any. With one, the kernel
/// uses the slow path at the exit of every system call (`SYSCALL_WORK_SYSCALL_TRACEPOINT`).
fn cost_of_syscall_tracepoints(verdicts: &[Verdict]) -> Option<String> {
    let attached = verdicts
        .iter()
        .filter(|it| it.status == Status::Attached)
        .filter_map(|it| it.hook.strip_prefix("syscalls:"));
    let events = attached.collect::<BTreeSet<_>>();
    (!events.is_empty()).then(|| {
        format!(
            "{} slow down every system call of every process by about 12 ns together; \
             syscall-tracepoints = \"never\" leaves them out",
            Vec::from_iter(events).join(", ")
        )
    })
}

/// The feature that needs a field.
fn feature_of(global: &str) -> Option<&'static str> {
    Some(match global {
        "OFF_SKC_V6_DADDR" | "OFF_SKC_V6_RCV_SADDR" => "IPv6 addresses in records",
        "OFF_SKC_NET" | "OFF_NET_INUM" => "network namespaces in records, and ports in use",
        "OFF_SKC_FLAGS" | "OFF_SK_LINGERTIME" | "OFF_SK_SOCKET" | "OFF_TP_RCV_NXT"
        | "OFF_TP_COPIED_SEQ" => "reasons of RSTs, where the kernel gives none",
        "OFF_TP_TSORTED" => "owners of connections before they are accepted",
        "OFF_TP_IS_MPTCP" | "OFF_ICSK_ULP_DATA" | "OFF_SUBFLOW_CONN" | "OFF_MSK_FIRST" => {
            "owners of MPTCP subflows"
        }
        "OFF_ACCEPT_HEAD" | "OFF_REQ_SK" | "OFF_REQ_NEXT" => {
            "owners of older connections that wait to be accepted"
        }
        "OFF_SKB_HEAD" | "OFF_SKB_NETWORK" | "OFF_SKB_TRANSPORT" => {
            "addresses of RSTs that no socket had a part in"
        }
        "OFF_SK_DROPS" | "OFF_SK_BACKLOG" | "OFF_SK_MAX_BACKLOG" | "OFF_RSKQ_HEAD"
        | "OFF_RSKQ_FASTOPEN" => "listening sockets",
        "OFF_INODE_INO" | "OFF_SK_DROP_COUNTERS" | "OFF_DROPS0" | "OFF_DROPS1" => {
            "drops of UDP sockets"
        }
        "OFF_ICSK_BIND_HASH"
        | "OFF_TB_FASTREUSE"
        | "OFF_TB_FASTREUSEPORT"
        | "OFF_NET_RESERVED_PORTS"
        | "OFF_NET_PORT_RANGE" => "ports in use",
        "OFF_NET_TW_REUSE"
        | "OFF_NET_TW_REUSE_DELAY"
        | "OFF_TW_TS_STAMP"
        | "OFF_TW_ENTRY_STAMP"
        | "OFF_TW_BIND_HASH"
        | "OFF_SKC_BOUND_IF" => "which ports in TIME_WAIT connect() can use again",
        "OFF_SKC_HASH" | "OFF_SKC_NODE" | "OFF_NET_HASHINFO" | "OFF_HASHINFO_EHASH"
        | "OFF_HASHINFO_MASK" | "OFF_TW_SUBSTATE" => {
            "TIME_WAIT, where its functions are not hooked"
        }
        "OFF_TP_LSNDTIME" | "OFF_ICSK_LRCVTIME" => "idle connections",
        "OFF_ICSK_USER_TIMEOUT" => "connections without TCP_USER_TIMEOUT",
        "OFF_IO_FILE" | "OFF_IO_RESULT" => "failed bind and listen calls of io_uring",
        "OFF_ICSK_RETRANSMITS" => "attempts given up after a SYN whose retransmission was missed",
        "OFF_SKB_PROTOCOL" => "overflows of accept queues at the end of a handshake over IPv6",
        "OFF_REQ_LISTENER" => "owners of RSTs sent during a handshake",
        "OFF_REGS_ARG0" | "OFF_REGS_ARG1" | "OFF_REGS_ARG2" | "OFF_REGS_SYSCALL"
        | "OFF_TASK_STACK" | "PT_REGS_SIZE" => {
            "failed setsockopt, bind and listen calls, and connect errors outside the state machine"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use observer_core::contract::AttachType;

    use super::*;

    #[test]
    fn system_call_tracepoints_that_are_attached_are_named_with_their_cost() {
        let verdict = |hook, attach_type, status| Verdict {
            signal: "fd",
            attach_type,
            hook,
            program: "program",
            status,
            detail: String::new(),
            required: false,
        };
        let mut verdicts = vec![
            verdict("alloc_fd", AttachType::Fexit, Status::Attached),
            verdict(
                "syscalls:sys_exit_socket",
                AttachType::Tracepoint,
                Status::NotNeeded,
            ),
        ];
        assert_eq!(cost_of_syscall_tracepoints(&verdicts), None);
        for hook in [
            "syscalls:sys_exit_accept4",
            "syscalls:sys_exit_accept",
            "syscalls:sys_exit_accept",
        ] {
            verdicts.push(verdict(hook, AttachType::Tracepoint, Status::Attached));
        }
        let note = cost_of_syscall_tracepoints(&verdicts).unwrap();
        assert!(
            note.starts_with("sys_exit_accept, sys_exit_accept4 slow down every system call"),
            "{note}"
        );
    }
}
