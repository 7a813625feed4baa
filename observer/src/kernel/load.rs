//! Loading and attaching: from the running kernel's BTF and the load table to attached
//! programs and a verdict on each.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::Queue,
    programs::{BtfTracePoint, Iter, ProgramError, ProgramType, TracePoint},
    sys::{BpfHelper, is_helper_supported},
};
use nix::sys::utsname::uname;
use observer_common::SLOT_FIRST;
use thiserror::Error;
use tracing::{debug, info, warn};

use super::tracefs::{field_offset, find_tracefs};
use super::{
    btf::{BtfError, KernelBtf, LayoutError},
    layout::{Absent, Layout},
    programs::{
        Attach, CONNECT_EXIT, CONNECT_NR, PROGRAMS, ProgramSpec, TWINS, check_args,
        runs_are_preempted,
    },
    verdict::{Status, Verdict},
};
use crate::explain::ResetReasons;

/// The compiled kernel programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer.o"));

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
    /// One verdict per program of the load table.
    pub verdicts: Vec<Verdict>,
    /// Whether the programs that make up for skipped runs are attached.
    pub twins_attached: bool,
    /// Fields that this kernel lacks.
    pub absent: Vec<Absent>,
    /// Names of the kernel's RST reasons.
    pub reasons: ResetReasons,
}

/// What is known about the running kernel before anything is loaded.
pub struct Kernel {
    btf: Btf,
    layout: Layout,
    reasons: ResetReasons,
    /// Arguments of each tracepoint of the load table.
    args: Vec<Option<Vec<String>>>,
    reset_args: usize,
    retransmit_args: usize,
    tracefs: Option<PathBuf>,
    helpers: Helpers,
}

/// Helpers that the oldest kernels lack.
struct Helpers {
    task_pt_regs: bool,
    socket_cookie: bool,
    sock_from_file: bool,
}

impl Helpers {
    fn find(kernel: &KernelBtf) -> Self {
        // Tracing programs cannot be asked what they may call. The kernel's list of helpers
        // tells: one that has a helper of some release has all of that release.
        let listed = kernel.enumerators("bpf_func_id");
        let has = |helper: &str| {
            listed
                .as_ref()
                .is_none_or(|list| list.iter().any(|(name, _)| name == helper))
        };
        Self {
            // Where it cannot be asked (too few rights), loading will say why.
            task_pt_regs: is_helper_supported(
                ProgramType::TracePoint,
                BpfHelper::BPF_FUNC_task_pt_regs,
            )
            .unwrap_or(true),
            // `bpf_get_socket_cookie` is older, but offered to tracing programs since 5.12
            // only, which is also the release of this one.
            socket_cookie: has("BPF_FUNC_check_mtu"),
            sock_from_file: has("BPF_FUNC_sock_from_file"),
        }
    }
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
        let reasons = ResetReasons::from_btf(&kernel);
        let args = PROGRAMS
            .iter()
            .map(|program| match program.attach {
                Attach::TpBtf { tracepoint, .. } => kernel.tracepoint_args(tracepoint),
                _ => None,
            })
            .collect();
        let count = |name| kernel.tracepoint_args(name).map_or(0, |args| args.len());
        let (reset_args, retransmit_args) = (count("tcp_send_reset"), count("tcp_retransmit_skb"));
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
            reset_args,
            retransmit_args,
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

    /// Loads and attaches all that this kernel can take.
    ///
    /// # Errors
    ///
    /// When the maps cannot be created or a required program cannot be attached. Anything
    /// else that fails is in the verdicts.
    pub fn load(&self, options: &LoadOptions) -> Result<Loaded, LoadError> {
        let exit_seen = self.obstacle(spec(CONNECT_EXIT)).is_none();
        let loaded = self.load_with(options, exit_seen)?;
        let attached = loaded
            .verdicts
            .iter()
            .any(|verdict| verdict.program == CONNECT_EXIT && verdict.status == Status::Attached);
        if exit_seen && !attached {
            // The state program leaves some outcomes to the one that could not be
            // attached, so it must be loaded anew, knowing that it is alone.
            info!("connect outcomes are taken from the state machine alone");
            drop(loaded);
            return self.load_with(options, false);
        }
        Ok(loaded)
    }

