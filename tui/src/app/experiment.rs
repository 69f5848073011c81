//! The result of an experiment: which arm is shown, and the rows of its simulated misses.

use huddle_model::summary::{Arm, SimulatedVm};

use super::geometry::{ResultLayout, SimulatedLayout};
use super::metric::Row;
use super::misses::key;
use super::table::RowKey;
use super::{App, ExperimentResult, Picture};

impl App {
    /// Whether the source is the result of an experiment.
    pub(super) fn is_experiment(&self) -> bool {
        self.source.replay().is_some_and(|replay| replay.experiment.is_some())
    }

    /// The experiment whose result is shown, with the arm of the picture: the position of the replay is ahead of the
    /// picture until the view of that position is there.
    pub(crate) fn experiment(&self) -> Option<(&ExperimentResult, Arm)> {
        let result = self.source.replay()?.experiment.as_deref()?;
        let step = self.shown.as_ref()?.view.round.number.checked_sub(1)?;
        Some((result, *result.arms.get(usize::try_from(step).ok()?)?))
    }

    /// The VMs with simulated misses that pass the filter, in the order of the matrix.
    pub(crate) fn simulated_rows(&self) -> Vec<&SimulatedVm> {
        let simulated = self.experiment().and_then(|(result, _)| result.simulated.value());
        let all = simulated.map_or(&[][..], |simulated| &simulated.vms);
        all.iter().filter(|vm| self.misses.table.passes(&vm.vm)).collect()
    }

    /// Position of the selected VM among the rows of simulated misses; the selection is that of the measured ones.
    pub(crate) fn simulated_position(&self, rows: &[&SimulatedVm]) -> usize {
        if !self.has_simulated_rows_only() {
            let measured = self.miss_rows();
            let at = self.misses.table.position(measured.iter().map(|row| key(row)));
            let same = |row: &&Row| rows.iter().position(|vm| vm.vm == row.vm);
            return measured.get(at).and_then(same).unwrap_or(0);
        }
        self.misses.table.position(rows.iter().map(|vm| simulated_key(vm)))
    }

    /// Where the misses of an experiment's result are drawn.
    pub(crate) fn result_layout(&self, body: ratatui::layout::Rect) -> ResultLayout {
        let has_measured = self.shown.as_ref().is_some_and(has_measured_figures);
        ResultLayout::new(body, has_measured.then(|| self.misses_layout(body)).as_ref())
    }

    /// Whether the rows of the misses view are simulated: an experiment's result in which nothing of VMs was measured.
    pub(crate) fn has_simulated_rows_only(&self) -> bool {
        self.experiment().is_some() && !self.shown.as_ref().is_some_and(has_measured_figures)
    }

    /// Moves the selection among the rows of simulated misses.
    pub(super) fn move_simulated(
        &mut self,
        body: ratatui::layout::Rect,
        to: impl FnOnce(usize, usize) -> usize,
    ) {
        let visible = SimulatedLayout::new(self.result_layout(body).simulated).visible_rows();
        let rows = self.simulated_rows();
        let position = self.simulated_position(&rows);
        let keys: Vec<RowKey> = rows.into_iter().map(simulated_key).collect();
        self.misses.table.select(to(position, visible.max(1)), visible, &keys);
    }
}

fn simulated_key(vm: &SimulatedVm) -> RowKey {
    (vm.vm.clone(), None)
}

/// Whether a figure of some VM was measured: misses, or at least how long and where it ran.
fn has_measured_figures(picture: &Picture) -> bool {
    picture.window.value().is_some_and(|figures| !figures.known(false).is_empty())
}
