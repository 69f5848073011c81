//! Which page of which process moved to or from a merged frame, as it happens: the programs behind
//! sharing method `events`.
//!
//! ksmd's tracepoints report merges. That a page left its merged frame they report only at ksmd's next visit,
//! and incompletely, so the write fault itself is traced: `page_fault_user` and `page_fault_kernel` (x86-64)
//! for writes by a process or by the kernel on its behalf, and `kvm_unmap_hva_range` for KVM guests, whose
//! faults use the processor's second-level page table and reach no other tracepoint. These are tracepoints,
//! not functions of mm/memory.c: attaching to `do_wp_page` would cover all writers at once, but some kernels
//! refuse it (no CONFIG_KPROBES, EPERM for fentry) where these work.
//!
//! KVM is a module in most distributions. The types of its tracepoints are then in the module's BTF, to which the
//! loader (aya 0.14) cannot attach a program. `graph_kvm_unmap` reads nothing but the two numbers that the tracepoint
//! passes, so it is loaded as a raw tracepoint program, which is found by name, in modules too, and needs no types
//! (bpf_raw_tracepoint_open, kernel/bpf/syscall.c, Linux 6.18). The kind of a program is in the name of its section.
//!
//! Not reported: writes by kernel threads for a process (vhost), memory that is given back, swapped out or
//! moved by compaction outside KVM. Method `events` measures these as drift.

use std::path::PathBuf;

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{BtfTracePoint, ProgramError, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use huddle_abi::{
    GRAPH_LEFT, GRAPH_MERGE, GRAPH_RANGE, GRAPH_WRITE_FAULT, GRAPH_ZERO_MERGE, GraphEvent, GraphLosses,
};

use super::btf::{BtfError, KernelTypes};
use super::object::Aligned;
use super::{ProbeError, if_there, one_line, take_map};
use huddle_host::HostRoot;
use huddle_host::architecture::Architecture;
use huddle_host::stages::{FrameChange, FrameChangeKind, FrameChanges, StageError, StartFrameChanges};
use huddle_model::observation::ProgramCost;

/// Built by `cargo xtask ebpf`.
const BUILT: &[u8; include_bytes!("../../../../ebpf/events.bpf.o").len()] =
    include_bytes!("../../../../ebpf/events.bpf.o");

static OBJECT: &Aligned<[u8]> = &Aligned(without_types(*BUILT, b"tp_btf/kvm_unmap_hva_range\0"));

/// The globals of the object that hold offsets, with structure and path of each field.
const FIELDS: [(&str, &str, &[&str]); 3] = [
    ("MM_OWNER", "mm_struct", &["owner"]),
    ("TASK_TGID", "task_struct", &["tgid"]),
    ("RMAP_ADDRESS", "ksm_rmap_item", &["address"]),
];

/// Why changes cannot be followed on this kernel.
#[derive(Debug, thiserror::Error)]
pub enum GraphProbeError {
    /// The kernel's types cannot be read.
    #[error(
        "changes of merged frames cannot be followed: {} cannot be read: {source}; use a kernel built with \
         CONFIG_DEBUG_INFO_BTF",
        path.display()
    )]
    Types {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A structure lacks a required field.
    #[error(
        "changes of merged frames cannot be followed: {0}; Linux 6.4 or later with CONFIG_MEMCG is needed"
    )]
    Fields(#[from] BtfError),
    /// The kernel rejects the object.
    #[error(
        "changes of merged frames cannot be followed: {reason}; run as root, or with CAP_BPF and CAP_PERFMON"
    )]
    Load {
        /// The error of the kernel or the loader.
        reason: String,
    },
    /// Nothing reports writes to merged pages.
    #[error(
        "changes of merged frames cannot be followed: ARM64 does not report page faults (page_fault_user and \
         page_fault_kernel are tracepoints of x86-64); every round scans"
    )]
    NoFaults,
    /// A program that the method cannot do without.
    #[error("changes of merged frames cannot be followed: {0}")]
    Attach(String),
    /// A map cannot be used.
    #[error(transparent)]
    Map(#[from] ProbeError),
}

