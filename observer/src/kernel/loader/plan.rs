//! Selects a variant of each fallback chain, with the known failures of programs.

use std::collections::{HashMap, HashSet};

use observer_core::contract::{Status, Verdict};
use tracing::debug;

use super::obstacle::obstacle;
use crate::kernel::{
    facts::Facts,
    hooks::{
        spec::{Attach, AttachType, FallbackChain, ProgramSpec, Requirement, Variant},
        table,
    },
    options::LoadOptions,
};

/// Why a program cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Not [`Status::Attached`].
    pub status: Status,
    /// A sentence without full stop.
    pub detail: String,
}

/// The unusable programs, which determine the variant of each fallback chain.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    failures: HashMap<&'static str, Failure>,
    /// Remarks on usable programs.
    remarks: HashMap<&'static str, String>,
    /// Requirements that the kernel does not meet, by their message.
    unmet: HashSet<&'static str>,
}

impl Plan {
    /// The failures known before loading: missing features of this kernel, and programs disabled by settings.
    #[must_use]
    pub fn new(facts: &Facts, options: &LoadOptions) -> Self {
        let mut plan = Self::default();
        for program in table::programs() {
            if let Some(detail) = forbidden(options, program) {
                plan.fail(program.name, Status::Disabled, detail.to_owned());
            } else if let Some((status, detail)) = obstacle(facts, program) {
                plan.fail(program.name, status, detail);
            }
            if let Some(requirement) = requirement(program)
                && !(requirement.is_met)(facts)
            {
                plan.unmet.insert(requirement.otherwise);
            }
        }
        plan
    }

    /// Records that `program` cannot be used. The first reason is kept.
    pub fn fail(&mut self, program: &'static str, status: Status, detail: String) {
        self.failures
            .entry(program)
            .or_insert(Failure { status, detail });
    }

    /// Records that the kernel refused `program`.
    pub fn refuse(&mut self, program: &ProgramSpec, detail: String) {
        debug!(program = program.name, detail, "refused");
        self.fail(program.name, Status::Refused, detail);
    }

    fn failure(&self, program: &ProgramSpec) -> Option<Failure> {
        if let Some(requirement) = requirement(program)
            && self.unmet.contains(requirement.otherwise)
        {
            return Some(Failure {
                status: Status::Unsupported,
                detail: requirement.otherwise.to_owned(),
            });
        }
        self.failures.get(program.name).cloned()
    }

    fn serves(&self, variant: &Variant) -> bool {
        variant
            .programs
            .iter()
            .all(|program| self.failure(program).is_none())
    }

    /// The selected variant of `chain`, if any can be used.
    #[must_use]
    pub fn variant<'a>(&self, chain: &'a FallbackChain) -> Option<&'a Variant> {
        chain.variants.iter().find(|variant| self.serves(variant))
    }

    /// Whether there is another variant to fall back to.
    fn has_fallback(&self, chain: &FallbackChain) -> bool {
        let serving = chain.variants.iter().filter(|it| self.serves(it));
        serving.count() > 1
    }

    /// Removes `program`, which was attached and did not run, from the plan if each fallback chain with this program has
    /// another variant. Returns whether it was removed; otherwise the program stays, with a remark.
    pub fn fall_back(&mut self, program: &ProgramSpec) -> bool {
        const SILENT: &str = "did not fire in the self-test";
        let mut served = table::chains().filter(|chain| {
            let selected = self.variant(chain);
            selected.is_some_and(|it| it.programs.iter().any(|of| of.name == program.name))
        });
        let can_fall_back = served.all(|chain| self.has_fallback(chain));
        if can_fall_back {
            self.fail(program.name, Status::Broken, SILENT.to_owned());
        } else {
            self.remarks.insert(program.name, SILENT.to_owned());
        }
        can_fall_back
    }

    /// The programs to attach, each once, in order.
    #[must_use]
    pub fn programs(&self) -> Vec<&'static ProgramSpec> {
        let mut seen = HashSet::new();
        table::chains()
            .filter_map(|chain| self.variant(chain))
            .flat_map(|variant| variant.programs)
            .filter(|program| !program.is_shared())
            .filter(|program| seen.insert(program.name))
            .collect()
    }

    /// The signals that are counted.
    pub fn counted(&self) -> impl Iterator<Item = u32> + '_ {
        table::chains()
            .filter_map(|chain| self.variant(chain))
            .flat_map(|variant| variant.counts)
            .copied()
    }

    /// The status of each program of each variant.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for chain in table::chains() {
            let selected = chain.variants.iter().position(|it| self.serves(it));
            for (at, variant) in chain.variants.iter().enumerate() {
                for program in variant.programs {
                    let (status, detail) = match (selected, self.failure(program)) {
                        (Some(selected), _) if at == selected => {
                            (Status::Attached, self.remark(variant, program))
                        }
                        (Some(selected), failure) if at > selected => (
                            Status::NotNeeded,
                            failure.map_or_else(
                                || format!("{} is used", attach_types(&chain.variants[selected])),
                                |failure| failure.detail,
                            ),
                        ),
                        (_, Some(Failure { status, detail })) => (status, detail),
                        (_, None) => (Status::Incomplete, self.lacking(variant)),
                    };
                    verdicts.push(Verdict {
                        signal: chain.signal,
                        attach_type: program.attach_type(),
                        hook: program.hook,
                        program: program.name,
                        status,
                        detail,
                        required: chain.required,
                    });
                }
            }
        }
        verdicts
    }

    fn remark(&self, variant: &Variant, program: &ProgramSpec) -> String {
        let remark = self.remarks.get(program.name).map_or("", String::as_str);
        match (variant.remark, remark) {
            ("", remark) => remark.to_owned(),
            (remark, "") => remark.to_owned(),
            (first, second) => format!("{first}; {second}"),
        }
    }

    /// Which programs of a variant failed, for those that did not.
    fn lacking(&self, variant: &Variant) -> String {
        let others: Vec<_> = variant
            .programs
            .iter()
            .filter(|program| self.failure(program).is_some())
            .map(|program| format!("{} {}", program.attach_type().name(), program.hook))
            .collect();
        format!("needs {}", others.join(" and "))
    }
}

/// Why the settings disable `program`, if they do.
fn forbidden(options: &LoadOptions, program: &ProgramSpec) -> Option<&'static str> {
    match program.attach {
        Attach::SyscallExit { .. } => options.syscall_tracepoints.forbid(),
        _ => options.hooks.forbid(program.attach_type()),
    }
}

fn requirement(program: &ProgramSpec) -> Option<Requirement> {
    match program.attach {
        Attach::Shared { requirement, .. } => requirement,
        Attach::Tracepoint { requirement, .. } => Some(requirement),
        _ => None,
    }
}

/// "fexit", "kprobe and kretprobe".
fn attach_types(variant: &Variant) -> String {
    let programs = variant.programs.iter();
    let mut types: Vec<_> = programs.map(ProgramSpec::attach_type).collect();
    types.dedup();
    let names: Vec<_> = types.into_iter().map(AttachType::name).collect();
    names.join(" and ")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
