use observer_core::contract::AttachType;

use super::*;

fn verdict(signal: &'static str, attach_type: AttachType, status: Status, detail: &str) -> Verdict {
    Verdict {
        signal,
        attach_type,
        hook: match signal {
            "state" => "inet_sock_set_state",
            "connect" => "syscalls:sys_exit_connect",
            _ => "tcp_send_reset",
        },
        program: "program",
        status,
        detail: detail.to_owned(),
        required: signal == "state",
    }
}

fn capability(name: &'static str, held: bool, required: bool) -> CapabilityStatus {
    CapabilityStatus {
        name,
        held,
        required,
        purpose: "something",
    }
}

fn report() -> Report {
    Report {
        kernel_release: "6.18.4".into(),
        arch: "x86_64".into(),
        btf: Ok("/sys/kernel/btf/vmlinux, 6144 KiB".into()),
        tracefs: Ok("/sys/kernel/tracing".into()),
        capabilities: vec![
            capability("CAP_BPF", true, true),
            capability("CAP_DAC_READ_SEARCH", true, false),
        ],
        verdicts: vec![
            verdict("state", AttachType::TpBtf, Status::Attached, ""),
            verdict(
                "state",
                AttachType::Tracepoint,
                Status::NotNeeded,
                "tp_btf is attached",
            ),
            verdict(
                "connect",
                AttachType::TpBtf,
                Status::Unsupported,
                "no such hook",
            ),
            verdict("connect", AttachType::Tracepoint, Status::Attached, ""),
        ],
        absent_fields: vec![],
        private_namespaces: vec![],
        notes: vec![],
    }
}

const SIGNALS: &str = "\
SIGNAL   COUNTS  HOOKS
state    exact   tp_btf inet_sock_set_state
connect  exact   tracepoint sys_exit_connect

2 signals: 2 exact, 0 inferred, 0 missing.
Every signal is observed.
";

#[test]
fn complete_text() {
    assert_eq!(report().to_text(false, None), SIGNALS);
    assert_eq!(
        report().to_text(true, None),
        format!(
            "\
{SIGNALS}
kernel         6.18.4 (x86_64)
BTF            ok: /sys/kernel/btf/vmlinux, 6144 KiB
tracefs        ok: /sys/kernel/tracing
capabilities   CAP_BPF              yes      something
               CAP_DAC_READ_SEARCH  yes      something

SIGNAL   ATTACH TYPE  HOOK                       STATUS       REASON
state    tp_btf       inet_sock_set_state        attached
connect  tp_btf       syscalls:sys_exit_connect  unsupported  no such hook
connect  tracepoint   syscalls:sys_exit_connect  attached
"
        )
    );
    assert_eq!(report().exit_code(), 0);
}

#[test]
fn a_private_pid_namespace_degrades() {
    let mut private = report();
    private.private_namespaces = vec!["pid"];
    assert_eq!(private.exit_code(), 1);
    let text = private.to_text(false, None);
    assert!(
        text.contains("its pid namespace is not the host's"),
        "{text}"
    );
}

#[test]
fn degraded_by_signal_field_and_capability() {
    let mut degraded = report();
    degraded.verdicts.push(verdict(
        "reset_sent",
        AttachType::TpBtf,
        Status::Refused,
        "line 1\nR1 bad",
    ));
    degraded
        .absent_fields
        .push(("tcp_sock.total_retrans".into(), "retransmits".into()));
    degraded.capabilities[1].held = false;
    degraded.notes.push("a remark".into());
    let text = degraded.to_text(true, None);
    for part in [
        "\nreset_sent  MISSING  tcp_send_reset: line 1 R1 bad\n\n\
         3 signals: 2 exact, 0 inferred, 1 missing.\n\
         The observer runs here, but not in full: no hook for reset_sent; the kernel has no \
         tcp_sock.total_retrans; it lacks CAP_DAC_READ_SEARCH.\n",
        "\nreset_sent  tp_btf       tcp_send_reset             refused      line 1 R1 bad\n",
        "\nfields this kernel does not have:\n  tcp_sock.total_retrans: retransmits is off\n",
        "\nnotes:\n  a remark\n",
    ] {
        assert!(text.contains(part), "{part}\nin:\n{text}");
    }
    assert!(text.contains("CAP_DAC_READ_SEARCH  no       something\n"));
    assert_eq!(degraded.exit_code(), 1);

    let mut only_field = report();
    only_field.absent_fields.push(("a.b".into(), "c".into()));
    assert_eq!(only_field.exit_code(), 1);
}

