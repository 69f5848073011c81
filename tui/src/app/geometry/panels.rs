//! Layout of the views with tables: misses, compare, ksm.

use ratatui::layout::Rect;

use crate::app::metric::Metric;
use crate::app::misses::MissColumn;

/// The parts of the misses view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissesLayout {
    pub(crate) info: Rect,
    /// Why metrics have no column; empty where all have one.
    pub(crate) why: Rect,
    /// The first row holds the titles.
    pub(crate) table: Rect,
    /// Columns of the table, with their first screen column and width; a sparkline takes the rest.
    pub(crate) columns: Vec<(MissColumn, u16, u16)>,
    pub(crate) charts: Rect,
    /// Charts that there is room for, one below the other.
    pub(crate) visible_charts: usize,
}

/// From this width on charts are beside the table.
const CHARTS_BESIDE: u16 = 140;
/// Columns of charts beside the table, at least.
const CHARTS_WIDTH: u16 = 60;
/// Rows that a chart needs: title, three of bars, axis.
const CHART_HEIGHT: u16 = 5;
/// Columns of a sparkline that is worth its room, with the space before it.
const SPARK: u16 = 9;

impl MissesLayout {
    /// Columns for these metrics, as far as there is room, and the longest name; `rows` of the table that are wanted.
    pub(crate) fn new(
        body: Rect,
        metrics: &[Metric],
        longest_name: usize,
        rows: usize,
        is_something_unknown: bool,
    ) -> Self {
        let info = Rect { height: 1, ..body };
        let why = Rect { y: info.bottom(), height: u16::from(is_something_unknown), ..body };
        let rest = Rect { y: why.bottom(), height: body.height.saturating_sub(1 + why.height), ..body };
        let name = longest_name.clamp(7, 23) as u16 + 1;
        let wanted =
            || [MissColumn::Domain].into_iter().chain(metrics.iter().copied().map(MissColumn::Metric));
        let is_beside = body.width >= CHARTS_BESIDE;
        let most = if is_beside { rest.width - CHARTS_WIDTH - 1 } else { rest.width };
        // A mark, the name, the columns; what does not fit is left out from the right.
        let mut used = 1 + name;
        let mut columns = vec![(MissColumn::Name, body.x + 1, name)];
        for column in wanted() {
            let is_needed = columns.len() < 3;
            let spark = if is_needed { 0 } else { SPARK };
            if used + column.width() + spark > most && !is_needed {
                break;
            }
            columns.push((column, body.x + used, column.width()));
            used += column.width();
        }
        let (table, charts) = if is_beside {
            let width = (used + 2 * SPARK).min(most);
            let charts = Rect { x: rest.x + width + 1, width: rest.width - width - 1, ..rest };
            (Rect { width, ..rest }, charts)
        } else {
            // Few rows leave their room to the charts, many leave them two fifths.
            let least = (rest.height * 2 / 5).max(CHART_HEIGHT).min(rest.height);
            let wanted = u16::try_from(rows.max(3)).unwrap_or(u16::MAX).saturating_add(2);
            let height = (rest.height - least).min(wanted);
            let table = Rect { height, ..rest };
            (table, Rect { y: table.bottom(), height: rest.height - height, ..rest })
        };
        let visible_charts = usize::from(charts.height / CHART_HEIGHT).clamp(1, metrics.len().max(1));
        Self { info, why, table, columns, charts, visible_charts }
    }

    /// Rows of the table on the screen.
    pub(crate) fn visible_rows(&self) -> usize {
        usize::from(self.table.height.saturating_sub(1))
    }

    /// The part of the table left for sparklines.
    pub(crate) fn spark(&self) -> (u16, u16) {
        let end = self.columns.last().map_or(self.table.x, |(_, x, width)| x + width);
        (end + 1, self.table.right().saturating_sub(end + 2))
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
            let misses = MissesLayout::new(body, &Metric::ALL, 12, 100, true);
            let ksm = KsmLayout::new(body);
            let compare = CompareLayout::new(body, 7, 20);
            for parts in [
                vec![misses.info, misses.why, misses.table, misses.charts],
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
            for (name, rows) in [(0, 0), (7, 1), (12, 4), (60, 1000)] {
                for metrics in [&Metric::ALL[..], &Metric::ALL[4..], &Metric::ALL[6..]] {
                    let layout = MissesLayout::new(body, metrics, name, rows, false);
                    let (_, x, width) = layout.columns[layout.columns.len() - 1];
                    assert!(x + width <= layout.table.right() && layout.columns.len() >= 3, "{layout:?}");
                    assert!(layout.table.intersection(layout.charts).is_empty());
                }
            }
        }
    }
}
