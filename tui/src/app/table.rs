//! State of a table: sort order, filter, selected row.

use std::cmp::Ordering;

use super::geometry::window_top;

/// The key of a row: a VM, and a vCPU of it.
pub(crate) type RowKey = (String, Option<u32>);

/// Sort order, filter and selection of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// The column that orders the rows.
    pub(crate) sort: usize,
    pub(crate) is_descending: bool,
    pub(crate) filter: String,
    /// The row that the selection follows, and where it was last.
    selected: Option<(RowKey, usize)>,
    top: usize,
}

impl Table {
    pub(crate) fn by(sort: usize) -> Self {
        Self { sort, is_descending: true, ..Self::default() }
    }

    pub(crate) fn passes(&self, name: &str) -> bool {
        self.filter.is_empty() || name.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Sorts by this column, or reverses the order if it already does.
    pub(crate) fn sort_by(&mut self, column: usize, is_descending: bool) {
        if self.sort == column {
            self.is_descending = !self.is_descending;
        } else {
            (self.sort, self.is_descending) = (column, is_descending);
        }
    }

    /// The ascending order, reversed if the table descends.
    pub(crate) fn directed(&self, ascending: Ordering) -> Ordering {
        if self.is_descending { ascending.reverse() } else { ascending }
    }

    /// Position of the selected row; its last position if it is gone.
    pub(crate) fn position(&self, mut rows: impl ExactSizeIterator<Item = RowKey>) -> usize {
        let last = rows.len().saturating_sub(1);
        match &self.selected {
            None => 0,
            Some((key, at)) => rows.position(|row| row == *key).unwrap_or((*at).min(last)),
        }
    }

    /// Selects the row at a position, as far as there are rows.
    pub(crate) fn select(&mut self, position: usize, visible: usize, rows: &[RowKey]) {
        let position = position.min(rows.len().saturating_sub(1));
        self.top = window_top(self.top, position, visible, rows.len());
        self.selected = rows.get(position).map(|key| (key.clone(), position));
    }

    /// Selects the first row again, whichever it is.
    pub(crate) fn deselect(&mut self) {
        (self.selected, self.top) = (None, 0);
    }

    pub(crate) fn top(&self, position: usize, visible: usize, len: usize) -> usize {
        window_top(self.top, position, visible, len)
    }
}

/// Values in ascending order; unavailable ones come last in either direction.
pub(crate) fn compare_values(table: &Table, a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => table.directed(a.total_cmp(&b)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selection_follows_its_row_and_unavailable_values_are_last() {
        let key = |name: &str| (name.to_owned(), None);
        let rows = [key("a"), key("b"), key("c")];
        let mut table = Table::by(0);
        table.select(1, 2, &rows);
        assert_eq!(table.position([key("c"), key("a"), key("b")].into_iter()), 2);
        assert_eq!(table.position([key("c")].into_iter()), 0);
        for is_descending in [true, false] {
            table.is_descending = is_descending;
            assert_eq!(compare_values(&table, None, Some(0.0)), Ordering::Greater);
        }
        assert_eq!(compare_values(&table, Some(1.0), Some(2.0)), Ordering::Less);
    }
}
