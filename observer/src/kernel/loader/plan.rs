//! Which step of each ladder is taken, as far as is known.

use std::collections::{HashMap, HashSet};

use crate::contract::{Rung, Status, Verdict};
use crate::kernel::{
    ladder::{Attach, Ladder, Needs, ProgramSpec, Step},
    programs::LADDERS,
};

/// Why a program cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Not [`Status::Attached`].
    pub status: Status,
    /// In words, without full stop.
    pub detail: String,
}

/// What stands in the way of programs, and so which step of each ladder is taken.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    failures: HashMap<&'static str, Failure>,
    /// Remarks on programs that serve.
    remarks: HashMap<&'static str, String>,
    /// Whether `tcp_send_reset` fires without a socket too.
    reset_has_reason: bool,
}

impl Plan {
    /// A plan that nothing stands in the way of yet.
    #[must_use]
    pub fn new(reset_has_reason: bool) -> Self {
        Self {
            reset_has_reason,
            ..Self::default()
        }
    }

    /// Notes that `program` cannot serve. The first reason stands.
    pub fn fail(&mut self, program: &'static str, status: Status, detail: String) {
        self.failures
            .entry(program)
            .or_insert(Failure { status, detail });
    }

    /// Notes something about a program that serves all the same.
    fn remark(&mut self, program: &'static str, remark: String) {
        self.remarks.insert(program, remark);
    }

    fn failure(&self, program: &ProgramSpec) -> Option<Failure> {
        if let Attach::Shared { needs, .. } = program.attach
            && needs == Needs::ResetReason
            && !self.reset_has_reason
        {
            return Some(Failure {
                status: Status::Unsupported,
                detail: "before 6.10 it does not fire without a socket".to_owned(),
            });
        }
        self.failures.get(program.name).cloned()
    }

    fn serves(&self, step: &Step) -> bool {
        step.programs
            .iter()
            .all(|program| self.failure(program).is_none())
    }

    /// The step of `ladder` that is taken, if any can be.
    #[must_use]
    pub fn step<'a>(&self, ladder: &'a Ladder) -> Option<&'a Step> {
        ladder.steps.iter().find(|step| self.serves(step))
    }

    /// Whether a step below the one taken could be.
    fn can_step_down(&self, ladder: &Ladder) -> bool {
        ladder.steps.iter().filter(|step| self.serves(step)).count() > 1
    }

    /// Takes `program`, which was attached and stayed silent, out of the plan where there is a
    /// step below on each ladder that it serves. Returns whether there is; where not, it
    /// stays, with a remark.
    pub fn step_down(&mut self, program: &ProgramSpec) -> bool {
        const SILENT: &str = "did not fire in the self-test";
        let mut served = LADDERS.iter().filter(|ladder| {
            let taken = self.step(ladder);
            taken.is_some_and(|step| step.programs.iter().any(|of| of.name == program.name))
        });
        let below = served.all(|ladder| self.can_step_down(ladder));
        if below {
            self.fail(program.name, Status::Broken, SILENT.to_owned());
        } else {
            self.remark(program.name, SILENT.to_owned());
        }
        below
    }

    /// Whether `ladder` is served by hooks on kernel functions.
    #[must_use]
    pub fn by_function(&self, ladder: &Ladder) -> bool {
        self.step(ladder).is_some_and(Step::hooks_functions)
    }

    /// Whether `program` is to be attached.
    #[must_use]
    pub fn uses(&self, program: &str) -> bool {
        self.programs().iter().any(|used| used.name == program)
    }

    /// The programs to attach, each once, in order.
    #[must_use]
    pub fn programs(&self) -> Vec<&'static ProgramSpec> {
        let mut seen = HashSet::new();
        LADDERS
            .iter()
            .filter_map(|ladder| self.step(ladder))
            .flat_map(|step| step.programs)
            .filter(|program| !matches!(program.attach, Attach::Shared { .. }))
            .filter(|program| seen.insert(program.name))
            .collect()
    }

    /// The signals that are counted.
    pub fn counted(&self) -> impl Iterator<Item = u32> + '_ {
        LADDERS
            .iter()
            .filter_map(|ladder| self.step(ladder))
            .flat_map(|step| step.counts)
            .copied()
    }

    /// What became of each program of each step.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for ladder in LADDERS {
            let taken = ladder.steps.iter().position(|step| self.serves(step));
            for (at, step) in ladder.steps.iter().enumerate() {
                for program in step.programs {
                    let (status, detail) = match (taken, self.failure(program)) {
                        (Some(taken), _) if at == taken => {
                            (Status::Attached, self.words(step, program))
                        }
                        (Some(taken), failure) if at > taken => (
                            Status::NotNeeded,
                            failure.map_or_else(
                                || format!("{} serves", rungs(&ladder.steps[taken])),
                                |failure| failure.detail,
                            ),
                        ),
                        (_, Some(Failure { status, detail })) => (status, detail),
                        (_, None) => (Status::Incomplete, self.lacking(step)),
                    };
                    verdicts.push(Verdict {
                        signal: ladder.signal,
                        rung: program.rung(),
                        hook: program.hook,
                        program: program.name,
                        status,
                        detail,
                        required: ladder.required,
                    });
                }
            }
        }
        verdicts
    }

    fn words(&self, step: &Step, program: &ProgramSpec) -> String {
        let remark = self.remarks.get(program.name).map_or("", String::as_str);
        match (step.remark, remark) {
            ("", remark) => remark.to_owned(),
            (words, "") => words.to_owned(),
            (words, remark) => format!("{words}; {remark}"),
        }
    }

    /// What a step lacks, for those of its programs that are not at fault.
    fn lacking(&self, step: &Step) -> String {
        let others: Vec<_> = step
            .programs
            .iter()
            .filter(|program| self.failure(program).is_some())
            .map(|program| format!("{} {}", program.rung().name(), program.hook))
            .collect();
        format!("of no use without {}", others.join(" and "))
    }
}

/// "fexit", "kprobe and kretprobe".
fn rungs(step: &Step) -> String {
    let mut rungs: Vec<_> = step.programs.iter().map(|program| program.rung()).collect();
    rungs.dedup();
    let names: Vec<_> = rungs.into_iter().map(Rung::name).collect();
    names.join(" and ")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
