//! Values of labels: names that others chose.

use std::collections::{HashMap, HashSet};

use huddle_model::text::plain_short;

/// Longest value of a label that others chose, in bytes.
const MAX_BYTES: usize = 128;

/// A name as a label: one line of plain text that is not too long. The encoder escapes what the format requires.
pub(crate) fn label(name: &str) -> String {
    plain_short(name, MAX_BYTES)
}

/// VMs with metrics of their own, by name: the label of each. No two are alike, since a series may occur only once.
#[derive(Clone, Debug, Default)]
pub(crate) struct VmLabels(HashMap<String, String>);

impl VmLabels {
    /// The first `most` of these names.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> Self {
        let (mut labels, mut taken) = (HashMap::new(), HashSet::new());
        for name in names.into_iter().take(most) {
            let short = label(name);
            let mut own = short.clone();
            let mut number = 2;
            // Two names may become alike when they are cut off.
            while !taken.insert(own.clone()) {
                own = format!("{short}~{number}");
                number += 1;
            }
            labels.insert(name.to_owned(), own);
        }
        Self(labels)
    }

    /// The label of a VM; `None` if it has no metrics of its own.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_plain_and_unique() {
        let long = |last: char| format!("{}{last}", "x".repeat(200));
        let (one, other) = (long('a'), long('b'));
        let labels = VmLabels::of([&*one, &*other, "a\nb", "quote\" and \\", "late"], 4);
        let of = |name: &str| labels.get(name).unwrap().to_owned();
        assert_eq!(of(&one).len(), MAX_BYTES);
        assert_eq!(of(&other), format!("{}~2", of(&one)));
        assert_eq!((of("a\nb").as_str(), labels.get("late")), ("a\\nb", None));
        assert_eq!(of("quote\" and \\"), "quote\" and \\");
        assert_eq!(labels.len(), 4);
    }
}
