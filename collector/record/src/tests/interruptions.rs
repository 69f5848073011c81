//! Recordings that cannot be written for a while.

use std::sync::mpsc::{Receiver, channel};

use huddle_model::availability::Availability;

use super::*;
use crate::handle::start_writer;
use crate::replay::Recording;

const SECOND: Duration = Duration::from_secs(1);

/// What one round has of each table, over three VMs.
const SHARING: u64 = 6;

fn slow() -> RecorderLimits {
    limits(u64::MAX, HOUR)
}

fn rows(round: u64) -> Rows {
    round_rows(&view(round, 3).round)
}

fn total(rows: &Rows) -> u64 {
    Table::ALL.iter().map(|table| rows.count(*table)).sum()
}

#[test]
fn a_removed_directory_is_reported_at_once_and_made_again() {
    let top = tempfile::tempdir().unwrap();
    let run = top.path().join("run");
    let now = Instant::now();
    let mut writer = RunWriter::create(&run, manifest(), slow()).unwrap();
    assert!(writer.write(&rows(1), now));
    assert!(writer.interruption().is_none() && writer.take_notices().is_empty());

    std::fs::remove_dir_all(&run).unwrap();
    assert!(!writer.write(&rows(2), now));
    writer.count_lost_step();
    let reason = writer.interruption().unwrap().to_owned();
    assert!(reason.contains("is gone while it was being written"), "{reason}");
    let [RecorderNotice::Interrupted { reason: reported, .. }] = &writer.take_notices()[..] else { panic!() };
    assert_eq!(reported, &reason);
    assert_eq!(writer.next_deadline(), Some(now + SECOND), "it is tried again");
    assert!(!writer.write(&rows(3), now + SECOND / 2));
    writer.count_lost_step();
    assert!(!run.exists());

    assert!(writer.write(&rows(4), now + SECOND));
    let [RecorderNotice::Resumed(gap)] = &writer.take_notices()[..] else { panic!() };
    assert_eq!((gap.steps_lost, gap.rows_lost), (2, (1..4).map(|round| total(&rows(round))).sum()));
    assert_eq!(
        gap.begin_us,
        view(1, 1).round.begin_unix_us as i64,
        "rows are missing from the first round on"
    );
    assert!(gap.end_us.unwrap() > gap.begin_us);
    writer.finish(now + SECOND, 77);

    let manifest = read_manifest(&run);
    assert_eq!((manifest.gaps.as_slice(), manifest.stopped.as_ref()), (&[gap.clone()][..], None));
    let counts = manifest.counts(Table::Sharing);
    assert_eq!((counts.rows_written, counts.rows_lost), (SHARING, 3 * SHARING));
    let recording = Recording::open(&run).unwrap();
    assert_eq!(recording.rounds().map(|(_, round)| round).collect::<Vec<_>>(), [4]);
    assert!(recording.warnings()[0].contains(&gap.sentence()), "{:?}", recording.warnings());
}

#[test]
fn segments_that_were_closed_before_stay_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut writer = RunWriter::create(dir.path(), manifest(), slow()).unwrap();
    writer.write(&rows(1), now);
    writer.tick(now + HOUR);
    writer.write(&rows(2), now + HOUR);
    // One table's segment is taken away; the others are closed, since they may still be whole.
    std::fs::remove_file(dir.path().join("sharing/.segment-000002.parquet.tmp")).unwrap();
    writer.tick(now + HOUR);
    let on_disk = read_manifest(dir.path());
    assert_eq!((on_disk.gaps.len(), on_disk.gaps[0].end_us, on_disk.gaps[0].rows_lost), (1, None, SHARING));
    assert_eq!(on_disk.counts(Table::Vms).segments_written, 2);
    writer.write(&rows(3), now + HOUR + SECOND);
    writer.finish(now + HOUR + SECOND, 77);
    assert_eq!(files(dir.path(), Table::Sharing), ["segment-000001.parquet", "segment-000002.parquet"]);
    assert_eq!(files(dir.path(), Table::Vms).len(), 3);
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!(recording.rounds().count(), 3);
    assert_eq!(recording.warnings().len(), 2, "the gap, and what sharing lacks: {:?}", recording.warnings());
}

