//! Recordings that are damaged, incomplete, or none at all.

use super::*;

#[test]
fn a_damaged_or_missing_segment_leaves_the_rest_readable() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let published = published(8, 3);
    // Two rounds and their windows a segment.
    record(&run, &published, 4);
    let original = replayed(&mut Recording::open(&run).unwrap());
    let cut = File::options().write(true).open(segment(&run, Table::Vms, 2)).unwrap();
    cut.set_len(cut.metadata().unwrap().len() / 2).unwrap();
    std::fs::remove_file(segment(&run, Table::Sharing, 3)).unwrap();
    std::fs::remove_file(segment(&run, Table::Decisions, 4)).unwrap();
    std::fs::remove_file(segment(&run, Table::Windows, 1)).unwrap();

    let mut recording = Recording::open(&run).unwrap();
    let warnings = recording.warnings().join("\n");
    assert_eq!(recording.warnings().len(), 4, "{warnings}");
    for word in [
        "vms/segment-000002",
        "sharing lacks segment 3",
        "decisions lacks segment 4",
        "windows lacks segment 1",
    ] {
        assert!(warnings.contains(word), "{word}: {warnings}");
    }
    let found = replayed(&mut recording);
    let round = |of: &[View], number| {
        let view = of.iter().find(|view| view.round.number == number).unwrap();
        Round::clone(&view.round)
    };
    assert_eq!(found.iter().filter(|view| view.round.number == 1).count(), 1, "its windows are gone");
    let three = round(&found, 3);
    assert!(three.vms.is_empty());
    assert!(
        three.events.iter().any(|event| event.message.contains("which VMs there were")),
        "{:?}",
        three.events
    );
    assert!(three.plan.value().is_some());
    let five = round(&found, 5);
    assert!(five.matrix.reason().unwrap().contains("the recording does not hold"), "{:?}", five.matrix);
    assert_eq!(five.vms, round(&original, 5).vms);
    let seven = round(&found, 7);
    assert!(seven.plan.reason().unwrap().contains("the recording does not hold"), "{:?}", seven.plan);
    assert!(seven.own_cpu_us.reason().is_some());
    assert_eq!((&seven.matrix, &seven.ksm), (&round(&original, 7).matrix, &round(&original, 7).ksm));
    let of_seven = |of: &[View]| {
        let views = of.iter().filter(|view| view.round.number == 7);
        views.map(|view| view.observation.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of_seven(&found), of_seven(&original));

    // The complete rounds are as they were.
    assert_eq!(round(&found, 6).ksm, round(&original, 6).ksm);
}

#[test]
fn a_wrong_byte_is_a_warning_or_an_event_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, &published(2, 2), 1000);
    // With a checksum no damage reaches the decoder; older recordings have none.
    forget_checksums(&run);
    let mut reported = 0;
    for table in [Table::Sharing, Table::Decisions, Table::Windows, Table::Counters] {
        let path = segment(&run, table, 1);
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 50) {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            std::fs::write(&path, &bad).unwrap();
            let Ok(mut recording) = Recording::open(&run) else { continue };
            let found = replayed(&mut recording);
            let is_event =
                found.iter().flat_map(|view| &*view.events).any(|e| e.kind == EventKind::StageFailed);
            reported += usize::from(is_event || !recording.warnings().is_empty());
        }
        for length in (0..good.len()).step_by(good.len() / 5) {
            std::fs::write(&path, &good[..length]).unwrap();
            let recording = Recording::open(&run).unwrap();
            assert_eq!(recording.warnings().len(), 1, "{:?}", recording.warnings());
            assert_eq!(recording.warnings()[0].lines().count(), 1);
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert!(reported > 25, "{reported}");
}

#[test]
fn anything_but_a_recording_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    assert!(open_error(dir.path()).contains("has no manifest.json"));
    assert!(open_error(&dir.path().join("nowhere")).contains("nowhere"));
    for (text, word) in [
        ("", "not a huddle manifest"),
        ("{\"schema\":\"huddle/manifest/1\",\"schema_version\":999}", "schema version 999"),
        ("{\"schema\":\"huddle/manifest/1\",\"schema_version\":0}", "schema version 0"),
        ("{\"schema\":\"huddle/manifest/9\",\"schema_version\":2}", "huddle/manifest/9"),
    ] {
        std::fs::write(dir.path().join(MANIFEST_FILE), text).unwrap();
        let error = open_error(dir.path());
        assert!(error.contains(word) && error.contains(&path) && error.lines().count() == 1, "{error}");
    }
    let empty = dir.path().join("empty");
    record(&empty, &[], 1);
    assert!(open_error(&empty).contains("holds no round that can be read: nothing was closed yet"));
}

