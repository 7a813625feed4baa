//! Sockets in TIME_WAIT and the accounts they are counted in, where both ends of TIME_WAIT are
//! seen.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, Queue},
};
use observer_common::{Account, SLOT_FIRST, TimeWait};
use observer_core::sync::lock;

use super::{array::MmapArray, lossy, sweep::is_stale, take, take_array, take_hash, take_queue};

const FREE_ACCOUNTS: &str = "FREE_ACCOUNTS";

/// The maps of TIME_WAIT.
pub struct TimeWaits {
    accounts: MmapArray<Account>,
    free: Mutex<Queue<MapData, u32>>,
    /// Accounts of processes that have given their slots back.
    lingering: AtomicU64,
    sockets: Mutex<HashMap<MapData, u64, TimeWait>>,
    netns: Mutex<HashMap<MapData, u32, Account>>,
    max_netns: u64,
    /// Ends that the kernel programs missed, by network namespace.
    swept: Mutex<BTreeMap<u32, u64>>,
}

impl TimeWaits {
    /// Takes the maps out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When one is missing or cannot be mapped.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let netns = take(ebpf, "NETNS_TIME_WAITS")?;
        let max_netns = match &netns {
            Map::HashMap(data) => u64::from(data.info()?.max_entries()),
            _ => 0,
        };
        Ok(Self {
            accounts: take_array(ebpf, "ACCOUNTS")?,
            free: Mutex::new(take_queue(ebpf, FREE_ACCOUNTS)?),
            lingering: AtomicU64::new(0),
            sockets: Mutex::new(take_hash(ebpf, "TIME_WAITS")?),
            netns: Mutex::new(HashMap::try_from(netns)?),
            max_netns,
            swept: Mutex::default(),
        })
    }

    /// The counters of an account.
    pub fn account(&self, account: u32) -> Account {
        let mut read = Account::default();
        self.accounts.read(account, &mut read);
        read
    }

    /// Notes that a process has given its slot back and keeps its account.
    pub fn outlives(&self, account: u32) {
        if account >= SLOT_FIRST {
            self.lingering.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives an account back.
    pub fn free(&self, account: u32) {
        self.accounts.clear(account);
        self.lingering.fetch_sub(1, Ordering::Relaxed);
        lossy::note(
            lock(&self.free).push(account, 0),
            FREE_ACCOUNTS,
            "one account of TIME_WAIT less is available",
        );
    }

    /// Accounts of processes that have given their slots back.
    pub fn lingering(&self) -> u64 {
        self.lingering.load(Ordering::Relaxed)
    }

    /// The most accounts that processes can have.
    pub fn max_accounts(&self) -> u64 {
        u64::from(self.accounts.len() - SLOT_FIRST)
    }

    /// The most network namespaces that are counted separately.
    pub fn max_netns(&self) -> u64 {
        self.max_netns
    }

    /// The counts of each network namespace, by inode number.
    pub fn by_netns(&self) -> Vec<(u32, Account)> {
        let counts = lock(&self.netns);
        let swept = lock(&self.swept);
        let counts = counts.iter().filter_map(Result::ok);
        counts
            .map(|(netns, mut account)| {
                account.ended += swept.get(&netns).copied().unwrap_or(0);
                (netns, account)
            })
            .collect()
    }

    /// Ends the sockets that entered TIME_WAIT more than ten minutes ago: the kernel skipped the
    /// program on their end. Returns how many.
    pub fn sweep(&self) -> u64 {
        let mut sockets = lock(&self.sockets);
        let stale: Vec<_> = sockets
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, entry)| is_stale(entry.entered_ns))
            .collect();
        let mut count = 0;
        for (socket, entry) in stale {
            if sockets.remove(&socket).is_ok() {
                let ended = std::mem::offset_of!(Account, ended);
                self.accounts
                    .word(entry.account, ended)
                    .fetch_add(1, Ordering::Relaxed);
                *lock(&self.swept).entry(entry.netns).or_default() += 1;
                count += 1;
            }
        }
        count
    }
}
