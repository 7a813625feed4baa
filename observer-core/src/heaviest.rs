//! The heaviest of any number of keys, in bounded memory.

use std::{collections::HashMap, hash::Hash};

/// A key with more than one of this many equal parts of the whole weight is never lost.
const PARTS: usize = 64;

/// Weights by key, and their sum. Others can choose keys, such as addresses of peers: of many light keys, some
/// are forgotten, and the weights of the others are too small by at most `1 / PARTS` of the sum (the algorithm of
/// Misra and Gries). Up to `2 * PARTS` keys are exact.
#[derive(Clone, Debug)]
pub struct Heaviest<K> {
    weights: HashMap<K, f64>,
    total: f64,
}

impl<K> Default for Heaviest<K> {
    fn default() -> Self {
        Self {
            weights: HashMap::new(),
            total: 0.0,
        }
    }
}

impl<K: Copy + Eq + Hash + Ord> Heaviest<K> {
    /// Adds weight to a key.
    pub fn add(&mut self, key: K, weight: f64) {
        *self.weights.entry(key).or_default() += weight;
        self.add_others(weight);
        if self.weights.len() > 2 * PARTS {
            self.forget_light();
        }
    }

    /// Adds weight to the sum alone.
    pub fn add_others(&mut self, weight: f64) {
        self.total += weight;
    }

    /// Adds all weights of another one.
    pub fn merge(&mut self, other: &Self) {
        let known: f64 = other.weights.values().sum();
        for (key, weight) in &other.weights {
            self.add(*key, *weight);
        }
        self.add_others(other.total - known);
    }

    fn forget_light(&mut self) {
        let mut weights: Vec<_> = self.weights.values().copied().collect();
        let (_, light, _) = weights.select_nth_unstable_by(PARTS, |a, b| b.total_cmp(a));
        let light = *light;
        self.weights.retain(|_, weight| {
            *weight -= light;
            *weight > 0.0
        });
    }

    /// Halves all weights, and forgets those that are below `least` then.
    pub fn fade(&mut self, least: f64) {
        self.total /= 2.0;
        self.weights.retain(|_, weight| {
            *weight /= 2.0;
            *weight >= least
        });
        if self.weights.is_empty() {
            self.total = 0.0;
        }
    }

    /// Whether a key has weight.
    #[must_use]
    pub fn has(&self, key: &K) -> bool {
        self.weights.contains_key(key)
    }

    /// The sum of all weights, forgotten keys included.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.total
    }

    /// At most `count` keys and their weights, the heaviest first.
    #[must_use]
    pub fn first(&self, count: usize) -> Vec<(K, f64)> {
        let mut all: Vec<_> = self.weights.iter().map(|(key, it)| (*key, *it)).collect();
        all.sort_by(|(key, weight), (other, others)| others.total_cmp(weight).then(key.cmp(other)));
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_keys_are_exact() {
        let mut all = Heaviest::default();
        for key in 0..100 {
            all.add(key % 4, if key % 4 == 3 { 2.0 } else { 1.0 });
        }
        all.add_others(75.0);
        assert_eq!(all.first(2), [(3, 50.0), (0, 25.0)]);
        assert_eq!(all.total(), 200.0);
        let mut twice = all.clone();
        twice.merge(&all);
        assert_eq!(twice.first(1), [(3, 100.0)]);
        assert_eq!(twice.total(), 400.0);
        all.fade(13.0);
        assert_eq!(all.first(9), [(3, 25.0)]);
        assert_eq!(all.total(), 100.0);
        all.fade(13.0);
        assert_eq!((all.first(1), all.total()), (vec![], 0.0));
    }

    /// A key with a thirtieth of the weight, which comes after and among any number of others.
    #[test]
    fn many_light_keys_do_not_displace_a_heavy_one() {
        let mut all = Heaviest::default();
        for key in 1..=30_000 {
            all.add(key, 1.0);
            assert!(all.weights.len() <= 2 * PARTS);
            if key > 10_000 && key % 20 == 0 {
                all.add(0, 1.0);
            }
        }
        let [(0, weight)] = all.first(1)[..] else {
            panic!("{:?}", all.first(1));
        };
        assert_eq!(all.total(), 31_000.0);
        assert!((1_000.0 - 31_000.0 / PARTS as f64..=1_000.0).contains(&weight));
    }
}
