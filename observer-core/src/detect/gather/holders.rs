//! Names of processes, and who has the most of something.

use std::cmp::Reverse;

use crate::detect::finding::Holder;

/// `comm` and `unit`.
pub(super) type NameKey<'a> = (&'a str, &'a str);

pub(super) fn most_first(holders: &mut [Holder]) {
    holders.sort_by_key(|it| (Reverse(it.count), it.process.map(|process| process.tgid)));
}
