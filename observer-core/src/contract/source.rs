//! The interface of the kernel side, as traits, so that everything else is tested without a kernel.

use observer_common::{CpuStats, Slot, SockoptKey, TimeWaitCount};

use super::verdict::Verdict;

/// The signal of listening sockets, which is read from sockets rather than counted by event.
pub const POLLED_LISTEN: &str = "listen";
/// The signal of local ports in use, which is read from sockets rather than counted by event.
pub const POLLED_PORTS: &str = "ports";

/// Fill level of one BPF map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Label value.
    pub map: &'static str,
    /// Entries now.
    pub entries: u64,
    /// Maximum number of entries.
    pub capacity: u64,
    /// Insertions that failed because it was full.
    pub refused: u64,
}

/// Run-time statistics of one program, kept by the kernel while
/// `kernel.bpf_stats_enabled` is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRuns {
    /// The program's name in the object.
    pub program: &'static str,
    /// Number of runs.
    pub runs: u64,
    /// Nanoseconds spent in it.
    pub run_time_ns: u64,
}

/// The kernel side, read from downstream. All numbers are totals since the programs were
/// attached. Reading changes nothing.
pub trait KernelSource: Send + Sync {
    /// Slots below this number can be in use.
    fn slot_limit(&self) -> u32;
    /// Copies slot `index` into `slot`. Counters are read one by one while the kernel increments them,
    /// so sums over several of them can differ by the events in between.
    fn read_slot(&self, index: u32, slot: &mut Slot);
    /// Copies only identity, generation and `sockets` of slot `index`, and leaves the other
    /// fields of `slot` unchanged: what housekeeping needs of every slot.
    fn read_slot_identity(&self, index: u32, slot: &mut Slot);
    /// Sockets that entered TIME_WAIT and left it. Below `SLOT_FIRST`, `number` is that of the slot,
    /// else a process's [`Slot::time_wait_count`].
    fn time_wait_count(&self, number: u32) -> TimeWaitCount;
    /// Sockets that entered TIME_WAIT and left it by network namespace (inode number).
    fn time_wait_by_netns(&self) -> Vec<(u32, TimeWaitCount)>;
    /// Failed setsockopt calls. Walks over a map with two system calls for each.
    fn sockopt_failures(&self) -> Vec<(SockoptKey, u64)>;
    /// Statistics summed over all CPUs. A received RST that is still pending in the kernel programs,
    /// but certain by now, is included in the outcomes here and in the slot by `read_slot`.
    fn stats(&self) -> CpuStats;
    /// Fill levels.
    fn maps(&self) -> Vec<MapFill>;
    /// Programs' run-time statistics, as of the last tick; empty while the kernel does not keep them.
    fn programs(&self) -> Vec<ProgramRuns>;
    /// Runs that the kernel skipped because the program was already running on that CPU
    /// (`recursion_misses`, since 5.12), by program, as of the last tick.
    fn missed_runs(&self) -> Vec<(&'static str, u64)>;
    /// Whether the exposition may show `signal` (a `SIGNAL_` number): false if none of
    /// its hooks could be attached, so that no false zero is shown.
    fn observes(&self, signal: u32) -> bool;
    /// Signals that are read from sockets periodically instead of counted by event, each with its
    /// method, `exact` or `inferred`.
    fn polled(&self) -> Vec<(&'static str, &'static str)>;
    /// The name of an index of [`observer_common::ResetCounters::sent`] on this kernel.
    fn reset_reason(&self, index: u32) -> String;
    /// Verdicts on all hooks.
    fn verdicts(&self) -> &[Verdict];
}

/// Operations with which the table's housekeeping changes the kernel side. All other code only reads.
pub trait KernelControl: KernelSource {
    /// Gives a process's counts back for another one, once the process has been folded and all its
    /// sockets that entered have left.
    fn free_time_wait_count(&self, number: u32);
    /// Removes and returns counters of failed setsockopt calls. Called when their slot is folded;
    /// otherwise entries of old generations would fill the map.
    fn take_sockopt_failures(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)>;
    /// Has the process of slot `index` get another slot at its next event.
    fn retire_slot(&self, index: u32);
    /// Frees slot `index` for another process: to be called once its counts have been
    /// folded, its process has exited and `sockets` has been zero for a while.
    fn free_slot(&self, index: u32);
}
