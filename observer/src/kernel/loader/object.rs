//! The object with its maps: sizes and read-only globals are set, programs are not loaded yet.

use std::io;

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Map, Queue},
};
use observer_common::{MAX_QUIC_CONNECTIONS, MAX_TLS_CALLS, MAX_TLS_HANDSHAKES, SLOT_FIRST};

use super::{LoadError, plan::Plan};
use crate::kernel::{
    facts::{Facts, sysctls, tracefs::syscall_return_offset},
    hooks::{
        spec::{Global, MapSize, Selection, share_of_none, share_of_one},
        table,
    },
    options::LoadOptions,
    uprobes,
};

/// The compiled kernel programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer.o"));

/// Queues of free numbers, which are initially full.
const FREE_QUEUES: [&str; 2] = ["FREE_SLOTS", "FREE_TIME_WAIT_COUNTS"];

/// Values that depend on the plan and cannot be changed once the object is created.
#[derive(PartialEq, Eq)]
pub struct Settings {
    globals: Vec<Global>,
    map_sizes: Vec<MapSize>,
}

impl Settings {
    /// Those of all signals, and those that belong to none.
    ///
    /// # Errors
    ///
    /// When the number of processors cannot be read.
    pub fn new(facts: &Facts, options: &LoadOptions, plan: &Plan) -> Result<Self, LoadError> {
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| LoadError::Map {
            map: "STATS",
            source: io::Error::new(source.kind(), format!("{path}: {source}")),
        })?;
        let (globals, map_sizes) = settings(facts, options, plan, cpus as u32);
        Ok(Self { globals, map_sizes })
    }
}

impl Settings {
    /// The globals.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }
}

/// Creates the object's maps and sets its globals. Nothing is loaded or attached yet.
///
/// # Errors
///
/// When the kernel refuses a map.
pub fn create(
    facts: &Facts,
    btf: &Btf,
    options: &LoadOptions,
    settings: &Settings,
) -> Result<Ebpf, LoadError> {
    let Settings { globals, map_sizes } = settings;
    // The numbers of the `log` crate; 0 is off.
    let log_level: u8 = if options.log { 4 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .override_global(aya_log::LEVEL, &log_level, true);
    for (name, value) in facts.fields.globals() {
        loader.override_global(name, value, false);
    }
    for Global { name, value } in globals {
        loader.override_global(name, value.as_slice(), true);
    }
    for (map, entries) in map_sizes {
        loader.map_max_entries(map, *entries);
    }
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|error| LoadError::Object(Box::new(error)))?;
    // Before anything is attached; otherwise the first processes would get no slot.
    for queue in FREE_QUEUES {
        fill(&mut ebpf, queue)?;
    }
    Ok(ebpf)
}

/// The globals and map sizes of all signals, and those that belong to none.
fn settings(
    facts: &Facts,
    options: &LoadOptions,
    plan: &Plan,
    cpus: u32,
) -> (Vec<Global>, Vec<MapSize>) {
    let helpers = facts.helpers;
    let syscall_ret = syscall_return_offset(facts.tracefs.as_deref());
    let mut globals = vec![
        Global::flag("REGS_FROM_STACK", !helpers.task_pt_regs),
        Global::flag("HAS_SOCK_FROM_FILE", helpers.sock_from_file),
        Global::flag("HAS_TASK_BTF", helpers.task_btf),
        Global::flag("HAS_FUNC_RET", helpers.func_ret),
        Global::flag("HAS_PRIVATE_STACKS", helpers.private_stacks),
        Global::u32("RECORD_MASK", options.record_mask),
        Global::u64("WAKEUP_BYTES", u64::from(options.ring_bytes) / 2),
        Global::u64("SYSCALL_RET", syscall_ret),
        Global::u64(sysctls::START, facts.sysctls.start()),
        Global::u64(sysctls::LENGTH, facts.sysctls.length()),
        Global::u64(
            "CONNECTIONS_SHARE",
            u64::from(share_of_one(options.max_connections)),
        ),
        Global::u64(
            "UNATTRIBUTED_SHARE",
            u64::from(share_of_none(options.max_connections)),
        ),
    ];
    let copied = facts.fields.copied();
    globals.extend(copied.map(|(name, value)| Global::u64(name, value)));
    // Each CPU takes 128 free elements of an LRU map at a time (`LOCAL_FREE_TARGET`, until 6.16), and with few left
    // those in use are evicted.
    let lru = 256 * cpus;
    // A map has one entry at least.
    let tls = |entries| match uprobes::obstacle(facts, options) {
        None => entries,
        Some(_) => 1,
    };
    let mut sizes = vec![
        ("CONNECTIONS", options.max_connections),
        ("PROCESSES", options.slots),
        ("SLOTS", options.slots),
        ("FREE_SLOTS", options.slots),
        ("STATS", cpus),
        ("AYA_LOGS", if options.log { 1 << 17 } else { 4096 }),
        ("RECORDS", options.ring_bytes),
        ("TLS_HANDSHAKES", tls(MAX_TLS_HANDSHAKES)),
        ("TLS_FINISHED", tls(MAX_TLS_HANDSHAKES.max(lru))),
        ("TLS_CALLS", tls(MAX_TLS_CALLS.max(lru))),
        ("QUIC_CONNECTIONS", tls(MAX_QUIC_CONNECTIONS)),
        ("QUIC_CANCELS", tls(MAX_QUIC_CONNECTIONS / 4)),
    ];
    for chain in table::chains() {
        let selection = Selection {
            facts,
            options,
            variant: plan.variant(chain),
        };
        globals.extend((chain.globals)(&selection));
        sizes.extend((chain.map_sizes)(&selection));
    }
    (globals, sizes)
}

/// Puts the numbers from [`SLOT_FIRST`] up to the size of `queue` into it.
fn fill(ebpf: &mut Ebpf, queue: &'static str) -> Result<(), LoadError> {
    let error = |source| LoadError::Map { map: queue, source };
    let map = ebpf
        .map_mut(queue)
        .ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
    let end = match &*map {
        Map::Queue(data) => data.info().map(|info| info.max_entries()),
        _ => return Err(error(io::ErrorKind::InvalidData.into())),
    };
    let end = end.map_err(|source| error(io::Error::other(source)))?;
    let mut free: Queue<_, u32> =
        Queue::try_from(map).map_err(|source| error(io::Error::other(source)))?;
    for number in SLOT_FIRST..end {
        free.push(number, 0)
            .map_err(|source| error(io::Error::other(source)))?;
    }
    Ok(())
}
