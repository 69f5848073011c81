//! What it costs to compare a segment with its checksum, beside reading the same segment:
//! `cargo bench --package huddle-record --bench verify`.
#![allow(clippy::unwrap_used, reason = "a benchmark: what fails, panics")]

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use huddle_model::schema::{Manifest, Table};
use huddle_record::{Recorder, RecorderLimits};
use huddle_recording::{SegmentName, check_segment, read_manifest};
use huddle_testing::figures::median;
use huddle_testing::output::say;
use huddle_testing::sample;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// How often each is done; the median is printed.
const TIMES: usize = 9;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut limits = RecorderLimits::default();
    limits.queue.0 = 10_000;
    limits.segment.max_age = Duration::from_secs(3600);
    let recorder = Recorder::start(&run, sample::manifest(), limits).unwrap();
    let views: Vec<_> = (1..=300).map(|round| sample::view(round, 60)).collect();
    sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
    recorder.finish().unwrap();
    let manifest = read_manifest(&run).unwrap();
    say("segment             size      verify        MB/s      read       verify / read");
    for table in [Table::Sharing, Table::Placements, Table::Vms] {
        measure(&run, table, &manifest);
    }
}

fn measure(run: &Path, table: Table, manifest: &Manifest) {
    let path = run.join(table.name()).join("segment-000001.parquet");
    let bytes = std::fs::metadata(&path).unwrap().len();
    let name = SegmentName { table, number: 1, manifest: Some(manifest) };
    let verify_s = seconds(|| drop(check_segment(&path, name).unwrap()));
    let read_s = seconds(|| {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let rows: usize = builder.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum();
        assert!(rows > 0);
    });
    say(&format!(
        "{:<12} {:>9} B {:>9.3} ms {:>9.0} {:>9.3} ms {:>9.3}",
        table.name(),
        bytes,
        verify_s * 1e3,
        bytes as f64 / 1e6 / verify_s,
        read_s * 1e3,
        verify_s / read_s,
    ));
}

/// Seconds that it takes, the median of several times.
fn seconds(mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64()
    };
    median(&(0..TIMES).map(time).collect::<Vec<_>>())
}
