//! A guest with systemd as its first process, and the package installed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{shell, vm};

const SCRIPT: &str = include_str!("trial.sh");

const UNIT: &str = "\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/trial.sh
[Install]
WantedBy=multi-user.target
";

/// How long an emulated machine may be silent between two steps.
const PATIENCE: Duration = Duration::from_secs(300);

/// Capabilities without which hooks are lost on every kernel. The others are for /proc and tracefs.
const NEEDED: [&str; 2] = ["CAP_BPF", "CAP_PERFMON"];

/// Boots `tree`, and reads the output of the script in it, which installs the package `newer`: its version, and as a
/// .deb and a tarball. Logs are written to `dir`.
pub fn boot(tree: &Path, newer: (&str, &Path, &Path), kernel: &str, dir: &Path) -> Result<()> {
    let (version, package, tarball) = newer;
    fs::copy(package, tree.join("newer.deb"))?;
    let mut xz = Command::new("xz");
    xz.args(["--decompress", "--stdout"]).arg(tarball);
    xz.stdout(fs::File::create(tree.join("newer.tar"))?);
    shell::run(&mut xz, "install xz-utils")?;
    fs::write(tree.join("newer.version"), version)?;
    let file = tree.join("trial.sh");
    fs::write(&file, SCRIPT)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    let units = tree.join("etc/systemd/system");
    fs::write(units.join("trial.service"), UNIT)?;
    for (link, to) in [
        (tree.join("init"), "/sbin/init"),
        (
            units.join("multi-user.target.wants/trial.service"),
            "../trial.service",
        ),
        // The consoles belong to the trial.
        (units.join("getty.target"), "/dev/null"),
    ] {
        if !link.is_symlink() {
            symlink(to, &link).with_context(|| format!("cannot create {}", link.display()))?;
        }
    }
    fs::create_dir_all(dir)?;
    let boot = vm::boot_tree(tree, kernel, dir, PATIENCE)?;
    let mut failed = Vec::new();
    let mut steps = 0;
    let mut reports = BTreeMap::new();
    for (_, line) in &boot.output {
        if let Some(step) = line.strip_prefix("@@ ok ") {
            println!("  {step}");
            steps += 1;
        } else if let Some(step) = line.strip_prefix("@@ FAILED ") {
            failed.push(step.to_owned());
        } else if let Some((who, report)) = line
            .strip_prefix("@@ report ")
            .and_then(|it| it.split_once(' '))
        {
            let report: Value = serde_json::from_str(report).with_context(|| who.to_owned())?;
            reports.insert(who.to_owned(), report);
        }
    }
    ensure!(
        boot.end == vm::End::Finished && steps > 0,
        "the guest ended with {:?}; see {}\n{}",
        boot.end,
        dir.display(),
        boot.console_tail()
    );
    let [Some(root), Some(unit)] = ["root", "unit"].map(|who| reports.get(who)) else {
        bail!("not both reports of `observer check`: {:?}", reports.keys());
    };
    // Without permission for perf_event_open(), these cannot be attached, and others are used.
    let paranoid = boot.output.iter().any(|(_, line)| line == "@@ paranoid 3");
    let excused = |hook: &String| {
        let of_perf = ["tracepoint ", "kprobe ", "kretprobe ", "uprobe "];
        paranoid && of_perf.iter().any(|kind| hook.starts_with(kind))
    };
    let (excused, lost): (Vec<_>, Vec<_>) = lost(root, unit).into_iter().partition(excused);
    println!("  hooks of root that the unit has not: {excused:?}");
    if !lost.is_empty() {
        failed.push(format!("the unit has not {lost:?}"));
    }
    // With what docs/operations.md says to do about it. Before 6.6, uprobes take CAP_SYS_ADMIN.
    for (who, excused) in [("privileged", None), ("sysctl", Some("uprobe "))] {
        let report = reports
            .get(who)
            .with_context(|| format!("no report with {who}"))?;
        let mut lost = self::lost(root, report);
        lost.retain(|hook| !excused.is_some_and(|it| hook.starts_with(it)));
        if !lost.is_empty() {
            failed.push(format!("with {who}, the unit has not {lost:?}"));
        }
    }
    let alerted = alerted(unit)?;
    if !alerted.is_empty() {
        failed.push(format!("ObserverHookMissing would fire for {alerted:?}"));
    }
    for (who, report) in reports.iter().filter(|(who, _)| who.starts_with("CAP_")) {
        let lost = self::lost(unit, report);
        // Without those that are needed, it ends before it tries a hook.
        match report["verdicts"].as_array().map_or(0, Vec::len) {
            0 => println!("  without {who} it does not start"),
            _ => println!("  without {who} the unit lacks {lost:?}"),
        }
        if NEEDED.contains(&who.as_str()) && lost.is_empty() {
            failed.push(format!("{who} is needed for nothing"));
        }
    }
    ensure!(
        failed.is_empty(),
        "failed: {failed:?}; see {}",
        dir.display()
    );
    Ok(())
}

/// Signals without a hook for which an alert fires where nothing was changed.
fn alerted(report: &Value) -> Result<Vec<&str>> {
    let missing = report["missing"].as_array();
    let missing = missing.context("the report does not say what is missing")?;
    let fires = |it: &&Value| it["reason"] == "refused" || it["reason"] == "broken";
    let signals = missing.iter().filter(fires);
    Ok(signals.filter_map(|it| it["signal"].as_str()).collect())
}

/// Hooks that are attached for root, and not in the unit.
fn lost(root: &Value, unit: &Value) -> Vec<String> {
    let attached = |report: &Value| -> Vec<String> {
        let verdicts = report["verdicts"].as_array();
        let attached = verdicts
            .into_iter()
            .flatten()
            .filter(|it| it["status"] == "attached");
        attached
            .map(|it| {
                let [kind, hook, signal] = ["attach_type", "hook", "signal"].map(|key| &it[key]);
                format!("{kind} {hook} ({signal})").replace('"', "")
            })
            .collect()
    };
    let unit = attached(unit);
    let root = attached(root).into_iter();
    root.filter(|hook| !unit.contains(hook)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_refused_is_told_from_what_cannot_be() {
        let verdict = |signal, hook, status| json!({ "signal": signal, "hook": hook, "attach_type": "fexit", "status": status });
        let of = |accept, tls| {
            let verdicts = [
                verdict("state", "a", "attached"),
                verdict("state", "b", "refused"),
                verdict("accept", "c", accept),
                verdict("tls", "d", tls),
            ];
            let missing = [("accept", accept), ("tls", tls)].into_iter();
            let missing = missing.filter(|(_, why)| *why != "attached");
            let missing = missing.map(|(signal, why)| json!({ "signal": signal, "reason": why }));
            json!({ "verdicts": verdicts, "missing": Vec::from_iter(missing) })
        };
        let (root, unit) = (of("attached", "attached"), of("refused", "unsupported"));
        assert_eq!(alerted(&unit).unwrap(), ["accept"]);
        assert!(alerted(&root).unwrap().is_empty());
        assert!(alerted(&json!({ "verdicts": [] })).is_err());
        assert_eq!(lost(&root, &unit), ["fexit c (accept)", "fexit d (tls)"]);
    }
}
