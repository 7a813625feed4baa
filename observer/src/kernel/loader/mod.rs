//! From the running kernel's BTF and the table of signals to attached programs and a verdict on
//! each.
//!
//! [`plan`] selects a variant of each fallback chain, [`object`] creates the maps and sets the
//! globals accordingly, [`attach`] loads and attaches the programs, and [`selftest`] finds those
//! that do not run.

mod attach;
pub mod backup;
mod error;
mod object;
mod obstacle;
mod plan;
mod selftest;

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use aya::{Btf, Ebpf};
use observer_common::{SIGNAL_QUIC, SIGNAL_TLS};
use tracing::warn;

pub use self::{error::LoadError, object::OBJECT};
use self::{object::Settings, plan::Plan};
use crate::kernel::{
    facts::{Facts, fields::Absent, skips::Skips, sysctls::SysctlFields},
    hooks::{
        spec::{Attach, FallbackChain, ProgramSpec},
        table,
    },
    options::LoadOptions,
    uprobes::{self, Unavailable, Uprobes},
};
use observer_core::{btf::KernelBtf, contract::Verdict};

/// The loaded object, and the result for each program.
pub struct Loaded {
    /// The object; dropping it detaches everything.
    pub ebpf: Ebpf,
    /// One verdict per program of each variant of each fallback chain.
    pub verdicts: Vec<Verdict>,
    /// The programs that are attached.
    pub programs: Vec<&'static str>,
    /// `SIGNAL_` numbers that are counted.
    pub counted: Vec<u32>,
    /// The programs on functions of user space, if they could be loaded.
    pub uprobes: Option<Uprobes>,
    /// Whether the backup programs are attached.
    pub backups_attached: bool,
    /// Why the self-test was skipped, if it was.
    pub untested: Option<String>,
    /// Fields that this kernel lacks.
    pub absent: Vec<Absent>,
    /// The kernel's reasons for sending an RST, by number.
    pub reset_reasons: BTreeMap<u32, String>,
    /// Where network namespaces keep their sysctls.
    pub sysctls: SysctlFields,
}

/// Inputs of the verifier besides the programs' code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The bytes of each read-only global that is set.
    pub globals: BTreeMap<&'static str, Vec<u8>>,
    /// The programs that are selected.
    pub programs: HashSet<&'static str>,
}

/// The running kernel, into which programs are loaded.
pub struct Kernel {
    facts: Facts,
    btf: Btf,
}

impl Kernel {
    /// Reads the BTF at `path` and looks for tracefs.
    ///
    /// # Errors
    ///
    /// Unreadable BTF, or a required field missing from it.
    pub fn examine(path: &Path) -> Result<Self, LoadError> {
        let btf = KernelBtf::from_file(path)?;
        let signatures = table::programs()
            .filter_map(|program| match program.attach {
                Attach::TpBtf { tracepoint, .. } => {
                    Some((tracepoint, btf.tracepoint_args(tracepoint)?))
                }
                Attach::Function { function, .. } => Some((function, btf.func_args(function)?)),
                _ => None,
            })
            .collect();
        let facts = Facts::new(&btf, signatures)?;
        let btf = Btf::parse(btf.bytes(), aya::Endianness::default()).map_err(|source| {
            LoadError::AyaBtf {
                path: path.to_owned(),
                source,
            }
        })?;
        Ok(Self { facts, btf })
    }

    /// Fields that this kernel lacks.
    #[must_use]
    pub fn absent(&self) -> &[Absent] {
        self.facts.fields.absent()
    }

    /// The same kernel, as if it lacked an optional field.
    #[must_use]
    pub fn without(mut self, global: &'static str) -> Self {
        self.facts.fields = self.facts.fields.without(global);
        self
    }

    /// Loads and attaches the best variants that this kernel supports.
    ///
    /// # Errors
    ///
    /// When the maps cannot be created or a required program cannot be attached. Other failures are in the verdicts.
    pub fn load(&self, options: &LoadOptions) -> Result<Loaded, LoadError> {
        let mut plan = Plan::new(&self.facts, options);
        let mut untested = None;
        if options.self_test {
            untested = self.self_test(options, &mut plan)?;
        }
        let mut ebpf = self.attach_all(options, &mut plan)?;
        backup::load(&mut ebpf, &self.btf);
        let skips = self.facts.skips != Skips::Nothing;
        let backups_attached = skips && backup::attach(&mut ebpf);
        let mut counted: Vec<_> = plan.counted().collect();
        let uprobes = self.uprobes(options, &mut ebpf);
        if uprobes.is_ok() {
            counted.extend([SIGNAL_TLS, SIGNAL_QUIC]);
        }
        counted.sort_unstable();
        counted.dedup();
        let mut verdicts = plan.verdicts();
        let attach_type = uprobes::attach_type(&self.facts, options);
        verdicts.extend(uprobes::verdicts(attach_type, uprobes.as_ref().map(|_| ())));
        Ok(Loaded {
            ebpf,
            verdicts,
            uprobes: uprobes.ok(),
            programs: plan.programs().iter().map(|program| program.name).collect(),
            counted,
            backups_attached,
            untested,
            absent: self.absent().to_vec(),
            reset_reasons: self.facts.reset_reasons.clone(),
            sysctls: self.facts.sysctls.clone(),
        })
    }

    /// Loads the programs on functions of user space.
    fn uprobes(&self, options: &LoadOptions, ebpf: &mut Ebpf) -> Result<Uprobes, Unavailable> {
        match uprobes::obstacle(&self.facts, options) {
            None => Uprobes::load(object::OBJECT, ebpf, &self.btf, &self.facts, options),
            Some((status, why)) => Err(Unavailable {
                status,
                why: why.to_owned(),
            }),
        }
    }

