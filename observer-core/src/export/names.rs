//! Label values for numbers.

use std::collections::BTreeMap;

/// Names of the indices of an array. Some indices share a name.
pub(super) struct Index {
    names: Vec<(String, Vec<usize>)>,
    /// By index, the place in `names`.
    of: Vec<usize>,
}

impl Index {
    /// Calls `each` with the sum of every name that is not zero.
    pub fn nonzero(&self, counts: &[u64], mut each: impl FnMut(&str, u64)) {
        // Nearly all are zero, so look at many at a time.
        const STRIDE: usize = 8;
        for (chunk, values) in counts.chunks(STRIDE).enumerate() {
            if values.iter().fold(0, |all, value| all | value) == 0 {
                continue;
            }
            let start = chunk * STRIDE;
            for index in (start..)
                .zip(values)
                .filter(|(_, v)| **v != 0)
                .map(|(i, _)| i)
            {
                let (name, indices) = &self.names[self.of[index]];
                // An index that is not in use has no name.
                if name.is_empty() {
                    continue;
                }
                let mut present = indices.iter().filter(|&&other| counts[other] != 0);
                // At the first of those that share the name, for all of them.
                if present.next() == Some(&index) {
                    each(name, indices.iter().map(|&other| counts[other]).sum());
                }
            }
        }
    }
}

impl Index {
    /// Of names by index.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut length = 0;
        for (index, name) in names.into_iter().enumerate() {
            by_name.entry(name).or_default().push(index);
            length = index + 1;
        }
        let names: Vec<_> = by_name.into_iter().collect();
        let mut of = vec![0; length];
        for (place, (_, indices)) in names.iter().enumerate() {
            for &index in indices {
                of[index] = place;
            }
        }
        Self { names, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_that_share_a_name_are_summed_once() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "b", "i"];
        let index = Index::new(names.into_iter().map(str::to_owned));
        let sums = |counts: [u64; 10]| {
            let mut sums = Vec::new();
            index.nonzero(&counts, |name, count| sums.push((name.to_owned(), count)));
            sums
        };
        let named = |name: &str, count: u64| (name.to_owned(), count);
        assert_eq!(sums([0; 10]), []);
        assert_eq!(sums([0, 0, 0, 0, 0, 0, 0, 0, 5, 0]), [named("b", 5)]);
        assert_eq!(
            sums([0, 2, 0, 0, 0, 0, 0, 9, 5, 1]),
            [named("b", 7), named("h", 9), named("i", 1)]
        );
    }
}
