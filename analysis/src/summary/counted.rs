//! The counters of each VM, summed directly from the segments.
//!
//! This table has most of the rows of a long recording: one for each vCPU and window. What the summary asks of it is a
//! few sums by VM, so its row groups are decoded and added up side by side, without an engine for queries between. The
//! sums are those of [`crate::sums`], and they are added in the order of the row groups, so that equal recordings give
//! equal sums.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float64Type, Int32Type, UInt64Type};
use arrow_array::{Array, PrimitiveArray, RecordBatch};
use arrow_schema::{DataType, Schema};
use huddle_model::schema::Table;
use huddle_model::stats::{BlockSums, Part};
use huddle_recording::SegmentFault;
use huddle_recording::guarded::{Threads, guarded};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};

use crate::AnalysisError;
use crate::run::RunDir;

/// Rows that are decoded at a time by each thread.
const BATCH_ROWS: usize = 16_384;

/// The sums of one VM.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VmSums {
    pub(super) sums: BlockSums,
    /// The first and the last window with it; `None` without a row.
    pub(super) windows: Option<(u64, u64)>,
}

/// The sums of each VM of a run, by name.
pub(super) fn by_vm(run: &RunDir) -> Result<BTreeMap<String, VmSums>, AnalysisError> {
    let table = Table::Counters;
    let (version, files) = run.readable_files(table)?;
    let cannot = |fault: SegmentFault| AnalysisError::unreadable(run.path(), table, &fault);
    let segments = files.iter().map(|path| Segment::open(path, version));
    let segments: Vec<Segment> = segments.collect::<Result<_, _>>().map_err(cannot)?;
    let parts: Vec<(&Segment, usize)> = segments
        .iter()
        .flat_map(|segment| {
            (0..segment.footer.metadata().num_row_groups()).map(move |group| (segment, group))
        })
        .collect();
    sums(&parts).map_err(cannot)
}

/// Adds up the row groups `parts`, several at a time.
fn sums(parts: &[(&Segment, usize)]) -> Result<BTreeMap<String, VmSums>, SegmentFault> {
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Total::default());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((segment, group)) = parts.get(at) else { return Ok(()) };
            let found = segment.sums(*group).inspect_err(|_| next.store(parts.len(), Ordering::Relaxed))?;
            total.lock().unwrap_or_else(PoisonError::into_inner).add(at, found);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(parts.len());
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        // A panic of the decoder is an error of its segment (`Segment::sums`).
        others.into_iter().fold(own, |all, other| match other.join() {
            Ok(one) => all.and(one),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(total.sums)
}

/// Sums of row groups, added in their order.
#[derive(Default)]
struct Total {
    sums: BTreeMap<String, VmSums>,
    /// How many row groups were added.
    added: usize,
    /// Those that were finished before an earlier one.
    waiting: BTreeMap<usize, Vec<(String, VmSums)>>,
}

impl Total {
    fn add(&mut self, at: usize, found: Vec<(String, VmSums)>) {
        self.waiting.insert(at, found);
        while let Some(found) = self.waiting.remove(&self.added) {
            self.added += 1;
            for (vm, sums) in found {
                self.sums.entry(vm).or_default().merge(&sums);
            }
        }
    }
}

impl VmSums {
    fn merge(&mut self, other: &Self) {
        for (ours, theirs) in [
            (&mut self.sums.mpki, other.sums.mpki),
            (&mut self.sums.miss_ratio, other.sums.miss_ratio),
            (&mut self.sums.ipc, other.sums.ipc),
        ] {
            ours.above += theirs.above;
            ours.below += theirs.below;
        }
        self.sums.samples.merge(&other.sums.samples);
        self.windows = match (self.windows, other.windows) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
    }
}

/// A segment whose columns are those of the schema.
struct Segment {
    path: PathBuf,
    footer: ArrowReaderMetadata,
    /// Its schema version.
    version: u32,
}

impl Segment {
    fn open(path: &Path, version: u32) -> Result<Self, SegmentFault> {
        let load = || -> Result<ArrowReaderMetadata, String> {
            let file = File::open(path).map_err(|error| error.to_string())?;
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let footer = ArrowReaderMetadata::load(&file, options).map_err(|error| error.to_string())?;
            // Names stay in the dictionary in which they are stored: one text for each VM, not for each row.
            let fields = footer.schema().fields().iter().map(|field| match field.name().as_str() {
                "vm" => {
                    let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                    Arc::new(field.as_ref().clone().with_data_type(kind))
                }
                _ => Arc::clone(field),
            });
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let options = ArrowReaderOptions::new().with_schema(schema);
            let metadata = Arc::clone(footer.metadata());
            ArrowReaderMetadata::try_new(metadata, options).map_err(|error| error.to_string())
        };
        let footer = guarded(Threads::This, load).map_err(|panicked| panicked.to_string()).flatten();
        let footer = footer.map_err(|what| SegmentFault::of(path, what))?;
        Ok(Self { path: path.to_owned(), footer, version })
    }

    /// The sums of one row group, in the order of first appearance.
    fn sums(&self, group: usize) -> Result<Vec<(String, VmSums)>, SegmentFault> {
        guarded(Threads::This, || self.decode(group))
            .map_err(|panicked| panicked.to_string())
            .flatten()
            .map_err(|what| SegmentFault::of(&self.path, what))
    }

    fn decode(&self, group: usize) -> Result<Vec<(String, VmSums)>, String> {
        let file = File::open(&self.path).map_err(|error| error.to_string())?;
        let names = NAMES.map(|name| Table::Counters.column_name(name, self.version));
        let columns = ProjectionMask::columns(self.footer.parquet_schema(), names.iter().copied().flatten());
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.footer.clone())
            .with_projection(columns)
            .with_row_groups(vec![group])
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| error.to_string())?;
        let mut found = Found::default();
        for batch in batches {
            let batch = batch.map_err(|error| error.to_string())?;
            found.add(&batch, &names).ok_or("a column has another type than its footer says")?;
        }
        Ok(found.vms)
    }
}

