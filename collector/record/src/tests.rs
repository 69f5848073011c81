use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use huddle_model::schema::{MANIFEST_FILE, Manifest, Row, RowContext, Rows, Table, TableVisitor, round_rows};
use huddle_testing::sample::{manifest, sketches, steps, view};
use huddle_testing::sample_observed::{observed, responses};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};

use super::batch::{arrow_schema, batch};
use super::writer::RunWriter;
use super::*;

mod interruptions;

fn limits(max_bytes: u64, max_age: Duration) -> RecorderLimits {
    RecorderLimits { segment: SegmentLimits { max_bytes, max_age }, ..Default::default() }
}

const HOUR: Duration = Duration::from_secs(3600);

/// File names of a table, ascending.
fn files(run: &Path, table: Table) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(run.join(table.name())) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

fn read_manifest(run: &Path) -> Manifest {
    Manifest::from_json(&std::fs::read_to_string(run.join(MANIFEST_FILE)).unwrap()).unwrap()
}

/// What the rows should read back as, by table.
struct Expected(BTreeMap<Table, RecordBatch>);

impl TableVisitor for Expected {
    type Error = Infallible;
    fn visit<R: Row>(&mut self, rows: &[R]) -> Result<(), Infallible> {
        self.0.insert(R::TABLE, batch(arrow_schema(R::TABLE), rows).unwrap());
        Ok(())
    }
}

