#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{AccessKind, AddressSpace, RingRecords, StreamWriter};
use super::*;

fn made(vcpus: usize, records: usize) -> (StreamFile, StreamReader, StreamWriter) {
    let file = StreamFile::create(vcpus, RingRecords::new(records).unwrap()).unwrap();
    let reader = StreamReader::new(&file);
    let writer = StreamWriter::open(&file.path(), vcpus, Duration::ZERO).unwrap();
    (file, reader, writer)
}

fn record(instructions: u64) -> Record {
    let (space, kind) = (AddressSpace::GuestRam, AccessKind::Read);
    Record { instructions, address: instructions * 4096, space, kind }
}

/// As a vCPU does it: first the instructions, then the access.
fn push(writer: &StreamWriter, vcpu: usize, instructions: u64) {
    let ring = writer.ring(vcpu).unwrap();
    ring.instructions().store(instructions, Relaxed);
    ring.push(record(instructions));
}

fn drained(reader: &mut StreamReader, vcpu: usize, most: usize) -> (Vec<u64>, Drained) {
    let mut records = Vec::new();
    let drained = reader.drain(vcpu, most, |record| records.push(record.instructions)).unwrap();
    (records, drained)
}

fn line(number: u8) -> KeptLine {
    KeptLine::new(number).unwrap()
}

#[test]
fn records_come_in_order_around_the_ring_and_a_full_ring_loses_the_newest() {
    let (_file, mut reader, writer) = made(1, 4);
    reader.start(line(3));
    assert_eq!(writer.wanted(), Some(Recording { number: 1, line: line(3) }));
    writer.apply(writer.wanted());
    for turn in 0..5 {
        for number in 1..=6 {
            push(&writer, 0, turn * 10 + number);
        }
        let (first, before) = drained(&mut reader, 0, 3);
        assert_eq!(first, [1, 2, 3].map(|number| turn * 10 + number));
        assert_eq!(before.instructions, turn * 10 + 3, "the fourth is still there");
        let (rest, all) = drained(&mut reader, 0, usize::MAX);
        assert_eq!(rest, [turn * 10 + 4]);
        assert_eq!(all, Drained { instructions: turn * 10 + 6, lost: (turn + 1) * 2 });
    }
}

#[test]
fn a_full_ring_is_waited_for_while_a_recording_is_wanted() {
    let file = StreamFile::create(1, RingRecords::new(4).unwrap()).unwrap();
    let mut reader = StreamReader::new(&file);
    let writer = StreamWriter::open(&file.path(), 1, Duration::from_secs(60)).unwrap();
    reader.start(line(3));
    writer.apply(writer.wanted());
    let drainer = std::thread::spawn(move || {
        let mut records = Vec::new();
        while records.len() < 1000 {
            std::thread::sleep(Duration::from_millis(1));
            records.extend(drained(&mut reader, 0, 3).0);
        }
        (records, drained(&mut reader, 0, 0).1.lost, reader)
    });
    (1..=1000).for_each(|number| push(&writer, 0, number));
    let (records, lost, mut reader) = drainer.join().unwrap();
    assert_eq!((records, lost), ((1..=1000).collect(), 0), "none is lost, however slow the reader is");

    // With nobody who wants a recording it is not waited for at all.
    (1001..=1004).for_each(|number| push(&writer, 0, number));
    reader.stop();
    let begun = Instant::now();
    push(&writer, 0, 1005);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?} of a wait of 60 s", begun.elapsed());
    assert_eq!(drained(&mut reader, 0, 0).1.lost, 1);
}

#[test]
fn a_vcpu_that_nobody_drains_is_held_up_once_until_there_is_room_again() {
    let wait = Duration::from_millis(100);
    let file = StreamFile::create(1, RingRecords::new(4).unwrap()).unwrap();
    let mut reader = StreamReader::new(&file);
    let writer = StreamWriter::open(&file.path(), 1, wait).unwrap();
    reader.start(line(3));
    writer.apply(writer.wanted());
    let timed = |numbers: std::ops::RangeInclusive<u64>| {
        let begun = Instant::now();
        numbers.for_each(|number| push(&writer, 0, number));
        begun.elapsed()
    };
    let elapsed = timed(1..=1000);
    assert!(elapsed >= wait && elapsed < Duration::from_secs(2), "{elapsed:?} of 996 full rings");
    assert_eq!(drained(&mut reader, 0, 3), (vec![1, 2, 3], Drained { instructions: 3, lost: 996 }));
    let elapsed = timed(1001..=1004);
    assert!(elapsed >= wait, "{elapsed:?}: there was room for three, so the fourth waits again");
    assert_eq!(drained(&mut reader, 0, usize::MAX).0, [4, 1001, 1002, 1003]);
    assert_eq!(drained(&mut reader, 0, 0).1.lost, 997);
}

