//! Reading and writing matrices: the JSON `huddle/matrix/1`; tables of text are read by [`super::csv`].

mod error;
mod reads;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

pub use self::error::MatrixFileError;
pub use self::reads::ReadParts;
use super::csv::{self, MatrixFile};
use super::{Cells, FrameReading, MatrixVm, MemoryUse, Method, ReadBy, SharedGroups, SharingMatrix, Weigh};
use crate::id::{Owner, TaskId, Uuid, VmId, VmKind, XenDomainId};
use crate::page_size::PageSize;

/// The schema name in the JSON.
const SCHEMA: &str = "huddle/matrix/1";

/// Maximum number of vCPUs of a VM: KVM's limit on x86 (KVM_MAX_VCPUS with CONFIG_KVM_MAX_NR_VCPUS, Linux
/// 6.18).
const MAX_VCPUS: u32 = 4096;

/// How far a rate may be from its frames: files of others have it rounded.
const RATE_TOLERANCE: f64 = 0.005;

/// The number of 4 KiB frames, the smallest there are, in a physical address space of 52 bits.
const MAX_FRAMES: u64 = 1 << 40;

#[derive(Deserialize)]
struct FileVm {
    name: String,
    pid: Option<i32>,
    start_ticks: Option<u64>,
    uuid: Option<Uuid>,
    domid: Option<u32>,
    owner: Option<Owner>,
    vcpus: Option<u32>,
    pages_resident: Option<u64>,
    pages_used: Option<u64>,
    frames_used: Option<u64>,
    pages_zero: Option<u64>,
    self_shared_pages: Option<u64>,
    pages_file: Option<u64>,
    reads_unavailable: Option<String>,
}

#[derive(Deserialize)]
struct File {
    schema: String,
    method: Option<Method>,
    vms: Vec<FileVm>,
    shared_frames: Option<Vec<Vec<u64>>>,
    shared_file_frames: Option<Vec<Vec<u64>>>,
    rate: Vec<Vec<f64>>,
    duration_ms: Option<f64>,
    coverage: Option<f64>,
    page_bytes: Option<PageSize>,
    read_by: Option<ReadBy>,
    read_by_reason: Option<String>,
    rate_error: Option<Vec<Vec<f64>>>,
    shared_groups: Option<SharedGroups>,
    rate_low: Option<Vec<Vec<f64>>>,
    rate_high: Option<Vec<Vec<f64>>>,
    shared_frames_read: Option<Vec<Vec<Option<u64>>>>,
    shared_groups_read: Option<SharedGroups>,
    read_window_ms: Option<u32>,
}

/// The parts of a matrix, before they are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixParts {
    /// How it was measured.
    pub method: Method,
    /// The VMs, in the order of rows and columns.
    pub vms: Vec<MatrixVm>,
    /// Distinct frames that each pair shares; `None` if only rates are known.
    pub shared_frames: Option<Vec<Vec<u64>>>,
    /// Those of them that are of the page cache; `None` if not measured, or if no VM has pages there.
    pub shared_file_frames: Option<Vec<Vec<u64>>>,
    /// The sets of VMs that map the same frames; `None` where only pairs were counted.
    pub groups: Option<SharedGroups>,
    /// Share (0 to 1) of the row's used frames that the column maps too.
    pub rate: Vec<Vec<f64>>,
    /// How long measuring took, in milliseconds.
    pub duration_ms: Option<f64>,
    /// As in [`SharingMatrix::coverage`].
    pub coverage: Option<f64>,
    /// The size of its frames.
    pub page_size: PageSize,
    /// How they were read; `None` where it is not known.
    pub frame_reading: Option<FrameReading>,
    /// What of the shared frames was read; `None` where that was not measured.
    pub reads: Option<ReadParts>,
}

