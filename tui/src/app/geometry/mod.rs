//! Screen layout, computed once for drawing and for the mouse.

mod panels;

use ratatui::layout::Rect;

use super::View;
pub(crate) use panels::{CompareLayout, KsmLayout, MissesLayout};

/// Smallest screen that is drawn, in columns and rows.
pub const MINIMUM_SIZE: (u16, u16) = (60, 15);

/// Columns from the left edge to the first tab: room for the program's name, if it fits.
const TABS_START: u16 = 8;
/// From these widths on, tabs are spelled out and the program's name is shown.
const LONG_TABS: u16 = 70;
const WITH_NAME: u16 = 90;

/// The parts of every screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    pub(crate) header: Rect,
    /// State of a replay.
    pub(crate) bar: Option<Rect>,
    pub(crate) body: Rect,
    pub(crate) footer: Rect,
}

impl Screen {
    /// `None` below [`MINIMUM_SIZE`].
    pub(crate) fn new(area: Rect, has_bar: bool) -> Option<Self> {
        if area.width < MINIMUM_SIZE.0 || area.height < MINIMUM_SIZE.1 {
            return None;
        }
        let row = |y, height| Rect::new(area.x, y, area.width, height);
        let bar = u16::from(has_bar);
        Some(Self {
            header: row(area.y, 1),
            bar: has_bar.then(|| row(area.y + 1, 1)),
            body: row(area.y + 1 + bar, area.height - 2 - bar),
            footer: row(area.y + area.height - 1, 1),
        })
    }

    /// Whether there is room for the program's name before the tabs.
    pub(crate) fn has_name(&self) -> bool {
        self.header.width >= WITH_NAME
    }

    /// The tabs with the columns they take in the header.
    pub(crate) fn tabs(&self) -> impl Iterator<Item = (View, String, Rect)> + use<> {
        let header = self.header;
        let mut x = header.x + if self.has_name() { TABS_START } else { 0 };
        View::ALL.into_iter().map(move |view| {
            let name = if header.width >= LONG_TABS { view.name() } else { &view.name()[..3] };
            let label = format!(" {} {name} ", view.digit());
            let width = label.len() as u16;
            let tab = Rect::new(x, header.y, width, 1);
            x += width;
            (view, label, tab)
        })
    }
}

/// First visible position of a list, moved from `top` as little as needed to show `position`.
pub(crate) fn window_top(top: usize, position: usize, visible: usize, len: usize) -> usize {
    if visible == 0 {
        return 0;
    }
    let top = top.min(len.saturating_sub(visible));
    if position < top {
        position
    } else if position >= top + visible {
        position + 1 - visible
    } else {
        top
    }
}

/// The parts of the sharing view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeatLayout {
    pub(crate) info: Rect,
    pub(crate) labels: Rect,
    pub(crate) columns: Rect,
    /// The cells alone; its size is a multiple of the cell size.
    pub(crate) cells: Rect,
    pub(crate) cell_width: u16,
    pub(crate) cell_height: u16,
    pub(crate) detail: Rect,
    pub(crate) legend: Rect,
}

/// Widths of a cell, widest first; from [`HeatLayout::FIGURE_WIDTH`] on a cell shows its figure.
const CELL_WIDTHS: [u16; 6] = [14, 10, 8, 6, 2, 1];
/// Rows of the detail panel below the heatmap.
const DETAIL_HEIGHT: u16 = 5;
/// From this screen width on the detail panel is beside the heatmap, this wide.
const WIDE: u16 = 110;
const DETAIL_WIDTH: u16 = 46;

impl HeatLayout {
    /// Narrowest cell with room for a figure like ` 42.1 `.
    pub(crate) const FIGURE_WIDTH: u16 = 6;

