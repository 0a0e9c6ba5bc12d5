//! A table for looking up: fast, and without an order that could leak into results.
//!
//! Pure modules must give the same output for the same input on every machine, so they hold no `HashMap`, whose order is
//! its own. This table can be asked and changed by key, and hands out its entries only in the order of their keys. Its
//! hash is foldhash with a fixed seed; collisions made on purpose cost time, as with any table, and are bounded by the
//! limits of what is put in.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use foldhash::quality::FixedState;

/// Values by key.
#[derive(Debug, Clone)]
pub struct Lookup<K, V>(HashMap<K, V, FixedState>);

impl<K, V> Default for Lookup<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Hash + Eq, V> Lookup<K, V> {
    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// The value of a key, made if there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        match self.0.entry(key) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(make()),
        }
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Takes a value out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes out the entries for which `leaves` is true, in the order of their keys.
    pub fn take_if(&mut self, mut leaves: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)>
    where
        K: Ord,
    {
        let mut out: Vec<(K, V)> = self.0.extract_if(|k, v| leaves(k, v)).collect();
        out.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        out
    }

    /// The smallest of what `of` makes of the values.
    pub fn min_of<T: Ord>(&self, of: impl Fn(&V) -> Option<T>) -> Option<T> {
        self.0.values().filter_map(of).min()
    }

    /// Changes every value, in the order of their keys.
    pub fn for_each_sorted(&mut self, mut change: impl FnMut(&K, &mut V))
    where
        K: Ord,
    {
        let mut all: Vec<(&K, &mut V)> = self.0.iter_mut().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for (key, value) in all {
            change(key, value);
        }
    }
}

/// Values by key, of which the oldest are forgotten: those that were not asked for while as many others came as may be.
/// What is held is at most twice what the bounds say.
#[derive(Debug)]
pub struct Remembered<K, V> {
    young: Lookup<K, (V, usize)>,
    old: Lookup<K, (V, usize)>,
    /// Bytes of the young.
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl<K: Hash + Eq, V> Remembered<K, V> {
    /// Nothing yet; about `most` values of about `most_bytes` will be held.
    #[must_use]
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { young: Lookup::default(), old: Lookup::default(), bytes: 0, most, most_bytes }
    }

    /// The value of a key, which is young again.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V>
    where
        K: Copy,
    {
        if self.young.get(key).is_none() {
            let (value, bytes) = self.old.remove(key)?;
            self.insert(*key, value, bytes);
        }
        Some(&mut self.young.get_mut(key)?.0)
    }

    /// Sets the value of a key; it holds so many bytes.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        if self.young.len() >= self.most || self.bytes.saturating_add(bytes) > self.most_bytes {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.bytes = 0;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.young.insert(key, (value, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for stays; what is not goes when as many others came; bytes count as well as numbers.
    #[test]
    fn the_oldest_are_forgotten() {
        let mut all = Remembered::new(4, 100);
        for n in 0..40u32 {
            all.insert(n, n, 1);
            assert_eq!(all.get_mut(&0), Some(&mut 0), "asked for at each step");
            assert!(all.young.len() <= 4 && all.old.len() <= 4);
        }
        assert_eq!(all.get_mut(&20), None);
        assert_eq!(all.get_mut(&39), Some(&mut 39));
        for n in 100..110u32 {
            all.insert(n, n, 60);
            assert!(all.young.len() == 1 && all.bytes == 60 && all.get_mut(&n) == Some(&mut n.clone()));
        }
        all.insert(0, 7, 1_000);
        assert_eq!(all.get_mut(&0), Some(&mut 7), "one that is above the bound alone is held alone");
    }

    #[test]
    fn entries_leave_in_the_order_of_their_keys() {
        let mut table = Lookup::default();
        for key in [5u32, 1, 9, 3, 7] {
            *table.get_or_insert_with(key, || 0) += key;
        }
        assert_eq!(table.take_if(|k, _| *k > 3), [(5, 5), (7, 7), (9, 9)]);
        let mut seen = Vec::new();
        table.for_each_sorted(|k, v| seen.push((*k, *v)));
        assert_eq!((seen, table.len(), table.get(&5)), (vec![(1, 1), (3, 3)], 2, None));
    }
}
