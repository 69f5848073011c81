//! The log: events and reasons in order of arrival, a filter, and a selected entry.

use std::collections::VecDeque;

use super::geometry::window_top;

/// Most entries kept; older ones are dropped, and the view shows that.
const KEPT: usize = 10_000;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Number since the start, from 0.
    pub(crate) number: u64,
    pub(crate) at_unix_us: u64,
    /// An event's kind, `reason` for a plan's, `missed` for rounds that this viewer did not receive.
    pub(crate) kind: &'static str,
    pub(crate) vm: Option<String>,
    pub(crate) text: String,
}

/// The log with its filter and selection.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    /// Numbers of the entries that pass the filter, ascending.
    matched: VecDeque<u64>,
    next_number: u64,
    pub(crate) dropped: u64,
    pub(crate) filter: String,
    pub(crate) newest_first: bool,
    /// `None` follows the newest entry.
    selected: Option<u64>,
    /// First visible position, as of the last key press.
    top: usize,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            matched: VecDeque::new(),
            next_number: 0,
            dropped: 0,
            filter: String::new(),
            newest_first: true,
            selected: None,
            top: 0,
        }
    }
}

impl Log {
    pub(crate) fn push(&mut self, at_unix_us: u64, kind: &'static str, vm: Option<String>, text: String) {
        let entry = Entry { number: self.next_number, at_unix_us, kind, vm, text };
        self.next_number += 1;
        if passes(&entry, &self.filter.to_lowercase()) {
            self.matched.push_back(entry.number);
        }
        self.entries.push_back(entry);
        if self.entries.len() > KEPT {
            self.entries.pop_front();
            self.dropped += 1;
            let first = self.next_number - self.entries.len() as u64;
            while self.matched.front().is_some_and(|number| *number < first) {
                self.matched.pop_front();
            }
        }
    }

    /// Removes all entries, but keeps filter and selection.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.matched.clear();
        (self.dropped, self.selected, self.top) = (0, None, 0);
    }

    /// Number of the next entry: the end for a picture made now.
    pub(crate) fn end(&self) -> u64 {
        self.next_number
    }

    pub(crate) fn set_filter(&mut self, filter: String) {
        let lower = filter.to_lowercase();
        let passing = self.entries.iter().filter(|entry| passes(entry, &lower));
        self.matched = passing.map(|entry| entry.number).collect();
        self.filter = filter;
    }

    /// Number of entries before `end` that pass the filter.
    pub(crate) fn len(&self, end: u64) -> usize {
        self.matched.partition_point(|number| *number < end)
    }

    /// Number of entries before `end`.
    pub(crate) fn total(&self, end: u64) -> usize {
        self.entries.partition_point(|entry| entry.number < end)
    }

    /// The entry at a position of the shown list.
    pub(crate) fn at(&self, position: usize, end: u64) -> Option<&Entry> {
        let index = self.flip(position, self.len(end))?;
        let number = self.matched.get(index)?;
        let first = self.next_number - self.entries.len() as u64;
        self.entries.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// Position of the selected entry, or of the newest.
    pub(crate) fn position(&self, end: u64) -> usize {
        let len = self.len(end);
        let index = match self.selected {
            Some(selected) => self.matched.partition_point(|number| *number < selected),
            None => len.saturating_sub(1),
        };
        self.flip(index.min(len.saturating_sub(1)), len).unwrap_or(0)
    }

    pub(crate) fn is_following(&self) -> bool {
        self.selected.is_none()
    }

    /// First visible position when `visible` entries fit.
    pub(crate) fn top(&self, end: u64, visible: usize) -> usize {
        window_top(self.top, self.position(end), visible, self.len(end))
    }

    /// Selects a position; selecting the newest one follows new entries.
    pub(crate) fn select(&mut self, position: usize, end: u64, visible: usize) {
        let len = self.len(end);
        let position = position.min(len.saturating_sub(1));
        let index = self.flip(position, len);
        self.selected = match index {
            Some(index) if index + 1 < len => self.matched.get(index).copied(),
            _ => None,
        };
        self.top = window_top(self.top, position, visible, len);
    }

    pub(crate) fn turn(&mut self) {
        self.newest_first = !self.newest_first;
        self.top = 0;
    }

    pub(crate) fn follow(&mut self) {
        self.selected = None;
    }

    fn flip(&self, position: usize, len: usize) -> Option<usize> {
        let last = len.checked_sub(1)?;
        if self.newest_first { last.checked_sub(position) } else { Some(position) }
    }
}

fn passes(entry: &Entry, lower_filter: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(lower_filter);
    lower_filter.is_empty() || has(entry.kind) || has(&entry.text) || entry.vm.as_deref().is_some_and(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: u64) -> Log {
        let mut log = Log::default();
        for at in 0..count {
            log.push(at, if at % 2 == 0 { "even" } else { "odd" }, None, format!("entry {at}"));
        }
        log
    }

    #[test]
    fn a_selected_entry_stays_selected_while_others_arrive() {
        let mut log = log(5);
        log.select(2, log.end(), 10);
        assert_eq!(log.at(2, log.end()).unwrap().text, "entry 2");
        log.push(9, "even", None, "entry 5".into());
        let end = log.end();
        assert_eq!(log.at(log.position(end), end).unwrap().text, "entry 2");
        log.follow();
        assert_eq!(log.at(log.position(end), end).unwrap().text, "entry 5");
    }

    #[test]
    fn the_filter_reads_kind_and_text_in_any_case() {
        let mut log = log(6);
        log.set_filter("ODD".into());
        assert_eq!((log.len(log.end()), log.total(log.end())), (3, 6));
        log.set_filter("Entry 4".into());
        assert_eq!(log.at(0, log.end()).unwrap().number, 4);
        log.push(9, "even", None, "entry 44".into());
        assert_eq!(log.len(log.end()), 2);
    }

    #[test]
    fn a_paused_picture_does_not_show_later_entries() {
        let mut log = log(3);
        let end = log.end();
        log.push(9, "odd", None, "late".into());
        assert_eq!(log.len(end), 3);
        assert_eq!(log.at(0, end).unwrap().text, "entry 2");
    }

    #[test]
    fn old_entries_are_dropped_and_counted() {
        let mut log = log(KEPT as u64 + 7);
        assert_eq!((log.dropped, log.total(log.end())), (7, KEPT));
        log.turn();
        assert_eq!(log.at(0, log.end()).unwrap().text, "entry 7");
    }
}