#[test]
fn a_recording_begins_when_it_is_applied_and_without_what_came_before() {
    let (_file, mut reader, writer) = made(2, 8);
    assert!(!reader.is_recording().unwrap());
    reader.start(line(0));
    assert!(!reader.is_recording().unwrap());
    writer.apply(writer.wanted());
    (1..=20).for_each(|number| push(&writer, 0, number));
    push(&writer, 1, 7);
    assert_eq!(drained(&mut reader, 1, 9).0, [7]);
    reader.stop();
    assert_eq!(writer.wanted(), None);
    // What is left can be read, or not.
    assert_eq!(drained(&mut reader, 0, 1).0, [1]);
    writer.apply(None);
    reader.start(line(63));
    assert_eq!(drained(&mut reader, 0, usize::MAX), (vec![], Drained::default()), "not begun yet");
    writer.apply(writer.wanted());
    assert_eq!(
        drained(&mut reader, 0, usize::MAX),
        (vec![], Drained::default()),
        "begun, at 0, nothing lost"
    );
    push(&writer, 0, 2);
    assert_eq!(drained(&mut reader, 0, usize::MAX).0, [2]);
}

#[test]
fn a_writer_takes_a_reader_that_cannot_be_for_a_full_ring() {
    let (_file, mut reader, writer) = made(1, 4);
    reader.start(line(0));
    writer.apply(writer.wanted());
    (1..=4).for_each(|number| push(&writer, 0, number));
    for read in [5, u64::MAX, 1 << 63] {
        reader.layout.of_vcpu(reader.mapping.words(), 0).0[READ].store(read, Relaxed);
        push(&writer, 0, 5);
    }
    assert_eq!(drained(&mut reader, 0, usize::MAX), (vec![1, 2, 3, 4], Drained { instructions: 5, lost: 3 }));
}

#[test]
fn a_stream_for_other_vcpus_is_refused() {
    let (file, ..) = made(2, 4);
    let error = StreamWriter::open(&file.path(), 3, Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("for 2 vCPUs, not 3"), "{error}");
    assert!(StreamFile::create(0, RingRecords::DEFAULT).is_err());
    assert!(StreamFile::create(65, RingRecords::DEFAULT).is_err());
}

proptest! {
    /// Whatever is in the file, a drain ends, gives at most one ring, in the order of instructions, and stays damaged.
    #[test]
    fn any_content_gives_bounded_output_or_an_error(
        changes in prop::collection::vec((0..2000usize, prop_oneof![any::<u64>(), 0..100u64]), 0..60),
        most in 0..40usize,
    ) {
        let (file, mut reader, writer) = made(2, 16);
        reader.start(line(1));
        writer.apply(writer.wanted());
        (1..=9).for_each(|number| push(&writer, 0, number));
        let mapping = file.mapping();
        let words = mapping.words();
        for (at, value) in changes {
            words[at % words.len()].store(value, Relaxed);
        }
        for vcpu in [0, 1, 0] {
            let (mut count, mut last) = (0, 0);
            let result = reader.drain(vcpu, most, |record| {
                count += 1;
                assert!(record.instructions >= last);
                last = record.instructions;
            });
            prop_assert!(count <= most.min(16));
            if result.is_err() {
                prop_assert!(reader.drain(vcpu, most, |_| ()).is_err());
            }
        }
    }
}

#[test]
fn indices_far_apart_and_disorder_are_damage() {
    for (word, value, what) in [
        (WRITTEN, 17, "room"),
        (WRITTEN, u64::MAX, "room"),
        (INSTRUCTIONS, 3, "order"),
        (INSTRUCTIONS, MOST_COUNTED + 1, "more instructions"),
        (INSTRUCTIONS, u64::MAX, "more instructions"),
        (LOST, MOST_COUNTED + 1, "more lost"),
        (LOST, u64::MAX, "more lost"),
    ] {
        let (_file, mut reader, writer) = made(1, 16);
        reader.start(line(1));
        writer.apply(writer.wanted());
        (1..=9).for_each(|number| push(&writer, 0, number));
        reader.layout.of_vcpu(reader.mapping.words(), 0).0[word].store(value, Relaxed);
        let error = reader.drain(0, 100, |_| ()).unwrap_err().to_string();
        assert!(error.contains("vCPU 0") && error.contains(what), "{error}");
        assert!(reader.drain(0, 100, |_| ()).is_err());
    }
}

#[test]
fn the_most_that_is_counted_is_no_damage() {
    let (_file, mut reader, writer) = made(1, 16);
    reader.start(line(1));
    writer.apply(writer.wanted());
    let counters = reader.layout.of_vcpu(reader.mapping.words(), 0).0;
    [INSTRUCTIONS, LOST].iter().for_each(|word| counters[*word].store(MOST_COUNTED, Relaxed));
    let all = Drained { instructions: MOST_COUNTED, lost: MOST_COUNTED };
    assert_eq!(drained(&mut reader, 0, usize::MAX), (vec![], all));
}