#[test]
fn impossible_for_each_reason() {
    let mut no_btf = report();
    no_btf.btf = Err("no file".into());
    assert_eq!(
        no_btf.conclusion(),
        (
            Conclusion::Impossible,
            "The observer cannot run here: the kernel offers no BTF (no file).".into()
        )
    );
    assert!(
        no_btf
            .to_text(true, None)
            .contains("BTF            MISSING: no file\n")
    );

    let mut no_privileges = report();
    no_privileges.capabilities[0].held = false;
    no_privileges.verdicts.clear();
    assert_eq!(no_privileges.exit_code(), 2);
    assert!(
        no_privileges
            .to_text(true, None)
            .contains("CAP_BPF              MISSING  something\n")
    );
    assert!(
        no_privileges
            .to_text(true, None)
            .contains("cannot run here: it lacks CAP_BPF.\n")
    );

    let mut no_hook = report();
    no_hook.verdicts[0].status = Status::Refused;
    no_hook.verdicts[1].status = Status::Unsupported;
    assert_eq!(no_hook.exit_code(), 2);
    assert!(
        no_hook
            .to_text(true, None)
            .contains("no hook could be attached for state.\n")
    );
}

#[test]
fn json_has_everything_by_name() {
    let mut degraded = report();
    degraded.tracefs = Err("not mounted".into());
    degraded.absent_fields.push(("a.b".into(), "c".into()));
    degraded.verdicts.truncate(1);
    degraded.capabilities.truncate(1);
    let json = degraded.to_json();
    assert!(!json.contains('\n'));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "kernel_release": "6.18.4",
            "arch": "x86_64",
            "btf": {"ok": true, "detail": "/sys/kernel/btf/vmlinux, 6144 KiB"},
            "tracefs": {"ok": false, "detail": "not mounted"},
            "capabilities": [
                {"name": "CAP_BPF", "held": true, "required": true, "purpose": "something"},
            ],
            "verdicts": [{
                "signal": "state", "attach_type": "tp_btf", "hook": "inet_sock_set_state",
                "program": "program", "status": "attached", "detail": "", "required": true,
            }],
            "absent_fields": [{"field": "a.b", "feature": "c"}],
            "private_namespaces": [],
            "notes": [],
            "missing": [],
            "exit_code": 1,
            "conclusion": "The observer runs here, but not in full: the kernel has no a.b.",
        })
    );
}

#[test]
fn a_verifier_log_stays_on_one_short_line() {
    let log = format!(
        "{}\nR2 type=scalar \x1b[31mexpected=fp\n",
        "0: (b7) r1 = 0\n".repeat(500)
    );
    let mut refused = report();
    refused.verdicts = vec![verdict("state", AttachType::TpBtf, Status::Refused, &log)];
    let text = refused.to_text(true, None);
    for line in text.lines().filter(|line| line.starts_with("state")) {
        assert!(line.chars().count() < 240, "{line}");
        assert!(
            line.ends_with("R2 type=scalar \\x1b[31mexpected=fp"),
            "{line}"
        );
    }
    let value: serde_json::Value = serde_json::from_str(&refused.to_json()).unwrap();
    assert_eq!(value["verdicts"][0]["detail"], log);
    let missing = serde_json::json!([{"signal": "state", "reason": "refused"}]);
    assert_eq!(value["missing"], missing);
}

#[test]
fn a_terminal_splits_no_word() {
    for verbose in [false, true] {
        let whole = report().to_text(verbose, None);
        let narrow = report().to_text(verbose, Some(80));
        assert!(
            narrow.lines().all(|it| it.chars().count() <= 80),
            "{narrow}"
        );
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&narrow), words(&whole));
    }
}
