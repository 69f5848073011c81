//! Layout of the views with tables: misses, compare, ksm.

use ratatui::layout::Rect;

/// The parts of the misses view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissesLayout {
    pub(crate) info: Rect,
    /// The first row holds the titles.
    pub(crate) table: Rect,
    /// Columns of the name; the sparkline takes the rest.
    pub(crate) name_width: u16,
    pub(crate) charts: Rect,
    /// Whether there is room for charts of all rates.
    pub(crate) has_all_charts: bool,
}

/// From this width on charts are beside the table.
const CHARTS_BESIDE: u16 = 140;
const TABLE_WIDTH: u16 = 78;
/// Rows that a chart needs: title, three of bars, axis.
const CHART_HEIGHT: u16 = 5;

impl MissesLayout {
    /// Widths of the columns after the name: the domain and the four rates.
    pub(crate) const WIDTHS: [u16; 5] = [9, 9, 13, 11, 7];

    pub(crate) fn new(body: Rect) -> Self {
        let info = Rect { height: 1, ..body };
        let rest = Rect { y: body.y + 1, height: body.height.saturating_sub(1), ..body };
        let (table, charts) = if body.width >= CHARTS_BESIDE {
            let charts = Rect { x: rest.x + TABLE_WIDTH + 1, width: rest.width - TABLE_WIDTH - 1, ..rest };
            (Rect { width: TABLE_WIDTH, ..rest }, charts)
        } else {
            let below = (rest.height * 2 / 5).clamp(CHART_HEIGHT, 16).min(rest.height);
            let table = Rect { height: rest.height - below, ..rest };
            (table, Rect { y: table.bottom(), height: below, ..rest })
        };
        let figures: u16 = Self::WIDTHS.iter().sum();
        let name_width = table.width.saturating_sub(figures + 1).clamp(8, 20);
        let has_all_charts = charts.height >= 4 * CHART_HEIGHT;
        Self { info, table, name_width, charts, has_all_charts }
    }

    /// Rows of the table on the screen.
    pub(crate) fn visible_rows(&self) -> usize {
        usize::from(self.table.height.saturating_sub(1))
    }

    /// First screen column and width of each column.
    pub(crate) fn columns(&self) -> [(u16, u16); 6] {
        let mut x = self.table.x + 1;
        let mut widths = [self.name_width; 6];
        widths[1..].copy_from_slice(&Self::WIDTHS);
        widths.map(|width| {
            let at = x;
            x += width;
            (at, width)
        })
    }

    /// The part of the table left for sparklines.
    pub(crate) fn spark(&self) -> (u16, u16) {
        let (x, width) = self.columns()[5];
        (x + width + 1, self.table.right().saturating_sub(x + width + 2))
    }
}

/// The parts of the ksm view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KsmLayout {
    pub(crate) state: Rect,
    pub(crate) settings: Rect,
    /// A heading, a row of titles, the VMs.
    pub(crate) table: Rect,
    pub(crate) history: Rect,
    /// Whether each value has its own row; otherwise they flow.
    pub(crate) is_wide: bool,
}

/// From this width on state and settings are side by side.
const KSM_WIDE: u16 = 112;
/// Columns of the state then.
const STATE_WIDTH: u16 = 66;

impl KsmLayout {
    /// Columns of the figures of the table.
    pub(crate) const FIGURE: u16 = 13;

    pub(crate) fn new(body: Rect) -> Self {
        let is_wide = body.width >= KSM_WIDE;
        let part = |y: u16, height: u16| Rect { y, height, ..body }.intersection(body);
        if is_wide {
            let top = part(body.y, 10);
            let below = part(top.bottom(), body.height.saturating_sub(10));
            return Self {
                state: Rect { width: STATE_WIDTH, ..top },
                settings: Rect { x: body.x + STATE_WIDTH, width: body.width - STATE_WIDTH, ..top },
                table: Rect { width: STATE_WIDTH, ..below },
                history: Rect { x: body.x + STATE_WIDTH, width: body.width - STATE_WIDTH, ..below },
                is_wide,
            };
        }
        let state = part(body.y, 6);
        let settings = part(state.bottom(), if body.height >= 20 { 4 } else { 0 });
        let left = body.bottom().saturating_sub(settings.bottom());
        let history = if left >= 10 { (left / 2).min(9) } else { 0 };
        let table = part(settings.bottom(), left - history);
        Self { state, settings, table, history: part(table.bottom(), history), is_wide }
    }

