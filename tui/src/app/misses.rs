//! The misses view's state: VMs or vCPUs, their order, the charted one.

use std::cmp::Ordering;

use ratatui::layout::Rect;
use ratatui::text::Span;

use super::App;
use super::geometry::MissesLayout;
use super::metric::{Metric, Row, WindowFigures};
use super::series::Subject;
use super::table::{RowKey, Table, compare_values};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissColumn {
    Name,
    Domain,
    Metric(Metric),
}

impl MissColumn {
    /// From left to right, where all are known. What no row has a value of is left out.
    pub(crate) const ALL: [Self; 9] = [
        Self::Name,
        Self::Domain,
        Self::Metric(Metric::Mpki),
        Self::Metric(Metric::MissRatio),
        Self::Metric(Metric::MissesPerS),
        Self::Metric(Metric::Ipc),
        Self::Metric(Metric::Run),
        Self::Metric(Metric::OwnDomain),
        Self::Metric(Metric::Operations),
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Name => "VM",
            Self::Domain => "domain",
            Self::Metric(metric) => metric.name(),
        }
    }

    /// Its columns on the screen, with a space; the name takes what it needs.
    pub(crate) fn width(self) -> u16 {
        match self {
            Self::Name => 0,
            Self::Domain | Self::Metric(Metric::Mpki) => 9,
            Self::Metric(Metric::MissRatio | Metric::OwnDomain) => 13,
            Self::Metric(Metric::MissesPerS | Metric::Run) => 11,
            Self::Metric(Metric::Ipc) => 7,
            Self::Metric(Metric::Operations) => 10,
        }
    }

    /// Its position in [`Self::ALL`].
    fn index(self) -> usize {
        Self::ALL.iter().position(|column| *column == self).unwrap_or(0)
    }

    /// Names ascend by default, metrics descend.
    fn begins_descending(self) -> bool {
        matches!(self, Self::Metric(_))
    }
}

/// What the view shows and in which order.
#[derive(Clone, Debug)]
pub(crate) struct Misses {
    /// Sorted by a position in [`MissColumn::ALL`].
    pub(crate) table: Table,
    /// Rows are vCPUs; otherwise VMs.
    pub(crate) are_vcpus: bool,
    /// The metric to chart where there is room for one chart; another one where no row has values of it.
    metric: Metric,
}

impl Default for Misses {
    fn default() -> Self {
        // By misses per second, the load on caches and memory.
        Self { table: Table::by(4), are_vcpus: false, metric: Metric::Mpki }
    }
}

impl Misses {
    pub(super) fn sort_by(&mut self, column: MissColumn) {
        self.table.sort_by(column.index(), column.begins_descending());
    }

    fn order(&self, by: MissColumn, a: &Row, b: &Row) -> Ordering {
        let by_name = || (&a.vm, a.vcpu).cmp(&(&b.vm, b.vcpu));
        let first = match by {
            MissColumn::Name => self.table.directed(by_name()),
            MissColumn::Domain => match (a.domains.is_empty(), b.domains.is_empty()) {
                (false, false) => self.table.directed(a.domains.cmp(&b.domains)),
                (unknown, other) => unknown.cmp(&other),
            },
            MissColumn::Metric(metric) => {
                let value = |row: &Row| metric.of(&row.figures).value().copied();
                compare_values(&self.table, value(a), value(b))
            }
        };
        // A stable sort: equal values keep their place from frame to frame.
        first.then_with(by_name)
    }
}

/// The key of a row.
pub(crate) fn key(row: &Row) -> RowKey {
    (row.vm.clone(), row.vcpu)
}

/// Whose series a row shows.
pub(crate) fn subject(row: &Row) -> Subject<'_> {
    match row.vcpu {
        None => Subject::Vm(&row.vm),
        Some(index) => Subject::Vcpu(&row.vm, index),
    }
}

impl App {
    fn figures(&self) -> Option<&WindowFigures> {
        self.shown.as_ref()?.window.value().map(|figures| &**figures)
    }