/// The programs, attached. Dropping it detaches them.
pub struct GraphProbe {
    ring: RingBuf<MapData>,
    processes: HashMap<MapData, u32, u32>,
    losses: PerCpuArray<MapData, GraphLosses>,
    missing: Vec<String>,
    _tracepoints: Vec<BtfTracePointLink>,
    _kvm: Option<RawTracePointLink>,
    /// Owns the programs.
    object: Ebpf,
}

impl std::fmt::Debug for GraphProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GraphProbe").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl GraphProbe {
    /// Loads and attaches the programs. `ring_bytes` is the room for events that are not read yet, a power of
    /// two and a multiple of the page size (an event takes 32 bytes).
    ///
    /// # Errors
    /// What this kernel lacks that the method needs.
    pub fn load(root: &HostRoot, ring_bytes: u32) -> Result<Self, GraphProbeError> {
        if Architecture::of(root) == Architecture::Arm64 {
            return Err(GraphProbeError::NoFaults);
        }
        let path = root.sys("kernel/btf/vmlinux");
        let bytes =
            std::fs::read(&path).map_err(|source| GraphProbeError::Types { path: path.clone(), source })?;
        let failed = |error: &dyn std::error::Error| GraphProbeError::Load { reason: one_line(error) };
        let btf = Btf::parse(&bytes, aya::Endianness::default()).map_err(|error| failed(&error))?;
        let types = KernelTypes::parse(bytes)?;
        let mut offsets = Vec::new();
        for (global, structure, field) in FIELDS {
            offsets.push((global, types.offset_bytes(structure, field)?));
        }
        let mut loader = EbpfLoader::new();
        loader.btf(None).map_max_entries("GRAPH_EVENTS", ring_bytes);
        for (global, offset) in &offsets {
            loader.override_global(global, offset, true);
        }
        let mut object = loader.load(&OBJECT.0).map_err(|error| failed(&error))?;

        let mut tracepoints = Vec::new();
        for (program, name) in
            [("graph_merge", "ksm_merge_with_ksm_page"), ("graph_fault_user", "page_fault_user")]
        {
            let link = tracepoint(&mut object, &btf, program, name);
            tracepoints.push(link.map_err(GraphProbeError::Attach)?);
        }
        let mut missing = Vec::new();
        for (program, name, what) in [
            ("graph_zero", "ksm_merge_one_page", "merges with the zero page"),
            ("graph_left", "ksm_remove_rmap_item", "pages that left merged frames without a write"),
            ("graph_fault_kernel", "page_fault_kernel", "writes of the kernel into guest memory"),
        ] {
            match tracepoint(&mut object, &btf, program, name) {
                Ok(link) => tracepoints.push(link),
                Err(reason) => missing.push(late(what, &reason)),
            }
        }
        let kvm = kvm_unmap(&mut object, root);
        missing.extend(kvm.as_ref().err().map(|reason| late("writes of KVM guests", reason)));

        let map_failed = |map| move |source| ProbeError::Map { map, source };
        let ring = RingBuf::try_from(take_map(&mut object, "GRAPH_EVENTS")?);
        let processes = HashMap::try_from(take_map(&mut object, "GRAPH_PROCESSES")?);
        let losses = PerCpuArray::try_from(take_map(&mut object, "GRAPH_LOSSES")?);
        Ok(Self {
            ring: ring.map_err(map_failed("GRAPH_EVENTS"))?,
            processes: processes.map_err(map_failed("GRAPH_PROCESSES"))?,
            losses: losses.map_err(map_failed("GRAPH_LOSSES"))?,
            missing,
            _tracepoints: tracepoints,
            _kvm: kvm.ok(),
            object,
        })
    }
}

/// Attaches the programs on this host when requested.
pub fn frame_changes(root: HostRoot) -> Box<StartFrameChanges> {
    Box::new(move |ring_bytes| Ok(Box::new(GraphProbe::load(&root, ring_bytes)?)))
}

impl FrameChanges for GraphProbe {
    fn missing(&self) -> &[String] {
        &self.missing
    }

