//! The processor's cache monitoring as `xl psr-cmt-show` prints it (xl(1) and docs/misc/xl-psr.pandoc;
//! tools/xl/xl_psr.c, Xen 4.17).
//!
//! `cache-occupancy` is the current occupancy of the last-level cache by a domain, in KB of 1024 bytes, per
//! socket. `total-mem-bandwidth` and `local-mem-bandwidth` are KB/s, also of 1024 bytes, over the 10 ms for
//! which `xl` itself measures: a rate over an interval that the caller does not choose, from which no total
//! follows. So this [`CacheMonitor`] provides only occupancy; the totals need Xen's libraries.
//!
//! `xl` reports if a domain was monitored before: then monitoring is not stopped here.

use nix::errno::Errno;

use super::run::Answer;
use super::{ParseError, Xl, is_gone};
use crate::toolstack::{CacheMonitor, DomainRef, SocketReading, XenError};

impl CacheMonitor for Xl {
    fn attach(&mut self, domain: DomainRef) -> Result<(), XenError> {
        self.check(domain)?;
        let answer = self.run(&["psr-cmt-attach", &domain.id.to_string()])?;
        if answer.status.success() {
            return self.check(domain);
        }
        match refusal(&answer, domain) {
            XenError::Call { errno: Errno::EEXIST, .. } => {
                self.monitored_by_others.insert(domain);
                Ok(())
            }
            error => Err(error),
        }
    }

    fn detach(&mut self, domain: DomainRef) -> Result<(), XenError> {
        if self.monitored_by_others.remove(&domain) {
            return Ok(());
        }
        // Not the monitoring of another domain with this number.
        match self.check(domain) {
            Err(error) if error.is_gone() => return Ok(()),
            checked => checked?,
        }
        let answer = self.run(&["psr-cmt-detach", &domain.id.to_string()])?;
        if answer.status.success() {
            return Ok(());
        }
        match refusal(&answer, domain) {
            XenError::Gone(_) | XenError::Call { errno: Errno::ENOENT, .. } => Ok(()),
            error => Err(error),
        }
    }

    fn read(&mut self, domain: DomainRef) -> Result<Vec<SocketReading>, XenError> {
        let answer = self.run(&["psr-cmt-show", "cache-occupancy", &domain.id.to_string()])?;
        if !answer.status.success() {
            return Err(refusal(&answer, domain));
        }
        let command = answer.command.clone();
        let shown = show(&answer.text()?)?;
        self.check(domain)?;
        // A domain that is not monitored has no line.
        let unwatched = || XenError::Call { call: command, errno: Errno::ENOENT };
        let line = shown.lines.iter().find(|line| line.id == domain.id).ok_or_else(unwatched)?;
        // `xl` prints nothing for a socket that cannot be read: then it is unknown to which sockets the
        // values belong.
        let is_whole = line.values.len() == shown.sockets.len();
        let reading =
            |(index, socket): (usize, &u32)| SocketReading {
                socket: *socket,
                llc_bytes: line.values.get(index).filter(|_| is_whole).and_then(|value| {
                    if value.unit == Unit::Kb { value.number.checked_mul(1024) } else { None }
                }),
                total_bytes: None,
                local_bytes: None,
            };
        Ok(shown.sockets.iter().enumerate().map(reading).collect())
    }
}

/// What a failed command of PSR means, by the messages of `xl` and of libxl (`libxl__psr_cmt_log_err_msg`,
/// tools/libs/light/libxl_psr.c).
fn refusal(answer: &Answer, domain: DomainRef) -> XenError {
    let known = [
        ("CMT is disabled in the system", Errno::ENODEV),
        ("is not supported in th", Errno::ENODEV),
        ("CMT is already attached", Errno::EEXIST),
        ("CMT is not attached", Errno::ENOENT),
        ("no free RMID", Errno::EOVERFLOW),
        ("unsupported operation", Errno::EOPNOTSUPP),
    ];
    if is_gone(answer) || answer.stderr.contains("Failed to get domain info") {
        return XenError::Gone(domain.id);
    }
    match known.iter().find(|(words, _)| answer.stderr.contains(words)) {
        Some((_, errno)) => XenError::Call { call: answer.command.clone(), errno: *errno },
        None => answer.failed(),
    }
}

/// The output of `xl psr-cmt-show`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    /// The sockets, in the order of the columns.
    sockets: Vec<u32>,
    lines: Vec<Line>,
}

/// A monitored domain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    id: u16,
    /// A column per socket, without those that could not be read.
    values: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    number: u64,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// 1024 bytes.
    Kb,
    /// 1024 bytes a second, over 10 ms.
    KbPerSecond,
}

/// Parses `xl psr-cmt-show`. Lines end with a value and its unit for each socket; before these are the number
/// and the name of the domain. The line with the cache size has no number.
fn show(text: &str) -> Result<Shown, ParseError> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("Name"));
    let header = lines.next().unwrap_or_default();
    let sockets = sockets(header).ok_or_else(|| ParseError::new("a header of xl psr-cmt-show", header))?;
    let mut shown = Shown { sockets, lines: Vec::new() };
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let error = || ParseError::new("a domain of xl psr-cmt-show", line);
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let mut values = Vec::new();
        while let Some(unit) = words.last().copied().and_then(unit) {
            words.pop();
            let number = words.pop().and_then(|word| word.parse().ok()).ok_or_else(error)?;
            values.push(Value { number, unit });
        }
        values.reverse();
        if values.len() > shown.sockets.len() {
            return Err(error());
        }
        match words.last().and_then(|word| word.parse().ok()) {
            Some(id) => shown.lines.push(Line { id, values }),
            None if line.starts_with("Total L3 Cache Size") => {}
            None => return Err(error()),
        }
    }
    Ok(shown)
}

fn unit(word: &str) -> Option<Unit> {
    match word {
        "KB" => Some(Unit::Kb),
        "KB/s" => Some(Unit::KbPerSecond),
        _ => None,
    }
}

/// `Name ID`, then `Socket N` for each.
fn sockets(header: &str) -> Option<Vec<u32>> {
    let words: Vec<&str> = header.split_whitespace().collect();
    let ["Name", "ID", columns @ ..] = &words[..] else { return None };
    let column = |pair: &[&str]| match pair {
        ["Socket", number] => number.parse().ok(),
        _ => None,
    };
    columns.chunks(2).map(column).collect()
}

#[cfg(test)]
mod tests;
