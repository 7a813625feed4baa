//! How many sockets of a process are in TIME_WAIT, inferred from when they entered.
//!
//! A timewait socket belongs to no process and its end has no hook, but its length is a
//! constant of the kernel. Sockets may leave early (reuse by connect, an RST,
//! `net.ipv4.tcp_max_tw_buckets`), which the sum over all processes shows when it is held
//! against the kernel's own number; see [`apportion`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// `TCP_TIMEWAIT_LEN`, `include/net/tcp.h`: a constant in every released kernel.
pub const TIME_WAIT_LENGTH: Duration = Duration::from_nanos(observer_common::TIME_WAIT_NS);

/// Entries closer together than this share a sample, which bounds a ledger to about sixty
/// samples however often it is updated.
const RESOLUTION: Duration = Duration::from_millis(950);

/// Entries into TIME_WAIT of the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// When, and how many; in order of time.
    samples: VecDeque<(Instant, u64)>,
    /// Sum of the samples.
    live: u64,
    /// The counter's value that the samples account for.
    entered: u64,
}

impl Ledger {
    /// Takes in the counter's value and forgets what has left. Returns how many are new.
    pub fn update(&mut self, now: Instant, entered: u64) -> u64 {
        self.expire(now);
        let new = entered.saturating_sub(self.entered);
        self.entered = entered;
        if new > 0 {
            self.live += new;
            push(&mut self.samples, now, new);
        }
        new
    }

    /// Forgets what has left by `now`.
    pub fn expire(&mut self, now: Instant) {
        while let Some(&(time, count)) = self.samples.front() {
            if now.saturating_duration_since(time) < TIME_WAIT_LENGTH {
                break;
            }
            self.live -= count;
            self.samples.pop_front();
        }
        if self.samples.is_empty() {
            // Most processes are idle most of the time; they need not keep a buffer.
            self.samples = VecDeque::new();
        }
    }

    /// Sockets in TIME_WAIT as of the last update, if none ended early.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Entries since the last update, for a counter that now reads `entered`.
    pub fn pending(&self, entered: u64) -> u64 {
        entered.saturating_sub(self.entered)
    }

    /// Takes over the samples of a process that is gone.
    pub fn merge(&mut self, other: Self) {
        let mut merged = VecDeque::with_capacity(self.samples.len() + other.samples.len());
        let mut theirs = other.samples.into_iter().peekable();
        for (time, count) in self.samples.drain(..) {
            while let Some((time, count)) = theirs.next_if(|&(theirs, _)| theirs < time) {
                push(&mut merged, time, count);
            }
            push(&mut merged, time, count);
        }
        for (time, count) in theirs {
            push(&mut merged, time, count);
        }
        self.samples = merged;
        self.live += other.live;
        self.entered += other.entered;
    }

    #[cfg(test)]
    pub fn samples(&self) -> usize {
        self.samples.len()
    }
}

fn push(samples: &mut VecDeque<(Instant, u64)>, time: Instant, count: u64) {
    match samples.back_mut() {
        Some((last, total)) if time.saturating_duration_since(*last) < RESOLUTION => {
            *total += count;
        }
        _ => samples.push_back((time, count)),
    }
}

/// Scales `shares` down in proportion until they sum up to `limit`, if they exceed it.
/// Rounded by largest remainder, so the sum is exact; ties go to the earlier share.
pub(super) fn apportion(shares: &mut [u64], limit: u64) {
    let total: u128 = shares.iter().map(|&share| u128::from(share)).sum();
    let limit = u128::from(limit);
    if total <= limit {
        return;
    }
    let mut left = limit;
    let mut remainders = Vec::with_capacity(shares.len());
    for (index, share) in shares.iter_mut().enumerate() {
        let scaled = u128::from(*share) * limit;
        // At most the share itself, since the limit is below the total.
        *share = (scaled / total) as u64;
        left -= scaled / total;
        remainders.push((scaled % total, index));
    }
    remainders.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, index) in remainders.into_iter().take(left as usize) {
        shares[index] += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn entries_leave_after_a_minute() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.update(start, 5);
        ledger.update(start + seconds(30), 7);
        assert_eq!(ledger.live(), 7);
        assert_eq!(ledger.pending(9), 2);
        ledger.update(start + seconds(59), 7);
        assert_eq!(ledger.live(), 7);
        ledger.update(start + seconds(60), 7);
        assert_eq!(ledger.live(), 2);
        ledger.update(start + seconds(90), 7);
        assert_eq!(ledger.live(), 0);
        assert_eq!(ledger.samples(), 0);
    }

    #[test]
    fn a_ledger_is_bounded_however_often_it_is_updated() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        for i in 0..10_000_u32 {
            ledger.update(start + Duration::from_millis(100) * i, u64::from(i));
            assert!(ledger.samples() <= 64);
        }
        assert!((595..=615).contains(&ledger.live()), "{}", ledger.live());
    }

    #[test]
    fn merged_ledgers_forget_together() {
        let start = Instant::now();
        let mut total = Ledger::default();
        for offset in 0..20 {
            let mut one = Ledger::default();
            one.update(start + Duration::from_millis(offset * 70), 3);
            one.update(start + seconds(20), 4);
            total.merge(one);
        }
        assert_eq!(total.live(), 80);
        assert!(total.samples() <= 4);
        total.expire(start + seconds(70));
        assert_eq!(total.live(), 20);
        total.expire(start + seconds(80));
        assert_eq!(total.live(), 0);
    }

    proptest! {
        #[test]
        fn apportioned_shares_sum_up_and_never_grow(
            before in prop::collection::vec(0_u64..1_000_000, 0..50),
            limit in 0_u64..2_000_000,
        ) {
            let mut after = before.clone();
            apportion(&mut after, limit);
            let total: u64 = before.iter().sum();
            prop_assert_eq!(after.iter().sum::<u64>(), total.min(limit));
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(after <= before);
            }
        }
    }
}
