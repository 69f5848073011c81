//! Screen layout, computed once for drawing and for the mouse.

mod heat;
mod panels;
mod result;

use ratatui::layout::Rect;

use super::View;
pub(crate) use heat::{HeatLayout, HeatShape};
pub(crate) use panels::{CompareLayout, KsmLayout, MissesLayout};
pub(crate) use result::{ResultLayout, SimulatedLayout};

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
/// The last change with its first reasons.
const CHANGE_HEIGHT: u16 = 7;

impl OverviewLayout {
    /// `domains` boxes; `lines` returns how many lines the fullest box needs for its VMs when boxes are of
    /// the given width.
    pub(crate) fn new(body: Rect, domains: usize, lines: impl Fn(u16) -> usize) -> Self {
        let summary = Rect { height: if body.height >= 20 { 4 } else { 3.min(body.height) }, ..body };
        let most_across = usize::from((body.width / BOX_WIDTH).max(1));
        let rows = domains.max(1).div_ceil(most_across);
        let change_height = (body.height / 3).clamp(4, 14).min(body.height - summary.height);
        // Boxes that barely do not fit get some of the room below.
        let wanted = rows.saturating_mul(usize::from(BOX_HEIGHT)) + usize::from(summary.height);
        let spare = usize::from(body.height).saturating_sub(wanted);
        let change_height = if spare >= 4 { change_height.min(spare as u16) } else { change_height };
        // As many columns as the number of rows needs, so that boxes are as wide as possible.
        let boxes_across = domains.max(1).div_ceil(rows);
        let box_width = body.width / boxes_across as u16;
        let needed = lines(box_width.saturating_sub(4)).max(1).saturating_add(usize::from(BOX_HEIGHT - 1));
        // The names of VMs come before all reasons of a change but the first ones.
        let spare = usize::from(body.height - summary.height).saturating_sub(rows.saturating_mul(needed));
        let change_height = change_height.min(spare.max(usize::from(CHANGE_HEIGHT)) as u16);
        let grid_height = body.height - summary.height - change_height;
        let grid = Rect::new(body.x, body.y + summary.height, body.width, grid_height);
        let change = Rect::new(body.x, grid.y + grid.height, body.width, change_height);
        let room = usize::from(grid_height) / rows;
        let box_height = needed.min(room).max(usize::from(BOX_HEIGHT)).min(usize::from(grid_height)).max(1);
        // A further row of boxes comes before reasons, and what boxes leave goes to the change and its reasons.
        let visible = usize::from(grid_height) / box_height;
        let most = usize::from(grid_height + change_height.saturating_sub(4));
        let visible = if (visible + 1) * box_height <= most { visible + 1 } else { visible };
        let used = (visible.min(rows) * box_height).min(most) as u16;
        let grid = Rect { height: used, ..grid };
        let change = Rect { y: grid.bottom(), height: body.height - summary.height - grid.height, ..change };
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
