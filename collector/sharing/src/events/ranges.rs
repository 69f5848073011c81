//! Ranges of pages to read.

/// Gaps up to this many pages between two pages to read are read with them: a read costs as much as about
/// this many entries.
const GAP_PAGES: u64 = 16;

/// The ranges sorted, with those that touch or nearly touch joined.
pub(super) fn joined(mut ranges: Vec<(usize, u64, u64)>) -> Vec<(usize, u64, u64)> {
    ranges.sort_unstable();
    let mut joined: Vec<(usize, u64, u64)> = Vec::new();
    for (process, first, pages) in ranges {
        match joined.last_mut() {
            Some((last, from, count)) if *last == process && first <= *from + *count + GAP_PAGES => {
                *count = (*count).max(first + pages - *from);
            }
            _ => joined.push((process, first, pages)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_nearly_touch_are_read_as_one() {
        let ranges = vec![(0, 100, 2), (1, 5, 1), (0, 10, 1), (0, 20, 5), (0, 12, 30)];
        assert_eq!(joined(ranges), [(0, 10, 32), (0, 100, 2), (1, 5, 1)]);
        assert_eq!(joined(Vec::new()), []);
    }
}
