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
//! Not reported: writes by kernel threads for a process (vhost), memory that is given back, swapped out or
//! moved by compaction outside KVM. Method `events` measures these as drift.

use std::path::PathBuf;

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use huddle_abi::{
    GRAPH_LEFT, GRAPH_MERGE, GRAPH_RANGE, GRAPH_WRITE_FAULT, GRAPH_ZERO_MERGE, GraphEvent, GraphLosses,
};

use super::btf::{BtfError, KernelTypes};
use super::{ProbeError, if_there, one_line, take_map};
use huddle_host::HostRoot;
use huddle_host::stages::{FrameChange, FrameChangeKind, FrameChanges, StageError, StartFrameChanges};
use huddle_model::observation::ProgramCost;

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../ebpf/events.bpf.o");

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
        let mut object = loader.load(OBJECT).map_err(|error| failed(&error))?;

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
            ("graph_kvm_unmap", "kvm_unmap_hva_range", "writes of KVM guests"),
        ] {
            match tracepoint(&mut object, &btf, program, name) {
                Ok(link) => tracepoints.push(link),
                Err(reason) => missing.push(format!("{what} are found late, by a full reading: {reason}")),
            }
        }

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

fn parse(bytes: &[u8]) -> Option<GraphEvent> {
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(GraphEvent { address: long(0)?, frame: long(8)?, process: word(16)?, kind: word(20)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_types_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = GraphProbe::load(&HostRoot::at(dir.path()), 4096).unwrap_err();
        assert!(error.to_string().contains("sys/kernel/btf/vmlinux"), "{error}");
        assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
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