/// The columns that are asked for.
const NAMES: [&str; 11] = [
    "vm",
    "window",
    "cycles",
    "instructions",
    "llc_references",
    "llc_misses",
    "time_enabled_ns",
    "time_running_ns",
    "migrations",
    "domain_migrations",
    "pages_broken",
];

/// The sums of one row group so far.
#[derive(Default)]
struct Found {
    vms: Vec<(String, VmSums)>,
    /// Position of a VM among them.
    places: HashMap<String, usize>,
}

impl Found {
    /// Adds the rows of a batch; `None` if a column is not of its type.
    fn add(&mut self, batch: &RecordBatch, names: &[Option<&str>; NAMES.len()]) -> Option<()> {
        let [
            vm,
            window,
            cycles,
            instructions,
            references,
            misses,
            enabled,
            running,
            moves,
            domain_moves,
            broken,
        ] = names.map(|name| name.and_then(|name| batch.column_by_name(name)));
        let vms = vm?.as_dictionary_opt::<Int32Type>()?;
        let texts = vms.values().as_string_opt::<i32>()?;
        let places: Vec<usize> = texts.iter().map(|name| self.place(name.unwrap_or_default())).collect();
        let double = Values::<Float64Type>::of;
        let [cycles, instructions, references, misses] =
            [double(cycles)?, double(instructions)?, double(references)?, double(misses)?];
        let whole = Values::<UInt64Type>::of;
        let [enabled, running] = [whole(enabled)?, whole(running)?];
        let [moves, domain_moves, broken] = [whole(moves)?, whole(domain_moves)?, whole(broken)?];
        let windows = whole(window)?;
        for (row, key) in vms.keys().values().iter().enumerate() {
            // A key of a null is no position.
            let Some((_, vm)) = places.get(*key as usize).and_then(|place| self.vms.get_mut(*place)) else {
                continue;
            };
            let (misses, instructions) = (misses.at(row), instructions.at(row));
            add(&mut vm.sums.mpki, misses, instructions);
            add(&mut vm.sums.miss_ratio, misses, references.at(row));
            add(&mut vm.sums.ipc, instructions, cycles.at(row));
            let samples = &mut vm.sums.samples;
            samples.samples += 1;
            samples.without_misses += u64::from(misses.is_none());
            let is_shared =
                running.at(row).zip(enabled.at(row)).is_some_and(|(running, enabled)| running < enabled);
            samples.multiplexed += u64::from(is_shared);
            // Moves within a domain keep the cache; if domains are unknown any move counts.
            samples.add_moves(domain_moves.at(row).or_else(|| moves.at(row)));
            samples.add_breaks(broken.at(row));
            if let Some(window) = windows.at(row) {
                let (first, last) = vm.windows.unwrap_or((window, window));
                vm.windows = Some((first.min(window), last.max(window)));
            }
        }
        Some(())
    }

    fn place(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.vms.len();
        self.places.insert(name.to_owned(), place);
        self.vms.push((name.to_owned(), VmSums::default()));
        place
    }
}

fn add(part: &mut Part, above: Option<f64>, below: Option<f64>) {
    if let (Some(above), Some(below)) = (above, below) {
        part.above += above;
        part.below += below;
    }
}

/// The values of a column; all are null where the version does not have it.
#[derive(Clone, Copy)]
struct Values<'a, T: ArrowPrimitiveType> {
    array: Option<&'a PrimitiveArray<T>>,
}

impl<'a, T: ArrowPrimitiveType> Values<'a, T> {
    /// `None` if it is of another type.
    fn of(column: Option<&'a Arc<dyn Array>>) -> Option<Self> {
        match column {
            None => Some(Self { array: None }),
            Some(column) => Some(Self { array: Some(column.as_primitive_opt()?) }),
        }
    }

    fn at(&self, row: usize) -> Option<T::Native> {
        let array = self.array?;
        (!array.is_null(row)).then(|| array.value(row))
    }
}