#[test]
fn retries_are_delayed_more_and_more_and_a_foreign_directory_is_left_alone() {
    let top = tempfile::tempdir().unwrap();
    let run = top.path().join("run");
    let begin = Instant::now();
    let mut writer = RunWriter::create(&run, manifest(), slow()).unwrap();
    writer.write(&rows(1), begin);
    std::fs::rename(&run, top.path().join("moved")).unwrap();
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("thesis.txt"), "x").unwrap();
    writer.tick(begin);
    let mut now = begin;
    let mut delays = Vec::new();
    for _ in 0..9 {
        let next = writer.next_deadline().unwrap();
        delays.push((next - now).as_secs());
        now = next;
        writer.tick(now);
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 1);
    assert_eq!(writer.take_notices().len(), 1, "it is reported once");
    std::fs::remove_dir_all(&run).unwrap();
    std::fs::rename(top.path().join("moved"), &run).unwrap();
    now = writer.next_deadline().unwrap();
    writer.tick(now);
    assert_eq!(writer.interruption(), None);
    assert_eq!(writer.take_notices().len(), 1);
    writer.write(&rows(2), now);
    writer.finish(now, 77);
    assert_eq!(files(&run, Table::Vms), ["segment-000001.parquet"]);
}

#[test]
fn a_recording_that_ends_while_interrupted_is_an_error() {
    let top = tempfile::tempdir().unwrap();
    let run = top.path().join("run");
    let (notify, _notices) = channel();
    let recorder =
        Recorder::start_with_notices(&run, manifest(), slow(), move |notice| _ = notify.send(notice))
            .unwrap();
    recorder.send(steps([&view(1, 3)]).remove(0));
    // Its parent is gone too, and is not made again.
    wait(|| recorder.status().value().is_some_and(|status| status.steps_recorded == 1));
    let elsewhere = top.path().with_extension("moved");
    std::fs::rename(top.path(), &elsewhere).unwrap();
    recorder.send(steps([&view(2, 3)]).remove(0));
    wait(|| recorder.status().value().is_none());
    let Availability::Unavailable(reason) = recorder.status() else { panic!() };
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains(&reason) && error.starts_with("recording stopped early"), "{error}");
    assert!(!top.path().exists());
    std::fs::remove_dir_all(elsewhere).unwrap();
}

/// Each time it works for a moment only, and every gap is in the manifest.
#[test]
fn it_may_be_interrupted_again_and_again() {
    let top = tempfile::tempdir().unwrap();
    let run = top.path().join("run");
    let mut now = Instant::now();
    let mut writer = RunWriter::create(&run, manifest(), slow()).unwrap();
    for round in 1..=4 {
        writer.write(&rows(round), now);
        std::fs::remove_dir_all(&run).unwrap();
        writer.tick(now);
        now = writer.next_deadline().unwrap();
        writer.tick(now);
        assert_eq!(writer.interruption(), None, "round {round}");
    }
    assert_eq!(writer.take_notices().len(), 8);
    let gaps = &read_manifest(&run).gaps;
    assert_eq!(gaps.len(), 4);
    for (gap, round) in gaps.iter().zip(1..) {
        assert_eq!((gap.rows_lost, gap.end_us.is_some()), (total(&rows(round)), true));
    }
}

/// A panic in the recorder's thread, which a defect of huddle or of a library would be.
#[test]
fn a_panic_is_an_interruption_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut limits = slow();
    limits.retry.first = Duration::from_millis(1);
    let mut writer = RunWriter::create(dir.path(), manifest(), limits).unwrap();
    writer.write(&rows(1), Instant::now());
    writer.panic_at_next_write = true;
    let (notify, notices) = channel();
    let recorder =
        start_writer(dir.path(), writer, limits.queue, move |notice| _ = notify.send(notice)).unwrap();
    let mut rounds = steps([&view(2, 3), &view(3, 3)]).into_iter();
    recorder.send(rounds.next().unwrap());
    let reason = match next(&notices) {
        RecorderNotice::Interrupted { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason.contains("the recorder panicked, which is a defect of huddle"), "{reason}");
    assert!(reason.ends_with("a panic that a test asked for"), "{reason}");
    let gap = match next(&notices) {
        RecorderNotice::Resumed(gap) => gap,
        other => panic!("{other:?}"),
    };
    // What had not been closed, and what was being written.
    assert_eq!((gap.steps_lost, gap.rows_lost), (1, total(&rows(1)) + total(&rows(2))));
    recorder.send(rounds.next().unwrap());
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.steps, RecordingStatus { steps_recorded: 1, steps_lost: 1 });
    assert_eq!((summary.manifest.gaps, summary.manifest.stopped), (vec![gap], None));
    assert_eq!(files(dir.path(), Table::Sharing), ["segment-000001.parquet"]);
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!(recording.rounds().map(|(_, round)| round).collect::<Vec<_>>(), [3]);
}

fn next(notices: &Receiver<RecorderNotice>) -> RecorderNotice {
    notices.recv_timeout(Duration::from_secs(60)).unwrap()
}

fn wait(mut until: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !until() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
}
