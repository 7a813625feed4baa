//! All maps. The sizes are placeholders; the daemon sets them before loading.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, ProgramArray, Queue, RingBuf},
    macros::btf_map,
};
use observer_common::{
    CallKey, Conn, CpuStats, Listener, ListenerKey, NetSeen, PortSpace, ProcessKey, QuicConnection,
    QuicKey, Record, ResyncControl, Slot, SockoptKey, SourceKey, SourceSegments, TimeWait,
    TimeWaitCount, TlsCall, TlsHandshake, TlsKey, UdpSocket, UdpSocketKey, Walk,
};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: usize = 1 << 10;

/// Flags of insertions (`include/uapi/linux/bpf.h`).
pub const BPF_ANY: u64 = 0;
pub const BPF_NOEXIST: u64 = 1;

/// Live sockets by address. Entries are removed in `tcp_destroy_sock`, before the address can be
/// reused.
#[btf_map]
pub static CONNECTIONS: HashMap<u64, Conn, 131_072> = HashMap::new();

/// Processes and their slots.
#[btf_map]
pub static PROCESSES: HashMap<ProcessKey, u32, 4096> = HashMap::new();

/// Identity and counters of processes, by slot; mapped into the daemon's memory.
#[btf_map]
pub static SLOTS: Array<Slot, 4096, MMAPABLE> = Array::new();

/// Free slots. The daemon pushes, the programs pop.
#[btf_map]
pub static FREE_SLOTS: Queue<u32, 4096> = Queue::new();

/// Statistics by CPU; mapped into the daemon's memory.
#[btf_map]
pub static STATS: Array<CpuStats, 1, MMAPABLE> = Array::new();

/// Failed setsockopt calls.
#[btf_map]
pub static SOCKOPT_FAILURES: HashMap<SockoptKey, u64, 8192> = HashMap::new();

/// Sockets in TIME_WAIT by address.
#[btf_map]
pub static TIME_WAITS: HashMap<u64, TimeWait, 131_072> = HashMap::new();

/// Sockets in TIME_WAIT of each process; mapped into the daemon's memory.
#[btf_map]
pub static TIME_WAIT_COUNTS: Array<TimeWaitCount, 4096, MMAPABLE> = Array::new();

/// Free elements of [`TIME_WAIT_COUNTS`]. The daemon pushes, the programs pop.
#[btf_map]
pub static FREE_TIME_WAIT_COUNTS: Queue<u32, 4096> = Queue::new();

/// Sockets in TIME_WAIT by network namespace.
#[btf_map]
pub static NETNS_TIME_WAITS: HashMap<u32, TimeWaitCount, 1024> = HashMap::new();

/// Arguments of calls that have not returned; see [`crate::core::call_args`].
#[btf_map]
pub static CALLS: LruHashMap<CallKey, [u64; 2], 4096> = LruHashMap::new();

/// Connection attempts of sockets without an entry; see [`crate::core::attempts`].
#[btf_map]
pub static ATTEMPTS: LruHashMap<u64, u32, 4096> = LruHashMap::new();

/// Control block of the iterator over open files.
#[btf_map]
pub static RESYNC: Array<ResyncControl, 1> = Array::new();

/// Clients' QUIC connections with early data, until its outcome is known. An LRU map, because the end of a process
/// removes none.
#[btf_map]
pub static QUIC_CONNECTIONS: LruHashMap<QuicKey, QuicConnection, 4096> = LruHashMap::new();

/// Calls that cancelled QUIC streams, by process.
#[btf_map]
pub static QUIC_CANCELS: LruHashMap<u32, u64, 1024> = LruHashMap::new();

/// UDP sockets that have dropped datagrams; the daemon removes those that are closed.
#[btf_map]
pub static UDP_SOCKETS: HashMap<UdpSocketKey, UdpSocket, 8192> = HashMap::new();

/// Listening sockets, and closed ones until the daemon has read them.
#[btf_map]
pub static LISTENERS: HashMap<ListenerKey, Listener, 4096> = HashMap::new();

/// Network namespaces of the sockets that iterators visited, by inode number. An LRU map, because
/// it is needed for one walk only, and the next walk inserts an evicted namespace again.
#[btf_map]
pub static NAMESPACES: LruHashMap<u32, NetSeen, 1024> = LruHashMap::new();

/// Buffer of the iterator over network namespaces, whose record does not fit the stack.
#[btf_map]
pub static PORT_SPACE: Array<PortSpace, 1> = Array::new();

/// State of the iterators over connections and over sockets in TIME_WAIT.
#[btf_map]
pub static WALKS: Array<Walk, 2> = Array::new();

/// Source addresses of segments for closed ports. An LRU map, because source addresses can be
/// forged: new ones evict the least recently used.
#[btf_map]
pub static SOURCES: LruHashMap<SourceKey, SourceSegments, 4096> = LruHashMap::new();

/// TLS handshakes in progress.
#[btf_map]
pub static TLS_HANDSHAKES: HashMap<TlsKey, TlsHandshake, 16_384> = HashMap::new();

/// Calls of the functions that advance a TLS handshake, and the object of each. An LRU map, because a thread may
/// end in such a call.
#[btf_map]
pub static TLS_CALLS: LruHashMap<TlsCall, u64, 8192> = LruHashMap::new();

/// Objects whose handshake has ended, until they are freed. An LRU map, because a process may end before. Needed
/// for the session tickets that follow the handshake.
#[btf_map]
pub static TLS_FINISHED: LruHashMap<TlsKey, u32, 16_384> = LruHashMap::new();

/// Always empty: see `uprobes::stack`.
#[btf_map]
pub static TAIL_CALLS: ProgramArray<1> = ProgramArray::new();

/// Records of single events.
#[btf_map]
pub static RECORDS: RingBuf<Record, 1_048_576> = RingBuf::new();
