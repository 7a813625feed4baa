//! The object with its maps, sized for the host and told what it needs to know of the kernel.

use std::{fs, io, os::unix::fs::MetadataExt as _};

use aya::{
    Ebpf, EbpfLoader,
    maps::Queue,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use observer_common::SLOT_FIRST;

use super::{Kernel, LoadError, LoadOptions, plan::Plan};
use crate::kernel::{
    btf::KernelBtf,
    maps::listeners::max_listeners,
    programs::{ACCEPT, BIND, CONNECT, CONNECT_NR, LISTEN, PORTS_BIND, PORTS_CONNECT, TIME_WAIT},
    tracefs::field_offset,
};

/// The compiled kernel programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer.o"));

/// Helpers that the oldest kernels lack.
pub(in crate::kernel) struct Helpers {
    task_pt_regs: bool,
    socket_cookie: bool,
    sock_from_file: bool,
    task_btf: bool,
    func_ret: bool,
}

impl Helpers {
    pub fn find(kernel: &KernelBtf) -> Self {
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
            task_btf: has("BPF_FUNC_get_current_task_btf"),
            func_ret: has("BPF_FUNC_get_func_ret"),
        }
    }
}

impl Kernel {
    /// How many arguments a tracepoint or function has, 0 when there is none.
    fn args_of(&self, hook: &str) -> u32 {
        self.args.get(hook).map_or(0, |args| args.len() as u32)
    }

    pub(in crate::kernel) fn reset_has_reason(&self) -> bool {
        self.args_of("tcp_send_reset") >= 3 && !self.reasons.is_empty()
    }

    /// The object with its maps, sized and told who serves what; nothing is attached yet.
    pub(in crate::kernel) fn object(
        &self,
        options: &LoadOptions,
        plan: &Plan,
    ) -> Result<Ebpf, LoadError> {
        let mut loader = EbpfLoader::new();
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| LoadError::Map {
            map: "STATS",
            source: io::Error::new(source.kind(), format!("{path}: {source}")),
        })?;
        let reason = |name| self.reasons.lookup(name).unwrap_or(u32::MAX);
        let not_specified = self.reasons.lookup("NOT_SPECIFIED").unwrap_or(0);
        let tcp_state = reason("TCP_STATE");
        let has_reason = u32::from(self.reset_has_reason());
        let has_error = u32::from(self.args_of("tcp_retransmit_skb") >= 3);
        let exit_seen = u32::from(plan.step(CONNECT).is_some());
        let home_netns = fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino() as u32);
        let Helpers {
            task_pt_regs,
            socket_cookie,
            sock_from_file,
            task_btf,
            func_ret,
        } = self.helpers;
        let regs_from_stack = u32::from(!task_pt_regs);
        let [socket_cookie, sock_from_file, task_btf, func_ret] =
            [socket_cookie, sock_from_file, task_btf, func_ret].map(u32::from);
        let by_function = |ladder| u32::from(plan.by_function(ladder));
        let [time_wait, accept, ports] = [TIME_WAIT, ACCEPT, PORTS_CONNECT].map(by_function);
        let [ports_bind, bind, listen] = [PORTS_BIND, BIND, LISTEN].map(by_function);
        // The other function is passed by calls without a socket, too.
        let reaches_socket = plan.uses("setsockopt_fexit") || plan.uses("setsockopt_kretprobe");
        let setsockopt = u32::from(reaches_socket);
        // The numbers of the `log` crate; 0 is off.
        let log_level: u8 = if options.log { 4 } else { 0 };
        let wakeup = u64::from(options.ring_bytes) / 2;
        let ret = self.syscall_ret_offset();
        for (name, value) in self.layout.globals() {
            loader.override_global(name, value, false);
        }
        let sizes = sizes(options, plan);
        let cpu_bits = cpus.next_power_of_two().ilog2();
        let owners_mask = sizes.time_wait_owners - 1;
        loader
            .btf(Some(&self.btf))
            .override_global(aya_log::LEVEL, &log_level, true)
            .override_global("HOME_NETNS", &home_netns, true)
            .override_global("REGS_FROM_STACK", &regs_from_stack, true)
            .override_global("HAS_SOCKET_COOKIE", &socket_cookie, true)
            .override_global("HAS_SOCK_FROM_FILE", &sock_from_file, true)
            .override_global("HAS_TASK_BTF", &task_btf, true)
            .override_global("RECORD_MASK", &options.record_mask, true)
            .override_global("WAKEUP_BYTES", &wakeup, true)
            .override_global("RESET_HAS_REASON", &has_reason, true)
            .override_global("REASON_NOT_SPECIFIED", &not_specified, true)
            .override_global("REASON_TCP_STATE", &tcp_state, true)
            .override_global("RETRANSMIT_HAS_ERROR", &has_error, true)
            .override_global("CONNECT_EXIT_SEEN", &exit_seen, true)
            .override_global("CONNECT_NR", &CONNECT_NR, true)
            .override_global("SYSCALL_RET", &ret, true)
            .override_global("TIME_WAIT_EXACT", &time_wait, true)
            .override_global("CPU_BITS", &cpu_bits, true)
            .override_global("TIME_WAIT_OWNERS_MASK", &owners_mask, true)
            .override_global("ACCEPT_BY_FUNCTION", &accept, true)
            .override_global("HAS_FUNC_RET", &func_ret, true)
            .override_global("PORTS_BY_FUNCTION", &ports, true)
            .override_global("PORTS_BIND_BY_FUNCTION", &ports_bind, true)
            .override_global("BIND_BY_FUNCTION", &bind, true)
            .override_global("LISTEN_BY_FUNCTION", &listen, true)
            .override_global("SETSOCKOPT_BY_FUNCTION", &setsockopt, true)
            .map_max_entries("CONNECTIONS", options.max_connections)
            .map_max_entries("PROCESSES", options.slots)
            .map_max_entries("SLOTS", options.slots)
            .map_max_entries("FREE_SLOTS", options.slots)
            .map_max_entries("STATS", cpus as u32)
            .map_max_entries("SOCKOPT_FAILURES", options.max_sockopt_failures)
            .map_max_entries("LISTENERS", max_listeners(options.max_connections))
            .map_max_entries("TIME_WAIT_OWNERS", sizes.time_wait_owners)
            .map_max_entries("TIME_WAITS", sizes.time_waits)
            .map_max_entries("ACCOUNTS", sizes.accounts)
            .map_max_entries("FREE_ACCOUNTS", sizes.accounts)
            .map_max_entries("NETNS_TIME_WAITS", sizes.netns)
            .map_max_entries("AYA_LOGS", if options.log { 1 << 17 } else { 4096 })
            .map_max_entries("RECORDS", options.ring_bytes);
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| LoadError::Object(Box::new(error)))?;
        // Before anything is attached, or the first processes to be seen would find none.
        fill(&mut ebpf, "FREE_SLOTS", options.slots)?;
        fill(&mut ebpf, "FREE_ACCOUNTS", sizes.accounts)?;
        Ok(ebpf)
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

