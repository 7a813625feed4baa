//! The number of sockets in TIME_WAIT of a process, inferred from the times they entered it.
//!
//! A timewait socket has no owner and, without function hooks, its end is not observed; but its
//! length is a constant of the kernel. Sockets can leave early (reuse by connect(), an RST,
//! `net.ipv4.tcp_max_tw_buckets`). Then the sum over all processes exceeds the kernel's own number
//! and is scaled down; see [`apportion`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// `TCP_TIMEWAIT_LEN`, `include/net/tcp.h`: a constant in every released kernel.
pub const TIME_WAIT_LENGTH: Duration = Duration::from_nanos(observer_common::TIME_WAIT_NS);

/// Entries closer together than this share a sample, which limits the number of samples to about
/// sixty.
const RESOLUTION: Duration = Duration::from_millis(950);

/// Entries into TIME_WAIT of the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentEntries {
    /// Time and number of entries, in order of time.
    samples: VecDeque<(Instant, u64)>,
    /// Sum of the samples.
    live: u64,
    /// The counter's value at the last update.
    entered: u64,
}

impl RecentEntries {
    /// Updates from the counter's value and removes expired entries. Returns the number of new ones.
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

    /// Removes entries that have expired by `now`.
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

    /// Adds the samples of a process that has ended.
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
        let mut recent = RecentEntries::default();
        recent.update(start, 5);
        recent.update(start + seconds(30), 7);
        assert_eq!(recent.live(), 7);
        assert_eq!(recent.pending(9), 2);
        recent.update(start + seconds(59), 7);
        assert_eq!(recent.live(), 7);
        recent.update(start + seconds(60), 7);
        assert_eq!(recent.live(), 2);
        recent.update(start + seconds(90), 7);
        assert_eq!(recent.live(), 0);
        assert_eq!(recent.samples(), 0);
    }

    #[test]
    fn a_ledger_is_bounded_however_often_it_is_updated() {
        let start = Instant::now();
        let mut recent = RecentEntries::default();
        for i in 0..10_000_u32 {
            recent.update(start + Duration::from_millis(100) * i, u64::from(i));
            assert!(recent.samples() <= 64);
        }
        assert!((595..=615).contains(&recent.live()), "{}", recent.live());
    }

    #[test]
    fn merged_recent_entries_forget_together() {
        let start = Instant::now();
        let mut total = RecentEntries::default();
        for offset in 0..20 {
            let mut one = RecentEntries::default();
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
