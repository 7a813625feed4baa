//! The guests of a run: divides the tests among guests, runs several guests at once, and repeats failed tests.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    boot::{Boot, End, Machine},
    build::Unit,
    image::{self, Part},
    outcome::{self, Outcome, Program},
    packages::Kernel,
    qemu::Qemu,
    suite,
};
use crate::{
    attach_types::AttachTypes,
    report::{Failure, Report},
};

/// Maximum time without output while a guest boots. With emulation, booting takes five seconds.
const BOOT_PATIENCE: Duration = Duration::from_secs(150);
/// The same if the guests run at the lowest priority.
const IDLE_BOOT_PATIENCE: Duration = Duration::from_secs(400);

/// Maximum time without output beyond the timeout of one unit, which the guest enforces.
const GRACE: Duration = Duration::from_secs(30);

/// Memory of QEMU per guest, including translated code, in KiB.
const GUEST_MEMORY: u64 = 3 << 20;

/// Data shared by all guests of a run.
pub struct Shared<'a> {
    pub qemu: &'a Qemu,
    /// Archives: the guest's programs, and the binaries to be tested.
    pub programs: &'a Path,
    pub job: &'a Path,
    /// Directory of the logs.
    pub work: &'a Path,
    pub test_timeout: Duration,
    /// The attach types that are expected of each signal.
    pub expected: &'a AttachTypes,
    /// Whether guests run at the lowest priority.
    pub idle: bool,
    /// Whether their clocks count instructions.
    pub counts_instructions: bool,
}

/// One boot.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    /// Name of its logs, and prefix of messages about it.
    pub name: String,
    /// The guest of the first round whose work this guest repeats.
    pub origin: String,
    pub part: Part,
}

/// A guest that was booted.
pub struct Attempt<'a> {
    pub guest: Guest<'a>,
    pub boot: Boot,
    pub outcome: Outcome,
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

/// Divides the units of each kernel among as many guests as run at once, evenly by their duration.
/// The guests with the longest duration start first, so that no processor is idle at the end.
pub fn plan<'a>(kernels: &'a [(Kernel, Vec<Unit>)], at_once: usize) -> Vec<Guest<'a>> {
    let mut guests = Vec::new();
    for (kernel, units) in kernels {
        let count = at_once.min(units.len()).max(1);
        let mut parts = vec![(0, Part::default()); count];
        parts[0].1.check = true;
        let mut units = units.clone();
        units.sort_by_key(|unit| std::cmp::Reverse(suite::seconds(&unit.name)));
        for unit in units {
            let least = parts.iter_mut().min_by_key(|(seconds, _)| *seconds);
            if let Some((seconds, part)) = least {
                *seconds += suite::seconds(&unit.name);
                part.units.push(unit);
            }
        }
        for (number, (seconds, part)) in parts.into_iter().enumerate() {
            let name = match number {
                0 => kernel.name.to_string(),
                number => format!("{}.{number}", kernel.name),
            };
            let guest = Guest {
                kernel,
                origin: name.clone(),
                name,
                part,
            };
            guests.push((seconds, guest));
        }
    }
    guests.sort_by_key(|(seconds, _)| std::cmp::Reverse(*seconds));
    guests.into_iter().map(|(_, guest)| guest).collect()
}

/// Runs guests, `at_once` at a time, and returns them with their results, in their order.
fn run_once<'a>(
    guests: Vec<Guest<'a>>,
    at_once: usize,
    shared: &Shared<'_>,
) -> Result<Vec<Attempt<'a>>> {
    let workers = at_once.min(guests.len());
    let queue = Mutex::new(guests.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let next = lock(&queue).next();
            let Some((number, guest)) = next else {
                return Ok(());
            };
            let (boot, outcome) = guest.run(shared)?;
            let attempt = Attempt {
                guest,
                boot,
                outcome,
            };
            lock(&results).push((number, attempt));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, attempt)| attempt).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs guests, and repeats each failed unit, alone in a fresh guest. Units that a guest did not
/// reach, for example because its kernel panicked, run in another guest.
pub fn run<'a>(
    guests: Vec<Guest<'a>>,
    at_once: usize,
    shared: &Shared<'_>,
) -> Result<(Vec<Attempt<'a>>, Report)> {
    let mut retries = Retries::default();
    let mut attempts = Vec::new();
    let mut next = guests;
    while !next.is_empty() {
        let done = run_once(std::mem::take(&mut next), at_once, shared)?;
        for Attempt {
            guest,
            boot,
            outcome,
        } in &done
        {
            let log = shared.work.join(&guest.name);
            let items = items(guest, &boot.end, outcome, &log, shared.expected);
            next.extend(retries.take(guest, items));
        }
        for guest in &next {
            eprintln!("{:<9} runs {} once more", guest.name, guest.part.names());
        }
        attempts.extend(done);
    }
    Ok((attempts, retries.finish()))
}

/// Part of a guest's work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    /// Booting and everything between the units.
    Boot,
    Check,
    Unit(String),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Passed,
    /// With the tests to repeat.
    Failed(Vec<Failure>, Part),
    /// The guest ended before this part.
    NotReached(Part),
}