    /// The selection if the kernel refuses some programs, given by name.
    fn plan_without(&self, options: &LoadOptions, refused: &HashSet<&str>) -> Plan {
        let mut plan = Plan::new(&self.facts, options);
        for program in table::programs().filter(|it| refused.contains(it.name)) {
            plan.refuse(program, "left out on purpose".to_owned());
        }
        plan
    }

    /// The inputs of the verifier for the other programs, if the kernel has refused some.
    ///
    /// # Errors
    ///
    /// When the number of processors cannot be read.
    pub fn inputs(
        &self,
        options: &LoadOptions,
        refused: &HashSet<&str>,
    ) -> Result<Inputs, LoadError> {
        let plan = self.plan_without(options, refused);
        let settings = Settings::new(&self.facts, options, &plan)?;
        let fields = self.facts.fields.globals().iter();
        let fields = fields.map(|(name, value)| (*name, value.to_ne_bytes().to_vec()));
        let others = settings.globals().iter();
        let others = others.map(|global| (global.name, global.value.clone()));
        Ok(Inputs {
            globals: fields.chain(others).collect(),
            programs: plan.programs().iter().map(|program| program.name).collect(),
        })
    }

    /// Loads those of the selected programs that are `wanted` by name, and attaches none: for tests
    /// of the verifier. `refused` are treated as refused.
    ///
    /// # Errors
    ///
    /// When the maps cannot be created. Programs that are refused are in the verdicts.
    pub fn load_only(
        &self,
        options: &LoadOptions,
        refused: &HashSet<&str>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Verdict>, LoadError> {
        let mut plan = self.plan_without(options, refused);
        let settings = Settings::new(&self.facts, options, &plan)?;
        let mut ebpf = object::create(&self.facts, &self.btf, options, &settings)?;
        let wanted = |program: &ProgramSpec| wanted(program.name);
        attach::load_all(&mut ebpf, &self.btf, &mut plan, wanted);
        Ok(plan.verdicts())
    }

    /// Attaches the programs on functions temporarily to test whether they run, and removes those
    /// that do not from the plan. Returns the reason if the test was skipped.
    ///
    /// Globals that depend on other programs, and the order of attachment, do not matter here, so
    /// one object is used until all run.
    fn self_test(
        &self,
        options: &LoadOptions,
        plan: &mut Plan,
    ) -> Result<Option<String>, LoadError> {
        let options = LoadOptions {
            ring_bytes: options.ring_bytes.min(1 << 16),
            max_connections: options.max_connections.min(1024),
            slots: options.slots.min(256),
            max_sockopt_failures: options.max_sockopt_failures.min(256),
            record_mask: 0,
            log: false,
            ..options.clone()
        };
        let settings = Settings::new(&self.facts, &options, plan)?;
        let mut ebpf = object::create(&self.facts, &self.btf, &options, &settings)?;
        let mut attached = HashSet::new();
        let functions = ProgramSpec::hooks_function;
        loop {
            attach::load_all(&mut ebpf, &self.btf, plan, functions);
            if attach::attach_all(&mut ebpf, plan, &mut attached, functions) {
                continue;
            }
            let mut programs = plan.programs();
            programs.retain(|program| functions(program));
            let silent = match selftest::silent(&ebpf, &programs) {
                Ok(silent) => silent,
                Err(error) => return Ok(Some(error.to_string())),
            };
            let mut changed = false;
            for program in silent {
                warn!(
                    hook = program.hook,
                    "the hook did not fire in the self-test"
                );
                changed |= plan.fall_back(program);
            }
            if !changed {
                return Ok(None);
            }
        }
    }

    /// Loads and attaches the programs of the plan. Removes refused programs from the plan and
    /// tries those that the plan selects instead. If globals or the sizes of maps depend on that,
    /// all programs are loaded again, because these cannot be changed later.
    fn attach_all(&self, options: &LoadOptions, plan: &mut Plan) -> Result<Ebpf, LoadError> {
        // Kernels that refuse one hook on a function often refuse all of them. They are loaded
        // first, so that few programs are loaded in vain.
        let groups = [ProgramSpec::hooks_function, |program: &ProgramSpec| {
            !program.hooks_function()
        }];
        'anew: loop {
            let settings = Settings::new(&self.facts, options, plan)?;
            let mut ebpf = object::create(&self.facts, &self.btf, options, &settings)?;
            let mut attached = HashSet::new();
            loop {
                for group in groups {
                    attach::load_all(&mut ebpf, &self.btf, plan, group);
                    check_required(plan)?;
                    if Settings::new(&self.facts, options, plan)? != settings {
                        continue 'anew;
                    }
                }
                if !attach::attach_all(&mut ebpf, plan, &mut attached, |_| true) {
                    return Ok(ebpf);
                }
            }
        }
    }
}

fn check_required(plan: &Plan) -> Result<(), LoadError> {
    let lost = |chain: &&FallbackChain| chain.required && plan.variant(chain).is_none();
    let Some(chain) = table::chains().find(lost) else {
        return Ok(());
    };
    let verdicts = plan.verdicts();
    // Of the last variant, which most kernels have.
    let verdict = verdicts.iter().rfind(|v| v.signal == chain.signal);
    Err(LoadError::Required {
        hook: verdict.map_or(chain.signal, |v| v.hook),
        detail: verdict.map_or_else(String::new, |v| v.detail.clone()),
    })
}
