//! Parsers of the output of `xl list` and `xl vcpu-list` (xl(1), `list` and `vcpu-list`; tools/xl/xl_info.c
//! and xl_vcpu.c, Xen 4.17). Pure.
//!
//! Names come first and may contain blanks and digits, so lines are parsed from their end.

use std::collections::BTreeMap;

use huddle_model::cpuset::CpuSet;
use serde::Deserialize;

use super::ParseError;
use crate::toolstack::{DomainKind, DomainRef};

/// A line of `xl list -v -c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) domain: DomainRef,
    /// `None` if xenstore reports none, for which `xl` prints `(null)`.
    pub(super) name: Option<String>,
    /// Memory in MiB, rounded down.
    pub(super) mib: u64,
    pub(super) is_paused: bool,
    /// It has shut down or is ending.
    pub(super) is_ending: bool,
    /// The text after the UUID: the reason code, the security label and, with `-c`, the cpupool. The last two
    /// run together if they are longer than 16 characters.
    pub(super) rest: String,
}

impl Listed {
    /// Position of the longest cpupool name that the line ends with.
    pub(super) fn pool(&self, pools: &[String]) -> Result<usize, ParseError> {
        let named = pools.iter().enumerate().filter(|(_, name)| self.rest.ends_with(name.as_str()));
        let longest = named.max_by_key(|(_, name)| name.len());
        longest.map(|(index, _)| index).ok_or_else(|| ParseError::new("a cpupool", &self.rest))
    }
}

/// `xl list -v`, with or without `-c`.
pub(super) fn list(text: &str) -> Result<Vec<Listed>, ParseError> {
    let mut lines = text.lines();
    header(lines.next(), &["Name", "ID", "Mem", "VCPUs", "State", "Time(s)", "UUID"])?;
    let listed = lines.filter(|line| !line.trim().is_empty()).map(listed).collect::<Result<Vec<_>, _>>()?;
    unique(listed.iter().map(|line| line.domain.id), text)?;
    Ok(listed)
}

fn listed(line: &str) -> Result<Listed, ParseError> {
    let error = || ParseError::new("a domain of xl list", line);
    // The last UUID: a domain's name may be one.
    let (start, uuid) =
        (0..line.len()).rev().find_map(|start| Some((start, uuid_at(line, start)?))).ok_or_else(error)?;
    let (mut before, rest) = (&line[..start], &line[start + UUID_CHARS..]);
    let mut last = || {
        let (left, word) = split_last(before)?;
        before = left;
        Some(word)
    };
    let _time: f64 = last().and_then(|word| word.parse().ok()).ok_or_else(error)?;
    let state = last().map(str::as_bytes).ok_or_else(error)?;
    let [_running, _blocked, paused, shutdown, _reason, dying] = *state else { return Err(error()) };
    let _vcpus: u32 = last().and_then(|word| word.parse().ok()).ok_or_else(error)?;
    let mib: u64 = last().and_then(|word| word.parse().ok()).ok_or_else(error)?;
    let id: u16 = last().and_then(|word| word.parse().ok()).ok_or_else(error)?;
    Ok(Listed {
        domain: DomainRef { id, uuid },
        name: name(before),
        mib,
        is_paused: paused == b'p',
        is_ending: shutdown == b's' || dying == b'd',
        rest: rest.trim_end().to_owned(),
    })
}

/// A line of `xl vcpu-list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedVcpu {
    pub(super) id: u16,
    pub(super) name: Option<String>,
    pub(super) index: u32,
    /// `None` if it is offline.
    pub(super) cpu: Option<u32>,
    pub(super) cpu_time_ns: u64,
    pub(super) hard: Affinity,
    pub(super) soft: Affinity,
}

/// A set of CPUs as `xl` prints it: those below the number of online CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    /// All below that number.
    All,
    /// These; an empty set for `none`.
    Cpus(CpuSet),
}

/// `xl vcpu-list`.
pub(super) fn vcpu_list(text: &str) -> Result<Vec<ListedVcpu>, ParseError> {
    let mut lines = text.lines();
    header(
        lines.next(),
        &["Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity", "(Hard", "/", "Soft)"],
    )?;
    let vcpus = lines.filter(|line| !line.trim().is_empty()).map(vcpu).collect::<Result<Vec<_>, _>>()?;
    unique(vcpus.iter().map(|vcpu| (vcpu.id, vcpu.index)), text)?;
    Ok(vcpus)
}

fn vcpu(line: &str) -> Result<ListedVcpu, ParseError> {
    let error = || ParseError::new("a vCPU of xl vcpu-list", line);
    let mut before = line;
    let mut last = || {
        let (left, word) = split_last(before)?;
        before = left;
        Some(word)
    };
    let soft = last().and_then(affinity).ok_or_else(error)?;
    last().filter(|word| *word == "/").ok_or_else(error)?;
    let hard = last().and_then(affinity).ok_or_else(error)?;
    let cpu_time_ns = last().and_then(nanoseconds).ok_or_else(error)?;
    let is_offline = match *last().map(str::as_bytes).ok_or_else(error)? {
        [_running, _blocked, state] => state == b'p',
        _ => return Err(error()),
    };
    let cpu = match last().ok_or_else(error)? {
        "-" => None,
        cpu => Some(cpu.parse().map_err(|_| error())?),
    };
    if cpu.is_none() != is_offline {
        return Err(error());
    }
    let index = last().and_then(|word| word.parse().ok()).ok_or_else(error)?;
    let id = last().and_then(|word| word.parse().ok()).ok_or_else(error)?;
    Ok(ListedVcpu { id, name: name(before), index, cpu, cpu_time_ns, hard, soft })
}

