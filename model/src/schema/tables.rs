//! The tables: one macro gives each its row type, its columns and how a value gets from one to the other.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Cell, CellOf, Column, Row, Value};

/// Does something with the rows of each table.
pub trait TableVisitor {
    /// What may go wrong.
    type Error;
    /// Called once a table, in the order of [`Table::ALL`].
    fn visit<R: Row>(&mut self, rows: &[R]) -> Result<(), Self::Error>;
}

macro_rules! tables {
    ($(
        #[doc = $row_doc:literal]
        $row:ident, $table:ident, $name:ident {
            $( #[doc = $meaning:literal] $field:ident: $type:ty, $unit:literal; )+
        }
    )+) => {
        /// A table of a recording.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Table {
            $( #[doc = $row_doc] $table, )+
        }

        impl Table {
            /// All tables.
            pub const ALL: &'static [Self] = &[$( Self::$table, )+];

            /// Its name: that of its directory in the run.
            pub fn name(self) -> &'static str {
                match self { $( Self::$table => stringify!($name), )+ }
            }

            /// Its columns, in the order of the file.
            pub fn columns(self) -> &'static [Column] {
                match self { $( Self::$table => <$row as Row>::COLUMNS, )+ }
            }
        }

        /// Rows for every table.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Rows {
            $( #[doc = $row_doc] pub $name: Vec<$row>, )+
        }

        impl Rows {
            /// How many rows there are for `table`.
            pub fn count(&self, table: Table) -> u64 {
                match table { $( Table::$table => self.$name.len() as u64, )+ }
            }

            /// Hands the rows of each table to `visitor`, and stops at its first error.
            pub fn visit<V: TableVisitor>(&self, visitor: &mut V) -> Result<(), V::Error> {
                $( visitor.visit(&self.$name)?; )+
                Ok(())
            }
        }

        $(
            #[doc = $row_doc]
            #[derive(Clone, Debug, PartialEq)]
            pub struct $row {
                $( #[doc = $meaning] pub $field: $type, )+
            }

            impl Row for $row {
                const TABLE: Table = Table::$table;
                const COLUMNS: &'static [Column] = &[$( Column {
                    name: stringify!($field),
                    kind: <$type as Cell>::KIND,
                    unit: $unit,
                    nullable: <$type as Cell>::NULLABLE,
                    meaning: $meaning.trim_ascii(),
                }, )+];
                const CELLS: &'static [CellOf<Self>] = &[$( $name::$field, )+];
            }

            mod $name {
                use super::*;
                $( pub(super) fn $field(row: &$row) -> Value<'_> { Cell::value(&row.$field) } )+
            }
        )+
    };
}

