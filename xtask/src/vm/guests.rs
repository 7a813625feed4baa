//! The guests of a run: which tests each boots for, and several at once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    boot::{Boot, End, Machine},
    image::{self, Part},
    outcome::{self, Outcome},
    packages::Kernel,
    qemu::Qemu,
    table::Row,
};

/// What a guest may be silent for while it boots. Emulated, it takes five seconds.
const BOOT_PATIENCE: Duration = Duration::from_secs(150);

/// What it may be silent for beyond the time of one test program, which it ends itself.
const GRACE: Duration = Duration::from_secs(30);

/// Memory that QEMU takes for a guest, with what it translates, in KiB.
const GUEST_MEMORY: u64 = 3 << 20;

/// Archives that all guests of a run share, and where their logs go.
pub struct Ground<'a> {
    pub qemu: &'a Qemu,
    pub programs: &'a Path,
    pub job: &'a Path,
    pub work: &'a Path,
    pub test_timeout: Duration,
}

/// One boot.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    /// Of its logs, and in front of what is said about it.
    pub name: String,
    pub part: Part,
}

/// How many guests to run at once: each keeps one processor busy when it is emulated.
pub fn at_once() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let memory = available_memory().map_or(usize::MAX, |kib| (kib / GUEST_MEMORY) as usize);
    processors.min(memory).max(1)
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Divides the tests of each kernel among as many guests as run at once, so that none of
/// these is idle at the end. The newest kernels come first: they take longest.
pub fn plan<'a>(kernels: &'a [Kernel], tests: &[String], at_once: usize) -> Vec<Guest<'a>> {
    let parts = if kernels.len().is_multiple_of(at_once) {
        1
    } else {
        at_once.min(tests.len()).max(1)
    };
    let guest = |kernel: &'a Kernel, part: usize| Guest {
        kernel,
        name: match part {
            0 => kernel.name.to_string(),
            part => format!("{}.{part}", kernel.name),
        },
        part: Part {
            check: part == 0,
            tests: tests.iter().skip(part).step_by(parts).cloned().collect(),
            ..Part::default()
        },
    };
    kernels
        .iter()
        .rev()
        .flat_map(|kernel| (0..parts).map(move |part| guest(kernel, part)))
        .collect()
}

