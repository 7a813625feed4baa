//! Names of processes, and who has the most of something.

use std::cmp::Reverse;

use crate::{detect::finding::Holder, table::Labels};

/// `comm` and `unit`.
pub(super) type NameKey<'a> = (&'a str, &'a str);

pub(super) fn name_key(labels: &Labels) -> NameKey<'_> {
    (labels.comm(), labels.unit())
}

/// Maximum number of holders that a finding names.
pub(super) const HOLDERS: usize = 10;

pub(super) fn most_first(holders: &mut Vec<Holder>) {
    holders.sort_by_key(|it| (Reverse(it.count), it.process.map(|process| process.tgid)));
    holders.truncate(HOLDERS);
}
