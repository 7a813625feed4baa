//! Slots of processes. Use the running task only where it is known to cause the event, never in
//! softirq.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf,
    bpf_probe_read_kernel,
};
use aya_log_ebpf::debug;
use observer_common::{
    COMM_LEN, MAP_PROCESSES, MAP_TIME_WAIT_COUNTS, ProcessKey, SLOT_OVERFLOW, SLOT_UNATTRIBUTED,
};

use crate::core::{
    counters,
    fields::{HAS_TASK_BTF, at},
    maps::{BPF_NOEXIST, FREE_SLOTS, FREE_TIME_WAIT_COUNTS, PROCESSES},
    outcome,
    read::{Direct, Memory, Probe},
};

/// `PF_KTHREAD` (`include/linux/sched.h`): kernel threads open sockets for others (MPTCP
/// joins) or for the kernel itself (NFS).
const PF_KTHREAD: u32 = 0x0020_0000;

/// The slot of the running process; in a kernel thread, the slot of unattributed events.
#[inline(always)]
pub fn current() -> u32 {
    // SAFETY: the helpers take no arguments and return the running task.
    unsafe {
        if HAS_TASK_BTF.load() != 0 {
            of_running::<Direct>(bpf_get_current_task_btf() as *const u8)
        } else {
            of_running::<Probe>(bpf_get_current_task() as *const u8)
        }
    }
}

#[inline(always)]
unsafe fn of_running<M: Memory>(task: *const u8) -> u32 {
    // SAFETY: a task_struct from the kernel, offset from its BTF.
    if unsafe { M::read::<u32>(task, at::OFF_TASK_FLAGS()) } & PF_KTHREAD != 0 {
        return SLOT_UNATTRIBUTED;
    }
    let (leader, key) = identity::<M>(task);
    // SAFETY: the helper takes no arguments.
    of_process(leader, &key, || unsafe { bpf_get_current_cgroup_id() })
}

/// Thread-group leader of `task`, and the key of the process.
#[inline(always)]
fn identity<M: Memory>(task: *const u8) -> (*const u8, ProcessKey) {
    // SAFETY: task_structs from the kernel, offsets from its BTF.
    unsafe {
        let leader = M::read::<u64>(task, at::OFF_TASK_LEADER()) as *const u8;
        let key = ProcessKey {
            start_boottime_ns: M::read(leader, at::OFF_TASK_START()),
            tgid: M::read(leader, at::OFF_TASK_TGID()),
            reserved: 0,
        };
        (leader, key)
    }
}

/// Key of the process of `task`.
#[inline(always)]
pub fn key_of(task: *const u8) -> ProcessKey {
    identity::<Probe>(task).1
}

/// The slot of the process of `task`; a new process gets one.
#[inline(always)]
pub fn of_task(task: *const u8) -> u32 {
    let (leader, key) = identity::<Probe>(task);
    of_process(leader, &key, || 0)
}

#[inline(always)]
fn of_process(leader: *const u8, key: &ProcessKey, cgroup_id: impl FnOnce() -> u64) -> u32 {
    match PROCESSES.get_ptr(key) {
        // SAFETY: points into the map.
        Some(slot) => unsafe { *slot },
        None => new_process(leader, key, cgroup_id()),
    }
}

/// Assigns a slot. Out of line, because it runs once per process.
#[inline(never)]
fn new_process(leader: *const u8, key: &ProcessKey, cgroup_id: u64) -> u32 {
    let Ok(Some(index)) = FREE_SLOTS.pop() else {
        outcome::map_full(MAP_PROCESSES);
        return SLOT_OVERFLOW;
    };
    let Some(slot) = counters::slot(index) else {
        return SLOT_OVERFLOW;
    };
    if PROCESSES.insert(key, index, BPF_NOEXIST).is_ok() {
        debug!(&(), "process {} gets slot {}", key.tgid, index);
        // SAFETY: points into the map. The pid is written last, because the daemon reads a slot
        // once it has a pid, and after the insertion, because a slot that lost the race for the
        // process must stay free.
        unsafe {
            (*slot).cgroup_id = cgroup_id;
            bpf_probe_read_kernel(
                (&raw mut (*slot).comm).cast(),
                COMM_LEN as u32,
                leader.wrapping_add(at::OFF_TASK_COMM()).cast(),
            );
            (*slot).key.start_boottime_ns = key.start_boottime_ns;
            (*slot).time_wait_count = new_time_wait_count();
            (&raw mut (*slot).key.tgid).write_volatile(key.tgid);
        }
        return index;
    }
    // Another thread of the process was faster, or the map is full. The map has as many entries
    // as there are slots, so it is full only while the daemon is freeing a slot.
    let _ = FREE_SLOTS.push(index, 0);
    match PROCESSES.get_ptr(key) {
        // SAFETY: points into the map.
        Some(slot) => unsafe { *slot },
        None => {
            outcome::map_full(MAP_PROCESSES);
            SLOT_OVERFLOW
        }
    }
}

/// Counters for the timewait sockets of a new process.
#[inline(always)]
fn new_time_wait_count() -> u32 {
    match FREE_TIME_WAIT_COUNTS.pop() {
        Ok(Some(count)) => count,
        _ => {
            outcome::map_full(MAP_TIME_WAIT_COUNTS);
            SLOT_OVERFLOW
        }
    }
}