/// Runs guests, `at_once` at a time, and returns what came of each, in their order.
pub fn run_all(
    guests: &[Guest<'_>],
    at_once: usize,
    ground: &Ground<'_>,
) -> Result<Vec<(Boot, Outcome)>> {
    let queue = Mutex::new(guests.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let next = lock(&queue).next();
            let Some((number, guest)) = next else {
                return Ok(());
            };
            let result = guest.run(ground)?;
            lock(&results).push((number, result));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(guests.len()))
            .map(|_| scope.spawn(work))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest<'_> {
    /// Boots it, twice if its kernel panics: emulation has a race that makes one in some
    /// hundred boots panic, and no kernel panics by that twice.
    pub fn run(&self, ground: &Ground<'_>) -> Result<(Boot, Outcome)> {
        let dir = ground.work.join(&self.name);
        fs::create_dir_all(&dir)?;
        let initrd = self.initrd(ground, &dir)?;
        let machine = Machine {
            name: &self.name,
            qemu: ground.qemu,
            kernel: &self.kernel.image,
            initrd: &initrd,
            dir: &dir,
            boot_patience: BOOT_PATIENCE,
            patience: ground.test_timeout + GRACE,
        };
        let mut boot = machine.boot()?;
        let mut first = None;
        if let End::Panicked(why) = &boot.end {
            first = Some(format!("the first boot ended early: {why}"));
            eprintln!(
                "{}: {why}; it gets a second try. The end of the kernel's log:\n{}",
                self.name,
                boot.console_tail()
            );
            fs::rename(&boot.console, dir.join("console-1.log"))?;
            fs::rename(dir.join("output.log"), dir.join("output-1.log"))?;
            boot = machine.boot()?;
        }
        fs::remove_file(&initrd)?;
        let mut outcome = outcome::parse(&boot.output);
        outcome.notes.extend(first);
        if let Some(report) = &outcome.report {
            fs::write(dir.join("check.json"), report.to_string())?;
        }
        self.report(&boot, &outcome);
        Ok((boot, outcome))
    }

    fn initrd(&self, ground: &Ground<'_>, dir: &Path) -> Result<PathBuf> {
        let modules = image::modules(self.kernel, dir)?;
        let part = image::part(&self.part, ground.test_timeout, dir)?;
        let initrd = dir.join("initrd");
        image::join(&[ground.programs, ground.job, &modules, &part], &initrd)
            .context("cannot write the guest's files")?;
        fs::remove_file(&modules)?;
        fs::remove_file(&part)?;
        Ok(initrd)
    }

    /// Prints what a person needs in order to see what went wrong.
    fn report(&self, boot: &Boot, outcome: &Outcome) {
        let mut text = String::new();
        for (name, program) in outcome.programs.iter().filter(|(_, program)| !program.ok()) {
            text.push_str(&format!(
                "\n---- {name} on {}\n{}",
                self.name, program.output
            ));
        }
        if let Some((_, trouble)) = crashed(&boot.end) {
            text.push_str(&format!(
                "\n---- {}: {trouble}\nthe end of {}:\n{}\n",
                self.name,
                boot.console.display(),
                boot.console_tail()
            ));
        }
        if !text.is_empty() {
            // In one piece: other guests write too.
            let _ = io::Write::write_all(&mut io::stdout().lock(), text.as_bytes());
        }
    }
}

/// Exit statuses of this program when a guest ended before its tests.
pub const LOCKED_UP: u8 = 123;
pub const HUNG: u8 = 124;
pub const PANICKED: u8 = 125;

/// The exit status for a guest that ended before its tests, and what happened.
fn crashed(end: &End) -> Option<(u8, String)> {
    match end {
        End::Finished => None,
        End::Hung(at) => Some((HUNG, format!("the guest hung ({at})"))),
        End::Panicked(why) => Some((PANICKED, format!("the kernel panicked ({why})"))),
        End::LockedUp(why) => Some((LOCKED_UP, format!("soft lockup ({why})"))),
        End::Broken(said) => Some((1, format!("the guest broke off: {said}"))),
    }
}

/// The exit status, and what went wrong.
pub fn judge(end: &End, part: &Part, outcome: &Outcome) -> (u8, Option<String>) {
    if let Some((code, trouble)) = crashed(end) {
        return (code, Some(trouble));
    }
    let failed = outcome
        .programs
        .iter()
        .find_map(|(name, program)| Some((name, program, program.trouble()?)));
    if let Some((name, program, trouble)) = failed {
        let code = if program.hung() { HUNG } else { 1 };
        return (code, Some(format!("{name}: {trouble}")));
    }
    if let Some(missing) = part
        .tests
        .iter()
        .find(|test| !outcome.programs.contains_key(*test))
    {
        return (1, Some(format!("{missing} did not run")));
    }
    if !part.check {
        return (0, None);
    }
    let Some(report) = &outcome.report else {
        return (1, Some("`observer check` gave no report".to_owned()));
    };
    if report["exit_code"] == 2 {
        return (1, Some("the observer cannot run".to_owned()));
    }
    let unserved = outcome::unserved(report);
    if !unserved.is_empty() {
        let unserved = unserved.join(", ");
        return (1, Some(format!("no hook serves {unserved}")));
    }
    (0, None)
}

/// Puts the guests of each kernel together. The exit status is that of the first in which
/// something went wrong.
pub fn rows(
    kernels: &[Kernel],
    guests: &[Guest<'_>],
    results: Vec<(Boot, Outcome)>,
) -> (Vec<Row>, u8) {
    let mut rows: Vec<_> = kernels.iter().map(Row::new).collect();
    let mut status = 0;
    for (guest, (boot, outcome)) in guests.iter().zip(results) {
        let (code, trouble) = judge(&boot.end, &guest.part, &outcome);
        status = if status == 0 { code } else { status };
        let name = guest.kernel.name.to_string();
        let Some(row) = rows.iter_mut().find(|row| row.name == name) else {
            continue;
        };
        row.took += boot.took;
        row.trouble = row.trouble.take().or(trouble);
        row.outcome.merge(outcome);
    }
    (rows, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str) -> Kernel {
        Kernel {
            name: name.parse().unwrap(),
            release: name.to_owned(),
            version: "1".to_owned(),
            dir: PathBuf::new(),
            image: PathBuf::new(),
        }
    }

    #[test]
    fn every_kernel_runs_every_test_once() {
        let kernels = ["5.10", "6.1", "7.3"].map(kernel);
        let tests: Vec<_> = (0..7).map(|test| test.to_string()).collect();
        for at_once in [1, 2, 3, 8, 100] {
            let guests = plan(&kernels, &tests, at_once);
            assert_eq!(guests[0].name, "7.3");
            for kernel in &kernels {
                let of = |guest: &&Guest<'_>| guest.kernel.name == kernel.name;
                let own: Vec<_> = guests.iter().filter(of).collect();
                assert_eq!(own.iter().filter(|guest| guest.part.check).count(), 1);
                let mut run: Vec<_> = own.iter().flat_map(|guest| &guest.part.tests).collect();
                run.sort();
                assert_eq!(run, tests.iter().collect::<Vec<_>>(), "{at_once} at once");
            }
        }
        // Nothing to divide.
        assert_eq!(plan(&kernels, &tests, 3).len(), 3);
        assert_eq!(plan(&kernels, &[], 2).len(), 3);
    }

    #[test]
    fn a_guest_is_judged_by_its_end_first() {
        let part = Part {
            tests: vec!["kernel_x".to_owned()],
            ..Part::default()
        };
        let judge = |end: &End, outcome: &Outcome| judge(end, &part, outcome);
        let none = Outcome::default();
        let (code, trouble) = judge(&End::Hung("kernel_x: silent for 9 s".to_owned()), &none);
        assert_eq!(code, HUNG);
        assert_eq!(
            trouble.unwrap(),
            "the guest hung (kernel_x: silent for 9 s)"
        );
        assert_eq!(judge(&End::Panicked(String::new()), &none).0, PANICKED);
        assert_eq!(judge(&End::LockedUp(String::new()), &none).0, LOCKED_UP);
        // It finished, and a test is missing.
        assert_eq!(
            judge(&End::Finished, &none),
            (1, Some("kernel_x did not run".to_owned()))
        );
        let lines = ["@@ begin kernel_x", "@@ end kernel_x 0"];
        let lines = lines.map(|line| (Duration::ZERO, line.to_owned()));
        assert_eq!(judge(&End::Finished, &outcome::parse(&lines)), (0, None));
    }
}