/// How each part of a guest's work ended.
fn items(
    guest: &Guest<'_>,
    end: &End,
    outcome: &Outcome,
    log: &Path,
    expected: &AttachTypes,
) -> Vec<(Item, Ended)> {
    let crash = crashed(end);
    let failure = |name: String, message: Vec<String>| Failure {
        name: format!("{} {name}", guest.kernel.name),
        message,
        log: Some(log.to_owned()),
    };
    let mut items = Vec::new();
    // Whether the guest's end interrupted a unit.
    let mut blamed = false;
    if guest.part.check {
        let part = Part {
            check: true,
            ..guest.part.without_units()
        };
        let ended = if let Some(report) = &outcome.report {
            match judge_check(report, guest.kernel, expected) {
                problems if problems.is_empty() => Ended::Passed,
                problems => Ended::Failed(vec![failure("check".to_owned(), problems)], part),
            }
        } else if crash.is_none() || outcome.check_begun {
            blamed = true;
            let no_report = || "`observer check` gave no report".to_owned();
            let message = crash.clone().unwrap_or_else(no_report);
            Ended::Failed(vec![failure("check".to_owned(), vec![message])], part)
        } else {
            Ended::NotReached(part)
        };
        items.push((Item::Check, ended));
    }
    for unit in &guest.part.units {
        let part = |tests: Option<Vec<String>>| Part {
            units: vec![Unit {
                tests: tests.unwrap_or_else(|| unit.tests.clone()),
                ..unit.clone()
            }],
            ..guest.part.without_units()
        };
        let ended = match outcome.programs.get(&unit.name) {
            Some(program) if program.ok() => {
                // A repeated test must run, not only exit successfully.
                let names = if guest.part.attempt == 2 {
                    &unit.tests[..]
                } else {
                    &[]
                };
                let missing = program.not_run(names).into_iter();
                let failures: Vec<_> = missing
                    .map(|test| {
                        let message = vec!["it did not run to its end".to_owned()];
                        failure(outcome::full_name(&unit.name, test), message)
                    })
                    .collect();
                if failures.is_empty() {
                    Ended::Passed
                } else {
                    Ended::Failed(failures, part(None))
                }
            }
            Some(program) => {
                blamed |= program.code.is_none();
                let (failures, tests) = failures(&unit.name, program, crash.as_deref());
                let named = |(name, message)| failure(name, message);
                Ended::Failed(failures.into_iter().map(named).collect(), part(tests))
            }
            None if crash.is_none() && !outcome.cut.contains(&unit.name) => {
                let message = vec!["it did not run".to_owned()];
                Ended::Failed(vec![failure(unit.name.clone(), message)], part(None))
            }
            None => Ended::NotReached(part(None)),
        };
        items.push((Item::Unit(unit.name.clone()), ended));
    }
    let boot = match crash {
        Some(crash) if !blamed => {
            let part = guest.part.without_units();
            Ended::Failed(vec![failure(guest.origin.clone(), vec![crash])], part)
        }
        _ => Ended::Passed,
    };
    items.push((Item::Boot, boot));
    items
}

/// The failures of a unit, with their messages, and the tests to repeat: the failed ones, or all if the unit did not finish.
#[expect(clippy::type_complexity, reason = "used once")]
fn failures(
    unit: &str,
    program: &Program,
    crash: Option<&str>,
) -> (Vec<(String, Vec<String>)>, Option<Vec<String>>) {
    let whole = !program.finished() || program.failed().count() == 0;
    if whole {
        let mut message = vec![program.trouble().unwrap_or_default()];
        message.extend(crash.map(str::to_owned));
        for test in program.failed() {
            message.push(format!("in {}", test.name));
            message.extend(test.panic.iter().cloned());
        }
        return (vec![(unit.to_owned(), message)], None);
    }
    let failures = program
        .failed()
        .map(|test| (outcome::full_name(unit, &test.name), test.panic.clone()));
    let tests = program.failed().map(|test| test.name.clone()).collect();
    (failures.collect(), Some(tests))
}

/// Decides which tests are repeated, and which count as flaky or failed.
#[derive(Default)]
struct Retries {
    /// Failures of the first round, by guest.
    before: BTreeMap<(String, Item), Vec<Failure>>,
    /// Number of guests so far for units that another guest did not reach.
    rests: usize,
    report: Report,
}