impl FileVm {
    fn into_vm(self) -> Result<MatrixVm, MatrixFileError> {
        let figures =
            [self.pages_resident, self.pages_used, self.frames_used, self.pages_zero, self.self_shared_pages];
        let memory = match figures {
            [
                Some(pages_resident),
                Some(pages_used),
                Some(frames_used),
                Some(pages_zero),
                Some(self_shared_pages),
            ] => Some(MemoryUse {
                pages_resident,
                pages_used,
                frames_used,
                pages_zero,
                self_shared_pages,
                pages_file: self.pages_file,
            }),
            _ if figures.iter().all(Option::is_none) => None,
            _ => return Err(MatrixFileError::PartialMemory(self.name)),
        };
        // Earlier files have only a number, which may have been reused.
        let id = match (self.pid, self.start_ticks, self.domid, self.uuid) {
            (Some(id), Some(start_ticks), None, _) => Some(VmId::Process(TaskId { id, start_ticks })),
            (None, _, Some(domid), Some(uuid)) => Some(VmId::XenDomain(XenDomainId { domid, uuid })),
            _ => None,
        };
        let vcpus = self.vcpus.unwrap_or(1);
        Ok(MatrixVm { name: self.name, id, uuid: self.uuid, owner: self.owner, vcpus, memory })
    }
}

/// A VM in the JSON: fields that do not apply to its kind are null.
#[derive(Serialize)]
struct OutVm<'a> {
    name: &'a str,
    vm_kind: Option<VmKind>,
    pid: Option<i32>,
    start_ticks: Option<u64>,
    uuid: Option<Uuid>,
    domid: Option<u32>,
    owner: Option<&'a Owner>,
    vcpus: u32,
    #[serde(flatten)]
    memory: Option<MemoryUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads_unavailable: Option<&'a str>,
}

impl<'a> OutVm<'a> {
    fn of(matrix: &'a SharingMatrix, position: usize) -> Self {
        let vm = &matrix.vms[position];
        let process = vm.id.and_then(|id| id.process());
        let domain = vm.id.and_then(|id| id.xen_domain());
        Self {
            name: &vm.name,
            vm_kind: vm.id.map(|id| id.kind()),
            pid: process.map(|process| process.id),
            start_ticks: process.map(|process| process.start_ticks),
            uuid: vm.uuid.or(domain.map(|domain| domain.uuid)),
            domid: domain.map(|domain| domain.domid),
            owner: vm.owner.as_ref(),
            vcpus: vm.vcpus,
            memory: vm.memory,
            reads_unavailable: matrix.reads_unavailable(position),
        }
    }
}

