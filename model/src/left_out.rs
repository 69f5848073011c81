//! What looks like a VM and is not taken for one.

use serde::{Deserialize, Serialize};

use crate::id::VmId;
use crate::text::plain_short;

/// How many are named; anyone on a host may start more.
const NAMED: usize = 8;
/// Longest name and reason, in bytes.
const NAME_BYTES: usize = 100;
const REASON_BYTES: usize = 400;

/// What looks like a VM and is left out: it is not measured, not planned with, and not pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutVms {
    /// How many there are.
    pub count: u64,
    /// The first of them, eight at most.
    pub first: Vec<LeftOutVm>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutVm {
    /// What it is called, as one plain line; names may be equal.
    pub name: String,
    /// What it is.
    pub id: VmId,
    /// Why it is left out, as the end of a sentence about it.
    pub reason: String,
}

impl LeftOutVms {
    /// Of these names, ids and reasons, which are the texts of others.
    pub fn of<'a>(all: impl ExactSizeIterator<Item = (&'a str, VmId, &'a str)>) -> Self {
        let count = all.len() as u64;
        let one = |(name, id, reason)| LeftOutVm {
            name: plain_short(name, NAME_BYTES),
            id,
            reason: plain_short(reason, REASON_BYTES),
        };
        Self { count, first: all.take(NAMED).map(one).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;

    #[test]
    fn many_are_counted_and_a_few_are_named_in_plain_text() {
        let id = |pid| VmId::Process(TaskId { id: pid, start_ticks: 1 });
        let all: Vec<_> = (0..5000).map(|pid| ("evil\n\u{1b}[2J", id(pid), "it belongs to nobody")).collect();
        let left_out = LeftOutVms::of(all.into_iter());
        assert_eq!((left_out.count, left_out.first.len()), (5000, NAMED));
        assert_eq!(left_out.first[0].name, "evil\\n\\u{1b}[2J");
        assert_eq!(left_out.first[7].id, id(7));
    }
}