impl Retries {
    /// Adds the result of `guest`, and returns the guests to boot because of it.
    fn take<'a>(&mut self, guest: &Guest<'a>, items: Vec<(Item, Ended)>) -> Vec<Guest<'a>> {
        let mut guests = Vec::new();
        let mut rest: Option<Part> = None;
        let mut gave_up = false;
        let next = |name: &str, part: Part| Guest {
            name: format!("{}.{name}", guest.origin),
            part: Part { attempt: 2, ..part },
            ..guest.clone()
        };
        for (item, ended) in items {
            let key = (guest.origin.clone(), item.clone());
            match ended {
                Ended::NotReached(part) => match &mut rest {
                    None => rest = Some(part),
                    Some(rest) => rest.add(part),
                },
                Ended::Passed => {
                    for first in self.before.remove(&key).into_iter().flatten() {
                        self.report.settle(first, None);
                    }
                }
                Ended::Failed(failures, part) => {
                    if let Some(firsts) = self.before.remove(&key) {
                        gave_up |= item == Item::Boot;
                        self.settle(firsts, failures);
                    } else {
                        self.before.insert(key, failures);
                        match &item {
                            // Boot a guest for the units that were not reached; if there are none, repeat the boot.
                            Item::Boot if rest.is_some() => {}
                            Item::Boot => guests.push(next("boot", part)),
                            Item::Check => guests.push(next("check", part)),
                            Item::Unit(name) => guests.push(next(name, part)),
                        }
                    }
                }
            }
        }
        if let Some(part) = rest.filter(|_| !gave_up) {
            self.rests += 1;
            guests.push(next(&format!("rest{}", self.rests), part));
        }
        guests
    }

    /// A test whose repetition was not reached, because booting failed twice, has failed.
    fn finish(self) -> Report {
        let Self {
            before, mut report, ..
        } = self;
        report.failed.extend(before.into_values().flatten());
        report
    }

    fn settle(&mut self, firsts: Vec<Failure>, mut seconds: Vec<Failure>) {
        for first in firsts {
            let at = seconds.iter().position(|second| second.name == first.name);
            let second = at.map(|at| seconds.remove(at));
            self.report.settle(first, second);
        }
        // It failed in another way the second time.
        self.report.failed.extend(seconds);
    }
}

impl Guest<'_> {
    /// Boots it and reads its output.
    fn run(&self, shared: &Shared<'_>) -> Result<(Boot, Outcome)> {
        let dir = shared.work.join(&self.name);
        fs::create_dir_all(&dir)?;
        let initrd = self.initrd(shared, &dir)?;
        let machine = Machine {
            name: &self.name,
            qemu: shared.qemu,
            kernel: &self.kernel.image,
            initrd: &initrd,
            dir: &dir,
            boot_patience: if shared.idle {
                IDLE_BOOT_PATIENCE
            } else {
                BOOT_PATIENCE
            },
            patience: shared.test_timeout + GRACE,
            idle: shared.idle,
            counts_instructions: shared.counts_instructions,
        };
        let boot = machine.boot()?;
        fs::remove_file(&initrd)?;
        let outcome = outcome::parse(&boot.output);
        if let Some(report) = &outcome.report {
            fs::write(dir.join("check.json"), report.to_string())?;
        }
        self.report(&boot, &outcome);
        Ok((boot, outcome))
    }

    fn initrd(&self, shared: &Shared<'_>, dir: &Path) -> Result<PathBuf> {
        let modules = image::modules(self.kernel, dir)?;
        let part = image::part(&self.part, shared.test_timeout, dir)?;
        let initrd = dir.join("initrd");
        image::join(&[shared.programs, shared.job, &modules, &part], &initrd)
            .context("cannot write the guest's files")?;
        fs::remove_file(&modules)?;
        fs::remove_file(&part)?;
        Ok(initrd)
    }

    /// Prints the information needed to find the cause.
    fn report(&self, boot: &Boot, outcome: &Outcome) {
        let mut text = String::new();
        for (name, program) in outcome.programs.iter().filter(|(_, program)| !program.ok()) {
            text.push_str(&format!(
                "\n---- {name} on {}\n{}",
                self.name, program.output
            ));
        }
        if let Some(trouble) = crashed(&boot.end) {
            text.push_str(&format!(
                "\n---- {}: {trouble}\nthe end of {}:\n{}\n",
                self.name,
                boot.console.display(),
                boot.console_tail()
            ));
        }
        if !text.is_empty() {
            // In one write, because other guests write too.
            let _ = io::Write::write_all(&mut io::stdout().lock(), text.as_bytes());
        }
    }
}

/// Why a guest ended before its tests.
pub fn crashed(end: &End) -> Option<String> {
    match end {
        End::Finished => None,
        End::Hung(at) => Some(format!("the guest hung ({at})")),
        End::Panicked(why) => Some(format!("the kernel panicked ({why})")),
        End::LockedUp(why) => Some(format!("soft lockup ({why})")),
        End::Broken(said) => Some(format!("the guest broke off: {said}")),
    }
}

/// Problems in a report of `observer check --json`.
fn judge_check(report: &serde_json::Value, kernel: &Kernel, expected: &AttachTypes) -> Vec<String> {
    let mut problems = Vec::new();
    if report["exit_code"] == 2 {
        problems.push("the observer cannot run".to_owned());
    }
    let unserved = outcome::unserved(report);
    if !unserved.is_empty() {
        problems.push(format!("no hook is attached for {}", unserved.join(", ")));
    }
    problems.extend(expected.differences(&kernel.name.into(), report));
    problems
}

#[cfg(test)]
#[path = "guests_tests.rs"]
mod tests;
