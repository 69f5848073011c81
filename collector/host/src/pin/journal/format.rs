//! The lines of a journal file, and what can be made of a damaged one.
//!
//! Since version 4 each line, the first one too, begins with the CRC-32 (IEEE 802.3) of its JSON: 8 lower-case
//! hexadecimal digits and a space. A line whose bytes changed is known by that, is named, and changes nothing; what
//! it may have cost its neighbours is found again: a changed end of a line joins two lines, which are still read
//! apart. Lines of earlier versions are JSON alone, and what is damaged in them is found where it is no JSON.

use serde::{Deserialize, Serialize};

use super::Change;
use super::entries::Entries;
use super::lines::KeyLine;

/// The schema that this program writes.
pub(super) const SCHEMA: &str = "huddle/journal/4";

/// Those that it reads, too: 1 without domains of Xen, 2 with their numbers as those of tasks, 3 without checksums.
pub(super) const OLDER_SCHEMAS: [&str; 3] = ["huddle/journal/1", "huddle/journal/2", "huddle/journal/3"];

/// Digits of a checksum, and the space behind them.
const PREFIX_BYTES: usize = 9;

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name and version of the format, such as `huddle/journal/4`.
    pub schema: String,
    /// `/proc/sys/kernel/random/boot_id` of the boot in which the changes were made.
    pub boot_id: String,
}

/// Every later line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Change {
        /// Earlier changes to this thread or setting are undone or void, whatever other lines say: `before` was read
        /// when this one was written. A line that took them back could be damaged.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        first: bool,
        #[serde(flatten)]
        change: Change,
    },
    /// The changes so far to this thread or setting are undone or void.
    Forget { forget: KeyLine },
}

/// A complete line that is not an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its number, from 1.
    pub line: usize,
    /// Its first 120 characters.
    pub text: String,
    /// What it is about, as far as that can still be read: nothing is done by it.
    pub about: Option<String>,
}

impl Damage {
    fn of(line: usize, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        Self { line, about: about(&text), text: text.chars().take(120).collect() }
    }
}

/// What a journal file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// `None` when there is no readable first line.
    pub header: Option<Header>,
    /// Changes that nothing has taken back yet, in the order they were made.
    pub entries: Vec<Change>,
    /// Complete lines.
    pub lines: usize,
    /// Bytes up to the end of the last readable line; what follows is a write that was cut short.
    pub keep_bytes: usize,
    /// Whether the last readable line lacks its end.
    pub unterminated: bool,
    /// Complete lines that cannot be read.
    pub damage: Vec<Damage>,
}

/// One line of a file, with its checksum and its end.
pub(super) fn encode(line: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(line)?;
    let mut bytes = checksum(&json).into_bytes();
    bytes.extend(json);
    bytes.push(b'\n');
    Ok(bytes)
}

/// What stands before the JSON.
fn checksum(json: &[u8]) -> String {
    format!("{:08x} ", crc32fast::hash(json))
}

/// Whether a line begins as one with a checksum does, whether or not that holds.
fn has_checksum(body: &[u8]) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    body.split_at_checked(PREFIX_BYTES - 1)
        .is_some_and(|(digits, rest)| digits.iter().all(is_digit) && rest.starts_with(b" {"))
}

/// Whether a line without a checksum is damaged, and not of an earlier version: one of the others has one, and the
/// file does not say otherwise at its beginning.
fn is_checked(bytes: &[u8]) -> bool {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let Some(first) = lines.clone().next() else { return false };
    let is_plain = serde_json::from_slice::<Header>(first).is_ok();
    !is_plain && (has_checksum(first) || lines.any(|line| line.ends_with(b"\n") && has_checksum(line)))
}

/// The JSON of a line, if its checksum says that it is as it was written.
fn verified(body: &[u8]) -> Option<&[u8]> {
    let (prefix, json) = body.split_at_checked(PREFIX_BYTES)?;
    (prefix == checksum(json).as_bytes()).then_some(json)
}

/// Reads the bytes of a journal, whatever they are. A last line without an end that cannot be read was never
/// synced, so its change was never made: it is left out and is no damage.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut reading = Reading { is_checked: is_checked(bytes), header: None, entries: Entries::default() };
    let mut parsed = Parsed::default();
    let mut at = 0;
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        at += line.len();
        let (body, is_complete) = match line.strip_suffix(b"\n") {
            Some(body) => (body, true),
            None => (line, false),
        };
        let is_read = reading.take(index == 0, body);
        let is_damaged = !is_read && (reading.salvage(index == 0, body) || is_complete);
        if is_damaged {
            parsed.damage.push(Damage::of(index + 1, body));
        }
        if is_read || is_damaged {
            parsed.lines += 1;
            parsed.keep_bytes = at;
            parsed.unterminated = !is_complete;
        }
    }
    (parsed.header, parsed.entries) = (reading.header, reading.entries.into());
    parsed
}

/// What the lines so far have said.
struct Reading {
    is_checked: bool,
    header: Option<Header>,
    entries: Entries,
}

impl Reading {
    /// Takes a line; whether it could be read.
    fn take(&mut self, is_header: bool, body: &[u8]) -> bool {
        let json = if self.is_checked { verified(body) } else { Some(body) };
        let Some(json) = json else { return false };
        if is_header {
            self.header = serde_json::from_slice(json).ok();
            return self.header.is_some();
        }
        match serde_json::from_slice(json) {
            Ok(Line::Change { first, change }) => {
                if first {
                    self.entries.remove(&change.key());
                }
                self.entries.push(change);
            }
            Ok(Line::Forget { forget }) => match forget.key() {
                Some(key) => _ = self.entries.remove(&key),
                None => self.entries.remove_where(|change| forget.is_of(change)),
            },
            Err(_) => return false,
        }
        true
    }

    /// Takes what is whole in a damaged line: where its end, or that of the one before, was changed, two lines are
    /// one. Whether anything was found.
    fn salvage(&mut self, is_header: bool, body: &[u8]) -> bool {
        if !self.is_checked {
            return false;
        }
        let begins = |at: &usize| has_checksum(&body[*at..]) && verified(&body[*at..]).is_some();
        match (1..body.len()).find(begins) {
            Some(at) => {
                let first = &body[..at - 1];
                let is_found = self.take(is_header, first) || self.salvage(is_header, first);
                // It is not the header, even where the header is lost.
                self.take(false, &body[at..]) || is_found
            }
            // The last byte may have been its end.
            None => self.take(is_header, &body[..body.len().saturating_sub(1)]),
        }
    }
}

/// What a damaged line is about, as far as it says.
fn about(text: &str) -> Option<String> {
    let after = |name: &str| text.split_once(name).map(|(_, rest)| rest);
    let word = |name: &str| {
        let (word, _) = after(name)?.split_once('"')?;
        (word.len() <= 256).then(|| format!("{word:?}"))
    };
    let number = |name: &str| {
        let digits: String = after(name)?.chars().take_while(char::is_ascii_digit).collect();
        (!digits.is_empty()).then_some(digits)
    };
    let parts = [
        word("\"vm\":\"").map(|vm| format!("VM {vm}")),
        number("\"vcpu\":").map(|vcpu| format!("vCPU {vcpu}")),
        number("\"thread\":{\"id\":").map(|thread| format!("thread {thread}")),
        number("\"domid\":").map(|domain| format!("Xen domain {domain}")),
        word("\"file\":\"").map(|file| format!("KSM's {file}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests;