tables! {
    /// What one VM shares with another in one round: one row per ordered pair.
    SharingRow, Sharing, sharing {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// The VM whose used frames are the whole of the rate.
        vm: String, "none";
        /// Its process; null where the matrix does not say.
        vm_pid: Option<i32>, "number";
        /// The VM it shares with.
        other: String, "none";
        /// Process of the other VM; null where the matrix does not say.
        other_pid: Option<i32>, "number";
        /// Distinct frames, not zero-filled, that both map; null where only rates are known.
        shared_frames: Option<u64>, "frames";
        /// The shared frames as a part (0 to 1) of the frames that `vm` uses.
        rate: f64, "fraction";
        /// How it was measured: merged (frames that both map) or file.
        method: String, "none";
        /// How long measuring the whole matrix took; null where the matrix does not say.
        measured_in_us: Option<u64>, "us";
        /// Part (0 to 1) of the resident pages that was looked at; null where the matrix does not say.
        coverage: Option<f64>, "fraction";
    }

    /// One VM in one round.
    VmRow, Vms, vms {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// Its name, unique within the round.
        vm: String, "none";
        /// The process that holds it.
        pid: i32, "number";
        /// Start time of that process after boot, which tells it from a later one of the same pid.
        start_ticks: u64, "ticks";
        /// What runs it.
        vmm: String, "none";
        /// How many vCPUs it has.
        vcpus: u32, "count";
        /// Guest memory that KSM may merge.
        mergeable_bytes: u64, "bytes";
        /// Private anonymous guest memory that nobody marked mergeable.
        anonymous_bytes: u64, "bytes";
        /// Guest memory in shared memory, which KSM never merges.
        shared_memory_bytes: u64, "bytes";
        /// Guest memory in hugetlbfs, which KSM never merges.
        hugetlb_bytes: u64, "bytes";
        /// Pages of guest memory in physical memory; null where the scan did not measure this VM.
        pages_resident: Option<u64>, "pages";
        /// Resident pages on frames that are not zero-filled; null like `pages_resident`.
        pages_used: Option<u64>, "pages";
        /// Distinct frames that are not zero-filled; null like `pages_resident`.
        frames_used: Option<u64>, "frames";
        /// Resident pages on the kernel's zero page or on a merged zero-filled frame; null like `pages_resident`.
        pages_zero: Option<u64>, "pages";
        /// Pages that share a frame with another page of the same VM; null like `pages_resident`.
        self_shared_pages: Option<u64>, "pages";
        /// Resident pages that are part of a huge page; null where it was not asked.
        pages_huge: Option<u64>, "pages";
        /// Why part of its memory cannot be merged, a sentence a line; null when all of it can.
        cannot_merge: Option<String>, "none";
    }

    /// Where one vCPU shall run, in one round.
    PlacementRow, Placements, placements {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// The process that holds the VM.
        vm_pid: i32, "number";
        /// Number of the vCPU within the VM, from 0.
        vcpu: u32, "number";
        /// Id of the host thread that runs it.
        thread: i32, "number";
        /// Start time of that thread after boot, which tells it from a later one of the same id.
        thread_start_ticks: u64, "ticks";
        /// CPUs the thread could run on when the round found it, before anything was changed, as a cpulist.
        cpus_before: String, "none";
        /// CPU the thread last ran on; null where the kernel did not say.
        last_cpu: Option<u32>, "number";
        /// Cache domain it is planned for; null when it is left to the kernel or there is no plan.
        domain: Option<u32>, "number";
        /// CPUs of that domain as a cpulist; null when there is no domain.
        cpus: Option<String>, "none";
        /// Whether the thread now runs in its domain; null when that is not known or nothing is planned.
        applied: Option<bool>, "none";
        /// Why `applied` is not true; null when it is.
        not_applied_reason: Option<String>, "none";
    }

    /// What was decided in one round: one row per round.
    DecisionRow, Decisions, decisions {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// The policy that planned; null when there is no plan.
        policy: Option<String>, "none";
        /// Why the plan is as it is, a sentence a line in the order of decision; null when there is no plan.
        reasons: Option<String>, "none";
        /// Frames shared by pairs within one domain; null when rates only are known or nothing is placed.
        shared_within_frames: Option<u64>, "frames";
        /// Frames shared by all pairs; null when rates only are known or there is no plan.
        shared_total_frames: Option<u64>, "frames";
        /// Whether an affinity was changed in this round; null when pinning was not available.
        changed: Option<bool>, "none";
        /// Threads whose affinity was changed; null like `changed`.
        threads_changed: Option<u32>, "count";
        /// Threads that were already where they should be; null like `changed`.
        threads_unchanged: Option<u32>, "count";
        /// Threads passed over because they were gone or another's; null like `changed`.
        threads_skipped: Option<u32>, "count";
        /// Why there is no sharing matrix; null when there is one.
        sharing_unavailable: Option<String>, "none";
        /// Why there is no topology; null when there is one.
        topology_unavailable: Option<String>, "none";
        /// Why there is no plan; null when there is one.
        plan_unavailable: Option<String>, "none";
        /// Why nothing could be pinned; null when it could.
        pin_unavailable: Option<String>, "none";
        /// CPU time that huddle itself has used since its start; null where it was not available.
        own_cpu_us: Option<u64>, "us";
    }

    /// KSM's counters and settings in one round: one row per round, all null but the reason where KSM cannot be read.
    KsmRow, Ksm, ksm {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// Why KSM could not be read; null when it could.
        unavailable: Option<String>, "none";
        /// 0 stopped, 1 running, 2 stopped and everything unmerged.
        run: Option<u64>, "number";
        /// Complete passes over all mergeable memory.
        full_scans: Option<u64>, "count";
        /// Merged frames, which the kernel calls pages.
        pages_shared: Option<u64>, "pages";
        /// Pages beyond the first on those frames, which is what is saved.
        pages_sharing: Option<u64>, "pages";
        /// Pages that were looked at and are unique.
        pages_unshared: Option<u64>, "pages";
        /// Pages that change too fast to be looked at.
        pages_volatile: Option<u64>, "pages";
        /// Pages that smart_scan passed over; null where the kernel has no such file.
        pages_skipped: Option<u64>, "pages";
        /// Pages put on the kernel's zero page by use_zero_pages; null where the kernel has no such file.
        ksm_zero_pages: Option<i64>, "pages";
        /// Memory saved less its bookkeeping; null where the kernel has no such file.
        general_profit_bytes: Option<i64>, "bytes";
        /// Pages ksmd looks at before it sleeps.
        pages_to_scan: Option<u64>, "pages";
        /// How long ksmd sleeps.
        sleep_millisecs: Option<u64>, "ms";
        /// 1 when pages that did not merge before are looked at less often; null where the kernel has no such file.
        smart_scan: Option<u64>, "number";
        /// Most pages on one merged frame; null where the kernel has no such file.
        max_page_sharing: Option<u64>, "count";
        /// 0 when pages of different NUMA nodes are never merged; null where the kernel has no such file.
        merge_across_nodes: Option<u64>, "number";
        /// 1 when zero-filled pages are put on the kernel's zero page; null where the kernel has no such file.
        use_zero_pages: Option<u64>, "number";
        /// none or scan-time; null where the kernel has no such file.
        advisor_mode: Option<String>, "none";
    }

    /// Something that happened.
    EventRow, Events, events {
        /// When it happened, since the Unix epoch.
        at_us: i64, "us";
        /// The round it happened in, from 1; 0 before the first.
        round: u64, "count";
        /// What sort of thing.
        kind: String, "none";
        /// The VM it concerns; null when it concerns none.
        vm: Option<String>, "none";
        /// One sentence.
        message: String, "none";
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A table that no recording has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no table {0:?} in a recording")]
pub struct UnknownTable(String);

impl std::str::FromStr for Table {
    type Err = UnknownTable;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|table| table.name() == name)
            .ok_or_else(|| UnknownTable(name.to_owned()))
    }
}
