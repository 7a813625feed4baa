//! Guests that go wrong on purpose: what watches them is tested with real ones.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};

use super::{
    boot::End,
    guests::{self, Ground, Guest},
    image::Part,
    outcome::Outcome,
    packages::Kernel,
    qemu::Qemu,
};

/// A test program that never ends.
const SLEEPER: (&str, &str) = (
    "sleeper",
    "#!/bin/sh\necho 'running 1 test'\nprintf 'test sleeps ... '\nexec sleep 10000\n",
);

/// How long a test program may take here.
const PATIENCE: Duration = Duration::from_secs(10);

/// What goes wrong, and whether it was told for what it is.
struct Fault {
    name: &'static str,
    part: fn() -> Part,
    told: fn(&End, &Outcome) -> bool,
}

const FAULTS: [Fault; 4] = [
    Fault {
        name: "panic",
        part: || Part {
            fault: "panic",
            ..Part::default()
        },
        // It was tried twice.
        told: |end, outcome| {
            let twice = outcome.notes.iter().any(|note| note.contains("first boot"));
            matches!(end, End::Panicked(why) if why.contains("sysrq")) && twice
        },
    },
    Fault {
        name: "soft lockup",
        part: || Part {
            fault: "lockup",
            ..Part::default()
        },
        told: |end, _| matches!(end, End::LockedUp(why) if why.contains("stuck for")),
    },
    Fault {
        name: "silence",
        part: || Part {
            fault: "silence",
            ..Part::default()
        },
        told: |end, _| matches!(end, End::Hung(at) if at.contains("silent")),
    },
    Fault {
        name: "endless test",
        part: || Part {
            tests: vec![SLEEPER.0.to_owned()],
            scripts: vec![SLEEPER],
            ..Part::default()
        },
        // The guest went on without it.
        told: |end, outcome| {
            let sleeper = outcome.programs.get(SLEEPER.0);
            *end == End::Finished && sleeper.is_some_and(|program| program.hung())
        },
    },
];

/// Boots a guest for each fault.
pub fn check(
    qemu: &Qemu,
    kernel: &Kernel,
    programs: &Path,
    job: &Path,
    work: &Path,
    at_once: usize,
) -> Result<()> {
    let guests: Vec<_> = FAULTS
        .iter()
        .map(|fault| Guest {
            kernel,
            name: fault.name.replace(' ', "-"),
            part: (fault.part)(),
        })
        .collect();
    let ground = Ground {
        qemu,
        programs,
        job,
        work,
        test_timeout: PATIENCE,
    };
    let results = guests::run_all(&guests, at_once, &ground)?;
    println!();
    let mut wrong = Vec::new();
    for ((fault, guest), (boot, outcome)) in FAULTS.iter().zip(&guests).zip(&results) {
        let (status, trouble) = guests::judge(&boot.end, &guest.part, outcome);
        let trouble = trouble.unwrap_or_else(|| "nothing".to_owned());
        let told = status != 0 && (fault.told)(&boot.end, outcome);
        let verdict = if told { "as it should be" } else { "WRONG" };
        println!(
            "{:<13} {verdict}: exit status {status}, {trouble}",
            fault.name
        );
        if !told {
            wrong.push(fault.name);
        }
    }
    if !wrong.is_empty() {
        bail!("not told for what it is: {}", wrong.join(", "));
    }
    Ok(())
}
