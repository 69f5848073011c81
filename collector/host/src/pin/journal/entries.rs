//! The changes of a journal in memory: in the order in which they were made, and by what each is about. Every
//! operation costs time by the changes of one key, so that a journal of many vCPUs takes time by their number.

use std::collections::{BTreeMap, HashMap};

use super::change::{Change, Key};

/// Changes that may have to be undone.
#[derive(Clone, Debug, Default)]
pub(in crate::pin) struct Entries {
    /// By the order in which they were made.
    changes: BTreeMap<u64, Change>,
    /// Where those of each key are, in that order.
    of_key: HashMap<Key, Vec<u64>>,
    next: u64,
}

impl Entries {
    /// One more change, the newest.
    pub(super) fn push(&mut self, change: Change) {
        self.of_key.entry(change.key()).or_default().push(self.next);
        self.changes.insert(self.next, change);
        self.next += 1;
    }

    /// Takes out the changes of a key; whether there were any.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let numbers = self.of_key.remove(key).unwrap_or_default();
        for number in &numbers {
            self.changes.remove(number);
        }
        !numbers.is_empty()
    }

    /// Takes out what `is_out` says.
    pub(super) fn remove_where(&mut self, is_out: impl Fn(&Change) -> bool) {
        let out: Vec<Key> = self.iter().filter(|change| is_out(change)).map(Change::key).collect();
        for key in out {
            self.remove(&key);
        }
    }

    /// The changes of a key, the oldest first.
    pub(in crate::pin) fn of(&self, key: &Key) -> impl DoubleEndedIterator<Item = &Change> + Clone {
        let numbers = self.of_key.get(key).map_or(&[][..], Vec::as_slice);
        numbers.iter().filter_map(|number| self.changes.get(number))
    }

    /// The first change of a key.
    pub(super) fn first(&self, key: &Key) -> Option<&Change> {
        self.of(key).next()
    }

    /// Whether this very change is among them.
    pub(super) fn contains(&self, change: &Change) -> bool {
        self.of(&change.key()).any(|known| known == change)
    }

    /// All of them, the oldest first.
    pub(in crate::pin) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.changes.values()
    }

    /// What they are about, in the order of the first change of each.
    pub(in crate::pin) fn keys(&self) -> Vec<Key> {
        let is_first = |number: &u64, key: &Key| {
            self.of_key.get(key).and_then(|numbers| numbers.first()) == Some(number)
        };
        let keys = self.changes.iter().map(|(number, change)| (number, change.key()));
        keys.filter(|(number, key)| is_first(number, key)).map(|(_, key)| key).collect()
    }

    /// How many changes there are.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is none.
    pub(in crate::pin) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl FromIterator<Change> for Entries {
    fn from_iter<T: IntoIterator<Item = Change>>(changes: T) -> Self {
        let mut entries = Self::default();
        changes.into_iter().for_each(|change| entries.push(change));
        entries
    }
}

impl From<Entries> for Vec<Change> {
    fn from(entries: Entries) -> Self {
        entries.changes.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn setting(file: u8, after: u8) -> Change {
        Change::KsmSetting { file: file.to_string(), before: "0".to_owned(), after: after.to_string() }
    }

    proptest! {
        /// The same as a plain list does, whatever is pushed and removed.
        #[test]
        fn they_are_a_list_that_is_found_by_key(
            steps in proptest::collection::vec((any::<bool>(), 0u8..5, 0u8..3), 0..40),
        ) {
            let (mut entries, mut list) = (Entries::default(), Vec::<Change>::new());
            for (is_removal, file, after) in steps {
                let change = setting(file, after);
                let key = change.key();
                if is_removal {
                    let had = list.iter().any(|known| known.key() == key);
                    list.retain(|known| known.key() != key);
                    prop_assert_eq!(entries.remove(&key), had);
                } else {
                    prop_assert_eq!(entries.contains(&change), list.contains(&change));
                    list.push(change.clone());
                    entries.push(change);
                }
                let first = list.iter().find(|known| known.key() == key);
                prop_assert_eq!(entries.first(&key), first);
                let of: Vec<&Change> = list.iter().filter(|known| known.key() == key).collect();
                prop_assert_eq!(entries.of(&key).collect::<Vec<_>>(), of);
            }
            let mut keys: Vec<Key> = Vec::new();
            for change in &list {
                if !keys.contains(&change.key()) {
                    keys.push(change.key());
                }
            }
            prop_assert_eq!(entries.keys(), keys);
            prop_assert_eq!((entries.len(), entries.is_empty()), (list.len(), list.is_empty()));
            prop_assert_eq!(entries.iter().collect::<Vec<_>>(), list.iter().collect::<Vec<_>>());
            prop_assert_eq!(Vec::from(entries), list);
        }
    }
}