    /// # Errors
    /// More processes than the map holds (4096).
    fn watch(&mut self, tgid: u32, number: u32) -> Result<(), StageError> {
        let failed = |source| ProbeError::Map { map: "GRAPH_PROCESSES", source };
        Ok(self.processes.insert(tgid, number, 0).map_err(failed)?)
    }

    fn forget(&mut self, tgid: u32) -> Result<(), StageError> {
        let failed = |source| ProbeError::Map { map: "GRAPH_PROCESSES", source };
        Ok(if_there(self.processes.remove(&tgid)).map_err(failed)?)
    }

    fn drain(&mut self, take: &mut dyn FnMut(FrameChange)) {
        while let Some(item) = self.ring.next() {
            if let Some(change) = parse(&item).and_then(change_of) {
                take(change);
            }
        }
    }

    fn cost(&self) -> ProgramCost {
        let infos = self.object.programs().filter_map(|(_, program)| program.info().ok());
        infos.fold(ProgramCost::default(), |sum, info| ProgramCost {
            runs: sum.runs + info.run_count(),
            run_ns: sum.run_ns + u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        })
    }

    fn program_ids(&self) -> Vec<u32> {
        let ids = self.object.programs().filter_map(|(_, program)| Some(program.info().ok()?.id()));
        ids.collect()
    }

    fn lost(&self) -> Result<u64, StageError> {
        let failed = |source| ProbeError::Map { map: "GRAPH_LOSSES", source };
        Ok(self.losses.get(&0, 0).map_err(failed)?.iter().map(|losses| losses.events).sum())
    }
}

/// `None` for an unknown kind.
fn change_of(event: GraphEvent) -> Option<FrameChange> {
    let GraphEvent { address, frame, process, kind } = event;
    let kind = match kind {
        GRAPH_MERGE => FrameChangeKind::Merged { frame },
        GRAPH_ZERO_MERGE => FrameChangeKind::MergedWithZeroPage,
        GRAPH_WRITE_FAULT => FrameChangeKind::WriteFault,
        GRAPH_LEFT => FrameChangeKind::Left { frame },
        GRAPH_RANGE => FrameChangeKind::Range { end: frame },
        _ => return None,
    };
    Some(FrameChange { kind, process, address })
}

fn tracepoint(object: &mut Ebpf, btf: &Btf, program: &str, name: &str) -> Result<BtfTracePointLink, String> {
    let failed = |error: ProgramError| match error {
        ProgramError::Btf(_) => {
            format!("this kernel has no tracepoint {name} (KSM's came with Linux 6.4 and CONFIG_KSM)")
        }
        _ => format!("the BPF program {program} cannot be attached to {name}: {}", one_line(&error)),
    };
    let loaded = object.program_mut(program).ok_or_else(|| format!("the BPF object has no {program}"))?;
    let loaded: &mut BtfTracePoint = loaded.try_into().map_err(failed)?;
    loaded.load(name, btf).map_err(failed)?;
    let link = loaded.attach().map_err(failed)?;
    loaded.take_link(link).map_err(failed)
}

/// The tracepoint by which KVM reports that memory of a guest is mapped otherwise.
const KVM_UNMAP: &str = "kvm_unmap_hva_range";

/// A note about changes that are not reported.
fn late(what: &str, reason: &str) -> String {
    format!("{what} are found late, by a full reading: {reason}")
}

/// An object with the program on the tracepoint of this name as one for a raw tracepoint: `tp_btf/NAME` and
/// `raw_tp/NAME` are equally long names of sections, and the context of both kinds is the list of arguments.
///
/// # Panics
/// The object has no such section; it is run while this is compiled.
const fn without_types<const LENGTH: usize>(mut object: [u8; LENGTH], section: &[u8]) -> [u8; LENGTH] {
    let (raw, mut at) = (b"raw_tp", 0);
    // The name of its relocations may end in the same bytes; the loader finds those by the number of the section.
    while !begins_with(&object, at, section) {
        at += 1;
    }
    let mut letter = 0;
    while letter < raw.len() {
        object[at + letter] = raw[letter];
        letter += 1;
    }
    object
}