fn affinity(text: &str) -> Option<Affinity> {
    match text {
        "all" => Some(Affinity::All),
        "none" => Some(Affinity::Cpus(CpuSet::new())),
        list => list.parse().ok().filter(|cpus: &CpuSet| !cpus.is_empty()).map(Affinity::Cpus),
    }
}

/// Seconds with one decimal place.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, tenths) = text.split_once('.')?;
    let tenths = match tenths.as_bytes() {
        [digit @ b'0'..=b'9'] => u64::from(digit - b'0'),
        _ => return None,
    };
    seconds.parse::<u64>().ok()?.checked_mul(10)?.checked_add(tenths)?.checked_mul(100_000_000)
}

/// A domain of `xl list -l`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Detailed {
    /// `None` for dom0, for which `xl` does not print it.
    uuid: Option<[u8; 16]>,
    kind: DomainKind,
}

impl Detailed {
    /// How `domain` is virtualised, if this is that domain.
    pub(super) fn kind(self, domain: DomainRef) -> Option<DomainKind> {
        self.uuid.is_none_or(|uuid| uuid == domain.uuid).then_some(self.kind)
    }
}

/// How domains are virtualised, by number, from `xl list -l`: JSON, an array of `{"domid", "config"}`, with
/// `type` (`libxl_domain_type`) and `uuid` in `config.c_info`. Domains without a configuration in libxl are
/// not in it.
pub(super) fn details(text: &str) -> Result<BTreeMap<u16, Detailed>, ParseError> {
    #[derive(Deserialize)]
    struct Entry {
        domid: Option<u16>,
        config: Config,
    }
    #[derive(Deserialize)]
    struct Config {
        c_info: CreateInfo,
    }
    #[derive(Deserialize)]
    struct CreateInfo {
        r#type: Option<String>,
        uuid: Option<String>,
    }
    let entries: Vec<Entry> =
        serde_json::from_str(text).map_err(|error| ParseError::new("xl list -l", &error.to_string()))?;
    let detailed = |Entry { domid, config: Config { c_info } }: Entry| {
        let kind = match c_info.r#type.as_deref()? {
            "pv" => DomainKind::Pv,
            "pvh" => DomainKind::Pvh,
            "hvm" => DomainKind::Hvm,
            _ => return None,
        };
        let uuid = match c_info.uuid {
            Some(text) => Some(uuid_at(&text, 0)?),
            None => None,
        };
        Some((domid?, Detailed { uuid, kind }))
    };
    Ok(entries.into_iter().filter_map(detailed).collect())
}

fn name(text: &str) -> Option<String> {
    let name = text.trim_end_matches(BLANKS);
    (!name.trim().is_empty() && name != "(null)").then(|| crate::plain(name))
}

/// The last word, and the text before it. Only the blanks that `xl` prints separate: names may contain others.
fn split_last(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_end_matches(BLANKS);
    let start = text.rfind(BLANKS).map_or(0, |blank| blank + 1);
    (!text.is_empty()).then(|| text.split_at(start))
}

const BLANKS: [char; 2] = [' ', '\t'];

pub(super) fn header(line: Option<&str>, words: &[&str]) -> Result<(), ParseError> {
    let line = line.unwrap_or_default();
    let mut found = line.split_whitespace();
    if words.iter().all(|word| found.next() == Some(word)) {
        return Ok(());
    }
    Err(ParseError::new("a header of xl", line))
}

/// The same number twice means that a name contains a line break.
fn unique<T: Ord>(keys: impl Iterator<Item = T>, text: &str) -> Result<(), ParseError> {
    let mut seen = std::collections::BTreeSet::new();
    for (index, key) in keys.enumerate() {
        if !seen.insert(key) {
            return Err(ParseError::new(
                "a second line of one number",
                text.lines().nth(index + 1).unwrap_or(""),
            ));
        }
    }
    Ok(())
}

const UUID_CHARS: usize = 36;

/// The UUID at `start` of a line, between blanks: 8-4-4-4-12 hexadecimal digits (`LIBXL_UUID_FMT`).
fn uuid_at(line: &str, start: usize) -> Option<[u8; 16]> {
    let text = line.get(start..start.checked_add(UUID_CHARS)?)?.as_bytes();
    let is_blank = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_whitespace);
    let bytes = line.as_bytes();
    if !is_blank(start.checked_sub(1).and_then(|at| bytes.get(at)))
        || !is_blank(bytes.get(start + UUID_CHARS))
    {
        return None;
    }
    let mut figures = Vec::with_capacity(32);
    for (index, byte) in text.iter().enumerate() {
        match index {
            8 | 13 | 18 | 23 if *byte == b'-' => {}
            8 | 13 | 18 | 23 => return None,
            _ => figures.push(u8::try_from(char::from(*byte).to_digit(16)?).ok()?),
        }
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(figures.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(uuid)
}

#[cfg(test)]
mod tests;