    /// The metrics that some row has a value of; all where there is no row.
    pub(crate) fn known_metrics(&self) -> &[Metric] {
        let known = self.figures().map_or(&[][..], |figures| figures.known(self.misses.are_vcpus));
        if known.is_empty() { &Metric::ALL } else { known }
    }

    /// Why metrics have no column, each reason once; empty where all have one.
    pub(crate) fn why_not_shown(&self) -> String {
        let Some(figures) = self.figures().filter(|figures| !figures.vcpus.is_empty()) else {
            return String::new();
        };
        let known = self.known_metrics();
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        // No workload of an experiment reports to a loop.
        let is_expected = |metric: &Metric| *metric != Metric::Operations || self.experiment().is_none();
        for metric in Metric::ALL.into_iter().filter(|metric| !known.contains(metric) && is_expected(metric))
        {
            let Some(reason) = metric.of(&figures.host).reason() else { continue };
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(metric.name()),
                None => reasons.push((reason, vec![metric.name()])),
            }
        }
        let one = |(reason, names): (&str, Vec<&str>)| format!("{} n/a: {reason}", names.join(", "));
        reasons.into_iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// The column that orders the rows: the chosen one, or the first metric where it is not shown.
    pub(crate) fn miss_order(&self) -> MissColumn {
        let wanted = MissColumn::ALL[self.misses.table.sort.min(MissColumn::ALL.len() - 1)];
        match wanted {
            MissColumn::Metric(metric) => {
                let known = self.known_metrics();
                let metric = if known.contains(&metric) { metric } else { known[0] };
                MissColumn::Metric(metric)
            }
            other => other,
        }
    }

    /// The metric to chart first.
    pub(crate) fn charted_metric(&self) -> Metric {
        let known = self.known_metrics();
        if known.contains(&self.misses.metric) { self.misses.metric } else { known[0] }
    }

    pub(super) fn chart_next_metric(&mut self) {
        let known = self.known_metrics();
        let charted = self.charted_metric();
        let at = known.iter().position(|metric| *metric == charted).unwrap_or(0);
        let next = known[(at + 1) % known.len()];
        self.misses.metric = next;
    }

    pub(super) fn order_misses_by_next(&mut self) {
        let mut columns = vec![MissColumn::Name, MissColumn::Domain];
        columns.extend(self.known_metrics().iter().copied().map(MissColumn::Metric));
        let order = self.miss_order();
        let at = columns.iter().position(|column| *column == order).unwrap_or(0);
        self.misses.sort_by(columns[(at + 1) % columns.len()]);
    }

    /// The layout of the misses view in this area.
    pub(crate) fn misses_layout(&self, body: Rect) -> MissesLayout {
        self.misses_layout_of(body, &self.miss_rows())
    }

    /// The same for these rows.
    pub(crate) fn misses_layout_of(&self, body: Rect, rows: &[&Row]) -> MissesLayout {
        let width = |row: &&Row| match row.vcpu {
            None => Span::raw(&row.vm).width(),
            Some(_) => Span::raw(super::row_label(row)).width(),
        };
        let longest = rows.iter().map(width).max().unwrap_or(0);
        MissesLayout::new(body, self.known_metrics(), longest, rows.len(), !self.why_not_shown().is_empty())
    }

    /// The rows of the misses view, in order.
    pub(crate) fn miss_rows(&self) -> Vec<&Row> {
        let rows = self
            .figures()
            .map_or(&[][..], |figures| if self.misses.are_vcpus { &figures.vcpus } else { &figures.vms });
        let mut rows: Vec<&Row> = rows.iter().filter(|row| self.misses.table.passes(&row.vm)).collect();
        let by = self.miss_order();
        rows.sort_by(|a, b| self.misses.order(by, a, b));
        rows
    }

    pub(super) fn move_miss(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let Some(screen) = self.screen() else { return };
        if self.has_simulated_rows_only() {
            return self.move_simulated(screen.body, to);
        }
        let visible = self.misses_layout(screen.body).visible_rows();
        let keys: Vec<RowKey> = self.miss_rows().into_iter().map(key).collect();
        let position = self.misses.table.position(keys.iter().cloned());
        self.misses.table.select(to(position, visible.max(1)), visible, &keys);
    }
}
