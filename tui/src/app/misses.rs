//! The misses view's state: VMs or vCPUs, their order, the charted one.

use std::cmp::Ordering;

use super::App;
use super::geometry::MissesLayout;
use super::rate::{Rate, RateRow};
use super::series::Subject;
use super::table::{RowKey, Table, compare_values};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissColumn {
    Name,
    Domain,
    Rate(Rate),
}

impl MissColumn {
    /// From left to right.
    pub(crate) const ALL: [Self; 6] = [
        Self::Name,
        Self::Domain,
        Self::Rate(Rate::Mpki),
        Self::Rate(Rate::MissRatio),
        Self::Rate(Rate::MissesPerS),
        Self::Rate(Rate::Ipc),
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Name => "VM",
            Self::Domain => "domain",
            Self::Rate(rate) => rate.name(),
        }
    }

    /// Names ascend by default, rates descend.
    fn begins_descending(self) -> bool {
        matches!(self, Self::Rate(_))
    }
}

/// What the view shows and in which order.
#[derive(Clone, Debug)]
pub(crate) struct Misses {
    pub(crate) table: Table,
    /// Rows are vCPUs; otherwise VMs.
    pub(crate) are_vcpus: bool,
    /// The rate to chart where there is room for one chart.
    pub(crate) rate: Rate,
}

impl Default for Misses {
    fn default() -> Self {
        // By misses per second, the load on caches and memory.
        Self { table: Table::by(4), are_vcpus: false, rate: Rate::Mpki }
    }
}

impl Misses {
    pub(crate) fn sort(&self) -> MissColumn {
        MissColumn::ALL[self.table.sort.min(MissColumn::ALL.len() - 1)]
    }

    pub(super) fn sort_by(&mut self, column: usize) {
        if let Some(wanted) = MissColumn::ALL.get(column) {
            self.table.sort_by(column, wanted.begins_descending());
        }
    }

    pub(super) fn next_order(&mut self) {
        self.sort_by((self.table.sort + 1) % MissColumn::ALL.len());
    }

    fn order(&self, a: &RateRow, b: &RateRow) -> Ordering {
        let by_name = || (&a.vm, a.vcpu).cmp(&(&b.vm, b.vcpu));
        let first = match self.sort() {
            MissColumn::Name => self.table.directed(by_name()),
            MissColumn::Domain => match (a.domains.is_empty(), b.domains.is_empty()) {
                (false, false) => self.table.directed(a.domains.cmp(&b.domains)),
                (unknown, other) => unknown.cmp(&other),
            },
            MissColumn::Rate(rate) => {
                let value = |row: &RateRow| rate.of(&row.rates).value().copied();
                compare_values(&self.table, value(a), value(b))
            }
        };
        // A stable sort: equal values keep their place from frame to frame.
        first.then_with(by_name)
    }
}

/// The key of a row.
pub(crate) fn key(row: &RateRow) -> RowKey {
    (row.vm.clone(), row.vcpu)
}

/// Whose series a row shows.
pub(crate) fn subject(row: &RateRow) -> Subject<'_> {
    match row.vcpu {
        None => Subject::Vm(&row.vm),
        Some(index) => Subject::Vcpu(&row.vm, index),
    }
}

impl App {
    /// The rows of the misses view, in order.
    pub(crate) fn miss_rows(&self) -> Vec<&RateRow> {
        let figures = self.shown.as_ref().and_then(|picture| picture.window.value());
        let rows = figures.map_or(
            &[][..],
            |figures| {
                if self.misses.are_vcpus { &figures.vcpus } else { &figures.vms }
            },
        );
        let mut rows: Vec<&RateRow> = rows.iter().filter(|row| self.misses.table.passes(&row.vm)).collect();
        rows.sort_by(|a, b| self.misses.order(a, b));
        rows
    }

    pub(super) fn move_miss(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let Some(screen) = self.screen() else { return };
        let visible = MissesLayout::new(screen.body).visible_rows();
        let keys: Vec<RowKey> = self.miss_rows().into_iter().map(key).collect();
        let position = self.misses.table.position(keys.iter().cloned());
        self.misses.table.select(to(position, visible.max(1)), visible, &keys);
    }
}
