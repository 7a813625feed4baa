//! Injects faults into guests, to test their supervision with real guests.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::{
    boot::End,
    build::Unit,
    guests::{self, Attempt, Guest, Shared},
    image::Part,
    packages::Kernel,
};
use crate::report::Report;

/// A test program that never ends.
const SLEEPER: (&str, &str) = (
    "sleeper",
    "#!/bin/sh\necho 'running 1 test'\nprintf 'test sleeps ... '\nexec sleep 10000\n",
);

/// A test program of two tests, one of which always fails.
const FAILING: (&str, &str) = (
    "failing",
    "#!/bin/sh\n\
     echo 'test right ... ok'\necho 'test wrong ... '\n\
     echo \"thread 'wrong' (1) panicked at failing.rs:1:2:\"\necho 'it is wrong'\n\
     echo FAILED\nexit 101\n",
);

/// The same, but the test fails in its first run only.
const FLAKY: (&str, &str) = (
    "flaky",
    "#!/bin/sh\n\
     [ \"$*\" = '--include-ignored --test-threads=1 --nocapture' ] && echo 'test right ... ok'\n\
     echo 'test wrong ... '\n\
     if [ \"$OBSERVER_ATTEMPT\" = 2 ]; then echo ok; exit 0; fi\n\
     echo \"thread 'wrong' (1) panicked at flaky.rs:1:2:\"\necho 'wrong this time'\n\
     echo FAILED\nexit 101\n",
);

/// A test program that passes.
const RIGHT: (&str, &str) = ("right", "#!/bin/sh\necho 'test right ... ok'\n");

/// A fault, and the expected report and guests.
struct Fault {
    name: &'static str,
    fault: &'static str,
    scripts: &'static [(&'static str, &'static str)],
    /// Number of guests, including those for repeated tests.
    guests: usize,
    /// How the first guests must end.
    end: fn(&End) -> bool,
    failed: &'static [&'static str],
    flaky: &'static [&'static str],
    /// In the message of the failure.
    message: &'static str,
}

const FINISHED: fn(&End) -> bool = |end| *end == End::Finished;

const FAULTS: [Fault; 6] = [
    Fault {
        name: "panic",
        fault: "panic",
        scripts: &[],
        guests: 2,
        end: |end| matches!(end, End::Panicked(why) if why.contains("sysrq")),
        failed: &["panic"],
        flaky: &[],
        message: "the kernel panicked",
    },
    Fault {
        name: "soft-lockup",
        fault: "lockup",
        scripts: &[],
        guests: 2,
        end: |end| matches!(end, End::LockedUp(why) if why.contains("stuck for")),
        failed: &["soft-lockup"],
        flaky: &[],
        message: "soft lockup",
    },
    Fault {
        name: "silence",
        fault: "silence",
        scripts: &[],
        guests: 2,
        end: |end| matches!(end, End::Hung(at) if at.contains("silent")),
        failed: &["silence"],
        flaky: &[],
        message: "the guest hung",
    },
    // The guest continues without it.
    Fault {
        name: "endless-test",
        fault: "",
        scripts: &[SLEEPER, RIGHT],
        guests: 2,
        end: FINISHED,
        failed: &["sleeper"],
        flaky: &[],
        message: "HUNG",
    },
    Fault {
        name: "failing-test",
        fault: "",
        scripts: &[FAILING, RIGHT],
        guests: 2,
        end: FINISHED,
        failed: &["failing::wrong"],
        flaky: &[],
        message: "it is wrong",
    },
    Fault {
        name: "flaky-test",
        fault: "",
        scripts: &[FLAKY, RIGHT],
        guests: 2,
        end: FINISHED,
        failed: &[],
        flaky: &["flaky::wrong"],
        message: "wrong this time",
    },
];

/// Boots guests for each fault.
pub fn check(kernel: &Kernel, shared: &Shared<'_>, at_once: usize) -> Result<()> {
    let guests = FAULTS.iter().map(|fault| Guest {
        kernel,
        name: fault.name.to_owned(),
        origin: fault.name.to_owned(),
        part: Part {
            units: fault
                .scripts
                .iter()
                .map(|(name, _)| Unit::named(name))
                .collect(),
            scripts: fault.scripts.to_vec(),
            fault: fault.fault,
            ..Part::default()
        },
    });
    let (attempts, report) = guests::run(guests.collect(), at_once, shared)?;
    print!("\n{report}\n");
    let mut wrong = Vec::new();
    for fault in &FAULTS {
        let problems = fault.problems(&attempts, &report, &kernel.name.to_string());
        let verdict = if problems.is_empty() {
            "reported as it should be"
        } else {
            wrong.push(fault.name);
            &format!("WRONG:{problems}")
        };
        println!("{:<13} {verdict}", fault.name);
    }
    let expected = |of: fn(&Fault) -> usize| FAULTS.iter().map(of).sum::<usize>();
    if report.failed.len() != expected(|fault| fault.failed.len())
        || report.flaky.len() != expected(|fault| fault.flaky.len())
    {
        bail!("something else was reported as well");
    }
    if !wrong.is_empty() {
        bail!("not reported as what it is: {}", wrong.join(", "));
    }
    Ok(())
}

impl Fault {
    /// Differences between the actual and the expected outcome.
    fn problems(&self, attempts: &[Attempt<'_>], report: &Report, kernel: &str) -> String {
        let mut problems = String::new();
        let own: Vec<_> = attempts
            .iter()
            .filter(|attempt| attempt.guest.origin == self.name)
            .collect();
        if own.len() != self.guests {
            let _ = write!(problems, " {} guests", own.len());
        }
        for attempt in own.iter().filter(|it| !(self.end)(&it.boot.end)) {
            let _ = write!(problems, " {:?}", attempt.boot.end);
        }
        let logs = own
            .iter()
            .all(|attempt| attempt.boot.console.with_file_name("output.log").exists());
        if !logs {
            problems.push_str(" a log is missing");
        }
        for (list, names) in [(&report.failed, self.failed), (&report.flaky, self.flaky)] {
            for name in names {
                let name = format!("{kernel} {name}");
                let found = list.iter().find(|failure| failure.name == name);
                let said = found.is_some_and(|failure| {
                    let lines = failure.message.iter();
                    lines.into_iter().any(|line| line.contains(self.message))
                });
                if !said {
                    let _ = write!(problems, " no message {:?} for {name}", self.message);
                }
            }
        }
        problems
    }
}