/// Sizes of the maps that depend on who serves what.
struct Sizes {
    time_waits: u32,
    accounts: u32,
    netns: u32,
    time_wait_owners: u32,
}

/// A map that is not used cannot be left out.
const UNUSED: u32 = 64;
/// A process that leaves sockets in TIME_WAIT keeps its account for a minute after its end,
/// so that there have to be more of them than slots.
const ACCOUNTS_PER_SLOT: u32 = 16;
/// Network namespaces whose sockets in TIME_WAIT are counted.
const NETNS: u32 = 4096;

fn sizes(options: &LoadOptions, plan: &Plan) -> Sizes {
    if plan.by_function(TIME_WAIT) {
        Sizes {
            time_waits: options.max_connections,
            accounts: options.slots.saturating_mul(ACCOUNTS_PER_SLOT).min(1 << 20),
            netns: NETNS,
            time_wait_owners: UNUSED,
        }
    } else {
        Sizes {
            time_waits: UNUSED,
            accounts: UNUSED,
            netns: UNUSED,
            time_wait_owners: power_of_two(options.max_connections).min(65_536),
        }
    }
}

/// The greatest power of two that is not above `limit`.
fn power_of_two(limit: u32) -> u32 {
    1 << limit.max(1).ilog2()
}

/// Puts the numbers from [`SLOT_FIRST`] up to `end` into a queue of free ones.
fn fill(ebpf: &mut Ebpf, queue: &'static str, end: u32) -> Result<(), LoadError> {
    let error = |source| LoadError::Map { map: queue, source };
    let map = ebpf
        .map_mut(queue)
        .ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
    let mut free: Queue<_, u32> =
        Queue::try_from(map).map_err(|source| error(io::Error::other(source)))?;
    for index in SLOT_FIRST..end {
        free.push(index, 0)
            .map_err(|source| error(io::Error::other(source)))?;
    }
    Ok(())
}
