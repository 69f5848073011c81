//! The compare view's state: which decision is selected.

use huddle_model::trial::{Arm, Decision};

use super::App;
use super::geometry::{CompareLayout, window_top};

/// Selection and scroll position.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Compare {
    /// Position counted from the latest decision; 0 follows the latest.
    pub(crate) selected: usize,
    top: usize,
}

/// The blocks of two arms, each of which was measured in every block.
pub(crate) struct PairedBlocks<'a> {
    pub(crate) names: [&'a str; 2],
    /// The values of both, in the order of time.
    pub(crate) pairs: Vec<[f64; 2]>,
}

impl<'a> PairedBlocks<'a> {
    /// Of the first two arms that have blocks.
    pub(crate) fn of(arms: &'a [Arm]) -> Option<Self> {
        let mut measured = arms.iter().filter(|arm| !arm.blocks.is_empty());
        let (one, other) = (measured.next()?, measured.next()?);
        let pairs = one.blocks.iter().zip(&other.blocks).map(|(one, other)| [*one, *other]).collect();
        Some(Self { names: [&one.name, &other.name], pairs })
    }
}

impl App {
    /// The decisions of the shown picture, oldest first.
    pub(crate) fn decisions(&self) -> &[Decision] {
        self.shown.as_ref().map_or(&[], |picture| &picture.view.decisions)
    }

    /// Position of the selected decision, from the latest.
    pub(crate) fn selected_decision(&self) -> usize {
        self.compare.selected.min(self.decisions().len().saturating_sub(1))
    }

    pub(crate) fn compare_layout(&self, body: ratatui::layout::Rect) -> CompareLayout {
        let comparison = self.shown.as_ref().and_then(|picture| picture.view.comparison.value());
        let arms = comparison.map_or(&[][..], |comparison| &comparison.arms);
        CompareLayout::new(body, arms.len(), PairedBlocks::of(arms).map_or(0, |paired| paired.pairs.len()))
    }

    /// The first decision on the screen, from the latest.
    pub(crate) fn decisions_top(&self, visible: usize) -> usize {
        window_top(self.compare.top, self.selected_decision(), visible, self.decisions().len())
    }

    pub(super) fn move_decision(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let Some(screen) = self.screen() else { return };
        let visible = self.compare_layout(screen.body).visible_decisions();
        let last = self.decisions().len().saturating_sub(1);
        self.compare.selected = to(self.selected_decision(), visible.max(1)).min(last);
        self.compare.top = self.decisions_top(visible);
    }

    /// New decisions come in front: a selected older one stays selected.
    pub(super) fn keep_decision(&mut self, before: usize) {
        let after = self.decisions().len();
        if self.compare.selected > 0 {
            self.compare.selected += after.saturating_sub(before);
        }
    }
}
