//! The sharing view's state: order, filter, cursor, scale.

use std::sync::Arc;

use huddle_model::matrix::{SharingMatrix, Weigh};
use ratatui::text::Span;

use super::cluster::{self, Clusters};
use super::geometry::{HeatLayout, HeatShape, window_top};
use super::overview::{Basis, Overview};
use super::scale::Scale;

/// Figures computed once per matrix, not per frame.
#[derive(Clone, Debug)]
pub(crate) struct MatrixFigures {
    /// Positions in the matrix, clustered.
    pub(crate) clustered: Arc<[usize]>,
    /// The group of each VM, see [`Clusters`].
    pub(crate) group_of: Arc<[usize]>,
    /// Row and column of the highest rate; `None` where nothing is shared.
    pub(crate) highest: Option<(usize, usize)>,
    /// The highest rate of what is read; 0 where nothing is.
    pub(crate) highest_read: f64,
}

impl MatrixFigures {
    /// Reuses `before` if its matrix had the same VMs and rates.
    pub(crate) fn of(matrix: &SharingMatrix, before: Option<(&SharingMatrix, &Self)>) -> Self {
        if let Some((_, figures)) = before.filter(|(old, _)| same_rates(old, matrix)) {
            return figures.clone();
        }
        let (mut highest, mut top, mut highest_read) = (None, 0.0, 0.0f64);
        let has_reads = matrix.read_window_ms().is_some();
        for i in 0..matrix.len() {
            for j in (0..matrix.len()).filter(|j| *j != i) {
                if matrix.rate(i, j) > top {
                    (top, highest) = (matrix.rate(i, j), Some((i, j)));
                }
                if has_reads {
                    highest_read = highest_read.max(matrix.read_rate(i, j).unwrap_or(0.0));
                }
            }
        }
        let Clusters { order, group_of } = cluster::clusters(matrix);
        Self { highest, highest_read, clustered: order.into(), group_of: group_of.into() }
    }
}

fn same_rates(a: &SharingMatrix, b: &SharingMatrix) -> bool {
    let same_names = || a.vms().iter().zip(b.vms()).all(|(a, b)| a.name == b.name);
    let same_row = |i| (0..a.len()).all(|j| a.rate(i, j) == b.rate(i, j));
    let same_reads = |i| (0..a.len()).all(|j| a.read_rate(i, j) == b.read_rate(i, j));
    let have_reads = (a.read_window_ms(), b.read_window_ms());
    let same_read = have_reads.0 == have_reads.1 && (have_reads.0.is_none() || (0..a.len()).all(same_reads));
    std::ptr::eq(a, b) || a.len() == b.len() && same_names() && (0..a.len()).all(same_row) && same_read
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
    /// What the layout depends on.
    shape: HeatShape,
    /// The placement by which VMs of a group are ordered.
    placed: Option<Arc<Overview>>,
    /// Groups of two VMs or more that stand together, as the positions in `order` from the first one to before `end`.
    pub(crate) groups: Vec<(usize, usize)>,
    /// Row and column of the cursor, as positions in `order`.
    pub(crate) cursor: (usize, usize),
    /// Names of the VMs under the cursor, which it follows when rows move.
    cursor_names: Option<(String, String)>,
    /// First visible row and column, as of the last key press.
    top: (usize, usize),
}

/// The groups of two VMs or more among VMs in the order of display. One that is all there is, is none.
fn runs(order: &[usize], group_of: &[usize]) -> Vec<(usize, usize)> {
    let mut groups = Vec::new();
    let mut from = 0;
    for run in order.chunk_by(|a, b| group_of[*a] == group_of[*b]) {
        let end = from + run.len();
        if run.len() > 1 && run.len() < order.len() {
            groups.push((from, end));
        }
        from = end;
    }
    groups
}

/// Before and after each group.
fn gaps(groups: &[(usize, usize)], count: usize) -> Arc<[usize]> {
    let mut gaps: Vec<usize> = groups.iter().flat_map(|(from, end)| [*from, *end]).collect();
    gaps.dedup();
    debug_assert!(gaps.iter().all(|gap| *gap <= count));
    gaps.into()
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            is_clustered: true,
            scale: Scale::Highest,
            weigh: Weigh::All,
            filter: String::new(),
            order: Vec::new(),
            shape: HeatShape::default(),
            placed: None,
            groups: Vec::new(),
            cursor: (0, 1),
            cursor_names: None,
            top: (0, 0),
        }
    }
}

impl Sharing {
    /// Computes the layout again; the cursor stays with its VMs.
    pub(crate) fn arrange(&mut self, shown: Option<(&SharingMatrix, &MatrixFigures, &Arc<Overview>)>) {
        let Some((matrix, figures, overview)) = shown else {
            self.order.clear();
            self.groups.clear();
            self.shape = HeatShape::default();
            self.cursor = (0, 0);
            return;
        };
        let lower = self.filter.to_lowercase();
        let name = |vm: usize| matrix.vms()[vm].name.as_str();
        let passes = |vm: &usize| lower.is_empty() || name(*vm).to_lowercase().contains(&lower);
        // While a trial switches placements, rows stay where they are.
        if self.placed.is_none() || overview.basis != Basis::Tried {
            self.placed = Some(Arc::clone(overview));
        }
        self.order = if self.is_clustered {
            let mut order: Vec<usize> = figures.clustered.iter().copied().filter(passes).collect();
            let home = |vm: &usize| self.placed.as_ref()?.home(name(*vm))?.parts.first().map(|(at, _)| *at);
            // VMs of a group are together by cache domain; those of unknown place are last.
            for group in order.chunk_by_mut(|a, b| figures.group_of[*a] == figures.group_of[*b]) {
                group.sort_by_cached_key(|vm| home(vm).unwrap_or(usize::MAX));
            }
            order
        } else {
            (0..matrix.len()).filter(passes).collect()
        };
        self.groups = if self.is_clustered { runs(&self.order, &figures.group_of) } else { Vec::new() };
        self.shape = HeatShape {
            count: self.order.len(),
            longest_name: self.order.iter().map(|vm| Span::raw(name(*vm)).width()).max().unwrap_or(0),
            gaps: gaps(&self.groups, self.order.len()),
            mark_width: overview.longest_mark(),
        };
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
        HeatLayout::new(body, &self.shape)
    }

    /// Groups that are wholly in one cache domain.
    pub(crate) fn groups_together(&self, matrix: &SharingMatrix, overview: &Overview) -> usize {
        let home = |vm: &usize| overview.home(&matrix.vms()[*vm].name)?.only();
        let is_together = |(from, end): &&(usize, usize)| {
            let mut homes = self.order[*from..*end].iter().map(home);
            let first = homes.next().flatten();
            first.is_some() && homes.all(|home| home == first)
        };
        self.groups.iter().filter(is_together).count()
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
