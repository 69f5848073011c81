//! Layout of the sharing view: the heatmap with its labels, the strips of cache domains, and the panel of the cell under
//! the cursor.

use std::sync::Arc;

use ratatui::layout::Rect;

use super::digits;

/// What of the matrix the layout depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeatShape {
    /// VMs shown.
    pub(crate) count: usize,
    /// Columns of the longest name.
    pub(crate) longest_name: usize,
    /// Where an outline of a group needs a gap: before these positions, ascending; `count` is after the last VM. Empty
    /// where nothing is outlined.
    pub(crate) gaps: Arc<[usize]>,
    /// Columns of a domain's mark in the strips; 0 without cache domains.
    pub(crate) mark_width: u16,
}

/// The cells of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Columns or rows of a cell.
    pub(crate) cell: u16,
    /// Cells on the screen.
    pub(crate) visible: usize,
    /// Gaps of one column or row before these positions; empty where there is no room for them.
    gaps: Arc<[usize]>,
}

impl Axis {
    /// Cells of this size, as many as there is room for, with gaps if all fit with them, or, where a part is shown anyway
    /// and that is allowed, if they take less than a third of it.
    fn new(shape: &HeatShape, room: u16, cell: u16, may_scroll_with_gaps: bool) -> Self {
        let room = usize::from(room);
        let size = usize::from(cell);
        let all = shape.count * size;
        let with_gaps = all + shape.gaps.len() <= room
            || (all > room && may_scroll_with_gaps && shape.gaps.len() * 3 <= shape.count);
        let gaps = if with_gaps { Arc::clone(&shape.gaps) } else { Arc::default() };
        let mut axis = Self { cell, visible: shape.count, gaps };
        axis.visible = axis.fitting(shape.count, room);
        axis
    }

    /// The number of cells that fit wherever the first one is.
    fn fitting(&self, count: usize, room: usize) -> usize {
        let size = usize::from(self.cell);
        if self.gaps.is_empty() {
            return (room / size).min(count);
        }
        let (mut end, mut least) = (0, count);
        for top in 0..count {
            end = end.max(top);
            while end < count && (end + 1 - top) * size + self.gaps_within(top, end + 1) <= room {
                end += 1;
            }
            if end == count {
                break;
            }
            least = least.min(end - top);
        }
        least
    }

    /// Gaps before and after the cells from `top` to before `end`.
    fn gaps_within(&self, top: usize, end: usize) -> usize {
        let before = |position: usize| self.gaps.partition_point(|gap| *gap < position);
        before(end + 1) - before(top)
    }

    /// Columns or rows from the first one to the cell at `at`, when `top` is the first visible cell.
    pub(crate) fn offset(&self, top: usize, at: usize) -> u16 {
        let cells = at.saturating_sub(top) * usize::from(self.cell);
        u16::try_from(cells + self.gaps_within(top, at)).unwrap_or(u16::MAX)
    }

    /// Whether there is a gap before this position.
    pub(crate) fn has_gap(&self, at: usize) -> bool {
        self.gaps.binary_search(&at).is_ok()
    }

    /// The visible cell at a column or row, counted from the first visible one.
    fn at(&self, top: usize, offset: u16) -> Option<usize> {
        let nth = (0..self.visible).rev().find(|nth| self.offset(top, top + nth) <= offset)?;
        (offset < self.offset(top, top + nth) + self.cell).then_some(nth)
    }

    /// Columns or rows of the visible cells with their gaps, at most.
    fn length(&self, count: usize) -> u16 {
        let tops = 0..=count.saturating_sub(self.visible);
        let gaps = if self.gaps.is_empty() {
            0
        } else {
            tops.map(|top| self.gaps_within(top, top + self.visible)).max().unwrap_or(0)
        };
        u16::try_from(self.visible * usize::from(self.cell) + gaps).unwrap_or(u16::MAX)
    }
}

/// The parts of the sharing view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeatLayout {
    /// One or two rows.
    pub(crate) info: Rect,
    pub(crate) labels: Rect,
    /// The cache domain of each row's VM; empty without cache domains.
    pub(crate) row_strip: Rect,
    pub(crate) columns: Rect,
    /// The cache domain of each column's VM.
    pub(crate) column_strip: Rect,
    /// The cells with the gaps between them.
    pub(crate) cells: Rect,
    pub(crate) across: Axis,
    pub(crate) down: Axis,
    pub(crate) detail: Rect,
    /// Whether the detail is beside the heatmap.
    pub(crate) is_beside: bool,
    pub(crate) legend: Rect,
}