    fn load_with(&self, options: &LoadOptions, exit_seen: bool) -> Result<Loaded, LoadError> {
        let mut loader = EbpfLoader::new();
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| LoadError::Map {
            map: "STATS",
            source: io::Error::new(source.kind(), format!("{path}: {source}")),
        })?;
        let reason = |name| self.reasons.lookup(name).unwrap_or(u32::MAX);
        let not_specified = self.reasons.lookup("NOT_SPECIFIED").unwrap_or(0);
        let tcp_state = reason("TCP_STATE");
        let has_reason = u32::from(self.reset_args >= 3 && !self.reasons.is_empty());
        let has_error = u32::from(self.retransmit_args >= 3);
        let exit_seen = u32::from(exit_seen);
        let home_netns = fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino() as u32);
        let Helpers {
            task_pt_regs,
            socket_cookie,
            sock_from_file,
        } = self.helpers;
        let regs_from_stack = u32::from(!task_pt_regs);
        let (socket_cookie, sock_from_file) = (u32::from(socket_cookie), u32::from(sock_from_file));
        // The numbers of the `log` crate; 0 is off.
        let log_level: u8 = if options.log { 4 } else { 0 };
        let wakeup = u64::from(options.ring_bytes) / 2;
        let ret = self.syscall_ret_offset();
        for (name, value) in self.layout.globals() {
            loader.override_global(name, value, false);
        }
        loader
            .btf(Some(&self.btf))
            .override_global(aya_log::LEVEL, &log_level, true)
            .override_global("HOME_NETNS", &home_netns, true)
            .override_global("REGS_FROM_STACK", &regs_from_stack, true)
            .override_global("HAS_SOCKET_COOKIE", &socket_cookie, true)
            .override_global("HAS_SOCK_FROM_FILE", &sock_from_file, true)
            .override_global("RECORD_MASK", &options.record_mask, true)
            .override_global("WAKEUP_BYTES", &wakeup, true)
            .override_global("RESET_HAS_REASON", &has_reason, true)
            .override_global("REASON_NOT_SPECIFIED", &not_specified, true)
            .override_global("REASON_TCP_STATE", &tcp_state, true)
            .override_global("RETRANSMIT_HAS_ERROR", &has_error, true)
            .override_global("CONNECT_EXIT_SEEN", &exit_seen, true)
            .override_global("CONNECT_NR", &CONNECT_NR, true)
            .override_global("SYSCALL_RET", &ret, true)
            .map_max_entries("CONNECTIONS", options.max_connections)
            .map_max_entries("PROCESSES", options.slots)
            .map_max_entries("SLOTS", options.slots)
            .map_max_entries("FREE_SLOTS", options.slots)
            .map_max_entries("STATS", cpus as u32)
            .map_max_entries("SOCKOPT_FAILURES", options.max_sockopt_failures)
            .map_max_entries("TIME_WAIT_OWNERS", options.max_connections.min(65_536))
            .map_max_entries("AYA_LOGS", if options.log { 1 << 17 } else { 4096 })
            .map_max_entries("RECORDS", options.ring_bytes);
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| LoadError::Object(Box::new(error)))?;
        // Before anything is attached, or the first processes to be seen would find none.
        fill_free_slots(&mut ebpf, options.slots)?;
        let mut verdicts = Vec::with_capacity(PROGRAMS.len());
        for program in PROGRAMS {
            let verdict = self.attach(&mut ebpf, program);
            debug!(hook = program.hook, status = ?verdict.status, detail = verdict.detail, "attach");
            if program.required && verdict.status != Status::Attached {
                return Err(LoadError::Required {
                    hook: program.hook,
                    detail: verdict.detail,
                });
            }
            verdicts.push(verdict);
        }
        self.load_twins(&mut ebpf);
        let preempted =
            uname().is_ok_and(|name| runs_are_preempted(&name.release().to_string_lossy()));
        let twins_attached = preempted && attach_twins(&mut ebpf);
        Ok(Loaded {
            ebpf,
            verdicts,
            twins_attached,
            absent: self.layout.absent().to_vec(),
            reasons: self.reasons.clone(),
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

    /// What is known to stand in the way of `program` before it is tried.
    fn obstacle(&self, program: &ProgramSpec) -> Option<String> {
        match program.attach {
            Attach::TpBtf { tracepoint, args } => {
                let at = PROGRAMS
                    .iter()
                    .position(|other| other.name == program.name)?;
                match &self.args[at] {
                    None => Some(format!("this kernel has no tracepoint {tracepoint}")),
                    Some(found) => check_args(found, args).err(),
                }
            }
            Attach::SyscallExit { event } => {
                let Some(tracefs) = &self.tracefs else {
                    return Some(
                        "tracefs is not mounted; mount -t tracefs tracefs /sys/kernel/tracing"
                            .to_owned(),
                    );
                };
                let format = tracefs.join("events/syscalls").join(event).join("format");
                match fs::metadata(&format) {
                    Ok(_) => None,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
                        "this kernel has no event syscalls:{event} (CONFIG_FTRACE_SYSCALLS)"
                    )),
                    Err(error) => Some(format!("cannot read {}: {error}", format.display())),
                }
            }
            Attach::IterTaskFile => None,
        }
    }

    fn attach(&self, ebpf: &mut Ebpf, program: &'static ProgramSpec) -> Verdict {
        let verdict = |status, detail| Verdict {
            signal: program.signal,
            rung: program.rung(),
            hook: program.hook,
            program: program.name,
            status,
            detail,
            required: program.required,
        };
        if let Some(obstacle) = self.obstacle(program) {
            return verdict(Status::Unsupported, obstacle);
        }
        match self.try_attach(ebpf, program) {
            Ok(()) => verdict(Status::Attached, String::new()),
            Err(error) => verdict(Status::Refused, describe(&error)),
        }
    }

    fn try_attach(&self, ebpf: &mut Ebpf, program: &ProgramSpec) -> Result<(), ProgramError> {
        let handle = ebpf
            .program_mut(program.name)
            .ok_or(ProgramError::NotLoaded)?;
        match program.attach {
            Attach::TpBtf { tracepoint, .. } => {
                let handle: &mut BtfTracePoint = handle.try_into()?;
                handle.load(tracepoint, &self.btf)?;
                handle.attach()?;
            }
            Attach::SyscallExit { event } => {
                let handle: &mut TracePoint = handle.try_into()?;
                handle.load()?;
                handle.attach("syscalls", event)?;
            }
            Attach::IterTaskFile => {
                // Attached each time it is read; loading it is the test.
                let handle: &mut Iter = handle.try_into()?;
                handle.load("task_file", &self.btf)?;
            }
        }
        Ok(())
    }

    /// Where `sys_exit_*` events keep the return value: at 16, but the common part is
    /// longer on some kernels (6.1 with PREEMPT_RT).
    fn syscall_ret_offset(&self) -> u64 {
        const USUAL: u64 = 16;
        let Some(tracefs) = &self.tracefs else {
            return USUAL;
        };
        fs::read_to_string(tracefs.join("events/syscalls/sys_exit_connect/format"))
            .ok()
            .and_then(|format| field_offset(&format, "ret"))
            .unwrap_or(USUAL)
    }
}

