//! The screen of a fleet: which families of contents are on which hosts, what hosts share, and the proposed moves.
//!
//! A fleet is a file, not a loop: nothing changes but what is selected. It shares keys, theme and drawing with the screen
//! of a loop.

mod view;

use crossterm::event::{Event, KeyEventKind};
use huddle_model::fleet::FleetOverview;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::geometry::window_top;
use crate::app::keys::{Command, Key, KeyMap, Mode};
use crate::app::{Options, View};
use crate::colour::Palette;
use crate::{Action, Tone};

/// The parts of the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    /// Heatmap of families by host.
    #[default]
    Families,
    /// Hosts by what their VMs share.
    Hosts,
    /// Proposed moves.
    Moves,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Families, Self::Hosts, Self::Moves];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Families => "families",
            Self::Hosts => "hosts",
            Self::Moves => "moves",
        }
    }

    /// The part `by` tabs away.
    fn moved(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|part| *part == self).unwrap_or(0);
        let at = (at as isize + by).rem_euclid(Self::ALL.len() as isize);
        Self::ALL[at as usize]
    }
}

/// The whole state. Does no I/O.
#[derive(Debug)]
pub struct FleetApp {
    pub(crate) options: Options,
    pub(crate) keys: KeyMap,
    pub(crate) palette: Palette,
    pub(crate) overview: FleetOverview,
    /// What the fleet is called on the screen.
    pub(crate) name: String,
    pub(crate) part: Part,
    /// Selected row of each part.
    rows: [usize; 3],
    /// Selected host in the heatmap.
    pub(crate) column: usize,
    pub(crate) notice: Option<(Tone, String)>,
    area: Rect,
}

impl FleetApp {
    /// Of a fleet. Its hosts are shown by the memory that they save, most first.
    pub fn new(
        options: Options,
        keys: KeyMap,
        palette: Palette,
        name: String,
        overview: FleetOverview,
    ) -> Self {
        let (width, height) = options.size;
        let overview = by_what_is_saved(overview);
        Self {
            options,
            keys,
            palette,
            overview,
            name,
            part: Part::default(),
            rows: [0; 3],
            column: 0,
            notice: None,
            area: Rect::new(0, 0, width, height),
        }
    }

    /// Takes a key, or another size of the terminal.
    pub fn on_event(&mut self, event: &Event) -> Option<Action> {
        match event {
            Event::Resize(width, height) => self.area = Rect::new(0, 0, *width, *height),
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                self.notice = None;
                // The keys of the overview are those that no view has for itself.
                let command = self.keys.command(Mode::Normal, View::Overview, Key::from(*key))?;
                return self.on_command(command);
            }
            _ => {}
        }
        None
    }

    /// Shows a message until the next key.
    pub fn notify(&mut self, tone: Tone, text: String) {
        self.notice = Some((tone, text));
    }

    /// The picture, as large as the terminal.
    pub fn render(&self) -> Buffer {
        let mut buffer = Buffer::empty(self.area);
        view::draw(&mut buffer, self);
        buffer
    }

    /// Draws the picture into the frame.
    pub fn draw(&self, frame: &mut ratatui::Frame<'_>) {
        view::draw(frame.buffer_mut(), self);
    }

    fn on_command(&mut self, command: Command) -> Option<Action> {
        let page = isize::from(i16::try_from(self.visible_rows().max(1)).unwrap_or(i16::MAX));
        match command {
            Command::Quit => return Some(Action::Quit),
            Command::SaveText => return Some(Action::SaveText),
            Command::SaveSvg => return Some(Action::SaveSvg),
            Command::NextView => self.part = self.part.moved(1),
            Command::PreviousView => self.part = self.part.moved(-1),
            Command::Show(view) => {
                let digit = View::ALL.iter().position(|known| *known == view);
                self.part = digit.and_then(|at| Part::ALL.get(at).copied()).unwrap_or(self.part);
            }
            Command::Up => self.move_row(-1),
            Command::Down => self.move_row(1),
            Command::PageUp => self.move_row(-page),
            Command::PageDown => self.move_row(page),
            Command::First => self.move_row(isize::MIN),
            Command::Last => self.move_row(isize::MAX),
            Command::Left => self.move_column(-1),
            Command::Right => self.move_column(1),
            _ => self.notify(Tone::Warning, "this key has no meaning here: a fleet is a file".to_owned()),
        }
        None
    }

    fn move_row(&mut self, by: isize) {
        let last = self.len().saturating_sub(1);
        let row = &mut self.rows[self.part as usize];
        *row = row.saturating_add_signed(by).min(last);
    }

    fn move_column(&mut self, by: isize) {
        let last = self.overview.hosts.len().saturating_sub(1);
        self.column = self.column.saturating_add_signed(by).min(last);
    }

    /// Rows of the part shown.
    pub(crate) fn len(&self) -> usize {
        match self.part {
            Part::Families => self.overview.families.len(),
            Part::Hosts => self.overview.hosts.len(),
            Part::Moves => self.overview.moves.len(),
        }
    }

    /// The selected row of the part shown.
    pub(crate) fn row(&self) -> usize {
        self.rows[self.part as usize]
    }

    /// The first visible row, if so many are.
    pub(crate) fn top(&self, visible: usize) -> usize {
        window_top(0, self.row(), visible, self.len())
    }

    fn visible_rows(&self) -> usize {
        view::visible_rows(self.area)
    }
}

/// Hosts in another order, with the families that name them.
fn by_what_is_saved(mut overview: FleetOverview) -> FleetOverview {
    let mut order: Vec<usize> = (0..overview.hosts.len()).collect();
    order.sort_by(|a, b| {
        let key = |at: usize| (std::cmp::Reverse(overview.hosts[at].saved_bytes()), &overview.hosts[at].name);
        key(*a).cmp(&key(*b))
    });
    let mut place = vec![0; order.len()];
    for (now, before) in order.iter().enumerate() {
        place[*before] = now;
    }
    overview.hosts = order.iter().map(|at| overview.hosts[*at].clone()).collect();
    for on in overview.families.iter_mut().flat_map(|family| &mut family.hosts) {
        on.host = place.get(on.host).copied().unwrap_or(on.host);
    }
    overview
}
