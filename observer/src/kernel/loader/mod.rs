//! Loading and attaching: from the running kernel's BTF and the load table to attached
//! programs and a verdict on each.

pub(in crate::kernel) mod attach;
mod object;
mod plan;
mod selftest;

use std::{collections::HashMap, io, path::PathBuf};

use aya::{Btf, Ebpf};
use nix::sys::utsname::uname;
use thiserror::Error;
use tracing::{debug, info, warn};

use self::{
    attach::{attach_twins, describe, twin},
    object::Helpers,
    plan::Plan,
};
use super::{
    btf::{BtfError, KernelBtf, LayoutError},
    facts::reset_reasons::reset_reasons,
    ladder::{Attach, Ladder},
    layout::{Absent, Layout},
    programs::{self, LADDERS, TIME_WAIT, TWINS, runs_are_skipped},
    tracefs::find_tracefs,
};
use crate::{
    contract::{Hooks, Status, Verdict},
    explain::ResetReasons,
};

/// Sizes and switches of the kernel side.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Bytes of the ring: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Entries of the connection map.
    pub max_connections: u32,
    /// Slots for processes.
    pub slots: u32,
    /// Counters of failed setsockopt calls.
    pub max_sockopt_failures: u32,
    /// Kinds of record to write, one bit per `RECORD_` number.
    pub record_mask: u32,
    /// Where to read BTF from.
    pub btf: PathBuf,
    /// The best kind of hook to use.
    pub hooks: Hooks,
    /// Whether to try the hooks out before they are relied on. Needs CAP_SYS_ADMIN; without
    /// it, that is noted in [`Loaded::untested`].
    pub self_test: bool,
    /// Whether the kernel programs log (to the `log` facade, at debug level). When off, the
    /// verifier removes the code.
    pub log: bool,
}

