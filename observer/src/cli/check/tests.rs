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
        notes: vec![],
    }
}

#[test]
fn complete_text() {
    assert_eq!(
        report().to_text(),
        "\
kernel         6.18.4 (x86_64)
BTF            ok: /sys/kernel/btf/vmlinux, 6144 KiB
tracefs        ok: /sys/kernel/tracing
capabilities   CAP_BPF              yes      something
               CAP_DAC_READ_SEARCH  yes      something

SIGNAL   RUNG        HOOK                       STATUS       WHY
state    tp_btf      inet_sock_set_state        attached
connect  tp_btf      syscalls:sys_exit_connect  unsupported  no such hook
connect  tracepoint  syscalls:sys_exit_connect  attached

Every signal is observed.
"
    );
    assert_eq!(report().exit_code(), 0);
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
    let text = degraded.to_text();
    let (_, tail) = text.split_once("\nconnect     tracepoint ").unwrap();
    assert_eq!(
        tail,
        "\u{20}syscalls:sys_exit_connect  attached
reset_sent  tp_btf      tcp_send_reset             refused      line 1 R1 bad

fields this kernel does not have:
  tcp_sock.total_retrans: retransmits is off

notes:
  a remark

The observer runs here, but not in full: no hook for reset_sent; the kernel has no \
tcp_sock.total_retrans; it lacks CAP_DAC_READ_SEARCH.
"
    );
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
            .to_text()
            .contains("BTF            MISSING: no file\n")
    );

    let mut no_privileges = report();
    no_privileges.capabilities[0].held = false;
    no_privileges.verdicts.clear();
    assert_eq!(no_privileges.exit_code(), 2);
    assert!(
        no_privileges
            .to_text()
            .contains("CAP_BPF              MISSING  something\n")
    );
    assert!(
        no_privileges
            .to_text()
            .ends_with("cannot run here: it lacks CAP_BPF.\n")
    );

    let mut no_hook = report();
    no_hook.verdicts[0].status = Status::Refused;
    no_hook.verdicts[1].status = Status::Unsupported;
    assert_eq!(no_hook.exit_code(), 2);
    assert!(
        no_hook
            .to_text()
            .ends_with("no hook could be attached for state.\n")
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
            "notes": [],
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
    let text = refused.to_text();
    let line = text.lines().find(|line| line.starts_with("state")).unwrap();
    assert!(line.chars().count() < 220, "{line}");
    assert!(
        line.ends_with("R2 type=scalar \\x1b[31mexpected=fp"),
        "{line}"
    );
    let value: serde_json::Value = serde_json::from_str(&refused.to_json()).unwrap();
    assert_eq!(value["verdicts"][0]["detail"], log);
}
