//! Boots a guest and watches it.

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::shell;

/// Forces the accelerator: `kvm` or `tcg`.
const ACCELERATOR: &str = "OBSERVER_VM_ACCEL";

/// What the kernel is told. An oops and a soft lockup are panics, and a panic ends QEMU.
/// noirqdebug: real-time kernels switch the serial port's interrupt off under bulk output.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic softlockup_panic=1 \
                            noirqdebug";

/// How a boot ended.
#[derive(Debug)]
pub enum End {
    /// It ran to the end and switched itself off.
    Finished,
    /// It did not end in time.
    Hung,
    /// Its kernel panicked.
    Panicked,
    /// QEMU ended, and the guest had not. What QEMU said.
    Broken(String),
}

pub struct Boot {
    pub end: End,
    pub took: Duration,
    /// What the guest printed on the port that is not the console.
    pub output: String,
    /// What its kernel printed.
    pub console: PathBuf,
}

impl Boot {
    /// The end of the kernel's log.
    pub fn console_tail(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Chooses the accelerator. Asking QEMU for KVM and then TCG does not work where KVM opens
/// and guests die in it, as under PVM.
pub fn accelerator() -> String {
    if let Ok(chosen) = env::var(ACCELERATOR) {
        return chosen;
    }
    let usable = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if usable && !Path::new("/sys/module/kvm_pvm").is_dir() {
        return "kvm".to_owned();
    }
    let version = shell::output(Command::new("qemu-system-x86_64").arg("--version"));
    if version.as_deref().and_then(major_minor) >= Some((8, 1)) {
        "tcg".to_owned()
    } else {
        // Before 8.1, guests with several threads oops at random: a race with the patching
        // of int3.
        "tcg,thread=single".to_owned()
    }
}

fn major_minor(text: &str) -> Option<(u32, u32)> {
    let version = text.split("version ").nth(1)?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Boots `kernel` with `initrd`, leaves logs in `dir` and gives up after `limit`.
pub fn boot(kernel: &Path, initrd: &Path, dir: &Path, limit: Duration) -> Result<Boot> {
    let console = dir.join("console.log");
    fs::write(&console, "")?;
    let accelerator = accelerator();
    let mut qemu = Command::new("timeout");
    qemu.args(["-k", "5", &limit.as_secs().to_string()])
        .args(["qemu-system-x86_64", "-M", "q35", "-accel", &accelerator])
        .args(["-cpu", "max", "-smp", "2", "-m", "2G", "-nodefaults"])
        .args(["-no-user-config", "-display", "none", "-monitor", "none"])
        .args(["-no-reboot", "-serial"])
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", COMMAND_LINE])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(dir.join("qemu.log"))?);
    let start = Instant::now();
    let mut child = qemu.spawn().context("cannot start QEMU")?;
    let mut log = File::create(dir.join("output.log"))?;
    let mut output = String::new();
    let stdout = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        writeln!(log, "{line}")?;
        if let Some(words) = line.strip_prefix("@@ ") {
            eprintln!("  {:6.1} s  {words}", start.elapsed().as_secs_f64());
        }
        output.push_str(line);
        output.push('\n');
    }
    let status = child.wait()?;
    let kernel_log = fs::read(&console).unwrap_or_default();
    let end = if panicked(&String::from_utf8_lossy(&kernel_log)) {
        End::Panicked
    } else if matches!(status.code(), Some(124 | 137)) {
        End::Hung
    } else if output.lines().any(|line| line == "@@ done") {
        End::Finished
    } else {
        let said = fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
        End::Broken(format!("{status} {}", said.trim()))
    };
    Ok(Boot {
        end,
        took: start.elapsed(),
        output,
        console,
    })
}

fn panicked(console: &str) -> bool {
    ["Kernel panic", "BUG: soft lockup", "Oops:"]
        .iter()
        .any(|words| console.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_version_is_read() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(major_minor(text), Some((7, 2)));
        assert!(major_minor("QEMU emulator version 10.0.2") >= Some((8, 1)));
        assert_eq!(major_minor("nothing"), None);
    }

    #[test]
    fn a_panic_is_told_from_a_quiet_log() {
        assert!(panicked(
            "[    3.1] Kernel panic - not syncing: Fatal exception"
        ));
        assert!(panicked(
            "watchdog: BUG: soft lockup - CPU#0 stuck for 130s!"
        ));
        assert!(!panicked("[    3.1] reboot: Power down"));
    }
}
