//! What is left of a recording when its process is killed, and when its disk is full.

// Clippy knows functions of the standard harness as tests, and this file has its own.
#![allow(clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use huddle_model::availability::Availability;
use huddle_model::schema::{MANIFEST_FILE, Manifest, Table};
use huddle_record::{QueueLimit, Recorder, RecorderLimits, RecorderNotice, SegmentLimits};
use huddle_recording::{Origin, SegmentName, check_segment};
use huddle_testing::output::skip;
use huddle_testing::sample;
use libtest_mimic::{Arguments, Trial};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Where the child is to record.
const CHILD_RUN: &str = "HUDDLE_TEST_RECORD_CHILD_RUN";

fn main() -> ExitCode {
    if let Some(run) = std::env::var_os(CHILD_RUN) {
        return child(Path::new(&run));
    }
    let arguments = Arguments::from_args();
    let small_disk = SmallDisk::probe();
    let on_small_disk = |name: &str, test: fn()| {
        let run = move || {
            test();
            Ok(())
        };
        match small_disk.as_ref().map_err(|reason| skip(name, reason)) {
            Ok(()) => Trial::test(name, run),
            Err(Ok(())) => Trial::test(name, run).with_ignored_flag(true),
            Err(Err(failure)) => Trial::test(name, move || Err(failure.into())),
        }
    };
    let trials = vec![
        Trial::test("a_kill_loses_at_most_the_open_segment", || {
            // The delays strike at different moments of writing, syncing and renaming.
            for delay_ms in [0, 3, 7, 11, 16, 23, 31, 40] {
                killed(Duration::from_millis(delay_ms));
            }
            Ok(())
        }),
        on_small_disk("a_full_disk_stops_the_recorder_and_leaves_what_was_closed", full_disk),
        on_small_disk("recording_goes_on_when_space_returns", space_returns),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn limits(max_age: Duration) -> RecorderLimits {
    RecorderLimits {
        segment: SegmentLimits { max_bytes: u64::MAX, max_age },
        queue: QueueLimit(1000),
        ..Default::default()
    }
}

/// Records round after round until it is killed.
fn child(run: &Path) -> ExitCode {
    let recorder = Recorder::start(run, sample::manifest(), limits(Duration::from_millis(20))).unwrap();
    // An end for the case that nobody kills it.
    for round in 1..20_000 {
        recorder.send(sample::view(round, 4).updates_since(None).into());
        std::thread::sleep(Duration::from_millis(1));
    }
    ExitCode::FAILURE
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // SIGKILL: the child gets no chance to close anything.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn killed(delay: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD_RUN, &run)
        .stdin(Stdio::null())
        .spawn()
        .map(KilledOnDrop)
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let mut seen = 0;
    while seen < 4 {
        assert!(Instant::now() < until, "the child closed {seen} segments only");
        std::thread::sleep(Duration::from_millis(1));
        let closed = segments(&run, Table::Decisions);
        // Only complete files get a final name, so the newest can be read as soon as it is seen.
        if closed.len() > seen {
            rounds(closed.last().unwrap());
        }
        seen = closed.len();
    }
    std::thread::sleep(delay);
    drop(child);

    let manifest = read_manifest(&run);
    assert_eq!(manifest.end_us, None);
    for (table, rows_a_round) in [
        (Table::Sharing, 12),
        (Table::Vms, 4),
        (Table::Placements, 4),
        (Table::Decisions, 1),
        (Table::Ksm, 1),
    ] {
        let closed = segments(&run, table);
        let found: Vec<u64> = closed.iter().flat_map(|path| rounds(path)).collect();
        // No earlier segment lost anything: all rounds up to the last one kept are complete.
        let last = *found.last().unwrap();
        let expected: Vec<u64> =
            (1..=last).flat_map(|round| std::iter::repeat_n(round, rows_a_round)).collect();
        assert_eq!(found, expected, "{table}");
        for (number, path) in (1..).zip(&closed) {
            assert!(path.ends_with(format!("segment-{number:06}.parquet")), "{}", path.display());
            let name = SegmentName { table, number, manifest: Some(&manifest) };
            assert_eq!(check_segment(path, name).unwrap().origin, Origin::Checked);
        }
        let counts = manifest.counts(table);
        assert!(counts.rows_written <= found.len() as u64, "{table}: {counts:?}");
        let open = names(&run, table).into_iter().filter(|name| name.starts_with('.')).count();
        assert!(open <= 1, "{table}: {open} open segments");
    }
}

/// A small file system, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn probe() -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        Self::mount(dir.path(), 64 << 10).map(drop)
    }

    fn mount(at: &Path, bytes: u64) -> Result<Self, String> {
        let options = format!("size={bytes}");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "huddle-test"]).arg(at).output();
        let output = output.map_err(|error| format!("no mount command: {error}"))?;
        if output.status.success() {
            Ok(Self(at.to_owned()))
        } else {
            Err(format!("cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path(), 400 << 10).unwrap();
    let run = disk.0.join("run");
    // Each round is a segment of every table.
    let recorder = Recorder::start(&run, sample::manifest(), limits(Duration::ZERO)).unwrap();
    let rounds_sent = 60;
    (1..=rounds_sent).for_each(|round| recorder.send(sample::view(round, 16).updates_since(None).into()));
    let until = Instant::now() + Duration::from_secs(60);
    while recorder.status().value().is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    let Availability::Unavailable(reason) = recorder.status() else { panic!("{:?}", recorder.status()) };
    assert!(reason.contains("No space left on device") && reason.contains(run.to_str().unwrap()), "{reason}");
    // Further steps do no harm.
    recorder.send(sample::view(rounds_sent + 1, 16).updates_since(None).into());
    let error = recorder.finish().unwrap_err();
    assert!(error.to_string().starts_with("recording stopped early: cannot"), "{error}");

    let manifest = read_manifest(&run);
    assert_eq!(manifest.stopped.as_deref(), Some(reason.as_str()));
    assert!(manifest.end_us.is_some());
    for (table, rows_a_round) in [(Table::Sharing, 16 * 15), (Table::Vms, 16), (Table::Decisions, 1)] {
        let counts = manifest.counts(table);
        assert_eq!(counts.rows_written + counts.rows_lost, (rounds_sent + 1) * rows_a_round, "{table}");
        assert!(names(&run, table).iter().all(|name| name.starts_with("segment-")), "{table}");
        let closed = segments(&run, table);
        assert_eq!(closed.len() as u64, counts.segments_written, "{table}");
        let rows: usize = closed.iter().map(|path| rounds(path).len()).sum();
        assert_eq!(rows as u64, counts.rows_written, "{table}");
    }
    assert!(manifest.counts(Table::Sharing).rows_written > 0);
}

/// The disk is filled by somebody else, and freed again.
fn space_returns() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path(), 8 << 20).unwrap();
    let run = disk.0.join("run");
    let (notify, notices) = std::sync::mpsc::channel();
    let mut limits = limits(Duration::ZERO);
    limits.retry.first = Duration::from_millis(50);
    let recorder =
        Recorder::start_with_notices(&run, sample::manifest(), limits, move |notice| _ = notify.send(notice))
            .unwrap();
    let send = |round| recorder.send(sample::view(round, 16).updates_since(None).into());
    let next = || notices.recv_timeout(Duration::from_secs(60));
    send(1);
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while [Table::Sharing, Table::Vms, Table::Decisions].iter().any(|table| !has_segment(&run, *table)) {
        assert!(std::time::Instant::now() < until, "the first round is not recorded");
        std::thread::sleep(Duration::from_millis(10));
    }
    let filler = disk.0.join("filler");
    // To the last page; it is reported at once.
    let mut file = File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    send(2);
    let interrupted = next().unwrap();
    let RecorderNotice::Interrupted { reason, .. } = &interrupted else { panic!("{interrupted:?}") };
    assert!(reason.contains("No space left on device"), "{reason}");
    assert_eq!(recorder.status(), Availability::Unavailable(reason.clone()));
    send(3);
    // Some attempts fail: the reserve that was freed for the manifest is not there again.
    std::thread::sleep(Duration::from_millis(300));
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    let gap = loop {
        if let RecorderNotice::Resumed(gap) = next().unwrap()
            && recorder.status().value().is_some()
        {
            break gap;
        }
    };
    assert!(gap.rows_lost > 0, "{gap:?}");
    let rounds_sent = 9;
    (4..=rounds_sent).for_each(send);
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.manifest.stopped, None);
    assert!(summary.manifest.gaps.iter().all(|gap| gap.end_us.is_some()), "{:?}", summary.manifest.gaps);
    for (table, rows_a_round) in [(Table::Sharing, 16 * 15), (Table::Vms, 16), (Table::Decisions, 1)] {
        let counts = summary.manifest.counts(table);
        assert_eq!(counts.rows_written + counts.rows_lost, rounds_sent * rows_a_round, "{table}");
        let closed = segments(&run, table);
        assert_eq!(closed.len() as u64, counts.segments_written, "{table}");
        let found: Vec<u64> = closed.iter().flat_map(|path| rounds(path)).collect();
        assert_eq!(found.len() as u64, counts.rows_written, "{table}");
        assert_eq!((found.first(), found.last()), (Some(&1), Some(&rounds_sent)), "{table}");
    }
    let recording = huddle_record::replay::Recording::open(&run).unwrap();
    assert!(recording.warnings().iter().any(|warning| warning.contains("No space left")));
}

fn has_segment(run: &Path, table: Table) -> bool {
    names(run, table).iter().any(|name| name.ends_with(".parquet"))
}

fn read_manifest(run: &Path) -> Manifest {
    Manifest::from_json(&std::fs::read_to_string(run.join(MANIFEST_FILE)).unwrap()).unwrap()
}

/// All file names of a table, ascending.
fn names(run: &Path, table: Table) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(run.join(table.name())) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The closed segments of a table, ascending.
fn segments(run: &Path, table: Table) -> Vec<PathBuf> {
    let closed = names(run, table).into_iter().filter(|name| name.starts_with("segment-"));
    closed.map(|name| run.join(table.name()).join(name)).collect()
}

/// Reads all of a segment and returns its rounds.
fn rounds(path: &Path) -> Vec<u64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let batches = reader.build().unwrap().map(|batch| batch.unwrap());
    batches.flat_map(|batch| batch["round"].as_primitive::<UInt64Type>().values().to_vec()).collect()
}
