//! Sums over several slots.

use std::collections::BTreeMap;

use observer_common::{Account, Histogram, SLOT_FIRST, Slot, SockoptKey};

use super::time_wait::Ledger;
use crate::kernel::source::KernelSource;

/// A kind of failed setsockopt call, whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failure {
    /// `level` argument.
    pub level: i32,
    /// `optname` argument.
    pub option: i32,
    /// Positive errno.
    pub errno: u16,
    /// Address family, 0 when the descriptor was no socket.
    pub family: u16,
    /// `sk_protocol`.
    pub protocol: u16,
    /// `sk_type`.
    pub socket_type: u16,
}

impl From<&SockoptKey> for Failure {
    fn from(key: &SockoptKey) -> Self {
        let &SockoptKey {
            slot: _,
            generation: _,
            level,
            option,
            errno,
            family,
            protocol,
            socket_type,
        } = key;
        Self {
            level,
            option,
            errno,
            family,
            protocol,
            socket_type,
        }
    }
}

impl Failure {
    /// What is past the limit, summed up.
    pub const REST: Self = Self {
        level: i32::MIN,
        option: i32::MIN,
        errno: 0,
        family: u16::MAX,
        protocol: u16::MAX,
        socket_type: u16::MAX,
    };
}

/// Failed setsockopt calls by kind.
pub type Failures = BTreeMap<Failure, u64>;

/// The most kinds kept for what processes left behind. Any program can make up option
/// numbers; a broken one has a handful.
const KINDS: usize = 64;

/// Adds to a kind, or to [`Failure::REST`] where there are [`KINDS`] others already: a kind
/// once shown stays shown, so no sum goes down.
fn add_bounded(total: &mut Failures, kind: Failure, count: u64) {
    let known = total.len() < KINDS || total.contains_key(&kind);
    let kind = if known { kind } else { Failure::REST };
    *total.entry(kind).or_default() += count;
}

/// Counts of processes that are gone.
#[derive(Debug)]
pub(super) struct Totals {
    pub counts: Slot,
    pub failures: Failures,
    pub time_wait: Ledger,
    /// Accounts of TIME_WAIT whose sockets have not all ended.
    accounts: Vec<u32>,
    /// What ended of the accounts that are closed.
    ended: u64,
}

impl Totals {
    pub fn new() -> Box<Self> {
        Box::new(Self {
            counts: Slot::zeroed(),
            failures: Failures::new(),
            time_wait: Ledger::default(),
            accounts: Vec::new(),
            ended: 0,
        })
    }

    /// Takes over the account of a process that is folded.
    pub fn take_account(&mut self, account: u32) {
        // One below belongs to no process.
        if account >= SLOT_FIRST {
            self.accounts.push(account);
        }
    }

    /// Closes the accounts all of whose sockets have ended.
    pub fn close_accounts(&mut self, source: &dyn KernelSource) {
        let ended = &mut self.ended;
        self.accounts.retain(|&account| {
            let Some(counts) = source.account(account) else {
                return false;
            };
            let open = counts.entered != counts.ended;
            if !open {
                *ended += counts.ended;
                source.free_account(account);
            }
            open
        });
    }

    /// What is in the accounts, closed ones included: sockets in TIME_WAIT now, and those
    /// that left it.
    pub fn accounts(&self, source: &dyn KernelSource) -> Exact {
        let closed = Exact {
            live: 0,
            ended: self.ended,
        };
        self.accounts
            .iter()
            .fold(closed, |sum, &account| sum.plus(source.account(account)))
    }

    /// Adds what a process left behind. It holds no socket any more, so whatever is left
    /// in its gauges is the trace of a missed event and would stay forever: it is taken
    /// off.
    pub fn fold(
        &mut self,
        counts: &Slot,
        failures: impl IntoIterator<Item = (SockoptKey, u64)>,
        time_wait: Ledger,
    ) {
        add(&mut self.counts, counts);
        for state in 0..observer_common::STATES as u8 {
            self.counts.adjust[usize::from(state)] -= counts.live(state);
        }
        self.counts.sockets -= counts.sockets;
        for (key, count) in failures {
            add_bounded(&mut self.failures, Failure::from(&key), count);
        }
        self.time_wait.merge(time_wait);
    }

    pub fn merge(&mut self, other: Self) {
        let Self {
            counts,
            failures,
            time_wait,
            mut accounts,
            ended,
        } = other;
        add(&mut self.counts, &counts);
        for (kind, count) in failures {
            add_bounded(&mut self.failures, kind, count);
        }
        self.time_wait.merge(time_wait);
        self.accounts.append(&mut accounts);
        self.ended += ended;
    }
}

/// Sockets in TIME_WAIT where both ends are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exact {
    /// Now.
    pub live: u64,
    /// That left it.
    pub ended: u64,
}

impl Exact {
    /// Adds an account.
    pub fn plus(self, account: Option<Account>) -> Self {
        let account = account.unwrap_or_default();
        Self {
            live: self.live + account.live(),
            ended: self.ended + account.ended,
        }
    }
}

pub(super) fn add_failures(
    total: &mut Failures,
    failures: impl IntoIterator<Item = (SockoptKey, u64)>,
) {
    for (key, count) in failures {
        *total.entry(Failure::from(&key)).or_default() += count;
    }
}

/// Adds the counters of `slot` to `total`; identity is left alone.
pub(super) fn add(total: &mut Slot, slot: &Slot) {
    let Slot {
        key: _,
        cgroup_id: _,
        comm: _,
        generation: _,
        account: _,
        sockets,
        seeded,
        transitions,
        adjust,
        connects,
        accepts,
        time_wait_entered,
        time_wait_overflows,
        ports_exhausted,
        retransmits,
        fd_exhausted,
        resets_sent,
        resets_received,
        connect,
        age,
        close_wait,
    } = slot;
    total.sockets += sockets;
    total.seeded += seeded;
    for (total, row) in total.transitions.iter_mut().zip(transitions) {
        add_array(total, row);
    }
    for (total, value) in total.adjust.iter_mut().zip(adjust) {
        *total += value;
    }
    add_array(&mut total.connects, connects);
    total.accepts += accepts;
    add_array(&mut total.time_wait_entered, time_wait_entered);
    total.time_wait_overflows += time_wait_overflows;
    add_array(&mut total.ports_exhausted, ports_exhausted);
    total.retransmits += retransmits;
    add_array(&mut total.fd_exhausted, fd_exhausted);
    add_array(&mut total.resets_sent, resets_sent);
    add_array(&mut total.resets_received, resets_received);
    add_histogram(&mut total.connect, connect);
    add_histogram(&mut total.age, age);
    add_histogram(&mut total.close_wait, close_wait);
}

fn add_array<const N: usize>(total: &mut [u64; N], values: &[u64; N]) {
    for (total, value) in total.iter_mut().zip(values) {
        *total = total.wrapping_add(*value);
    }
}

fn add_histogram(total: &mut Histogram, histogram: &Histogram) {
    let Histogram { sum_ns, buckets } = histogram;
    total.sum_ns = total.sum_ns.wrapping_add(*sum_ns);
    add_array(&mut total.buckets, buckets);
}
