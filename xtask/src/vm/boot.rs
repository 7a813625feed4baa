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

use super::{outcome, qemu::Qemu};
use crate::shell;

/// The kernel's command line. An oops and a soft lockup are panics, and a panic ends QEMU.
/// noirqdebug: real-time kernels switch the serial port's interrupt off under bulk output.
/// no_timer_check: on a busy host, the boot considers the timer broken and panics. watchdog_thresh:
/// the host that emulates the guest may itself stall for a while.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic softlockup_panic=1 \
                            watchdog_thresh=60 noirqdebug no_timer_check mitigations=off \
                            init_on_alloc=0 rcupdate.rcu_expedited=1";

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest finished and powered off.
    Finished,
    /// The guest printed nothing for too long. Contains the unit that it was running.
    Hung(String),
    /// The kernel panicked. Contains its message.
    Panicked(String),
    /// The kernel detected a soft lockup. Contains its message.
    LockedUp(String),
    /// QEMU exited before the guest switched itself off. QEMU's error output.
    Broken(String),
}

pub struct Boot {
    pub end: End,
    pub took: Duration,
    /// The guest's output on the second serial port, with the time since the start of QEMU.
    pub output: Vec<(Duration, String)>,
    /// The kernel's log.
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
    /// Prefix of messages about the guest.
    pub name: &'a str,
    pub qemu: &'a Qemu,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// Directory of its logs.
    pub dir: &'a Path,
    /// Maximum time without output while it boots, and between two lines.
    pub boot_patience: Duration,
    pub patience: Duration,
    /// Whether it runs at the lowest priority.
    pub idle: bool,
    /// Whether its clock advances by a nanosecond with each instruction. It has one processor then, because QEMU counts
    /// on one thread.
    pub counts_instructions: bool,
}

/// The line by which a guest asks to be stopped for a while, so that it detects a stuck processor.
const STOP_ME: &str = "@@ stop";

/// Longer than twice the guest's `kernel.watchdog_thresh` of one second.
const STOPPED: Duration = Duration::from_secs(8);

impl Machine<'_> {
    /// Boots the guest and waits for its end.
    pub fn boot(&self) -> Result<Boot> {
        let console = self.dir.join("console.log");
        fs::write(&console, "")?;
        // PR_SET_PDEATHSIG: the kernel kills QEMU when the thread that started it ends.
        let mut qemu = Command::new("setpriv");
        let (variable, modules) = self.qemu.modules();
        qemu.args(["--pdeathsig", "KILL"]);
        if self.idle {
            qemu.args(["chrt", "--idle", "0"]);
        }
        let (accelerator, processors) = if self.counts_instructions {
            ("tcg".to_owned(), "1")
        } else {
            (self.qemu.accelerator(), "2")
        };
        qemu.args(self.qemu.words()?)
            .env(variable, modules)
            .args(["-M", "q35", "-accel", &accelerator, "-smp", processors])
            .args(["-cpu", "max,-erms,-fsrm", "-m", "2G", "-nodefaults"])
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
        if self.counts_instructions {
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        let start = Instant::now();
        let mut child = qemu.spawn().context("cannot start QEMU")?;
        let watched = self.watch(&mut child, start);
        // After an error QEMU would continue, and the wait below would not end.
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

    /// Prints what a unit took, between two times.
    fn say(&self, name: &str, since: &Clock, until: &Clock, end: &str) {
        let (guest, clock) = (self.name, until.time.as_secs_f64());
        let took = (until.time - since.time).as_secs_f64();
        let busy = until.processor - since.processor;
        eprintln!(
            "{guest:<9} {clock:6.1} s  {name:<22} {took:6.1} s, {busy:.0} s of a processor{end}"
        );
    }

    /// Reads the guest's output until it ends. If the guest prints nothing for too long, returns the unit that it was
    /// running.
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
        let mut section = String::new();
        // Since the section or the unit began, and at the line before.
        let mut since = Clock::default();
        let mut before = Clock::default();
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
            let now = Clock {
                time,
                processor: processor_seconds(child.id()),
            };
            if let Some(words) = line.strip_prefix("@@ ") {
                if let Some(begun) = words.strip_prefix("begin ") {
                    section = begun.to_owned();
                    since.time = time;
                    at.clone_from(&section);
                } else if let Some(ended) = words.strip_prefix("end ") {
                    let (name, code) = ended.split_once(' ').unwrap_or((ended, "?"));
                    // The last unit, if several share the process.
                    self.say(&at, &since, &now, &format!(", exit status {code}"));
                    since = now.clone();
                    at = format!("after {name}");
                    section.clear();
                }
                last = (time, self.patience);
            } else if let Some(unit) = outcome::begun(&section, &line).filter(|unit| *unit != at) {
                if at != section {
                    self.say(&at, &since, &before, "");
                    since = before.clone();
                }
                at = unit.to_owned();
                last = (time, self.patience);
            }
            before = now;
            output.push((time, line));
        }
    }
}

/// A time since the start of QEMU, and QEMU's CPU time in seconds by then.
#[derive(Clone, Default)]
struct Clock {
    time: Duration,
    processor: f64,
}

/// The CPU time of a process in seconds: unlike elapsed time, it does not depend on other load.
fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The comm is in parentheses, and may contain spaces.
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

/// How the guest ended, according to its kernel log. A soft lockup precedes the panic that it causes.
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
