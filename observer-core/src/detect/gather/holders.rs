//! Names of processes, and who has the most of something.

use std::cmp::Reverse;

use crate::detect::finding::Holder;

/// `comm` and `unit`.
pub(super) type NameKey<'a> = (&'a str, &'a str);

/// Maximum number of holders that a finding names.
pub(super) const HOLDERS: usize = 10;

pub(super) fn most_first(holders: &mut Vec<Holder>) {
    holders.sort_by_key(|it| (Reverse(it.count), it.process.map(|process| process.tgid)));
    holders.truncate(HOLDERS);
}
