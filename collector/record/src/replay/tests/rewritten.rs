//! Recordings that another program wrote again.

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Float64Array, Int64Array, LargeStringArray, StringArray,
};
use arrow_schema::{DataType, Field};
use huddle_recording::{SegmentName, check_segment};
use parquet::basic::{ColumnOrder, Compression, GzipLevel};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::*;

/// How a program changes a column: its array in another type.
type Change = fn(&str, &ArrayRef) -> ArrayRef;

/// Writes every segment of a run again: its columns in reverse with one more, each as `change` has it, without metadata.
fn rewrite(run: &Path, compression: Compression, change: Change) {
    for table in Table::ALL {
        for number in 1.. {
            let path = segment(run, *table, number);
            let Ok(file) = File::open(&path) else { break };
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            let batches = reader.map(|batch| {
                let batch = batch.unwrap();
                let schema = batch.schema();
                let mut columns: Vec<(String, ArrayRef)> = schema
                    .fields()
                    .iter()
                    .zip(batch.columns())
                    .map(|(field, array)| (field.name().clone(), change(field.name(), array)))
                    .collect();
                columns.reverse();
                let added: ArrayRef = Arc::new(StringArray::from(vec!["x"; batch.num_rows()]));
                columns.insert(1, ("added".to_owned(), added));
                let field =
                    |(name, array): &(String, ArrayRef)| Field::new(name, array.data_type().clone(), true);
                let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
                RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect()).unwrap()
            });
            let batches: Vec<RecordBatch> = batches.collect();
            let properties = WriterProperties::builder().set_compression(compression).build();
            let file = File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
            batches.iter().for_each(|batch| writer.write(batch).unwrap());
            writer.close().unwrap();
        }
    }
}

fn as_it_is(_: &str, array: &ArrayRef) -> ArrayRef {
    Arc::clone(array)
}

/// Unsigned numbers as signed ones, or as doubles as pandas has them where there are nulls; text in dictionaries, or with
/// 64-bit offsets.
fn in_other_types(name: &str, array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::UInt64 if array.null_count() > 0 => {
            let values = array.as_primitive::<UInt64Type>().iter();
            Arc::new(values.map(|value| value.map(|value| value as f64)).collect::<Float64Array>())
        }
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>().iter();
            Arc::new(values.map(|value| value.map(|value| value as i64)).collect::<Int64Array>())
        }
        DataType::Utf8 if name.len().is_multiple_of(2) => {
            Arc::new(array.as_string::<i32>().iter().collect::<DictionaryArray<Int32Type>>())
        }
        DataType::Utf8 => Arc::new(array.as_string::<i32>().iter().collect::<LargeStringArray>()),
        _ => Arc::clone(array),
    }
}

#[test]
fn what_loses_nothing_is_replayed_whoever_wrote_it() {
    let gzip = Compression::GZIP(GzipLevel::default());
    for (compression, change) in [
        (Compression::SNAPPY, as_it_is as Change),
        (Compression::LZ4_RAW, in_other_types),
        (gzip, in_other_types),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        record(&run, &published(4, 3), 3);
        let original = replayed(&mut Recording::open(&run).unwrap());
        rewrite(&run, compression, change);
        let mut recording = Recording::open(&run).unwrap();
        assert_eq!(recording.warnings(), &[] as &[String], "{compression}");
        let notes: Vec<String> = recording.notes().collect();
        assert!(notes[0].contains("written by another program (\"parquet-rs version"), "{notes:?}");
        assert!(notes.iter().any(|note| note == "vms has further columns, which are not read: \"added\""));
        assert_eq!(replayed(&mut recording), original, "{compression}");
    }
}

#[test]
fn what_loses_something_is_skipped_with_its_column_and_row() {
    let negative: Change = |name, array| match name {
        "round" => Arc::new(Int64Array::from(vec![-1; array.len()])),
        _ => Arc::clone(array),
    };
    let in_half: Change = |name, array| match name {
        "round" => Arc::new(Float64Array::from(vec![0.5; array.len()])),
        _ => Arc::clone(array),
    };
    let as_text: Change = |name, array| match name {
        "round" => Arc::new(StringArray::from(vec!["1"; array.len()])),
        _ => Arc::clone(array),
    };
    for (change, words) in [
        (negative, "round has -1 in row 1, and should hold whole numbers of 64 bits, not negative"),
        (in_half, "round has 0.5 in row 1"),
        (as_text, "round is Utf8, and should hold whole numbers of 64 bits, not negative"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        record(&run, &published(2, 2), 1000);
        rewrite(&run, Compression::SNAPPY, change);
        let ReplayError::Empty { warnings, .. } = Recording::open(&run).err().unwrap() else {
            panic!("there is a round")
        };
        let told = warnings.iter().find(|warning| warning.contains("decisions/segment-000001")).unwrap();
        assert!(told.contains(words), "{told}");
    }
}

/// A damaged segment is never taken for one of another program: not with a bit flipped anywhere, and not with two flipped
/// in what tells whose it is.
#[test]
fn a_damaged_segment_is_not_one_of_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, &published(2, 2), 1000);
    let path = segment(&run, Table::Decisions, 1);
    let good = std::fs::read(&path).unwrap();
    let manifest = read_manifest(&run).unwrap();
    let refuses = |flipped: &[usize]| {
        let mut bytes = good.clone();
        flipped.iter().for_each(|at| bytes[*at] ^= 1 << (at % 8));
        std::fs::write(&path, bytes).unwrap();
        let name = SegmentName { table: Table::Decisions, number: 1, manifest: Some(&manifest) };
        check_segment(&path, name).is_err()
    };
    assert!(!refuses(&[]));
    for at in 0..good.len() {
        assert!(refuses(&[at]), "the byte {at} of {}", good.len());
    }
    let place = |bytes: &[u8]| good.windows(bytes.len()).rposition(|found| found == bytes).unwrap();
    let (writer, label) = (place(b"huddle "), place(b"huddle/segment/1 "));
    // From the length of the name on.
    for of_writer in writer - 2..writer + 7 {
        for of_label in label..label + 60 {
            assert!(refuses(&[of_writer, of_label]), "the bytes {of_writer} and {of_label}");
        }
    }
}

/// Readers of the last two years refuse a file with another order (docs/decisions/parquet-59.md).
#[test]
fn segments_have_the_column_order_that_every_reader_knows() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, &published(2, 2), 1000);
    let mut checked = 0;
    for table in Table::ALL {
        let Ok(file) = File::open(segment(&run, *table, 1)) else { continue };
        let reader = SerializedFileReader::new(file).unwrap();
        let orders = reader.metadata().file_metadata().column_orders().unwrap();
        assert_eq!(orders.len(), table.columns().len());
        assert!(orders.iter().all(|order| matches!(order, ColumnOrder::TYPE_DEFINED_ORDER(_))), "{table}");
        checked += 1;
    }
    assert!(checked > 5);
}