/// The widest cell.
const WIDEST: u16 = 22;
/// Rows of the detail panel below the heatmap: in a low screen, and in a high one.
const DETAIL_HEIGHT: u16 = 6;
const DETAIL_HIGH: u16 = 9;
/// From this screen width on the detail panel is beside the heatmap, this wide, or narrower where that makes cells wider.
const WIDE: u16 = 110;
const DETAIL_WIDTHS: [u16; 2] = [46, 36];

impl HeatLayout {
    /// Narrowest cell with room for a figure like ` 42.1 `, and for one like ` 42 `.
    pub(crate) const FIGURE_WIDTH: u16 = 6;
    pub(crate) const SHORT_FIGURE_WIDTH: u16 = 4;

    pub(crate) fn new(body: Rect, shape: &HeatShape) -> Self {
        let below = Self::arranged(body, shape, None);
        if body.width < WIDE {
            return below;
        }
        let [beside, narrower] = DETAIL_WIDTHS.map(|width| Self::arranged(body, shape, Some(width)));
        let beside = if narrower.across.cell > beside.across.cell { narrower } else { beside };
        // Narrow cells beside the panel are worse than wider ones above it.
        if beside.across.cell < 2 && below.across.cell >= 2 { below } else { beside }
    }

    /// With the detail panel beside the heatmap, this wide, or below it.
    fn arranged(body: Rect, shape: &HeatShape, beside: Option<u16>) -> Self {
        let is_beside = beside.is_some();
        let below = match body.height {
            _ if is_beside => 0,
            0..18 => (body.height / 3).min(DETAIL_HEIGHT - 1),
            18..30 => DETAIL_HEIGHT,
            _ => DETAIL_HIGH,
        };
        let info = Rect { height: if body.height >= 18 { 2 } else { 1 }, ..body };
        let map_height = body.height.saturating_sub(info.height + 1 + below);
        let map_width = body.width - beside.unwrap_or(0);
        let legend = Rect::new(body.x, info.bottom() + map_height, map_width, 1);
        let detail = if is_beside {
            Rect::new(body.x + map_width, info.bottom(), body.width - map_width, body.height - info.height)
        } else {
            Rect::new(body.x, body.bottom() - below, body.width, below)
        };
        let digits = digits(shape.count);
        // The cursor's mark, the number, a space, the name, a space.
        let names = shape.longest_name.clamp(4, 24).min(usize::from(map_width / 4)) as u16;
        let label_width = (3 + digits + names).min(map_width);
        let strip_width = if shape.mark_width > 0 { shape.mark_width + 1 } else { 0 };
        let strip_width = strip_width.min(map_width - label_width);
        let available = map_width - label_width - strip_width;
        let (wanted, gaps) = (shape.count.max(1), shape.gaps.len());
        let widest = |room: usize| (room / wanted).min(usize::from(WIDEST)) as u16;
        let plain = widest(usize::from(available));
        let with_gaps = widest(usize::from(available).saturating_sub(gaps));
        // A wider cell is worth more than gaps, unless it shows nothing more; without gaps edges are drawn within cells.
        let class = |width: u16| match width {
            0..Self::SHORT_FIGURE_WIDTH => width,
            Self::SHORT_FIGURE_WIDTH..Self::FIGURE_WIDTH => Self::SHORT_FIGURE_WIDTH,
            _ => Self::FIGURE_WIDTH,
        };
        let width = if class(with_gaps) == class(plain) { with_gaps } else { plain }.max(1);
        let across = Axis::new(shape, available, width, true);
        let strip_rows = u16::from(strip_width > 0);
        let column_rows = if width >= Self::FIGURE_WIDTH { 1 } else { digits };
        let rows = map_height.saturating_sub(column_rows + strip_rows);
        let tallest = match width {
            0..4 => 1,
            4..6 => 2,
            6..12 => 3,
            _ => 5,
        };
        let highest = |room: usize| (room / wanted).clamp(1, tallest) as u16;
        let with_gaps = highest(usize::from(rows).saturating_sub(gaps));
        let down = Axis::new(shape, rows, with_gaps, false);
        let cells = Rect::new(
            body.x + label_width + strip_width,
            info.bottom() + column_rows + strip_rows,
            across.length(shape.count).min(available),
            down.length(shape.count).min(rows),
        );
        Self {
            info,
            labels: Rect::new(body.x, cells.y, label_width, cells.height),
            row_strip: Rect::new(body.x + label_width, cells.y, strip_width, cells.height),
            columns: Rect::new(cells.x, info.bottom(), cells.width, column_rows),
            column_strip: Rect::new(cells.x, info.bottom() + column_rows, cells.width, strip_rows),
            cells,
            across,
            down,
            detail,
            is_beside,
            legend,
        }
    }

