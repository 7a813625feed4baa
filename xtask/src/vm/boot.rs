//! Boots a guest and watches it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::qemu::Qemu;
use crate::shell;

/// The kernel's command line. An oops and a soft lockup are panics, and a panic ends QEMU.
/// noirqdebug: real-time kernels switch the serial port's interrupt off under bulk output.
/// no_timer_check: where that machine is busy, the boot takes the timer for broken, and panics.
/// watchdog_thresh: the machine that emulates the guest may stand still for a while itself.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic softlockup_panic=1 \
                            watchdog_thresh=60 noirqdebug no_timer_check";

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It ran to the end and switched itself off.
    Finished,
    /// It was silent for too long. What it was running.
    Hung(String),
    /// Its kernel panicked. The kernel's words.
    Panicked(String),
    /// Its kernel found a processor stuck in kernel code. The kernel's words.
    LockedUp(String),
    /// QEMU exited before the guest switched itself off. QEMU's error output.
    Broken(String),
}

pub struct Boot {
    pub end: End,
    pub took: Duration,
    /// What the guest printed on the port that is not the console, with the time since the
    /// start of QEMU.
    pub output: Vec<(Duration, String)>,
    /// What its kernel printed.
    pub console: PathBuf,
}

impl Boot {
    /// The end of the kernel's log.
    pub fn console_tail(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// What to boot and how to watch it.
pub struct Machine<'a> {
    /// Stands before the lines about it.
    pub name: &'a str,
    pub qemu: &'a Qemu,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// Where logs are left.
    pub dir: &'a Path,
    /// How long it may be silent while it boots, and between two lines for the host.
    pub boot_patience: Duration,
    pub patience: Duration,
    /// Whether it runs at the lowest priority.
    pub idle: bool,
}

/// The line by which a guest asks to be stopped for a while, so that it detects a stuck processor.
const STOP_ME: &str = "@@ stop";

/// Longer than twice the guest's `kernel.watchdog_thresh` of one second.
const STOPPED: Duration = Duration::from_secs(8);

impl Machine<'_> {
    /// Boots it and waits for its end.
    pub fn boot(&self) -> Result<Boot> {
        let console = self.dir.join("console.log");
        fs::write(&console, "")?;
        // The kernel kills QEMU when the thread that started it ends, whatever ends it.
        let mut qemu = Command::new("setpriv");
        let (variable, modules) = self.qemu.modules();
        qemu.args(["--pdeathsig", "KILL"]);
        if self.idle {
            qemu.args(["chrt", "--idle", "0"]);
        }
        qemu.args(self.qemu.words()?)
            .env(variable, modules)
            .args(["-M", "q35", "-accel", &self.qemu.accelerator()])
            .args(["-cpu", "max", "-smp", "2", "-m", "2G", "-nodefaults"])
            .args(["-no-user-config", "-display", "none", "-monitor", "none"])
            .args(["-no-reboot", "-serial"])
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initrd)
            .args(["-append", COMMAND_LINE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.dir.join("qemu.log"))?);
        let start = Instant::now();
        let mut child = qemu.spawn().context("cannot start QEMU")?;
        let watched = self.watch(&mut child, start);
        // On an error it would run on, and the wait below would not end.
        let stopped = !matches!(watched, Ok((_, None)));
        if stopped {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let (output, silent) = watched?;
        let kernel_log = fs::read(&console).unwrap_or_default();
        let end = if let Some(end) = crash(&String::from_utf8_lossy(&kernel_log)) {
            end
        } else if let Some(silent) = silent {
            End::Hung(silent)
        } else if output.iter().any(|(_, line)| line == "@@ done") {
            End::Finished
        } else {
            let said = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
            End::Broken(format!("{status} {}", said.trim()).trim().to_owned())
        };
        Ok(Boot {
            end,
            took: start.elapsed(),
            output,
            console,
        })
    }

