//! Rebuilds a matrix from its rows.

use std::collections::{BTreeMap, HashMap};

use huddle_model::availability::Availability;
use huddle_model::kind::UnknownKind;
use huddle_model::matrix::{
    FrameReading, MatrixParts, MatrixVm, MemoryUse, Method, ReadParts, SharedGroup, SharedGroups,
    SharingMatrix,
};
use huddle_model::page_size::PageSize;
use huddle_model::schema::{DecisionRow, GroupRow, SharingRow, VmColumns, VmRow};

use super::round::{columns_of, known_uuid, not_recorded};

/// The rows of a matrix, without the names in each.
#[derive(Default)]
pub(super) struct Pairs {
    vms: Vec<(String, VmColumns)>,
    positions: HashMap<String, usize>,
    cells: Vec<PairCells>,
    /// From the first row.
    about: Option<About>,
}

/// How a matrix was measured.
struct About {
    method: String,
    measured_in_us: Option<u64>,
    coverage: Option<f64>,
    read_by: Option<String>,
    read_by_reason: Option<String>,
    read_window_ms: Option<u32>,
}

/// What one VM, by position, shares with another.
struct PairCells {
    vm: usize,
    other: usize,
    shared_frames: Option<u64>,
    shared_file_frames: Option<u64>,
    shared_frames_read: Option<u64>,
    rate: f64,
}

impl Pairs {
    /// The frames of every pair, if every row has them.
    fn frames(&self, of: impl Fn(&PairCells) -> Option<u64>) -> Option<Vec<Vec<u64>>> {
        let mut frames = vec![vec![0; self.vms.len()]; self.vms.len()];
        for cells in &self.cells {
            frames[cells.vm][cells.other] = of(cells)?;
        }
        Some(frames)
    }

    pub(super) fn push(&mut self, row: SharingRow) {
        let (vm, other) = (VmColumns::default(), VmColumns::default());
        let i = self.position(
            row.vm,
            VmColumns { vm_kind: row.vm_kind, pid: row.vm_pid, uuid: row.uuid, domid: row.domid, ..vm },
        );
        let j = self.position(
            row.other,
            VmColumns {
                vm_kind: row.other_kind,
                pid: row.other_pid,
                uuid: row.other_uuid,
                domid: row.other_domid,
                ..other
            },
        );
        let SharingRow { shared_frames, shared_file_frames, shared_frames_read, rate, .. } = row;
        self.cells.push(PairCells {
            vm: i,
            other: j,
            shared_frames,
            shared_file_frames,
            shared_frames_read,
            rate,
        });
        self.about.get_or_insert(About {
            method: row.method,
            measured_in_us: row.measured_in_us,
            coverage: row.coverage,
            read_by: row.read_by,
            read_by_reason: row.read_by_reason,
            read_window_ms: row.read_window_ms,
        });
    }

    /// Rows come row by row of the matrix, so the first row names all VMs in their order.
    fn position(&mut self, name: String, columns: VmColumns) -> usize {
        if let Some(position) = self.positions.get(&name) {
            return *position;
        }
        self.vms.push((name.clone(), columns));
        self.positions.insert(name, self.vms.len() - 1);
        self.vms.len() - 1
    }
}

/// The matrix of a round, from its rows.
pub(super) fn matrix(
    decision: Option<&DecisionRow>,
    pairs: Pairs,
    vms: &[VmRow],
    page_size: PageSize,
) -> Availability<SharingMatrix> {
    const LACKING: &str = "what the VMs shared in this round";
    if let Some(reason) = decision.and_then(|decision| decision.sharing_unavailable.clone()) {
        return Availability::Unavailable(reason);
    }
    let mut pairs = pairs;
    // One VM alone has no pair, and so no row; its matrix is known all the same.
    if let (Some(_), [only], true) = (decision, vms, pairs.cells.is_empty()) {
        pairs.vms.push((only.vm.clone(), columns_of(only)));
    }
    let n = pairs.vms.len();
    if n == 0 || pairs.cells.len() != n * (n - 1) {
        return not_recorded(if n == 0 { LACKING } else { "all pairs of VMs of this round" });
    }
    let mut rate = vec![vec![0.0; n]; n];
    pairs.cells.iter().for_each(|cells| rate[cells.vm][cells.other] = cells.rate);
    let shared_frames = pairs.frames(|cells| cells.shared_frames);
    let shared_file_frames = pairs.frames(|cells| cells.shared_file_frames);
    let unknown =
        |error: UnknownKind| not_recorded(&format!("how sharing was measured in this round: {error}"));
    let reads = reads(&pairs, vms);
    let (method, measured_in_us, coverage, frame_reading) = match pairs.about {
        Some(about) => {
            let method = match about.method.parse() {
                Ok(method) => method,
                Err(error) => return unknown(error),
            };
            let by = match about.read_by.map(|by| by.parse()).transpose() {
                Ok(by) => by,
                Err(error) => return unknown(error),
            };
            let reading = by.map(|by| FrameReading { by, reason: about.read_by_reason });
            (method, about.measured_in_us, about.coverage, reading)
        }
        // One VM alone has no row that names it.
        None => (Method::File, None, None, None),
    };
    let vms: Vec<MatrixVm> =
        pairs.vms.into_iter().map(|(name, columns)| matrix_vm(name, columns, vms)).collect();
    // Where no VM has pages of the page cache, or there is no pair, nothing is kept of pairs.
    let has_some = |vm: &MatrixVm| vm.memory.and_then(|memory| memory.pages_file) != Some(0);
    let parts = MatrixParts {
        method,
        shared_frames,
        shared_file_frames: shared_file_frames.filter(|_| n > 1 && vms.iter().any(has_some)),
        groups: None,
        vms,
        rate,
        duration_ms: measured_in_us.map(|us| us as f64 / 1000.0),
        coverage,
        page_size,
        frame_reading,
        reads,
    };
    match SharingMatrix::from_parts(parts) {
        Ok(matrix) => Availability::Available(matrix),
        Err(error) => not_recorded(&format!("a valid matrix of this round: {error}")),
    }
}

