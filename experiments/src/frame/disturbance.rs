//! What may have disturbed a run, told in one sentence for each kind, the most important first.

/// A kind of disturbance. Declared in the order of reports: first what was measured, then what the machine was set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Other programs took CPU time from guests.
    CpuTime,
    /// The host itself got less CPU time than it asked for.
    Stolen,
    /// Results moved with time.
    Drift,
    /// What is counted for a role says less than its name.
    Counters,
    /// The host had other work before.
    BusyBefore,
    /// KSM merged for others.
    OtherMerging,
    /// A scheduler that a BPF program brings along.
    SchedExt,
    /// Cache-aware scheduling.
    CacheAware,
    /// NUMA balancing.
    NumaBalancing,
    /// Frequencies that may change.
    Frequency,
    /// Counters handed to guests.
    GuestCounters,
}

/// A disturbance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// Its kind.
    pub kind: Kind,
    /// What happened, one sentence without an end.
    pub what: String,
}

impl Disturbance {
    /// A disturbance of a kind.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

/// One sentence for each kind, the most important first. Of several of a kind the first is told, and how many there are.
pub fn sentences(mut found: Vec<Disturbance>) -> Vec<String> {
    found.sort_by_key(|disturbance| disturbance.kind);
    let told = |alike: &[Disturbance]| match alike {
        [] => None,
        [only] => Some(only.what.clone()),
        [first, others @ ..] => Some(format!("{} (and {} more of this kind)", first.what, others.len())),
    };
    found.chunk_by(|one, other| one.kind == other.kind).filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_once_and_the_most_important_first() {
        let found = [
            (Kind::Frequency, "powersave"),
            (Kind::Counters, "cpu-clock is counted for cycles"),
            (Kind::CpuTime, "other programs"),
            (Kind::Counters, "page-faults are counted for misses"),
        ];
        let told = sentences(found.map(|(kind, what)| Disturbance::new(kind, what)).to_vec());
        assert_eq!(
            told,
            ["other programs", "cpu-clock is counted for cycles (and 1 more of this kind)", "powersave"]
        );
        assert!(sentences(Vec::new()).is_empty());
    }
}