#[test]
fn a_segment_of_another_version_or_table_is_skipped_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, &published(2, 2), 1000);
    std::fs::copy(segment(&run, Table::Events, 1), segment(&run, Table::Ksm, 1)).unwrap();
    let recording = Recording::open(&run).unwrap();
    assert_eq!(recording.warnings().len(), 1);
    assert!(
        recording.warnings()[0]
            .contains("it is segment 1 of events of the run 20261123T060233Z-1, in the place"),
        "{:?}",
        recording.warnings()
    );
    forget_checksums(&run);
    let recording = Recording::open(&run).unwrap();
    assert!(
        recording.warnings()[0].contains("it is not a segment of the table ksm"),
        "{:?}",
        recording.warnings()
    );

    // The version is in the footer twice; each is followed by its one digit.
    let path = segment(&run, Table::Vms, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let key = b"huddle.schema_version";
    let places: Vec<usize> =
        (0..bytes.len() - key.len()).filter(|at| bytes[*at..].starts_with(key)).collect();
    for at in places {
        let digit = SCHEMA_VERSION.to_string().into_bytes()[0];
        let found = bytes[at + key.len()..].iter().position(|byte| *byte == digit).unwrap();
        bytes[at + key.len() + found] = b'0';
    }
    File::create(&path).unwrap().write_all(&bytes).unwrap();
    let recording = Recording::open(&run).unwrap();
    assert!(
        recording.warnings().iter().any(|w| w.contains("it has schema version 0")),
        "{:?}",
        recording.warnings()
    );
}

/// Segments in the place of segments of another table, run or number, and changed bytes: each is skipped by name, even
/// if a reader of Parquet would accept it.
#[test]
fn exchanged_and_damaged_segments_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let (run, other) = (dir.path().join("run"), dir.path().join("other"));
    let published = published(4, 2);
    record(&run, &published, 4);
    record_with(&other, &published, 4, Manifest { run: "another".into(), ..manifest() });
    let original = replayed(&mut Recording::open(&run).unwrap());
    let first = segment(&run, Table::Sharing, 1);
    let good = std::fs::read(&first).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 3] ^= 1;
    let mut unlabelled = good.clone();
    let mark = good.windows(17).rposition(|bytes| bytes == b"huddle/segment/1 ").unwrap();
    unlabelled[mark] ^= 1;
    let read = |run: &Path, table, number| std::fs::read(segment(run, table, number)).unwrap();
    for (bytes, words) in [
        (flipped, "its bytes are not those that were written: checksum"),
        (good[..good.len() - 1].to_vec(), "bytes, and was written with"),
        (good[..good.len() / 4].to_vec(), "has no checksum, and every segment of this recording"),
        ([&good[..], &[0]].concat(), "bytes, and was written with"),
        (unlabelled, "has no checksum"),
        (Vec::new(), "has no checksum"),
        (read(&run, Table::Sharing, 2), "it is segment 2 of sharing of the run 20261123T060233Z-1"),
        (read(&run, Table::Vms, 1), "it is segment 1 of vms"),
        (read(&other, Table::Sharing, 1), "it is segment 1 of sharing of the run another"),
    ] {
        std::fs::write(&first, bytes).unwrap();
        let mut recording = Recording::open(&run).unwrap();
        let warnings = recording.warnings().to_vec();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains(words) && warnings[0].contains("sharing/segment-000001"),
            "{warnings:?}"
        );
        let found = replayed(&mut recording);
        assert!(found[0].round.matrix.reason().unwrap().contains("does not hold"));
        assert_eq!(found[7].round.matrix, original[7].round.matrix);
    }
    // A file that is changed while it is shown.
    std::fs::write(&first, &good).unwrap();
    let mut recording = Recording::open(&run).unwrap();
    std::fs::write(&first, &read(&other, Table::Sharing, 1)[1..]).unwrap();
    let view = recording.view(0).unwrap();
    assert!(view.round.matrix.value().is_none());
    assert!(
        view.events.iter().any(|event| event.message.contains("was changed while the recording was open"))
    );
}

#[test]
fn anything_but_a_file_is_refused_by_name_and_not_waited_for() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, &published(2, 2), 1000);
    let replace = |path: &Path, how: &dyn Fn(&Path)| {
        let aside = dir.path().join("aside");
        std::fs::rename(path, &aside).unwrap();
        how(path);
        let warnings = Recording::open(&run).map(|recording| recording.warnings().join("\n"));
        let warnings = warnings.unwrap_or_else(|error| error.to_string());
        std::fs::remove_file(path).unwrap();
        std::fs::rename(&aside, path).unwrap();
        warnings
    };
    let pipe = |path: &Path| {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap()
    };
    let aside = dir.path().join("aside");
    let link = |path: &Path| symlink(&aside, path).unwrap();
    for path in [segment(&run, Table::Vms, 1), run.join(MANIFEST_FILE)] {
        let warnings = replace(&path, &pipe);
        assert!(warnings.contains("it is a named pipe, and only a regular file is read here"), "{warnings}");
        assert!(warnings.contains(path.to_str().unwrap()), "{warnings}");
        let warnings = replace(&path, &link);
        assert!(warnings.contains("it is a symbolic link"), "{warnings}");
    }
    let warnings = replace(&run.join("vms"), &link);
    assert!(
        warnings.contains("vms is a symbolic link, and the segments of a table are in a directory"),
        "{warnings}"
    );
    // The recording itself may be named by a link.
    let linked = dir.path().join("linked");
    symlink(&run, &linked).unwrap();
    assert_eq!(Recording::open(&linked).unwrap().warnings(), [""; 0]);
}