#[test]
fn what_was_sent_is_read_back_with_its_nulls() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("new/run");
    let recorder = Recorder::start(&run, manifest(), RecorderLimits::default()).unwrap();
    let sent = observed(4, 3);
    recorder.send(sent.updates_since(None).into());
    recorder.send_rows(responses(&sent));
    recorder.send_rows(sketches());
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.steps, RecordingStatus { steps_recorded: 1, steps_lost: 0 });

    let rows = Rows {
        responses: responses(&sent).responses,
        sketches: sketches().sketches,
        hosts: sketches().hosts,
        ..RowContext::default().rows(&sent.updates_since(None))
    };
    let mut expected = Expected(BTreeMap::new());
    let Ok(()) = rows.visit(&mut expected);
    for table in Table::ALL {
        assert_eq!(files(&run, *table), ["segment-000001.parquet"], "{table}");
        let path = run.join(table.name()).join("segment-000001.parquet");
        let [found] = read(&path).try_into().unwrap();
        assert_eq!(found.schema().fields(), expected.0[table].schema().fields(), "{table}");
        assert_eq!(found.columns(), expected.0[table].columns(), "{table}");
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let counts = summary.manifest.counts(*table);
        assert_eq!((counts.rows_written, counts.rows_lost), (rows.count(*table), 0), "{table}");
    }
    // A few values by hand, past the encoder that both sides share.
    let placements = &read(&run.join("placements/segment-000001.parquet"))[0];
    assert!(placements["last_cpu"].is_null(0));
    assert!(placements["applied"].as_boolean().value(0) && placements["applied"].is_valid(0));
    assert!(placements["not_applied_reason"].is_null(0));
    let merging = &read(&run.join("merging/segment-000001.parquet"))[0];
    assert!(merging["merges_failed"].is_null(0));
    assert_eq!(merging["pages_merged"].as_primitive::<arrow_array::types::UInt64Type>().value(0), 7);
    let ksm = &read(&run.join("ksm/segment-000001.parquet"))[0];
    assert!(ksm["ksm_zero_pages"].is_null(0) && ksm["unavailable"].is_null(0));

    let on_disk = read_manifest(&run);
    assert_eq!(on_disk, summary.manifest);
    assert!(on_disk.end_us.is_some() && on_disk.stopped.is_none());
    assert_eq!(std::fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(summary.manifest_path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn files_are_zstd_with_dictionaries_for_names() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path(), manifest(), RecorderLimits::default()).unwrap();
    (1..20).for_each(|round| recorder.send(steps([&view(round, 4)]).remove(0)));
    recorder.finish().unwrap();
    let file = File::open(dir.path().join("sharing/segment-000001.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let group = reader.metadata().row_group(0);
    let vm = group.columns().iter().find(|column| column.column_path().string() == "vm").unwrap();
    assert!(matches!(vm.compression(), Compression::ZSTD(_)));
    assert!(vm.encodings().any(|encoding| encoding == Encoding::RLE_DICTIONARY));
    let field = reader.schema().field_with_name("shared_frames").unwrap();
    assert_eq!(field.metadata()["unit"], "frames");
}

#[test]
fn an_open_segment_has_no_final_name_and_full_ones_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut writer = RunWriter::create(dir.path(), manifest(), limits(u64::MAX, HOUR)).unwrap();
    writer.write(&round_rows(&view(1, 3).round), now);
    assert_eq!(files(dir.path(), Table::Sharing), [".segment-000001.parquet.tmp"]);
    assert_eq!(read_manifest(dir.path()).counts(Table::Sharing).rows_written, 0);
    assert_eq!(writer.next_deadline(), Some(now + HOUR));

    // By age, rows or not.
    writer.tick(now + HOUR - Duration::from_millis(1));
    assert_eq!(files(dir.path(), Table::Sharing), [".segment-000001.parquet.tmp"]);
    writer.tick(now + HOUR);
    assert_eq!(files(dir.path(), Table::Sharing), ["segment-000001.parquet"]);
    let manifest = read_manifest(dir.path());
    assert_eq!((manifest.counts(Table::Sharing).rows_written, manifest.end_us), (6, None));
    assert_eq!(writer.next_deadline(), None);

    writer.write(&round_rows(&view(2, 3).round), now + HOUR);
    writer.finish(now + HOUR, 77);
    assert_eq!(files(dir.path(), Table::Sharing), ["segment-000001.parquet", "segment-000002.parquet"]);
    assert_eq!(read_manifest(dir.path()).end_us, Some(77));
}

#[test]
fn segments_are_closed_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut writer = RunWriter::create(dir.path(), manifest(), limits(20_000, HOUR)).unwrap();
    for round in 1..=60 {
        writer.write(&round_rows(&view(round, 20).round), now);
    }
    writer.finish(now, 1);
    let names = files(dir.path(), Table::Sharing);
    assert!(names.len() > 2, "{names:?}");
    let mut rows = 0;
    for name in &names {
        let path = dir.path().join("sharing").join(name);
        assert!(std::fs::metadata(&path).unwrap().len() < 60_000);
        rows += read(&path).iter().map(RecordBatch::num_rows).sum::<usize>();
    }
    assert_eq!(rows, 60 * 20 * 19);
}

#[test]
fn the_oldest_closed_segments_go_when_the_recording_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = limits(u64::MAX, Duration::ZERO);
    all.recording.max_total_bytes = Some(1 << 20);
    let now = Instant::now();
    let mut writer = RunWriter::create(dir.path(), manifest(), all).unwrap();
    // Each round is a segment of every table.
    for round in 1..=60 {
        writer.write(&round_rows(&view(round, 24).round), now);
    }
    writer.finish(now, 1);
    let manifest = read_manifest(dir.path());
    let counts = manifest.counts(Table::Sharing);
    assert_eq!((counts.segments_written, counts.rows_written), (60, 60 * 24 * 23));
    assert!(counts.segments_removed > 0 && counts.segments_removed < 60, "{counts:?}");
    assert_eq!(counts.rows_removed, counts.segments_removed * 24 * 23);
    let mut bytes = 0;
    for table in Table::ALL {
        let counts = manifest.counts(*table);
        let names = files(dir.path(), *table);
        assert_eq!(names.len() as u64, counts.segments_written - counts.segments_removed, "{table}");
        let is_recorded = counts.rows_written > 0;
        assert_eq!(names.last().map(String::as_str), is_recorded.then_some("segment-000060.parquet"));
        for name in names {
            bytes += std::fs::metadata(dir.path().join(table.name()).join(name)).unwrap().len();
        }
    }
    assert!(bytes <= 1 << 20 && bytes > 900_000, "{bytes}");
}

