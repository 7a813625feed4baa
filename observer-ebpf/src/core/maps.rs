//! All maps. Their sizes here are placeholders; the daemon sets them when it loads.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, Queue, RingBuf},
    macros::btf_map,
};
use observer_common::{
    Account, CallKey, Conn, CpuStats, Listener, ListenerKey, NetSeen, PortSpace, ProcessKey,
    Record, ResyncControl, Slot, SockoptKey, TimeWait, TimeWaitOwner,
};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: usize = 1 << 10;

/// Flags of insertions (`include/uapi/linux/bpf.h`).
pub const BPF_ANY: u64 = 0;
pub const BPF_NOEXIST: u64 = 1;

/// Live sockets by address. The address is taken from the kernel while the socket lives
/// and removed in `tcp_destroy_sock`, so a recycled address never meets an old entry.
#[btf_map]
pub static CONNECTIONS: HashMap<u64, Conn, 131_072> = HashMap::new();

/// Processes and their slots.
#[btf_map]
pub static PROCESSES: HashMap<ProcessKey, u32, 4096> = HashMap::new();

/// Identity and counters, by slot; mapped into the daemon's memory.
#[btf_map]
pub static SLOTS: Array<Slot, 4096, MMAPABLE> = Array::new();

/// Slots that are free. The daemon puts them in, the kernel side takes them out.
#[btf_map]
pub static FREE_SLOTS: Queue<u32, 4096> = Queue::new();

/// Statistics by CPU; mapped into the daemon's memory.
#[btf_map]
pub static STATS: Array<CpuStats, 1, MMAPABLE> = Array::new();

/// Failed setsockopt calls.
#[btf_map]
pub static SOCKOPT_FAILURES: HashMap<SockoptKey, u64, 8192> = HashMap::new();

/// Owners of sockets that entered TIME_WAIT, by their cookie ([`observer_common::places_of`]);
/// mapped into the daemon's memory. No hash map on purpose: to insert into one that forgets (LRU) costs more
/// than all else at the end of a connection. A forgotten entry costs an attribution, never a
/// count.
#[btf_map]
pub static TIME_WAIT_OWNERS: Array<TimeWaitOwner, 65_536, MMAPABLE> = Array::new();

/// Sockets in TIME_WAIT by address, where their end is seen.
#[btf_map]
pub static TIME_WAITS: HashMap<u64, TimeWait, 131_072> = HashMap::new();

/// How many sockets in TIME_WAIT each process has; mapped into the daemon's memory.
#[btf_map]
pub static ACCOUNTS: Array<Account, 4096, MMAPABLE> = Array::new();

/// Accounts that are free. The daemon puts them in, the kernel side takes them out.
#[btf_map]
pub static FREE_ACCOUNTS: Queue<u32, 4096> = Queue::new();

/// Sockets in TIME_WAIT by network namespace.
#[btf_map]
pub static NETNS_TIME_WAITS: HashMap<u32, Account, 1024> = HashMap::new();

/// Calls under way; see [`crate::core::call_args`].
#[btf_map]
pub static CALLS: LruHashMap<CallKey, [u64; 2], 4096> = LruHashMap::new();

/// What the iterator over open files is to do.
#[btf_map]
pub static RESYNC: Array<ResyncControl, 1> = Array::new();

/// Listening sockets, and those that no longer listen until the daemon has taken note.
#[btf_map]
pub static LISTENERS: HashMap<ListenerKey, Listener, 4096> = HashMap::new();

/// Network namespaces that iterators met, by inode number. An LRU map on purpose: it serves
/// one walk, and a forgotten one is met again.
#[btf_map]
pub static NAMESPACES: LruHashMap<u32, NetSeen, 1024> = LruHashMap::new();

/// Where the iterator over network namespaces puts a record together: too long for the stack.
#[btf_map]
pub static PORT_SPACE: Array<PortSpace, 1> = Array::new();

/// The stream.
#[btf_map]
pub static RECORDS: RingBuf<Record, 1_048_576> = RingBuf::new();