    /// VMs on the screen.
    pub(crate) fn visible_rows(&self) -> usize {
        usize::from(self.table.height.saturating_sub(2))
    }

    /// First screen column and width of each column.
    pub(crate) fn columns(&self) -> [(u16, u16); 5] {
        let name = self.table.width.saturating_sub(4 * Self::FIGURE + 1).clamp(8, 24);
        let mut x = self.table.x + 1;
        [name, Self::FIGURE, Self::FIGURE, Self::FIGURE, Self::FIGURE].map(|width| {
            let at = x;
            x += width;
            (at, width)
        })
    }
}

/// The parts of the compare view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompareLayout {
    pub(crate) info: Rect,
    /// A row of titles, the arms, a scale.
    pub(crate) arms: Rect,
    /// A heading and the latest blocks; empty where there is no room or no block.
    pub(crate) blocks: Rect,
    /// A heading and the decisions.
    pub(crate) decisions: Rect,
    /// A heading and the selected decision.
    pub(crate) detail: Rect,
}

impl CompareLayout {
    pub(crate) fn new(body: Rect, arms: usize, blocks: usize) -> Self {
        let part = |y: u16, height: u16| Rect { y, height, ..body }.intersection(body);
        let detail = (body.height / 4).clamp(4, 7);
        let most = body.height.saturating_sub(1 + detail) * 3 / 5;
        let arms = u16::try_from(arms).unwrap_or(u16::MAX).saturating_add(2).min(most).max(2);
        let info = part(body.y, 1);
        let arms = part(info.bottom(), arms);
        let detail = part(body.bottom().saturating_sub(detail), detail);
        let rest = detail.y.saturating_sub(arms.bottom());
        // Decisions keep at least half, and a heading with two of them.
        let blocks = match u16::try_from(blocks).unwrap_or(u16::MAX) {
            0 => 0,
            blocks => blocks.saturating_add(1).min(rest / 2),
        };
        let blocks = part(arms.bottom(), if blocks >= 3 { blocks } else { 0 });
        let decisions = part(blocks.bottom(), detail.y.saturating_sub(blocks.bottom()));
        Self { info, arms, blocks, decisions, detail }
    }

    /// Decisions on the screen.
    pub(crate) fn visible_decisions(&self) -> usize {
        usize::from(self.decisions.height.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_lie_within_the_body_and_apart() {
        for (width, height) in [(60, 13), (80, 22), (111, 30), (140, 20), (200, 58), (300, 98)] {
            let body = Rect::new(0, 1, width, height);
            let misses = MissesLayout::new(body);
            let ksm = KsmLayout::new(body);
            let compare = CompareLayout::new(body, 7, 20);
            for parts in [
                vec![misses.info, misses.table, misses.charts],
                vec![ksm.state, ksm.settings, ksm.table, ksm.history],
                vec![compare.info, compare.arms, compare.blocks, compare.decisions, compare.detail],
            ] {
                for (at, part) in parts.iter().enumerate() {
                    assert_eq!(*part, part.intersection(body), "{body} {parts:?}");
                    let others = &parts[at + 1..];
                    assert!(others.iter().all(|other| part.intersection(*other).is_empty()), "{parts:?}");
                }
            }
            assert!(misses.visible_rows() >= 3 && ksm.visible_rows() >= 3, "{body}");
            assert!(compare.visible_decisions() >= 2, "{body}");
            let (x, width) = misses.columns()[5];
            assert!(x + width <= misses.table.right());
        }
    }
}
