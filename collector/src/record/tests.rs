use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::schema::{EndState, Table};
use huddle_model::snapshot::{Event, EventKind};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::host::HostRoot;

fn snapshot(round: u64) -> Arc<Snapshot> {
    let none = || "not in this test".to_owned();
    Arc::new(Snapshot {
        round,
        begin_unix_us: round * 1000,
        end_unix_us: round * 1000 + 500,
        ksm: Availability::Unavailable(none()),
        topology: Availability::Unavailable(none()),
        vms: Vec::new(),
        matrix: Availability::Available(SharingMatrix::from_file_text("vm,a,b\na,-,50\nb,25,-\n").unwrap()),
        plan: Availability::Unavailable("nothing to plan with".into()),
        pinned: Availability::Unavailable(none()),
        events: vec![Event { at_unix_us: round, kind: EventKind::Note, vm: None, message: "hello".into() }],
        own_cpu_us: Availability::Unavailable(none()),
    })
}

fn start(dir: &Path, limits: RecordingLimits) -> RecorderHandle {
    let tree = tempfile::tempdir().unwrap();
    let input =
        ManifestInput { run: "r".into(), host: "h".into(), command: vec!["huddle".into()], topology: None };
    RecorderHandle::start(dir, manifest(&HostRoot::at(tree.path()), input), limits).unwrap()
}

fn read_manifest(dir: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap()
}

fn segments(dir: &Path, table: Table) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(table.name())).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.collect();
    found.sort();
    found
}

fn read(path: &Path) -> Vec<RecordBatch> {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

#[test]
fn what_is_recorded_reads_back_with_nulls() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("host=h/run=1");
    let recorder = start(&run, RecordingLimits::default());
    recorder.send(snapshot(1));
    recorder.send(snapshot(2));
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.rows, summary.segments, summary.rounds_lost), (4 + 2 + 2, 3, 0));

    let paths = segments(&run, Table::Sharing);
    assert_eq!(paths, [run.join("sharing/segment-000001.parquet")]);
    let batches = read(&paths[0]);
    let column = |name: &str| {
        let arrays: Vec<_> =
            batches.iter().map(|batch| batch.column_by_name(name).unwrap().clone()).collect();
        assert_eq!(arrays.len(), 1, "one row group of a small file is one batch");
        arrays[0].clone()
    };
    assert_eq!(column("round").as_primitive::<UInt64Type>().values(), &[1, 1, 2, 2]);
    assert_eq!(column("rate").as_primitive::<Float64Type>().values(), &[0.5, 0.25, 0.5, 0.25]);
    assert_eq!(column("shared_frames").null_count(), 4, "a file gave rates only: frames are not 0");
    assert_eq!(column("other").as_string::<i32>().value(0), "b");

    let manifest = read_manifest(&run);
    assert_eq!(manifest.ended, EndState::Closed);
    assert_eq!((manifest.tables["sharing"].rows, manifest.tables["ksm"].segments), (4, 0));
    for path in [run.join("manifest.json"), paths[0].clone()] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_that_holds_something_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x"), "").unwrap();
    let tree = tempfile::tempdir().unwrap();
    let input = ManifestInput { run: "r".into(), host: "h".into(), command: Vec::new(), topology: None };
    let manifest = manifest(&HostRoot::at(tree.path()), input);
    let error = RecorderHandle::start(dir.path(), manifest, RecordingLimits::default()).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn segments_are_closed_by_size_and_the_oldest_removed_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // Every round is larger than a segment may be, and two segments larger than all may be.
    let limits = RecordingLimits { segment_max_bytes: 1, total_max_bytes: Some(9000), ..Default::default() };
    let recorder = start(&run, limits);
    for round in 1..=20 {
        recorder.send(snapshot(round));
    }
    let summary = recorder.finish().unwrap();
    let manifest = read_manifest(&run);
    let removed: u64 = manifest.tables.values().map(|counts| counts.segments_removed).sum();
    assert!(removed > 0);
    assert_eq!(removed + summary.segments, 60, "three tables had a segment in each of 20 rounds");
    let there: Vec<PathBuf> = Table::ALL.iter().flat_map(|table| segments(&run, *table)).collect();
    assert_eq!(there.len() as u64, summary.segments);
    assert!(there.iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>() <= 9000 + 3 * 4000);
    assert!(!run.join("sharing/segment-000001.parquet").exists(), "the oldest go first");
    assert!(run.join("sharing/segment-000020.parquet").exists());
}

#[test]
fn a_segment_is_closed_by_age_while_the_recording_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let limits = RecordingLimits { segment_max_age: Duration::from_millis(1), ..Default::default() };
    let recorder = start(&run, limits);
    recorder.send(snapshot(1));
    let closed = run.join("sharing/segment-000001.parquet");
    for _ in 0..500 {
        if closed.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(read(&closed)[0].num_rows(), 2);
    assert_eq!(read_manifest(&run).ended, EndState::Open);
    drop(recorder);
    assert_eq!(read_manifest(&run).ended, EndState::Closed, "a drop closes it, too");
}

#[test]
fn a_write_that_fails_ends_the_recording_with_its_reason_and_keeps_what_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let limits = RecordingLimits { segment_max_bytes: 1, ..Default::default() };
    let recorder = start(&run, limits);
    recorder.send(snapshot(1));
    let first = run.join("events/segment-000001.parquet");
    while !first.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Root writes anywhere, so the table's directory goes away instead of becoming read-only.
    fs::rename(run.join("sharing"), run.join("moved")).unwrap();
    recorder.send(snapshot(2));
    let error = recorder.finish().unwrap_err();
    assert!(error.to_string().contains("sharing"), "{error}");
    assert!(matches!(read_manifest(&run).ended, EndState::Failed(reason) if reason.contains("sharing")));
    assert_eq!(read(&run.join("moved/segment-000001.parquet"))[0].num_rows(), 2);
}

#[test]
fn rounds_that_find_the_recorder_gone_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let recorder = start(&run, RecordingLimits { segment_max_bytes: 1, ..Default::default() });
    fs::rename(run.join("sharing"), run.join("moved")).unwrap();
    recorder.send(snapshot(1));
    for round in 2.. {
        recorder.send(snapshot(round));
        if recorder.rounds_lost() > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(recorder.finish().is_err());
}
