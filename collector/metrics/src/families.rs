//! Every metric family that there is. The encoder can write no other one, and docs/metrics.md lists these.
//!
//! Names begin with `huddle_`, also those about this process, which elsewhere begin with `process_`: node_exporter
//! has some of that name of its own, and fails to gather those that a text file repeats (1.5.0).

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A sum since the loop began; its samples end with `_total`.
    Counter,
}

/// The unit of a family, which its name ends with (before `_total`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A part of a whole, from 0 to 1.
    Ratio,
}

impl Unit {
    /// As it is in names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Ratio => "ratio",
        }
    }
}

/// One metric family.
#[derive(Debug)]
pub struct Family {
    /// Its name without the unit.
    pub stem: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its unit; `None` for counts.
    pub unit: Option<Unit>,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Family {
    /// The name of its samples.
    pub fn sample_name(&self) -> String {
        let unit = self.unit.map_or_else(String::new, |unit| format!("_{}", unit.name()));
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{suffix}", self.stem)
    }
}

macro_rules! families {
    ($($name:ident = $kind:ident $stem:literal $($unit:ident)? [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $name: Family = Family {
                stem: $stem,
                kind: Kind::$kind,
                unit: families!(@unit $($unit)?),
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// All of them, in the order in which they are written.
        pub const ALL: &[&Family] = &[$(&$name),*];
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

families! {
    BUILD = Gauge "huddle_build_info" ["version", "revision"]
        "1, with the version of huddle and the git revision it was built from";
    START = Gauge "huddle_process_start_time" Seconds []
        "When the loop began, since the Unix epoch";
    OWN_CPU = Counter "huddle_process_cpu" Seconds []
        "CPU time that huddle has used";
    OWN_MEMORY = Gauge "huddle_process_resident_memory" Bytes []
        "Physical memory that huddle uses";
    READING_CPU = Counter "huddle_reading_cpu" Seconds []
        "CPU time of huddle for reading counters and probes, a part of huddle_process_cpu_seconds_total";
    PROGRAM_TIME = Counter "huddle_bpf_program_run" Seconds ["program"]
        "Run time of a BPF program of huddle, which other processes pay";
    PROGRAM_RUNS = Counter "huddle_bpf_program_runs" ["program"]
        "Runs of a BPF program of huddle";

    ROUNDS = Counter "huddle_rounds" []
        "Rounds: VMs found, sharing measured, placement planned";
    ROUND_TIME = Gauge "huddle_last_round_timestamp" Seconds []
        "When the last round ended, since the Unix epoch";
    ROUND_DURATION = Gauge "huddle_last_round_duration" Seconds []
        "How long the last round took";
    WINDOWS = Counter "huddle_windows" []
        "Windows of observation";
    WINDOW_TIME = Gauge "huddle_last_window_timestamp" Seconds []
        "When the last window of observation ended, since the Unix epoch";
    AVAILABLE = Gauge "huddle_stage_available" ["stage"]
        "Whether a stage of the last round or window had a result (1), or was unavailable (0), for a reason in the log";
    EVENTS = Counter "huddle_events" ["kind"]
        "Events of the loop by kind, as in its log";
    LOST_EVENTS = Counter "huddle_lost_events" ["kind"]
        "Kernel events that were lost because a buffer or a map was full";
    MISSED_STEPS = Counter "huddle_metrics_missed_steps" []
        "Steps of the loop that came too fast to be counted here one by one: counters of windows lack them";

    RECORDING = Gauge "huddle_recording" []
        "Whether the recording that was asked for can be written (1) or is interrupted and retried (0)";
    RECORDED = Counter "huddle_recorder_steps" []
        "Steps of the loop that this recording took";
    RECORDER_LOST = Counter "huddle_recorder_lost_steps" []
        "Steps of the loop that this recording lost";

    VMS = Gauge "huddle_vms" []
        "VMs that were found in the last round";
    VMS_LEFT_OUT = Gauge "huddle_metrics_left_out_vms" []
        "VMs beyond max_vms, which have no metrics of their own";
    PAIRS_LEFT_OUT = Gauge "huddle_metrics_left_out_pairs" ["limit"]
        "Pairs of VMs without metrics of their own, by the setting that left them out";
    VM = Gauge "huddle_vm_info" ["vm", "uuid", "vmm"]
        "1, with the UUID of a VM (empty if it has none) and what runs it";
    VCPUS = Gauge "huddle_vm_vcpus" ["vm"]
        "vCPUs of a VM";

    SHARING = Gauge "huddle_sharing_info" ["method", "estimated"]
        "1, with the method by which sharing was measured, and whether it is an estimate from a sample";
    MATRIX_DURATION = Gauge "huddle_sharing_measurement_duration" Seconds []
        "How long the last measurement of sharing took";
    VM_RESIDENT = Gauge "huddle_vm_resident" Bytes ["vm"]
        "Guest memory of a VM that is in physical memory";
    VM_USED = Gauge "huddle_vm_used" Bytes ["vm"]
        "Distinct frames of a VM that are not zero-filled";
    VM_SHARED = Gauge "huddle_vm_shared" Bytes ["vm"]
        "Those of its frames that at least one other VM maps too; absent if groups of VMs were not counted completely";
    VM_HIGHEST_RATE = Gauge "huddle_vm_highest_sharing" Ratio ["vm"]
        "The highest part of the used frames of a VM that one other VM maps too";
    PAIR_RATE = Gauge "huddle_pair_sharing" Ratio ["vm", "other_vm"]
        "Part of the used frames that two VMs share, of the VM of which it is the larger part";
    PAIR_SHARED = Gauge "huddle_pair_shared" Bytes ["vm", "other_vm"]
        "Frames that two VMs share";

    KSM_SCANS = Counter "huddle_ksm_full_scans" []
        "Complete passes of KSM since the kernel started";
    KSM_FRAMES = Gauge "huddle_ksm_shared" Bytes []
        "Merged frames of KSM";
    KSM_SAVED = Gauge "huddle_ksm_saved" Bytes []
        "Memory that KSM saves on merged frames: pages beyond the first on each";
    KSM_ZERO = Gauge "huddle_ksm_zero_pages" Bytes []
        "Pages that KSM merged with the kernel's zero page, which it saves too; absent where the kernel does not count them (before Linux 6.6)";
    AT_RISK = Gauge "huddle_memory_at_risk" Bytes []
        "Memory that the host would need at once if every merged page were written to, also those on the zero page; absent where these are not counted";
    HOST_FREE = Gauge "huddle_host_available_memory" Bytes []
        "Memory that the host can still give without swapping (MemAvailable)";
    VM_MERGED = Gauge "huddle_vm_merged" Bytes ["vm"]
        "Pages of a VM that are on merged frames: what it would need for itself if all of them were written to";
    VM_MERGES = Counter "huddle_vm_page_merges" ["vm"]
        "Pages of a VM that KSM merged";
    VM_BREAKS = Counter "huddle_vm_page_breaks" ["vm"]
        "Pages of a VM that left a merged frame because they were written to or unmapped";
    MERGES = Counter "huddle_page_merges" []
        "Pages that KSM merged, of all VMs of which that is known, also of those that are gone";
    BREAKS = Counter "huddle_page_breaks" []
        "Pages that left a merged frame, of all VMs of which that is known, also of those that are gone";

    PLACEMENT = Gauge "huddle_placement_info" ["policy", "pinning"]
        "1, with the policy of the last plan, and whether vCPUs are pinned: done, dry_run, no_plan, failed";
    PLACEMENT_TIME = Gauge "huddle_placement_changed_timestamp" Seconds []
        "When the placement in force was last changed, since the Unix epoch; absent if it never was";
    DOMAIN_VCPUS = Gauge "huddle_domain_bound_vcpus" ["domain"]
        "vCPUs that huddle has bound to a cache domain";
    VM_DOMAIN_VCPUS = Gauge "huddle_vm_bound_vcpus" ["vm", "domain"]
        "vCPUs of a VM that huddle has bound to a cache domain";
    MOVED = Counter "huddle_moved_vcpus" []
        "vCPUs whose affinity was set to another one";
    PLANNED_WITHIN = Gauge "huddle_plan_shared_within" Bytes []
        "Frames shared by pairs that the last plan has within one cache domain";
    SHARED_TOTAL = Gauge "huddle_pairs_shared" Bytes []
        "Frames shared by all pairs; one of three VMs counts three times";
    CACHE_SAVED_PLAN = Gauge "huddle_plan_cache_saved" Bytes ["counted_by"]
        "Cache that the last plan is expected to save; an upper bound unless counted by groups";
    CACHE_SAVED = Gauge "huddle_cache_saved" Bytes ["counted_by"]
        "Cache that the vCPUs bound now save, by what is shared; an upper bound unless counted by groups";

    DECISIONS = Counter "huddle_trial_decisions" ["outcome"]
        "Proposed placements by how they ended";
    TRIAL = Gauge "huddle_trial_running" []
        "Whether a trial runs; absent if there are none";
    LAST_CHANGE = Gauge "huddle_last_trial_change" Ratio ["objective"]
        "Change of the objective in the last trial that was decided by its blocks (0.1 is ten percent better)";

    VM_CPU = Counter "huddle_vm_cpu" Seconds ["vm"]
        "CPU time of the vCPUs of a VM";
    VM_DOMAIN_CPU = Counter "huddle_vm_domain_cpu" Seconds ["vm", "domain"]
        "CPU time of the vCPUs of a VM on the CPUs of a cache domain";
    VM_GUEST = Counter "huddle_vm_guest" Seconds ["vm"]
        "Time of the vCPUs of a VM in guest mode (KVM)";
    VM_MOVES = Counter "huddle_vm_migrations" ["vm"]
        "Moves of vCPUs of a VM from one CPU to another";
    VM_DOMAIN_MOVES = Counter "huddle_vm_domain_migrations" ["vm"]
        "Moves of vCPUs of a VM between cache domains";
    VM_COUNTED = Counter "huddle_vm_counted" Seconds ["vm"]
        "Time in which the counters of all vCPUs of a VM counted: to divide the four counts below by";
    VM_CYCLES = Counter "huddle_vm_cycles" ["vm"]
        "Cycles of the vCPUs of a VM";
    VM_INSTRUCTIONS = Counter "huddle_vm_instructions" ["vm"]
        "Instructions of the vCPUs of a VM";
    VM_REFERENCES = Counter "huddle_vm_llc_references" ["vm"]
        "References of the vCPUs of a VM to the last-level cache";
    VM_MISSES = Counter "huddle_vm_llc_misses" ["vm"]
        "Misses of the vCPUs of a VM in the last-level cache";
    VM_OCCUPANCY = Gauge "huddle_vm_llc_occupancy" Bytes ["vm", "cache"]
        "Bytes of an L3 cache that hold lines of a VM (resctrl)";
    VM_TRANSFERS = Counter "huddle_vm_memory_transfer" Bytes ["vm", "cache"]
        "Bytes that a VM moved between an L3 cache and memory (resctrl)";
    VM_OPERATIONS = Counter "huddle_vm_reported_operations" ["vm"]
        "Operations that the workload of a VM reported";
    VM_LATENCY = Gauge "huddle_vm_reported_latency" Seconds ["vm"]
        "Mean latency of the operations that the workload of a VM reported in the last window";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut names: Vec<String> = ALL.iter().map(|family| family.sample_name()).collect();
        for (name, family) in names.iter().zip(ALL) {
            assert!(name.starts_with("huddle_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(!family.stem.ends_with("_total"), "{name}: the encoder adds it");
            let is_plain = !family.help.contains(['\\', '\n']) && !family.help.ends_with('.');
            assert!(is_plain, "{name}: the help is written as it is");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "two of one name");
    }
}