    /// Reads what the guest says until it ends, or until it is silent for too long: then
    /// returns what it was at.
    fn watch(&self, child: &mut Child, start: Instant) -> Result<(Lines, Option<String>)> {
        let mut log = File::create(self.dir.join("output.log"))?;
        let mut output = Lines::new();
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::channel();
        // Ends with QEMU, whose end of the pipe is the only one.
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r').to_owned();
                if sender.send((start.elapsed(), line)).is_err() {
                    return;
                }
            }
        });
        let mut at = "boot".to_owned();
        let mut processor = 0.0;
        let mut last = (Duration::ZERO, self.boot_patience);
        loop {
            let left = (last.0 + last.1).saturating_sub(start.elapsed());
            let (time, line) = match lines.recv_timeout(left) {
                Ok(received) => received,
                Err(RecvTimeoutError::Disconnected) => return Ok((output, None)),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = last.1.as_secs();
                    return Ok((output, Some(format!("{at}: silent for {seconds} s"))));
                }
            };
            writeln!(log, "{line}")?;
            if line == STOP_ME {
                pause(child.id(), STOPPED)?;
            }
            if let Some(words) = line.strip_prefix("@@ ") {
                if let Some(begun) = words.strip_prefix("begin ") {
                    at = begun.to_owned();
                } else if let Some(ended) = words.strip_prefix("end ") {
                    let (name, code) = ended.split_once(' ').unwrap_or((ended, "?"));
                    let took = (time - last.0).as_secs_f64();
                    let before = std::mem::replace(&mut processor, processor_seconds(child.id()));
                    let busy = processor - before;
                    let (guest, clock) = (self.name, time.as_secs_f64());
                    eprintln!(
                        "{guest:<9} {clock:6.1} s  {name:<22} {took:6.1} s, \
                         {busy:.0} s of a processor, exit status {code}"
                    );
                    at = format!("after {name}");
                }
                last = (time, self.patience);
            }
            output.push((time, line));
        }
    }
}

/// The processor time that a process has taken, in seconds: unlike the time that passes, it does not
/// depend on what else the machine does.
fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Its name is in brackets, and may have spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks: u64 = fields
        .skip(12)
        .take(2)
        .filter_map(|it| it.parse::<u64>().ok())
        .sum();
    // USER_HZ is 100 wherever guests run.
    ticks as f64 / 100.0
}

pub type Lines = Vec<(Duration, String)>;

/// Stops a process for a while.
fn pause(pid: u32, time: Duration) -> Result<()> {
    let kill = |signal: &str| {
        let mut kill = Command::new("kill");
        kill.args(["-s", signal, &pid.to_string()]);
        shell::run(&mut kill, "install procps")
    };
    kill("STOP")?;
    thread::sleep(time);
    kill("CONT")
}

/// How the guest ended, by its kernel log. A soft lockup comes before the panic that it causes.
fn crash(console: &str) -> Option<End> {
    let said = |words: &str| {
        let line = console.lines().find(|line| line.contains(words))?;
        // `[   12.345678] watchdog: BUG: ...`
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        Some(text.trim().to_owned())
    };
    if let Some(line) = said("BUG: soft lockup") {
        return Some(End::LockedUp(line));
    }
    said("Kernel panic")
        .or_else(|| said("Oops:"))
        .map(End::Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_told_from_a_quiet_log() {
        let panic = "[    3.0] sysrq: Trigger a crash\n\
                     [    3.1] Kernel panic - not syncing: sysrq triggered crash\n";
        assert_eq!(
            crash(panic),
            Some(End::Panicked(
                "Kernel panic - not syncing: sysrq triggered crash".to_owned()
            ))
        );
        let lockup = "[    9.1] watchdog: BUG: soft lockup - CPU#0 stuck for 130s! [sh:1]\n\
                      [    9.2] Kernel panic - not syncing: softlockup: hung tasks\n";
        assert_eq!(
            crash(lockup),
            Some(End::LockedUp(
                "watchdog: BUG: soft lockup - CPU#0 stuck for 130s! [sh:1]".to_owned()
            ))
        );
        assert_eq!(crash("[    3.1] reboot: Power down"), None);
    }
}