const NO_REASON: &str = "the recording does not say why";

/// What of the shared frames was read; `None` where that was not measured. The groups of VMs that read the same frames are
/// not recorded.
fn reads(pairs: &Pairs, rows: &[VmRow]) -> Option<ReadParts> {
    let window_ms = pairs.about.as_ref()?.read_window_ms?;
    let n = pairs.vms.len();
    let reason = |name: &str| rows.iter().find(|row| row.vm == name)?.reads_unavailable.clone();
    let mut unavailable: Vec<Option<String>> = pairs.vms.iter().map(|(name, _)| reason(name)).collect();
    // Rows of a damaged segment are missing. First the VMs of which nothing is known, then one of each pair that is left.
    let unknown = |cells: &&PairCells| cells.shared_frames_read.is_none();
    let is_of = |cells: &&PairCells, vm: usize| cells.vm == vm || cells.other == vm;
    for (vm, unavailable) in unavailable.iter_mut().enumerate() {
        if pairs.cells.iter().filter(|cells| is_of(cells, vm)).all(|cells| unknown(&cells)) {
            unavailable.get_or_insert_with(|| NO_REASON.to_owned());
        }
    }
    for PairCells { vm, other, .. } in pairs.cells.iter().filter(unknown) {
        if unavailable[*vm].is_none() && unavailable[*other].is_none() {
            unavailable[*vm] = Some(NO_REASON.to_owned());
        }
    }
    let is_seen = |vm: usize, other: usize| unavailable[vm].is_none() && unavailable[other].is_none();
    let mut frames: Vec<Vec<Option<u64>>> =
        (0..n).map(|i| (0..n).map(|j| is_seen(i, j).then_some(0)).collect()).collect();
    for PairCells { vm, other, shared_frames_read, .. } in &pairs.cells {
        frames[*vm][*other] = shared_frames_read.filter(|_| is_seen(*vm, *other));
    }
    Some(ReadParts { frames, groups: None, window_ms, unavailable })
}

/// The matrix with the groups that were recorded with it, or without and why these are none of it: rows of a damaged
/// segment are missing.
pub(super) fn with_groups(
    matrix: SharingMatrix,
    rows: &[GroupRow],
) -> (Availability<SharingMatrix>, Option<String>) {
    let Some(rest) = rows.iter().find(|row| row.group_number == 0) else {
        return (Availability::Available(matrix), None);
    };
    let positions: HashMap<&str, u32> =
        (0..).zip(matrix.vms()).map(|(at, vm)| (vm.name.as_str(), at)).collect();
    let mut sets: BTreeMap<u32, SharedGroup> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.group_number > 0) {
        let set = sets.entry(row.group_number).or_insert(SharedGroup { vms: Vec::new(), frames: row.frames });
        // A VM that is not in the matrix leaves the frames of some pair too few, or the group too small.
        set.vms.extend(row.vm.as_deref().and_then(|vm| positions.get(vm)));
    }
    sets.values_mut().for_each(|set| set.vms.sort_unstable());
    let groups = SharedGroups::of(sets.into_values(), rest.frames);
    match matrix.clone().try_with_groups(groups) {
        Ok(matrix) => (Availability::Available(matrix), None),
        Err(error) => {
            let problem =
                format!("the recording does not hold the groups of this round as they were: {error}");
            (Availability::Available(matrix), Some(problem))
        }
    }
}

fn matrix_vm(name: String, columns: VmColumns, vms: &[VmRow]) -> MatrixVm {
    let is_same = |row: &&VmRow| {
        let of_row = columns_of(row);
        row.vm == name
            && columns.pid.is_none_or(|pid| of_row.pid == Some(pid))
            && columns.domid.is_none_or(|domid| of_row.domid == Some(domid))
            && columns.uuid.is_none_or(|uuid| of_row.uuid == Some(uuid))
    };
    let row = vms.iter().find(is_same);
    let known = row.map_or(columns, columns_of);
    let memory = row.and_then(|row| {
        Some(MemoryUse {
            pages_resident: row.pages_resident?,
            pages_used: row.pages_used?,
            frames_used: row.frames_used?,
            pages_zero: row.pages_zero?,
            self_shared_pages: row.self_shared_pages?,
            pages_file: row.pages_file,
        })
    });
    let vcpus = row.map_or(1, |row| row.vcpus);
    // The owner is not recorded.
    MatrixVm { name, id: known.id(), uuid: known_uuid(&known), owner: None, vcpus, memory }
}
