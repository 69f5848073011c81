//! Raw readings of a vCPU thread's counters, before anything is computed from them.

use serde::{Deserialize, Serialize};

/// What one member of a counter group counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CounterRole {
    /// Processor cycles while the thread ran.
    Cycles,
    /// Instructions retired.
    Instructions,
    /// Accesses to the last-level cache.
    LlcReferences,
    /// Accesses to the last-level cache that missed.
    LlcMisses,
}

impl CounterRole {
    /// All roles, in the order of [`Counts`].
    pub const ALL: [Self; 4] = [Self::Cycles, Self::Instructions, Self::LlcReferences, Self::LlcMisses];

    /// Its name for users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::Instructions => "instructions",
            Self::LlcReferences => "LLC references",
            Self::LlcMisses => "LLC misses",
        }
    }
}

/// One value per role; `None` if the event could not be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// See [`CounterRole::Cycles`].
    pub cycles: Option<u64>,
    /// See [`CounterRole::Instructions`].
    pub instructions: Option<u64>,
    /// See [`CounterRole::LlcReferences`].
    pub llc_references: Option<u64>,
    /// See [`CounterRole::LlcMisses`].
    pub llc_misses: Option<u64>,
}

impl Counts {
    /// The value of one role.
    pub fn get(&self, role: CounterRole) -> Option<u64> {
        match role {
            CounterRole::Cycles => self.cycles,
            CounterRole::Instructions => self.instructions,
            CounterRole::LlcReferences => self.llc_references,
            CounterRole::LlcMisses => self.llc_misses,
        }
    }

    /// Sets the value of one role.
    pub fn set(&mut self, role: CounterRole, value: Option<u64>) {
        *match role {
            CounterRole::Cycles => &mut self.cycles,
            CounterRole::Instructions => &mut self.instructions,
            CounterRole::LlcReferences => &mut self.llc_references,
            CounterRole::LlcMisses => &mut self.llc_misses,
        } = value;
    }
}

/// One reading of a group, whose members are scheduled on the PMU together.
///
/// Values and times are totals since the group was opened (perf_event_open(2), `PERF_FORMAT_GROUP`,
/// `PERF_FORMAT_TOTAL_TIME_ENABLED`, `PERF_FORMAT_TOTAL_TIME_RUNNING`), never scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReading {
    /// When the reading began and ended, on the monotonic clock.
    pub begin_ns: u64,
    /// See `begin_ns`.
    pub end_ns: u64,
    /// How long the group was enabled while the thread ran.
    pub time_enabled_ns: u64,
    /// How long of that it was on the PMU; less than enabled when it had to share it.
    pub time_running_ns: u64,
    /// The values.
    pub counts: Counts,
}