#[test]
fn old_segments_go_when_there_is_a_limit_of_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = limits(u64::MAX, Duration::ZERO);
    all.recording.max_age = Some(HOUR);
    let now = Instant::now();
    let mut writer = RunWriter::create(dir.path(), manifest(), all).unwrap();
    writer.write(&round_rows(&view(1, 2).round), now);
    writer.write(&round_rows(&view(2, 2).round), now + HOUR / 2);
    assert_eq!(writer.next_deadline(), Some(now + HOUR));
    writer.tick(now + HOUR);
    assert_eq!(files(dir.path(), Table::Ksm), ["segment-000002.parquet"]);
    assert_eq!(read_manifest(dir.path()).counts(Table::Ksm).rows_removed, 1);
}

#[test]
fn a_directory_that_is_not_empty_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
    let error = Recorder::start(dir.path(), manifest(), RecorderLimits::default()).unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    let file = dir.path().join("thesis.txt/run");
    let error = Recorder::start(&file, manifest(), RecorderLimits::default()).unwrap_err();
    assert!(error.to_string().contains("thesis.txt/run"), "{error}");

    let mut small = RecorderLimits::default();
    small.recording.max_total_bytes = Some(1000);
    let error = Recorder::start(&dir.path().join("new"), manifest(), small).unwrap_err();
    assert!(error.to_string().contains("allow at least 1048576 bytes"), "{error}");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn steps_that_the_writer_cannot_keep_up_with_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let all = RecorderLimits { queue: QueueLimit(1), ..limits(1, Duration::ZERO) };
    let recorder = Recorder::start(dir.path(), manifest(), all).unwrap();
    let sent = 50;
    // Each step costs the writer six synced files, and the sender nothing.
    let views: Vec<_> = (1..=sent).map(|round| view(round, 8)).collect();
    steps(&views).into_iter().for_each(|step| recorder.send(step));
    let summary = recorder.finish().unwrap();
    let RecordingStatus { steps_recorded, steps_lost } = summary.steps;
    assert_eq!(steps_recorded + steps_lost, sent);
    assert!(steps_lost > 0);
    let counts = read_manifest(dir.path()).counts(Table::Sharing);
    assert_eq!((counts.rows_written, counts.rows_lost), (steps_recorded * 56, steps_lost * 56));
}

#[test]
fn dropping_the_handle_closes_the_recording() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path(), manifest(), RecorderLimits::default()).unwrap();
    recorder.send(steps([&view(1, 2)]).remove(0));
    drop(recorder);
    assert!(read_manifest(dir.path()).end_us.is_some());
    assert_eq!(files(dir.path(), Table::Vms), ["segment-000001.parquet"]);
}

/// A recording without a step is valid.
#[test]
fn a_run_without_a_step_has_a_manifest_and_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let summary =
        Recorder::start(dir.path(), manifest(), RecorderLimits::default()).unwrap().finish().unwrap();
    assert_eq!(summary.manifest.tables.len(), Table::ALL.len());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(round_rows(&view(1, 0).round).sharing, Rows::default().sharing);
}

#[test]
fn a_recording_that_begins_in_the_middle_has_the_round_of_its_windows() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path(), manifest(), RecorderLimits::default()).unwrap();
    let views: Vec<_> = (3..=5).map(|round| observed(round, 2)).collect();
    recorder.begin(&views[0]);
    steps(&views).into_iter().skip(1).for_each(|step| recorder.send(step));
    let summary = recorder.finish().unwrap();
    let written = |table| summary.manifest.counts(table).rows_written;
    // Three rounds; and the windows of the two that ended since.
    assert_eq!((written(Table::Decisions), written(Table::Windows), written(Table::Trials)), (3, 2, 1));
    assert_eq!(written(Table::Sharing), 6);
}