/// Why nothing could be loaded at all.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No BTF.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// BTF that aya cannot use.
    #[error("cannot use the BTF in {}", path.display())]
    AyaBtf {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: aya::BtfError,
    },
    /// A required field is not there.
    #[error("this kernel's structures are not as expected")]
    Layout(#[from] LayoutError),
    /// The object could not be loaded: no permission, no memory, a map type missing.
    #[error("cannot load the kernel programs' maps")]
    Object(#[source] Box<aya::EbpfError>),
    /// A required program could not be attached.
    #[error("cannot attach to {hook}: {detail}")]
    Required {
        /// The hook.
        hook: &'static str,
        /// Why.
        detail: String,
    },
    /// A map is not as expected.
    #[error("cannot use the map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What was found out about the kernel and done with it.
pub struct Loaded {
    /// The object; dropping it detaches everything.
    pub ebpf: Ebpf,
    /// One verdict per program of each step of each ladder.
    pub verdicts: Vec<Verdict>,
    /// The programs that are attached.
    pub programs: Vec<&'static str>,
    /// `SIGNAL_` numbers that are counted.
    pub counted: Vec<u32>,
    /// Whether the beginning and the end of TIME_WAIT are seen, rather than inferred.
    pub exact_time_wait: bool,
    /// Whether the programs that make up for skipped runs are attached.
    pub twins_attached: bool,
    /// Why the hooks could not be tried out, if they could not.
    pub untested: Option<String>,
    /// Fields that this kernel lacks.
    pub absent: Vec<Absent>,
    /// Names of the kernel's RST reasons.
    pub reasons: ResetReasons,
}

/// What is known about the running kernel before anything is loaded.
pub struct Kernel {
    pub(in crate::kernel) btf: Btf,
    pub(in crate::kernel) layout: Layout,
    pub(in crate::kernel) reasons: ResetReasons,
    /// Arguments of each tracepoint and function of the load table, where there is one.
    pub(in crate::kernel) args: HashMap<&'static str, Vec<String>>,
    pub(in crate::kernel) tracefs: Option<PathBuf>,
    pub(in crate::kernel) helpers: Helpers,
}

impl Kernel {
    /// Reads the BTF at `path` and looks for tracefs.
    ///
    /// # Errors
    ///
    /// Unreadable BTF, or a required field missing from it.
    pub fn examine(path: &std::path::Path) -> Result<Self, LoadError> {
        let kernel = KernelBtf::from_file(path)?;
        let layout = Layout::resolve(&kernel)?;
        let reasons = ResetReasons::new(reset_reasons(&kernel));
        let args = programs::all()
            .filter_map(|program| match program.attach {
                Attach::TpBtf { tracepoint, .. } => {
                    Some((tracepoint, kernel.tracepoint_args(tracepoint)?))
                }
                Attach::Function { function, .. } => Some((function, kernel.func_args(function)?)),
                _ => None,
            })
            .collect();
        let helpers = Helpers::find(&kernel);
        // Tens of megabytes while parsed; everything needed has been taken from it.
        drop(kernel);
        let btf = Btf::parse_file(path, aya::Endianness::default()).map_err(|source| {
            LoadError::AyaBtf {
                path: path.to_owned(),
                source,
            }
        })?;
        Ok(Self {
            btf,
            layout,
            reasons,
            args,
            tracefs: find_tracefs(),
            helpers,
        })
    }

    /// Fields that this kernel lacks.
    #[must_use]
    pub fn absent(&self) -> &[Absent] {
        self.layout.absent()
    }

    /// The same kernel, as if it lacked an optional field.
    #[must_use]
    pub fn without(mut self, global: &'static str) -> Self {
        self.layout = self.layout.without(global);
        self
    }

    /// Where tracefs is mounted, if it is.
    #[must_use]
    pub fn tracefs(&self) -> Option<&std::path::Path> {
        self.tracefs.as_deref()
    }

    /// Loads and attaches the best that this kernel can take.
    ///
    /// # Errors
    ///
    /// When the maps cannot be created or a required program cannot be attached. Anything
    /// else that fails is in the verdicts.
    pub fn load(&self, options: &LoadOptions) -> Result<Loaded, LoadError> {
        let mut plan = self.plan(options.hooks);
        let mut untested = None;
        if options.self_test {
            untested = self.try_out(options, &mut plan)?;
        }
        let mut ebpf = self.attach_all(options, &mut plan)?;
        self.load_twins(&mut ebpf);
        let skipped = uname().is_ok_and(|name| runs_are_skipped(&name.release().to_string_lossy()));
        let twins_attached = skipped && attach_twins(&mut ebpf);
        let mut counted: Vec<_> = plan.counted().collect();
        counted.sort_unstable();
        counted.dedup();
        Ok(Loaded {
            ebpf,
            verdicts: plan.verdicts(),
            programs: plan.programs().iter().map(|program| program.name).collect(),
            counted,
            exact_time_wait: plan.by_function(TIME_WAIT),
            twins_attached,
            untested,
            absent: self.layout.absent().to_vec(),
            reasons: self.reasons.clone(),
        })
    }

    /// What can be said before anything is loaded.
    fn plan(&self, hooks: Hooks) -> Plan {
        let mut plan = Plan::new(self.reset_has_reason());
        for program in programs::all() {
            if let Some(obstacle) = hooks.forbid(program.rung()) {
                plan.fail(program.name, Status::Unsupported, obstacle.to_owned());
            } else if let Some(obstacle) = self.obstacle(program) {
                plan.fail(program.name, Status::Unsupported, obstacle);
            }
        }
        plan
    }

    /// Attaches everything for a moment to see which hooks fire, and takes those that do not
    /// out of the plan. Returns why that could not be done, if it could not.
    fn try_out(&self, options: &LoadOptions, plan: &mut Plan) -> Result<Option<String>, LoadError> {
        let options = LoadOptions {
            ring_bytes: options.ring_bytes.min(1 << 16),
            max_connections: options.max_connections.min(1024),
            slots: options.slots.min(256),
            max_sockopt_failures: options.max_sockopt_failures.min(256),
            record_mask: 0,
            log: false,
            ..options.clone()
        };
        loop {
            let ebpf = self.attach_all(&options, plan)?;
            let silent = match selftest::silent(&ebpf, &plan.programs()) {
                Ok(silent) => silent,
                Err(error) => return Ok(Some(error.to_string())),
            };
            let mut stepped = false;
            for program in silent {
                warn!(
                    hook = program.hook,
                    "the hook did not fire in the self-test"
                );
                stepped |= plan.step_down(program);
            }
            if !stepped {
                return Ok(None);
            }
        }
    }

    /// Loads and attaches what the plan says. What the kernel refuses is taken out of the
    /// plan, and as programs are told who serves what when they are loaded, all are then
    /// loaded anew.
    fn attach_all(&self, options: &LoadOptions, plan: &mut Plan) -> Result<Ebpf, LoadError> {
        loop {
            self.check_required(plan)?;
            let mut ebpf = self.object(options, plan)?;
            let refusals = self.attach_planned(&mut ebpf, &plan.programs());
            if refusals.is_empty() {
                return Ok(ebpf);
            }
            for (program, error) in refusals {
                let detail = describe(&error);
                debug!(program, detail, "refused");
                plan.fail(program, Status::Refused, detail);
            }
        }
    }

    fn check_required(&self, plan: &Plan) -> Result<(), LoadError> {
        let lost = |ladder: &&Ladder| ladder.required && plan.step(ladder).is_none();
        let Some(ladder) = LADDERS.iter().find(lost) else {
            return Ok(());
        };
        let verdicts = plan.verdicts();
        let verdict = verdicts.iter().find(|v| v.signal == ladder.signal);
        Err(LoadError::Required {
            hook: verdict.map_or(ladder.signal, |v| v.hook),
            detail: verdict.map_or_else(String::new, |v| v.detail.clone()),
        })
    }

    fn load_twins(&self, ebpf: &mut Ebpf) {
        for (name, tracepoint) in TWINS {
            let loaded = twin(ebpf, name).and_then(|twin| twin.load(tracepoint, &self.btf));
            if let Err(error) = loaded {
                info!(
                    name,
                    error = describe(&error),
                    "skipped runs cannot be made up for"
                );
            }
        }
    }
}