    /// Rows of VMs on the screen.
    pub(crate) fn visible_rows(&self) -> usize {
        self.down.visible
    }

    /// Columns of VMs on the screen.
    pub(crate) fn visible_columns(&self) -> usize {
        self.across.visible
    }

    /// The screen area of a cell, when these are the first visible row and column.
    pub(crate) fn cell(&self, (top, left): (usize, usize), row: usize, column: usize) -> Rect {
        let x = self.cells.x.saturating_add(self.across.offset(left, column));
        let y = self.cells.y.saturating_add(self.down.offset(top, row));
        Rect::new(x, y, self.across.cell, self.down.cell)
    }

    /// The visible row and column at a mouse position; `None` outside of the cells and in a gap.
    pub(crate) fn cell_at(&self, (top, left): (usize, usize), x: u16, y: u16) -> Option<(usize, usize)> {
        if !self.cells.contains((x, y).into()) {
            return None;
        }
        self.down.at(top, y - self.cells.y).zip(self.across.at(left, x - self.cells.x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(count: usize, a_group: usize) -> HeatShape {
        let gaps =
            if a_group == 0 { Vec::new() } else { (0..count).step_by(a_group).chain([count]).collect() };
        HeatShape { count, longest_name: 12, gaps: gaps.into(), mark_width: 2 }
    }

    #[test]
    fn few_vms_get_figures_and_many_get_narrow_cells() {
        let body = Rect::new(0, 1, 80, 22);
        let few = HeatLayout::new(body, &shape(4, 0));
        assert!(few.across.cell >= HeatLayout::FIGURE_WIDTH);
        assert_eq!((few.visible_rows(), few.visible_columns()), (4, 4));
        let many = HeatLayout::new(body, &shape(200, 0));
        assert_eq!(many.across.cell, 1);
        assert!(many.visible_rows() < 200 && many.visible_columns() < 200);
    }

    /// 48 VMs in groups of four: whole on the screens that operators have, and never a column wide with half of it empty.
    #[test]
    fn cells_are_as_wide_as_there_is_room() {
        for (size, width) in [((80, 22), 1), ((120, 38), 2), ((160, 48), 2), ((200, 58), 3), ((300, 98), 4)] {
            let layout = HeatLayout::new(Rect::new(0, 1, size.0, size.1), &shape(48, 4));
            assert_eq!((layout.across.cell, layout.visible_columns()), (width, 48), "{size:?} {layout:?}");
        }
    }

    #[test]
    fn the_parts_lie_within_the_body_and_the_mouse_finds_every_cell() {
        for (width, height) in [(60, 13), (80, 22), (110, 20), (120, 38), (240, 58), (300, 98)] {
            let body = Rect::new(0, 1, width, height);
            for (count, a_group) in
                [(0, 0), (1, 0), (2, 2), (4, 2), (17, 3), (48, 4), (100, 50), (256, 2), (1000, 8)]
            {
                let layout = HeatLayout::new(body, &shape(count, a_group));
                for part in [
                    layout.info,
                    layout.labels,
                    layout.row_strip,
                    layout.columns,
                    layout.column_strip,
                    layout.cells,
                    layout.detail,
                    layout.legend,
                ] {
                    assert_eq!(part, part.intersection(body), "{layout:?}");
                }
                if count == 0 {
                    continue;
                }
                let last_top = (count - layout.visible_rows(), count - layout.visible_columns());
                for top in [(0, 0), (last_top.0 / 2, last_top.1 / 3), last_top] {
                    for row in 0..layout.visible_rows() {
                        let column = row.min(layout.visible_columns() - 1);
                        let area = layout.cell(top, top.0 + row, top.1 + column);
                        assert_eq!(area, area.intersection(layout.cells), "{layout:?} {top:?} {row}");
                        let found = layout.cell_at(top, area.right() - 1, area.bottom() - 1);
                        assert_eq!(found, Some((row, column)));
                    }
                }
                assert_eq!(layout.cell_at((0, 0), layout.cells.right(), layout.cells.y), None);
            }
        }
    }
}
