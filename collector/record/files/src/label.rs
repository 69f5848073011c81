//! The label of a segment: its identity, and the checksum of its bytes.
//!
//! It is a value of the key-value metadata in the footer of the Parquet file, so it is part of the file, appears with
//! it in one rename, and does not affect other readers:
//!
//! ```text
//! huddle/segment/1 CRC32    BYTES                NUMBER TABLE   RUN
//! huddle/segment/1 9d0c52f1 00000000000000018342 3      sharing 20261123T060233Z-1
//! ```
//! separated by one space each, and ended by a newline. The checksum is the CRC-32 of IEEE 802.3 (that of gzip and
//! of Parquet's own pages) over the whole file with zeros (`0`) in the place of its eight digits. It detects every
//! change of up to 32 bits in a row and every two flipped bits in a segment of up to 256 MiB, and misses one of
//! 2^32 of all other changes. It is written last: first the file with zeros in both numbers, then the size, then, over
//! all of that, the checksum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The beginning of every label; other versions have another number.
const MARK: &[u8] = b"huddle/segment/1 ";
/// Digits of the checksum.
const SUM_DIGITS: usize = 8;
/// Digits of the size: those of the greatest `u64`.
const SIZE_DIGITS: usize = 20;
/// A label begins within so many bytes of the end of its file: only the description of the columns, of some 10 KiB,
/// comes after it.
const TAIL_BYTES: u64 = 64 << 10;
/// How much of a file is in memory at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Name of the label among the key-value metadata of the file.
pub const LABEL_KEY: &str = "huddle.segment";

/// How the recorder's name in a file begins (`created_by` of Parquet).
pub const WRITER: &str = "huddle ";

/// The label of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// CRC-32 of the file.
    sum: u32,
    /// Size of the file, in bytes.
    bytes: u64,
    /// Number of the segment within its table, from 1.
    pub number: u64,
    /// Name of its table.
    pub table: String,
    /// Id of the run, as in the manifest, with control characters escaped.
    pub run: String,
    /// Where the digits of the checksum are in the file.
    sum_at: u64,
}

/// Why a file is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum LabelFault {
    /// No label at its end.
    #[error("it has no checksum")]
    Missing,
    /// Another size than it was written with.
    #[error("it has {found} bytes, and was written with {written}")]
    Size {
        /// Its size now.
        found: u64,
        /// The value in its label.
        written: u64,
    },
    /// A wrong checksum.
    #[error("its bytes are not those that were written: checksum {found:08x} instead of {written:08x}")]
    Sum {
        /// Checksum of its bytes now.
        found: u32,
        /// The value in its label.
        written: u32,
    },
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The label of a segment that is still to be written, as a value for its metadata; [`seal`] fills in size and checksum.
pub fn unsealed(run: &str, table: &str, number: u64) -> String {
    let mark = String::from_utf8_lossy(MARK);
    format!("{mark}{:0SUM_DIGITS$} {:0SIZE_DIGITS$} {number} {table} {}\n", 0, 0, escaped(run))
}

impl Label {
    /// Size of the file that it was written for, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Fills in size and checksum in the label of a file that is otherwise complete. The file is open for reading and
/// writing.
///
/// # Errors
/// It has no label, or cannot be read or written.
pub fn seal(file: &File) -> Result<(), LabelFault> {
    let bytes = file.metadata()?.len();
    let label = find(file, bytes)?.ok_or(LabelFault::Missing)?;
    let size_at = label.sum_at + SUM_DIGITS as u64 + 1;
    file.write_all_at(format!("{bytes:0SIZE_DIGITS$}").as_bytes(), size_at)?;
    let sum = sum(file, bytes, label.sum_at)?;
    file.write_all_at(format!("{sum:0SUM_DIGITS$x}").as_bytes(), label.sum_at)?;
    Ok(())
}

/// Reads the label of a file of `bytes` bytes; `None` if there is none, as in segments of older versions. Reads only the
/// end of the file.
///
/// # Errors
/// The file cannot be read.
pub fn find(file: &File, bytes: u64) -> io::Result<Option<Label>> {
    let start = bytes.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; (bytes - start) as usize];
    match file.read_exact_at(&mut tail, start) {
        Ok(()) => Ok(last_label(&tail, start)),
        // It was truncated meanwhile.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks the bytes of a file of `bytes` bytes against its label.
///
/// # Errors
/// They are not the ones that were written.
pub fn check(file: &File, bytes: u64, label: &Label) -> Result<(), LabelFault> {
    // The size is compared first, since that is fast for any file.
    if bytes != label.bytes {
        return Err(LabelFault::Size { found: bytes, written: label.bytes });
    }
    match sum(file, bytes, label.sum_at)? {
        found if found == label.sum => Ok(()),
        found => Err(LabelFault::Sum { found, written: label.sum }),
    }
}

/// The last label in the end of a file, which begins at `start`: text in names and statistics comes before it.
fn last_label(tail: &[u8], start: u64) -> Option<Label> {
    let at = tail.windows(MARK.len()).rposition(|bytes| bytes == MARK)?;
    let rest = &tail[at + MARK.len()..];
    let line = std::str::from_utf8(&rest[..rest.iter().position(|byte| *byte == b'\n')?]).ok()?;
    let mut words = line.splitn(5, ' ');
    let mut digits = |count: usize| words.next().filter(|word| word.len() == count);
    // Only one spelling is valid: these digits are not covered by the checksum.
    let sum =
        digits(SUM_DIGITS).filter(|word| word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    let bytes = digits(SIZE_DIGITS)?.parse().ok()?;
    Some(Label {
        sum,
        bytes,
        number: words.next()?.parse().ok()?,
        table: words.next()?.to_owned(),
        run: words.next()?.to_owned(),
        sum_at: start + (at + MARK.len()) as u64,
    })
}

/// CRC-32 of a file with zeros in the place of the checksum's digits.
fn sum(file: &File, bytes: u64, sum_at: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let digits = sum_at..sum_at + SUM_DIGITS as u64;
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(PIECE_BYTES as u64) as usize;
        let piece = &mut piece[..length];
        file.read_exact_at(piece, at)?;
        let end = at + length as u64;
        if digits.start < end && at < digits.end {
            let first = digits.start.saturating_sub(at) as usize;
            let last = (digits.end.min(end) - at) as usize;
            piece[first..last].fill(b'0');
        }
        hasher.update(piece);
        at = end;
    }
    Ok(hasher.finalize())
}

/// The id of a run as in a label: one line.
pub fn escaped(run: &str) -> String {
    let mut out = String::with_capacity(run.len());
    for character in run.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests;