impl Serialize for SharingMatrix {
    /// The JSON `huddle/matrix/1`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Out<'a> {
            schema: &'static str,
            method: Method,
            vms: Vec<OutVm<'a>>,
            shared_frames: &'a Option<Vec<Vec<u64>>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            shared_file_frames: &'a Option<Vec<Vec<u64>>>,
            rate: &'a [Vec<f64>],
            duration_ms: Option<f64>,
            coverage: Option<f64>,
            page_bytes: PageSize,
            #[serde(skip_serializing_if = "Option::is_none")]
            read_by: Option<ReadBy>,
            #[serde(skip_serializing_if = "Option::is_none")]
            read_by_reason: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            rate_error: &'a Option<Vec<Vec<f64>>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            shared_groups: &'a Option<SharedGroups>,
            #[serde(skip_serializing_if = "Option::is_none")]
            rate_low: Option<&'a [Vec<f64>]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            rate_high: Option<&'a [Vec<f64>]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            shared_frames_read: Option<Vec<Vec<Option<u64>>>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            shared_groups_read: Option<&'a SharedGroups>,
            #[serde(skip_serializing_if = "Option::is_none")]
            read_window_ms: Option<u32>,
        }
        let end = |end: usize| self.cells.rate_ci95.as_ref().map(|ends| &ends[end][..]);
        Out {
            schema: SCHEMA,
            method: self.method,
            vms: (0..self.len()).map(|vm| OutVm::of(self, vm)).collect(),
            shared_frames: &self.cells.shared_frames,
            shared_file_frames: &self.cells.shared_file_frames,
            rate: &self.cells.rate,
            duration_ms: self.duration_ms,
            coverage: self.coverage,
            page_bytes: self.page_size,
            read_by: self.frame_reading.as_ref().map(|reading| reading.by),
            read_by_reason: self.frame_reading.as_ref().and_then(|reading| reading.reason.as_deref()),
            rate_error: &self.cells.rate_error,
            shared_groups: &self.cells.groups,
            rate_low: end(0),
            rate_high: end(1),
            shared_frames_read: self.reads.as_ref().map(|reads| reads.cells()),
            shared_groups_read: self.read_groups(),
            read_window_ms: self.read_window_ms(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharingMatrix {
    /// The same, with validation.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_parsed(File::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl SharingMatrix {
    /// Reads the file of `--matrix FILE`: the JSON `huddle/matrix/1` when its first character is `{`,
    /// else a table of text with a header of VM names, a first column of VM names and cells in percent or as fractions.
    ///
    /// # Errors
    /// It is neither, or has a value that cannot be.
    pub fn from_file(text: &str) -> Result<MatrixFile, MatrixFileError> {
        // As some editors and spreadsheets begin a file.
        let text = text.trim_start_matches('\u{feff}');
        let is_json = text.trim_start().starts_with('{');
        let file = match is_json {
            true => MatrixFile { matrix: Self::from_json(text)?, notes: Vec::new() },
            false => csv::read(text)?,
        };
        file.matrix.check_counts()?;
        Ok(file)
    }

    /// Like [`SharingMatrix::from_file`], without the notes.
    ///
    /// # Errors
    /// As there.
    pub fn from_file_text(text: &str) -> Result<Self, MatrixFileError> {
        Self::from_file(text).map(|file| file.matrix)
    }

    /// Rejects impossible values; data of a loop is not checked.
    fn check_counts(&self) -> Result<(), MatrixFileError> {
        if let Some(vm) = self.vms.iter().find(|vm| vm.vcpus > MAX_VCPUS) {
            return Err(MatrixFileError::Vcpus { name: vm.name.clone(), vcpus: vm.vcpus });
        }
        self.vms.iter().try_for_each(check_memory)?;
        for (i, j) in self.pairs() {
            let used = |vm: usize| self.vms[vm].memory.map_or(MAX_FRAMES, |memory| memory.frames_used);
            let most = used(i).min(used(j)).min(MAX_FRAMES);
            if let Some(shared) = self.shared_frames(i, j).filter(|shared| *shared > most) {
                let expected = "no more shared frames than either of the two VMs uses";
                return Err(cell(&self.vms, i, j, shared.to_string(), expected));
            }
            for (i, j) in [(i, j), (j, i)] {
                self.check_rate(i, j)?;
            }
        }
        Ok(())
    }

    /// Whether a rate is that of the frames, as far as these are known.
    fn check_rate(&self, i: usize, j: usize) -> Result<(), MatrixFileError> {
        let (Some(shared), rate) = (self.shared_frames(i, j), self.rate(i, j)) else { return Ok(()) };
        // An estimate is the ratio of what was seen, and its frames are rounded and kept below the pages.
        if self.rate_error(i, j).is_some() {
            return Ok(());
        }
        let by_frames = match self.vms[i].memory {
            Some(memory) => super::ratio(shared, memory.frames_used),
            // Without the frames in use only nothing is known to be nothing.
            None if shared == 0 => 0.0,
            None => return Ok(()),
        };
        if (rate - by_frames).abs() <= RATE_TOLERANCE {
            return Ok(());
        }
        Err(cell(
            &self.vms,
            i,
            j,
            rate.to_string(),
            "the shared frames divided by the used frames of the row's VM",
        ))
    }

    fn from_json(text: &str) -> Result<Self, MatrixFileError> {
        let file: File =
            serde_json::from_str(text).map_err(|error| MatrixFileError::Syntax(error.to_string()))?;
        Self::from_parsed(file)
    }

    fn from_parsed(file: File) -> Result<Self, MatrixFileError> {
        if file.schema != SCHEMA {
            return Err(MatrixFileError::Schema(file.schema));
        }
        let unavailable = file.vms.iter().map(|vm| vm.reads_unavailable.clone()).collect();
        let reads = match (file.shared_frames_read, file.read_window_ms) {
            (Some(frames), Some(window_ms)) => {
                Some(ReadParts { frames, groups: file.shared_groups_read, window_ms, unavailable })
            }
            (None, None) if file.shared_groups_read.is_none() => None,
            _ => return Err(MatrixFileError::HalfOfReads),
        };
        let vms = file.vms.into_iter().map(FileVm::into_vm).collect::<Result<Vec<_>, _>>()?;
        if let Some(errors) = &file.rate_error {
            check_square("rate_error", errors, vms.len())?;
            for (i, row) in errors.iter().enumerate() {
                for (j, error) in row.iter().enumerate() {
                    let bad = if i == j { *error != 0.0 } else { !super::is_error(*error) };
                    if bad {
                        let expected = "an error of 0 or more, and 0 on the diagonal";
                        return Err(cell(&vms, i, j, error.to_string(), expected));
                    }
                }
            }
        }
        let mut matrix = Self::from_parts(MatrixParts {
            method: file.method.unwrap_or(Method::File),
            vms,
            shared_frames: file.shared_frames,
            shared_file_frames: file.shared_file_frames,
            groups: file.shared_groups,
            rate: file.rate,
            duration_ms: file.duration_ms,
            coverage: file.coverage,
            page_size: file.page_bytes.unwrap_or_default(),
            frame_reading: file.read_by.map(|by| FrameReading { by, reason: file.read_by_reason }),
            reads,
        })?;
        let ends = match (file.rate_low, file.rate_high) {
            (Some(low), Some(high)) => Some([low, high]),
            (None, None) => None,
            _ => return Err(MatrixFileError::HalfAnInterval),
        };
        if let Some([low, high]) = &ends {
            check_square("rate_low", low, matrix.len())?;
            check_square("rate_high", high, matrix.len())?;
            for (i, j) in (0..matrix.len()).flat_map(|i| (0..matrix.len()).map(move |j| (i, j))) {
                let (rate, [low, high]) = (matrix.rate(i, j), [low[i][j], high[i][j]]);
                if !(0.0 <= low && low <= rate && rate <= high && high <= 1.0) || (i == j && high != 0.0) {
                    let expected = "rate_low at most rate, rate at most rate_high, and 0 on the diagonal";
                    return Err(cell(&matrix.vms, i, j, format!("{low} to {high}"), expected));
                }
            }
        }
        let cells = Arc::make_mut(&mut matrix.cells);
        cells.rate_error = file.rate_error;
        cells.rate_ci95 = ends;
        Ok(matrix)
    }

    /// A matrix from external parts, with the validation of a file.
    ///
    /// # Errors
    /// When it has no VM, a duplicate or missing name, is not square, or contains an invalid rate.
    pub fn from_parts(parts: MatrixParts) -> Result<Self, MatrixFileError> {
        let vms = parts.vms;
        check_vms(&vms)?;
        check_square("rate", &parts.rate, vms.len())?;
        for (i, row) in parts.rate.iter().enumerate() {
            for (j, rate) in row.iter().enumerate() {
                let expected = if i == j { "0 on the diagonal" } else { "a rate from 0 to 1" };
                let bad = if i == j { *rate != 0.0 } else { !(0.0..=1.0).contains(rate) };
                if bad {
                    return Err(cell(&vms, i, j, rate.to_string(), expected));
                }
            }
        }
        check_measurement("duration_ms", parts.duration_ms, f64::MAX, "0 or more")?;
        check_measurement("coverage", parts.coverage, 1.0, "0 to 1")?;
        if parts.shared_frames.is_none() && parts.shared_file_frames.is_some() {
            return Err(MatrixFileError::FileFramesAlone);
        }
        check_frames(&vms, "shared_frames", parts.shared_frames.as_deref())?;
        check_frames(&vms, "shared_file_frames", parts.shared_file_frames.as_deref())?;
        if let (Some(all), Some(of_files)) = (&parts.shared_frames, &parts.shared_file_frames) {
            for (i, j) in (0..vms.len()).flat_map(|i| (0..vms.len()).map(move |j| (i, j))) {
                if of_files[i][j] > all[i][j] {
                    let expected = "no more shared frames of the page cache than shared frames";
                    return Err(cell(&vms, i, j, of_files[i][j].to_string(), expected));
                }
            }
        }
        let matrix = Self {
            method: parts.method,
            vms,
            cells: Arc::new(Cells {
                shared_frames: parts.shared_frames,
                shared_file_frames: parts.shared_file_frames,
                rate: parts.rate,
                rate_error: None,
                groups: None,
                rate_ci95: None,
            }),
            duration_ms: parts.duration_ms,
            coverage: parts.coverage,
            page_size: parts.page_size,
            frame_reading: parts.frame_reading,
            reads: None,
            weigh: Weigh::All,
        };
        let matrix = match parts.groups {
            Some(groups) => matrix.try_with_groups(groups)?,
            None => matrix,
        };
        match parts.reads {
            Some(reads) => matrix.try_with_reads(reads),
            None => Ok(matrix),
        }
    }
}

fn cell(vms: &[MatrixVm], i: usize, j: usize, text: String, expected: &'static str) -> MatrixFileError {
    MatrixFileError::Cell { row: vms[i].name.clone(), column: vms[j].name.clone(), text, expected }
}

fn check_measurement(
    figure: &'static str,
    value: Option<f64>,
    most: f64,
    expected: &'static str,
) -> Result<(), MatrixFileError> {
    match value {
        Some(value) if !(0.0..=most).contains(&value) => {
            Err(MatrixFileError::Measurement { figure, value: value.to_string(), expected })
        }
        _ => Ok(()),
    }
}

/// Whether the figures of a VM are parts of each other as they are defined.
fn check_memory(vm: &MatrixVm) -> Result<(), MatrixFileError> {
    let Some(memory) = vm.memory else { return Ok(()) };
    let resident = ("pages_resident", memory.pages_resident);
    let used = ("pages_used", memory.pages_used);
    let bounds = [
        ("pages_used", memory.pages_used, resident),
        ("pages_zero", memory.pages_zero, resident),
        ("pages_file", memory.pages_file.unwrap_or(0), resident),
        ("frames_used", memory.frames_used, used),
        ("self_shared_pages", memory.self_shared_pages, used),
    ];
    match bounds.into_iter().find(|(_, value, (_, most))| value > most) {
        Some((figure, value, (limit, most))) => {
            Err(MatrixFileError::Memory { name: vm.name.clone(), figure, value, limit, most })
        }
        None => Ok(()),
    }
}

pub(super) fn check_vms(vms: &[MatrixVm]) -> Result<(), MatrixFileError> {
    if vms.is_empty() {
        return Err(MatrixFileError::Empty);
    }
    let mut names = HashSet::new();
    for (position, vm) in vms.iter().enumerate() {
        if vm.name.is_empty() {
            return Err(MatrixFileError::NoName(position + 1));
        }
        if !names.insert(vm.name.as_str()) {
            return Err(MatrixFileError::DuplicateName(vm.name.clone()));
        }
    }
    Ok(())
}

fn check_frames(vms: &[MatrixVm], what: &str, frames: Option<&[Vec<u64>]>) -> Result<(), MatrixFileError> {
    let Some(frames) = frames else { return Ok(()) };
    check_square(what, frames, vms.len())?;
    for (i, row) in frames.iter().enumerate() {
        for (j, shared) in row.iter().enumerate() {
            let expected = match () {
                () if i == j && *shared != 0 => "0 on the diagonal",
                () if *shared != frames[j][i] => "the same number of shared frames both ways",
                () => continue,
            };
            return Err(cell(vms, i, j, shared.to_string(), expected));
        }
    }
    Ok(())
}

fn check_square<T>(what: &str, rows: &[Vec<T>], expected: usize) -> Result<(), MatrixFileError> {
    let not_square = |what: String, found| Err(MatrixFileError::NotSquare { what, found, expected });
    if rows.len() != expected {
        return not_square(what.to_owned(), rows.len());
    }
    match rows.iter().position(|row| row.len() != expected) {
        Some(i) => not_square(format!("row {} of {what}", i + 1), rows[i].len()),
        None => Ok(()),
    }
}
