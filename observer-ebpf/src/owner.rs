//! Whose a socket is. The current task is asked only where it is known to be the owner:
//! connect's CLOSE -> SYN_SENT, listen's CLOSE -> LISTEN, the return of accept. Everywhere
//! else (most transitions and RSTs run in softirq, where the current task is a bystander)
//! the owner is looked up by socket. Nothing is guessed: what has no owner is counted as
//! unattributed.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel,
};
use aya_log_ebpf::debug;
use observer_common::{
    COMM_LEN, MAP_ACCOUNTS, MAP_PROCESSES, ProcessKey, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, owner_of,
};

use crate::{
    counting,
    layout::{TIME_WAIT_EXACT, at, has},
    maps::{CONNECTIONS, FREE_ACCOUNTS, FREE_SLOTS, PROCESSES},
    memory::{Memory, Probe},
};

/// `PF_KTHREAD` (`include/linux/sched.h`): kernel threads open sockets for others (MPTCP
/// joins) or for the kernel itself (NFS).
const PF_KTHREAD: u32 = 0x0020_0000;

const BPF_NOEXIST: u64 = 1;

/// The slot of the running process, or unattributed in a kernel thread.
#[inline(always)]
pub fn current() -> u32 {
    // SAFETY: the helper takes no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    // SAFETY: a task_struct from the kernel, offsets from its BTF.
    let flags = unsafe { Probe::read::<u32>(task, at::OFF_TASK_FLAGS()) };
    if flags & PF_KTHREAD != 0 {
        return SLOT_UNATTRIBUTED;
    }
    // SAFETY: the helper takes no arguments.
    of_task(task, unsafe { bpf_get_current_cgroup_id() })
}

/// Identity of the process that `task` is a thread of.
#[inline(always)]
pub fn key_of(task: *const u8) -> ProcessKey {
    let leader = leader_of(task);
    // SAFETY: a task_struct from the kernel, offsets from its BTF.
    unsafe {
        ProcessKey {
            start_boottime_ns: Probe::read(leader, at::OFF_TASK_START()),
            tgid: Probe::read(leader, at::OFF_TASK_TGID()),
            reserved: 0,
        }
    }
}

#[inline(always)]
fn leader_of(task: *const u8) -> *const u8 {
    // SAFETY: a task_struct from the kernel, offset from its BTF.
    unsafe { Probe::read::<u64>(task, at::OFF_TASK_LEADER()) as *const u8 }
}

/// The slot of the process that `task` is a thread of; a new process gets one.
#[inline(always)]
pub fn of_task(task: *const u8, cgroup_id: u64) -> u32 {
    let key = key_of(task);
    match PROCESSES.get_ptr(key) {
        // SAFETY: points into the map.
        Some(slot) => unsafe { *slot },
        None => new_process(leader_of(task), &key, cgroup_id),
    }
}

/// Out of line: once per process, and the verifier then checks it once per program.
#[inline(never)]
fn new_process(leader: *const u8, key: &ProcessKey, cgroup_id: u64) -> u32 {
    let Ok(Some(index)) = FREE_SLOTS.pop() else {
        counting::map_full(MAP_PROCESSES);
        return SLOT_OVERFLOW;
    };
    let Some(slot) = counting::slot(index) else {
        return SLOT_OVERFLOW;
    };
    if PROCESSES.insert(key, index, BPF_NOEXIST).is_ok() {
        debug!(&(), "process {} gets slot {}", key.tgid, index);
        // SAFETY: points into the map. The pid comes last: the daemon takes a slot with a
        // pid for complete, and it comes only now because one that lost the race for the
        // process must never be seen.
        unsafe {
            (*slot).cgroup_id = cgroup_id;
            bpf_probe_read_kernel(
                (&raw mut (*slot).comm).cast(),
                COMM_LEN as u32,
                leader.wrapping_add(at::OFF_TASK_COMM()).cast(),
            );
            (*slot).key.start_boottime_ns = key.start_boottime_ns;
            if TIME_WAIT_EXACT.load() != 0 {
                (*slot).account = new_account();
            }
            (&raw mut (*slot).key.tgid).write_volatile(key.tgid);
        }
        return index;
    }
    // Another thread of the process was faster, or the table is full (it has as many
    // entries as there are slots, so only while the daemon is freeing one).
    let _ = FREE_SLOTS.push(index, 0);
    match PROCESSES.get_ptr(key) {
        // SAFETY: points into the map.
        Some(slot) => unsafe { *slot },
        None => {
            counting::map_full(MAP_PROCESSES);
            SLOT_OVERFLOW
        }
    }
}

/// An account for the timewait sockets of a new process.
#[inline(always)]
fn new_account() -> u32 {
    match FREE_ACCOUNTS.pop() {
        Ok(Some(account)) => account,
        _ => {
            counting::map_full(MAP_ACCOUNTS);
            SLOT_OVERFLOW
        }
    }
}

/// The slot that owns `socket`, if it is known.
#[inline(always)]
pub fn of_socket(socket: u64) -> Option<u32> {
    let conn = CONNECTIONS.get_ptr(socket)?;
    // SAFETY: points into the map.
    Some(unsafe { owner_of((*conn).slot, (*conn).handover) })
}

/// The parent of an MPTCP subflow, 0 when `sk` is no subflow.
#[inline(always)]
pub fn mptcp_parent(sk: *const u8) -> u64 {
    if !has::OFF_TP_IS_MPTCP() || !has::OFF_ICSK_ULP_DATA() || !has::OFF_SUBFLOW_CONN() {
        return 0;
    }
    // SAFETY: a tcp_sock from the kernel, offsets from its BTF.
    unsafe {
        if Probe::read::<u8>(sk, at::OFF_TP_IS_MPTCP()) == 0 {
            return 0;
        }
        let subflow = Probe::read::<u64>(sk, at::OFF_ICSK_ULP_DATA()) as *const u8;
        if subflow.is_null() {
            return 0;
        }
        Probe::read::<u64>(subflow, at::OFF_SUBFLOW_CONN())
    }
}

/// The first subflow of an MPTCP parent, 0 when there is none.
#[inline(always)]
pub fn first_subflow(parent: *const u8) -> u64 {
    if !has::OFF_MSK_FIRST() {
        return 0;
    }
    // SAFETY: an mptcp_sock from the kernel, offset from its BTF.
    unsafe { Probe::read::<u64>(parent, at::OFF_MSK_FIRST()) }
}

/// The owner of a socket that has no entry, or whose birth ran in a kernel thread: the
/// owner of its MPTCP parent, else unattributed.
#[inline(always)]
pub fn through_parent(sk: *const u8) -> u32 {
    let parent = mptcp_parent(sk);
    if parent == 0 {
        return SLOT_UNATTRIBUTED;
    }
    of_socket(parent).unwrap_or(SLOT_UNATTRIBUTED)
}
