//! Layout of the misses of an experiment's result: measured ones and simulated ones, apart.

use ratatui::layout::Rect;

use super::MissesLayout;

/// Rows of the reason why nothing was measured.
const REASON_HEIGHT: u16 = 3;

/// The parts of the misses view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResultLayout {
    /// The table of measured misses, or the reason why there are none.
    pub(crate) measured: Rect,
    pub(crate) simulated: Rect,
}

impl ResultLayout {
    /// `measured`: the layout of the misses that were measured, if there are any.
    pub(crate) fn new(body: Rect, measured: Option<&MissesLayout>) -> Self {
        if let Some(layout) = measured {
            // An arm is one window, of which a chart would show nothing that the table does not.
            return Self { measured: layout.table, simulated: layout.charts };
        }
        let measured = Rect { height: REASON_HEIGHT.min(body.height), ..body };
        Self { measured, simulated: below(body, measured) }
    }
}

/// The parts of the simulated misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SimulatedLayout {
    /// A row that says what it is.
    pub(crate) title: Rect,
    /// The first row holds the names of the arms.
    pub(crate) table: Rect,
    /// Rows of the table before those of VMs: the names of the arms, all VMs, their interval.
    pub(crate) heading_rows: u16,
    /// The verdict; empty where there is no room.
    pub(crate) verdict: Rect,
}

impl SimulatedLayout {
    pub(crate) fn new(area: Rect) -> Self {
        let title = Rect { height: area.height.min(1), ..area };
        let rest = below(area, title);
        let heading_rows = if rest.height >= 8 { 4 } else { 2 };
        let verdict_rows = if rest.height >= 12 { 4 } else { 0 };
        let table = Rect { height: rest.height - verdict_rows, ..rest };
        Self { title, table, heading_rows, verdict: below(rest, table) }
    }

    /// VMs on the screen.
    pub(crate) fn visible_rows(&self) -> usize {
        usize::from(self.table.height.saturating_sub(self.heading_rows))
    }
}

fn below(area: Rect, part: Rect) -> Rect {
    Rect { y: part.bottom(), height: area.bottom().saturating_sub(part.bottom()), ..area }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::metric::Metric;

    #[test]
    fn the_parts_lie_within_the_body_and_apart() {
        for (width, height) in [(60, 12), (80, 21), (120, 37), (200, 57)] {
            let body = Rect::new(0, 2, width, height);
            for has_measured in [false, true] {
                let measured = MissesLayout::new(body, &Metric::ALL, 9, 4, false);
                let layout = ResultLayout::new(body, has_measured.then_some(&measured));
                let simulated = SimulatedLayout::new(layout.simulated);
                let parts = [layout.measured, simulated.title, simulated.table, simulated.verdict];
                for (at, part) in parts.iter().enumerate() {
                    assert_eq!(*part, part.intersection(body), "{body} {parts:?}");
                    let others = &parts[at + 1..];
                    assert!(others.iter().all(|other| part.intersection(*other).is_empty()), "{parts:?}");
                }
                assert!(simulated.visible_rows() >= 2, "{body} {has_measured}");
            }
        }
    }
}
