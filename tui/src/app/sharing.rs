//! The sharing view's state: order, filter, cursor, scale.

use std::sync::Arc;

use huddle_model::matrix::{SharingMatrix, Weigh};
use ratatui::text::Span;

use super::cluster;
use super::geometry::{HeatLayout, window_top};
use super::scale::Scale;

/// Figures computed once per matrix, not per frame.
#[derive(Clone, Debug)]
pub(crate) struct MatrixFigures {
    /// Positions in the matrix, clustered.
    pub(crate) clustered: Arc<[usize]>,
    /// Row and column of the highest rate; `None` where nothing is shared.
    pub(crate) highest: Option<(usize, usize)>,
}

impl MatrixFigures {
    /// Reuses `before` if its matrix had the same VMs and rates.
    pub(crate) fn of(matrix: &SharingMatrix, before: Option<(&SharingMatrix, &Self)>) -> Self {
        if let Some((_, figures)) = before.filter(|(old, _)| same_rates(old, matrix)) {
            return figures.clone();
        }
        let mut highest = None;
        let mut top = 0.0;
        for i in 0..matrix.len() {
            for j in (0..matrix.len()).filter(|j| *j != i) {
                if matrix.rate(i, j) > top {
                    (top, highest) = (matrix.rate(i, j), Some((i, j)));
                }
            }
        }
        Self { highest, clustered: cluster::order(matrix).into() }
    }
}

fn same_rates(a: &SharingMatrix, b: &SharingMatrix) -> bool {
    let same_names = || a.vms().iter().zip(b.vms()).all(|(a, b)| a.name == b.name);
    let same_row = |i| (0..a.len()).all(|j| a.rate(i, j) == b.rate(i, j));
    std::ptr::eq(a, b) || a.len() == b.len() && same_names() && (0..a.len()).all(same_row)
}

/// Order of the VMs, and position of the cursor.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    pub(crate) is_clustered: bool,
    pub(crate) scale: Scale,
    /// Which shared frames the cells show.
    pub(crate) weigh: Weigh,
    pub(crate) filter: String,
    /// Positions in the matrix of the VMs shown, in the order of display.
    pub(crate) order: Vec<usize>,
    /// Columns of the longest name shown.
    pub(crate) longest_name: usize,
    /// Row and column of the cursor, as positions in `order`.
    pub(crate) cursor: (usize, usize),
    /// Names of the VMs under the cursor, which it follows when rows move.
    cursor_names: Option<(String, String)>,
    /// First visible row and column, as of the last key press.
    top: (usize, usize),
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            is_clustered: true,
            scale: Scale::Linear,
            weigh: Weigh::All,
            filter: String::new(),
            order: Vec::new(),
            longest_name: 0,
            cursor: (0, 1),
            cursor_names: None,
            top: (0, 0),
        }
    }
}

impl Sharing {
    /// Computes the layout again; the cursor stays with its VMs.
    pub(crate) fn arrange(&mut self, matrix: Option<(&SharingMatrix, &MatrixFigures)>) {
        let Some((matrix, figures)) = matrix else {
            self.order.clear();
            self.cursor = (0, 0);
            return;
        };
        let lower = self.filter.to_lowercase();
        let name = |vm: usize| matrix.vms()[vm].name.as_str();
        let passes = |vm: &usize| lower.is_empty() || name(*vm).to_lowercase().contains(&lower);
        self.order = if self.is_clustered {
            figures.clustered.iter().copied().filter(passes).collect()
        } else {
            (0..matrix.len()).filter(passes).collect()
        };
        self.longest_name = self.order.iter().map(|vm| Span::raw(name(*vm)).width()).max().unwrap_or(0);
        let find = |wanted: &str| self.order.iter().position(|vm| name(*vm) == wanted);
        let last = self.order.len().saturating_sub(1);
        self.cursor = match &self.cursor_names {
            Some((row, column)) => (
                find(row).unwrap_or(self.cursor.0.min(last)),
                find(column).unwrap_or(self.cursor.1.min(last)),
            ),
            None => (0, 1.min(last)),
        };
    }

    pub(crate) fn layout(&self, body: ratatui::layout::Rect) -> HeatLayout {
        HeatLayout::new(body, self.order.len(), self.longest_name)
    }

    /// First visible row and column.
    pub(crate) fn top(&self, layout: &HeatLayout) -> (usize, usize) {
        let len = self.order.len();
        (
            window_top(self.top.0, self.cursor.0, layout.visible_rows(), len),
            window_top(self.top.1, self.cursor.1, layout.visible_columns(), len),
        )
    }

    /// What a cell shows: a share (0 to 1) of the frames in use of VM `i`; `None` where it is not known.
    pub(crate) fn rate(&self, matrix: &SharingMatrix, i: usize, j: usize) -> Option<f64> {
        match self.weigh {
            Weigh::All => Some(matrix.rate(i, j)),
            Weigh::Read => matrix.read_rate(i, j),
        }
    }

    /// Puts the cursor on a cell and remembers its VMs.
    pub(crate) fn put_cursor(
        &mut self,
        row: usize,
        column: usize,
        matrix: &SharingMatrix,
        layout: &HeatLayout,
    ) {
        let last = self.order.len().saturating_sub(1);
        self.cursor = (row.min(last), column.min(last));
        self.top = self.top(layout);
        let name = |at: usize| self.order.get(at).map(|vm| matrix.vms()[*vm].name.clone());
        self.cursor_names = name(self.cursor.0).zip(name(self.cursor.1));
    }

    /// Scrolls so that the cursor is in the middle, as far as the grid allows.
    pub(crate) fn centre(&mut self, layout: &HeatLayout) {
        let start = |at: usize, visible: usize| at.saturating_sub(visible / 2);
        self.top =
            (start(self.cursor.0, layout.visible_rows()), start(self.cursor.1, layout.visible_columns()));
        self.top = self.top(layout);
    }

    /// The cell with the highest rate among those shown.
    pub(crate) fn highest(&self, matrix: &SharingMatrix) -> Option<(usize, usize)> {
        let mut best: Option<(f64, usize, usize)> = None;
        for (row, i) in self.order.iter().enumerate() {
            for (column, j) in self.order.iter().enumerate() {
                let Some(rate) = self.rate(matrix, *i, *j) else { continue };
                if i != j && best.is_none_or(|(highest, ..)| rate > highest) {
                    best = Some((rate, row, column));
                }
            }
        }
        best.map(|(_, row, column)| (row, column))
    }
}