    /// `count`: VMs shown; `longest_name`: columns of the longest name.
    pub(crate) fn new(body: Rect, count: usize, longest_name: usize) -> Self {
        let beside = body.width >= WIDE;
        let below = if beside { 0 } else { DETAIL_HEIGHT.min(body.height / 3) };
        let info = Rect { height: 1, ..body };
        let map_height = body.height.saturating_sub(2 + below);
        let map_width = if beside { body.width - DETAIL_WIDTH } else { body.width };
        let legend = Rect::new(body.x, body.y + 1 + map_height, map_width, 1);
        let detail = if beside {
            Rect::new(body.x + map_width, body.y + 1, DETAIL_WIDTH, body.height.saturating_sub(1))
        } else {
            Rect::new(body.x, body.y + body.height - below, body.width, below)
        };
        let digits = digits(count);
        // The cursor's mark, the number, a space, the name, a space.
        let names = longest_name.clamp(4, 24).min(usize::from(map_width / 4)) as u16;
        let label_width = (3 + digits + names).min(map_width);
        let wanted = count.max(1);
        let available = map_width - label_width;
        let fits = |width: &u16| wanted * usize::from(*width) <= usize::from(available);
        let cell_width = CELL_WIDTHS.into_iter().find(fits).unwrap_or(1);
        let column_rows = if cell_width >= Self::FIGURE_WIDTH { 1 } else { digits };
        let rows = map_height.saturating_sub(column_rows);
        let tallest = if cell_width >= Self::FIGURE_WIDTH { 3 } else { 1 };
        let cell_height = (usize::from(rows) / wanted).clamp(1, tallest) as u16;
        let across = (available / cell_width).min(u16::try_from(count).unwrap_or(u16::MAX));
        let down = (rows / cell_height).min(u16::try_from(count).unwrap_or(u16::MAX));
        let cells = Rect::new(
            body.x + label_width,
            body.y + 1 + column_rows,
            across * cell_width,
            down * cell_height,
        );
        Self {
            info,
            labels: Rect::new(body.x, cells.y, label_width, cells.height),
            columns: Rect::new(cells.x, body.y + 1, cells.width, column_rows),
            cells,
            cell_width,
            cell_height,
            detail,
            legend,
        }
    }

    /// Rows of VMs on the screen.
    pub(crate) fn visible_rows(&self) -> usize {
        usize::from(self.cells.height / self.cell_height)
    }

    /// Columns of VMs on the screen.
    pub(crate) fn visible_columns(&self) -> usize {
        usize::from(self.cells.width / self.cell_width)
    }

    /// The visible row and column at a mouse position.
    pub(crate) fn cell_at(&self, x: u16, y: u16) -> Option<(usize, usize)> {
        self.cells.contains((x, y).into()).then(|| {
            let row = (y - self.cells.y) / self.cell_height;
            let column = (x - self.cells.x) / self.cell_width;
            (usize::from(row), usize::from(column))
        })
    }
}

/// Decimal digits of the largest number of `count` things numbered from 1.
pub(crate) fn digits(count: usize) -> u16 {
    count.max(1).ilog10() as u16 + 1
}

/// The parts of the overview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverviewLayout {
    pub(crate) summary: Rect,
    pub(crate) grid: Rect,
    pub(crate) change: Rect,
    pub(crate) boxes_across: usize,
    pub(crate) box_height: u16,
}

/// Narrowest box of a domain.
const BOX_WIDTH: u16 = 26;
/// Borders, four lines of figures, one line of VMs.
const BOX_HEIGHT: u16 = 7;

impl OverviewLayout {
    /// `domains` boxes; `lines` returns how many lines the fullest box needs for its VMs when boxes are of
    /// the given width.
    pub(crate) fn new(body: Rect, domains: usize, lines: impl Fn(u16) -> usize) -> Self {
        let summary = Rect { height: 3.min(body.height), ..body };
        let most_across = usize::from((body.width / BOX_WIDTH).max(1));
        let rows = domains.max(1).div_ceil(most_across);
        let change_height = (body.height / 3).clamp(4, 14).min(body.height - summary.height);
        // Boxes that barely do not fit get some of the room below.
        let wanted = rows.saturating_mul(usize::from(BOX_HEIGHT)) + usize::from(summary.height);
        let spare = usize::from(body.height).saturating_sub(wanted);
        let change_height = if spare >= 4 { change_height.min(spare as u16) } else { change_height };
        let grid_height = body.height - summary.height - change_height;
        let grid = Rect::new(body.x, body.y + summary.height, body.width, grid_height);
        let change = Rect::new(body.x, grid.y + grid.height, body.width, change_height);
        // As many columns as the number of rows needs, so that boxes are as wide as possible.
        let boxes_across = domains.max(1).div_ceil(rows);
        let box_width = body.width / boxes_across as u16;
        let needed = lines(box_width.saturating_sub(4)).max(1).saturating_add(usize::from(BOX_HEIGHT - 1));
        let room = usize::from(grid_height) / rows;
        let box_height = needed.min(room).max(usize::from(BOX_HEIGHT)).min(usize::from(grid_height)).max(1);
        Self { summary, grid, change, boxes_across, box_height: box_height as u16 }
    }