fn twin<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, ProgramError> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

/// Attaches the programs that make up for skipped runs, which [`Kernel::load`] has loaded.
/// Whether that worked is logged and returned.
pub(super) fn attach_twins(ebpf: &mut Ebpf) -> bool {
    let attached = TWINS
        .iter()
        .try_for_each(|(name, _)| twin(ebpf, name)?.attach().map(drop));
    match &attached {
        Ok(()) => info!("the kernel skips runs of busy programs; twins make up for them"),
        Err(error) => warn!(error = describe(error), "skipped runs are not made up for"),
    }
    attached.is_ok()
}

fn fill_free_slots(ebpf: &mut Ebpf, slots: u32) -> Result<(), LoadError> {
    let error = |source| LoadError::Map {
        map: "FREE_SLOTS",
        source,
    };
    let map = ebpf
        .map_mut("FREE_SLOTS")
        .ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
    let mut free: Queue<_, u32> =
        Queue::try_from(map).map_err(|source| error(io::Error::other(source)))?;
    for index in SLOT_FIRST..slots {
        free.push(index, 0)
            .map_err(|source| error(io::Error::other(source)))?;
    }
    Ok(())
}

fn spec(name: &str) -> &'static ProgramSpec {
    PROGRAMS
        .iter()
        .find(|program| program.name == name)
        .expect("the load table has the program")
}

/// An error of loading or attaching, with the last words of the verifier.
fn describe(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        let log = verifier_log.to_string();
        let words: Vec<_> = log
            .lines()
            .filter(|line| {
                !line.trim().is_empty()
                    && !line.starts_with("processed ")
                    && !line.starts_with("stack depth")
                    && !line.starts_with("verification time")
            })
            .collect();
        text = format!("the kernel refused the program: {io_error}");
        if let Some(last) = words.last() {
            text = format!("{text} ({last})");
        }
        debug!(log, "verifier");
    }
    text
}
