//! What KSM does to each VM, as a table.

use huddle_model::availability::Availability;
use huddle_model::observation::MergeObservation;

use super::App;
use super::geometry::KsmLayout;
use super::table::{RowKey, Table, compare_values};

/// A column of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergeColumn {
    Name,
    /// Pages merged at the end of the window.
    Merged,
    /// Pages merged, per second.
    Merges,
    /// Pages unmerged, per second.
    Breaks,
    /// Merges that failed, per second.
    Failed,
}

impl MergeColumn {
    /// From left to right.
    pub(crate) const ALL: [Self; 5] = [Self::Name, Self::Merged, Self::Merges, Self::Breaks, Self::Failed];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Name => "VM",
            Self::Merged => "merged",
            Self::Merges => "merges/s",
            Self::Breaks => "breaks/s",
            Self::Failed => "failed/s",
        }
    }

    /// The figure of a VM over a window of some seconds; `None` for the name.
    pub(crate) fn figure(self, seen: &MergeObservation, seconds: f64) -> Option<Availability<f64>> {
        let per_second = |count: &Availability<u64>| match count {
            Availability::Available(_) if seconds <= 0.0 => {
                Availability::Unavailable("the window has no length".into())
            }
            Availability::Available(count) => Availability::Available(*count as f64 / seconds),
            Availability::Unavailable(reason) => Availability::Unavailable(reason.clone()),
        };
        match self {
            Self::Name => None,
            Self::Merged => Some(seen.merged_now.clone().map(|pages| pages as f64)),
            Self::Merges => Some(per_second(&seen.merges)),
            Self::Breaks => Some(per_second(&seen.breaks)),
            Self::Failed => Some(per_second(&seen.failed)),
        }
    }
}

/// The initial table: most merged pages first.
pub(crate) fn table() -> Table {
    Table::by(2)
}

impl App {
    /// The VMs with KSM's work on each, in order, and the length of the window in seconds.
    pub(crate) fn merge_rows(&self) -> (Vec<&MergeObservation>, f64) {
        let seen = self.shown.as_ref().and_then(|picture| picture.view.observation.value());
        let Some(seen) = seen else { return (Vec::new(), 0.0) };
        let seconds = seen.seconds();
        let column = MergeColumn::ALL[self.merging.sort.min(MergeColumn::ALL.len() - 1)];
        let passing = seen.merging.iter().filter(|row| self.merging.passes(&row.vm));
        let mut rows: Vec<(Option<f64>, &MergeObservation)> = passing
            .map(|row| {
                let figure = column.figure(row, seconds);
                (figure.and_then(|figure| figure.value().copied()), row)
            })
            .collect();
        rows.sort_by(|(a, row_a), (b, row_b)| {
            let by_name = row_a.vm.cmp(&row_b.vm);
            if column == MergeColumn::Name {
                return self.merging.directed(by_name);
            }
            compare_values(&self.merging, *a, *b).then(by_name)
        });
        (rows.into_iter().map(|(_, row)| row).collect(), seconds)
    }

    pub(super) fn move_merge(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let Some(screen) = self.screen() else { return };
        let visible = KsmLayout::new(screen.body).visible_rows();
        let keys: Vec<RowKey> = self.merge_rows().0.into_iter().map(|row| (row.vm.clone(), None)).collect();
        let position = self.merging.position(keys.iter().cloned());
        self.merging.select(to(position, visible.max(1)), visible, &keys);
    }

    pub(super) fn sort_merges_by(&mut self, column: usize) {
        if let Some(wanted) = MergeColumn::ALL.get(column) {
            self.merging.sort_by(column, *wanted != MergeColumn::Name);
        }
    }
}