    /// Rows of boxes on the screen.
    pub(crate) fn visible_rows(&self) -> usize {
        usize::from(self.grid.height / self.box_height)
    }

    /// Position of the box at `index` when the first visible row of boxes is `top_row`.
    pub(crate) fn box_at(&self, index: usize, top_row: usize) -> Option<Rect> {
        let row = (index / self.boxes_across).checked_sub(top_row)?;
        if row >= self.visible_rows() {
            return None;
        }
        let across = self.boxes_across as u16;
        let column = (index % self.boxes_across) as u16;
        let left = self.grid.width * column / across;
        let right = self.grid.width * (column + 1) / across;
        let y = self.grid.y + row as u16 * self.box_height;
        Some(Rect::new(self.grid.x + left, y, right - left, self.box_height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_moves_only_as_far_as_needed() {
        assert_eq!(window_top(0, 4, 5, 10), 0);
        assert_eq!(window_top(0, 5, 5, 10), 1);
        assert_eq!(window_top(4, 2, 5, 10), 2);
        assert_eq!(window_top(9, 9, 5, 10), 5);
        assert_eq!(window_top(9, 0, 5, 3), 0);
        assert_eq!(window_top(3, 3, 0, 10), 0);
    }

    #[test]
    fn few_vms_get_figures_and_many_get_narrow_cells() {
        let body = Rect::new(0, 1, 80, 22);
        let few = HeatLayout::new(body, 4, 10);
        assert!(few.cell_width >= HeatLayout::FIGURE_WIDTH);
        assert_eq!((few.visible_rows(), few.visible_columns()), (4, 4));
        let many = HeatLayout::new(body, 200, 10);
        assert_eq!(many.cell_width, 1);
        assert!(many.visible_rows() < 200 && many.visible_columns() < 200);
    }

    #[test]
    fn the_parts_lie_within_the_body_and_the_mouse_finds_every_cell() {
        for (width, height) in [(60, 13), (80, 22), (110, 20), (240, 58), (300, 98)] {
            let body = Rect::new(0, 1, width, height);
            for count in [0, 1, 2, 4, 17, 100, 256, 1000] {
                let layout = HeatLayout::new(body, count, 12);
                for part in
                    [layout.info, layout.labels, layout.columns, layout.cells, layout.detail, layout.legend]
                {
                    assert_eq!(part, part.intersection(body), "{layout:?}");
                }
                if count == 0 {
                    continue;
                }
                let last = (layout.cells.right() - 1, layout.cells.bottom() - 1);
                assert_eq!(
                    layout.cell_at(last.0, last.1),
                    Some((layout.visible_rows() - 1, layout.visible_columns() - 1))
                );
                assert_eq!(layout.cell_at(layout.cells.right(), last.1), None);
            }
        }
    }

    #[test]
    fn boxes_lie_within_the_grid_and_do_not_overlap() {
        for (width, height) in [(60, 13), (80, 22), (240, 58)] {
            for domains in [1, 2, 3, 8, 32] {
                let layout = OverviewLayout::new(Rect::new(0, 1, width, height), domains, |_| 4);
                let boxes: Vec<Rect> = (0..domains).filter_map(|index| layout.box_at(index, 0)).collect();
                assert!(!boxes.is_empty());
                for (index, one) in boxes.iter().enumerate() {
                    assert_eq!(*one, one.intersection(layout.grid));
                    assert!(boxes[index + 1..].iter().all(|other| one.intersection(*other).is_empty()));
                }
            }
        }
    }
}