const fn begins_with(object: &[u8], at: usize, text: &[u8]) -> bool {
    assert!(at + text.len() <= object.len(), "the object has no such section");
    let mut letter = 0;
    while letter < text.len() {
        if object[at + letter] != text[letter] {
            return false;
        }
        letter += 1;
    }
    true
}

fn kvm_unmap(object: &mut Ebpf, root: &HostRoot) -> Result<RawTracePointLink, String> {
    const PROGRAM: &str = "graph_kvm_unmap";
    let failed = |error: ProgramError| {
        format!("the BPF program {PROGRAM} cannot be attached to {KVM_UNMAP}: {}", one_line(&error))
    };
    if let Some(reason) = without_kvm(root) {
        return Err(reason);
    }
    let loaded = object.program_mut(PROGRAM).ok_or_else(|| format!("the BPF object has no {PROGRAM}"))?;
    let loaded: &mut RawTracePoint = loaded.try_into().map_err(failed)?;
    loaded.load().map_err(failed)?;
    let link = loaded.attach(KVM_UNMAP).map_err(failed)?;
    loaded.take_link(link).map_err(failed)
}

/// Why KVM cannot report anything, if it is neither loaded nor part of the kernel: built in or as a module, it has a
/// directory in /sys/module, since it has parameters (kernel/params.c, Linux 6.18).
fn without_kvm(root: &HostRoot) -> Option<String> {
    let is_there = root.sys("module/kvm").is_dir();
    (!is_there).then(|| "KVM is not loaded; if it is loaded later, start huddle again".to_owned())
}

fn parse(bytes: &[u8]) -> Option<GraphEvent> {
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(GraphEvent { address: long(0)?, frame: long(8)?, process: word(16)?, kind: word(20)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("")).unwrap();
        std::fs::write(root.proc("cpuinfo"), "CPU implementer\t: 0x41\n").unwrap();
        let error = GraphProbe::load(&root, 4096).unwrap_err().to_string();
        assert!(error.contains("ARM64") && error.contains("every round scans"), "{error}");
    }

    #[test]
    fn a_host_without_types_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = GraphProbe::load(&HostRoot::at(dir.path()), 4096).unwrap_err();
        assert!(error.to_string().contains("sys/kernel/btf/vmlinux"), "{error}");
        assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }

    #[test]
    fn the_program_on_kvm_needs_no_types_and_all_others_are_as_they_were() {
        let now = &OBJECT.0;
        let changed = now.iter().zip(BUILT).filter(|(now, before)| now != before).count();
        // The two words have one letter in common.
        assert_eq!((now.len(), changed), (BUILT.len(), 5));
        let sections =
            |bytes: &[u8], name: &str| bytes.windows(name.len()).filter(|w| *w == name.as_bytes()).count();
        assert_eq!(sections(now, &format!("raw_tp/{KVM_UNMAP}\0")), 1);
        assert_eq!(sections(now, "tp_btf/"), sections(BUILT, "tp_btf/") - 1);
    }

    #[test]
    fn kvm_is_there_as_a_module_and_built_in_and_else_that_is_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert!(without_kvm(&root).unwrap().contains("KVM is not loaded"));
        // As a module its types are not among the kernel's, which does not matter.
        std::fs::create_dir_all(root.sys("module/kvm/parameters")).unwrap();
        std::fs::create_dir_all(root.sys("kernel/btf")).unwrap();
        std::fs::write(root.sys("kernel/btf/kvm"), "types of the module").unwrap();
        assert_eq!(without_kvm(&root), None);
    }

    #[test]
    fn events_are_parsed_completely_or_not_at_all() {
        let mut bytes = Vec::new();
        bytes.extend(0x7000_0000_u64.to_ne_bytes());
        bytes.extend(17_u64.to_ne_bytes());
        bytes.extend(3_u32.to_ne_bytes());
        bytes.extend(huddle_abi::GRAPH_WRITE_FAULT.to_ne_bytes());
        let event =
            GraphEvent { address: 0x7000_0000, frame: 17, process: 3, kind: huddle_abi::GRAPH_WRITE_FAULT };
        assert_eq!(parse(&bytes), Some(event));
        assert_eq!(parse(&bytes[..23]), None);
    }
}
