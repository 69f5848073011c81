//! Rendering of the state, which it does not change.

pub(crate) mod canvas;
mod chart;
mod compare;
pub(crate) mod format;
mod help;
mod hint;
mod ksm;
mod log;
mod misses;
mod overlay;
mod overview;
mod pair;
mod palette;
mod sharing;
mod simulated;
mod strips;
mod summary;
pub(crate) mod theme;

use huddle_model::availability::Availability;
use huddle_model::recording::Interruption;
use huddle_model::text::time_of_day;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::geometry::{MINIMUM_SIZE, Screen};
use crate::app::keys::Command;
use crate::app::{App, Source, Tone, View};
use canvas::Canvas;
use theme::Theme;

/// Draws the state into the frame.
pub fn draw(frame: &mut Frame<'_>, app: &App) {
    draw_into(frame.buffer_mut(), app);
}

/// The same picture in a buffer of its own, as large as the terminal: for files ([`crate::picture`]).
pub fn render(app: &App) -> Buffer {
    let mut buffer = Buffer::empty(app.area());
    draw_into(&mut buffer, app);
    buffer
}

fn draw_into(buffer: &mut Buffer, app: &App) {
    let area = buffer.area;
    let theme = Theme::new(app.options.colour, app.options.charset, app.palette);
    let mut canvas = Canvas { buffer, theme };
    let Some(screen) = Screen::new(area, app.has_bar()) else {
        too_small(&mut canvas, area);
        return;
    };
    header(&mut canvas, &screen, app);
    match (&app.shown, app.view) {
        (_, View::Log) => log::draw(&mut canvas, screen.body, app),
        (None, _) => waiting(&mut canvas, screen.body),
        (Some(picture), View::Overview) => overview::draw(&mut canvas, screen.body, app, picture),
        (Some(picture), View::Sharing) => sharing::draw(&mut canvas, screen.body, app, picture),
        (Some(picture), View::Misses) => misses::draw(&mut canvas, screen.body, app, picture),
        (Some(picture), View::Compare) => compare::draw(&mut canvas, screen.body, app, picture),
        (Some(picture), View::Ksm) => ksm::draw(&mut canvas, screen.body, app, picture),
    }
    if let Some(area) = screen.bar {
        replay_bar(&mut canvas, area, app);
    }
    footer(&mut canvas, screen.footer, app);
    if let Some(top) = app.help {
        help::draw(&mut canvas, area, app, top);
    }
    if let Some(overlay) = &app.overlay {
        overlay::draw(&mut canvas, area, app, overlay);
    }
}

fn too_small(canvas: &mut Canvas<'_>, area: Rect) {
    let (width, height) = MINIMUM_SIZE;
    let text = format!("terminal too small: needs {width}x{height}, has {}x{}", area.width, area.height);
    canvas.paragraph(area, &text, canvas.theme.warning());
}

fn waiting(canvas: &mut Canvas<'_>, body: Rect) {
    let style = canvas.theme.plain();
    canvas.text(body, body.x + 1, body.y + 1, "waiting for the first round", style);
}

fn header(canvas: &mut Canvas<'_>, screen: &Screen, app: &App) {
    let theme = canvas.theme;
    let area = screen.header;
    if screen.has_name() {
        canvas.text(area, area.x + 1, area.y, "huddle", theme.strong());
    }
    let mut tabs_end = area.x;
    for (view, label, tab) in screen.tabs() {
        let is_shown = view == app.view;
        let style = if is_shown { theme.selected() } else { theme.plain() };
        canvas.text(tab, tab.x, tab.y, &label, style);
        if is_shown {
            // The mark of the selection on a screen without colours and attributes.
            canvas.put(tab.x, tab.y, '[', style);
            canvas.put(tab.right() - 1, tab.y, ']', style);
        }
        tabs_end = tab.right();
    }
    let (state, style) = state(app, theme);
    let room = area.right().saturating_sub(tabs_end + 1);
    let start = area.right() - room.min(canvas::width(&state) as u16 + 1);
    let right = Rect::new(start, area.y, area.right() - start, 1);
    canvas.text(right, start, area.y, &state, style);
}

/// A table's titles, with an arrow at the sorting column.
fn titles(
    canvas: &mut Canvas<'_>,
    area: Rect,
    columns: &[(u16, u16)],
    names: &[&str],
    (sort, is_descending): (usize, bool),
) {
    let theme = canvas.theme;
    for (at, ((x, width), name)) in columns.iter().zip(names).enumerate() {
        let own = Rect { x: *x, y: area.y, width: width - 1, height: area.height.min(1) }.intersection(area);
        let arrow = theme.order(is_descending);
        let is_first = at == 0;
        let (text, style) = match (at == sort, is_first) {
            (true, true) => (format!("{name} {arrow}"), theme.strong()),
            (true, false) => (format!("{arrow} {name}"), theme.strong()),
            (false, _) => ((*name).to_owned(), theme.faint()),
        };
        if is_first {
            canvas.text(own, own.x, own.y, &text, style);
        } else {
            canvas.right(own, &text, style);
        }
    }
}

/// Position of a replay; a click seeks.
fn replay_bar(canvas: &mut Canvas<'_>, area: Rect, app: &App) {
    let theme = canvas.theme;
    let Some(replay) = app.source.replay() else { return };
    let state = if replay.is_playing { "playing" } else { "paused" };
    let at = app.shown.as_ref().map_or_else(
        || "nothing yet".to_owned(),
        |picture| format!("{} UTC", format::time_of_day(picture.moment())),
    );
    let text = match app.experiment() {
        Some((result, arm)) => {
            let step = result.arms.iter().position(|known| *known == arm).map_or(0, |at| at + 1);
            let steps = result.arms.len();
            format!(" arm {arm}, {step} of {steps}; the result of experiment {} ", replay.name)
        }
        None => format!(
            " replay of {}: {} of {}, {at}, {state} at {} ",
            replay.name,
            (replay.position + 1).min(replay.length),
            replay.length,
            replay.speed
        ),
    };
    let filled = (replay.part() * f64::from(area.width)).round() as u16;
    for x in area.x..area.right() {
        let is_past = x < area.x + filled;
        let character = if is_past { '=' } else { theme.lines().horizontal };
        canvas.put(x, area.y, character, if is_past { theme.accent() } else { theme.faint() });
    }
    canvas.text(area, area.x + 1, area.y, &text, theme.strong());
}

/// The shown round, whether the display is paused, and the round's age.
fn state(app: &App, theme: Theme) -> (String, ratatui::style::Style) {
    let Some(picture) = &app.shown else { return ("no round yet".into(), theme.plain()) };
    let round = picture.view.round.number;
    if app.is_paused {
        return (format!("PAUSED {round}, {} newer", app.rounds_behind()), theme.warning());
    }
    if let Some((_, arm)) = app.experiment() {
        return (format!("RESULT {arm}"), theme.warning());
    }
    if app.source.replay().is_some() {
        return (format!("REPLAY round {round}"), theme.warning());
    }
    if let Source::Attached { to, lost } = &app.source {
        return match lost {
            Some(_) => (format!("LOST {to}, round {round}"), theme.warning()),
            None => (format!("round {round} of {to}"), theme.plain()),
        };
    }
    match app.age().as_secs() {
        0..5 => (format!("round {round}"), theme.plain()),
        age => (format!("round {round}, {} ago", format::seconds(age)), theme.warning()),
    }
}

fn footer(canvas: &mut Canvas<'_>, area: Rect, app: &App) {
    let theme = canvas.theme;
    let x = area.x + 1;
    if let Some((tone, text)) = &app.notice {
        let style = if *tone == Tone::Warning { theme.warning() } else { theme.strong() };
        canvas.text(area, x, area.y, text, style);
        return;
    }
    if app.typing.is_some() {
        let filter = app.filter().unwrap_or_default();
        let end = canvas.pieces(area, x, area.y, &[("filter: ", theme.strong()), (filter, theme.plain())]);
        let end = canvas.text(area, end, area.y, " ", theme.selected());
        canvas.text(area, end + 2, area.y, "Enter applies, Esc cancels", theme.faint());
        return;
    }
    let hints: &[(Command, &str)] = match app.view {
        View::Overview if app.experiment().is_some() => &[(Command::Why, "why n/a")],
        View::Overview => &[
            (Command::DryRun, "dry run"),
            (Command::ApplyPlan, "apply"),
            (Command::ChoosePolicy, "policy"),
            (Command::Why, "why n/a"),
        ],
        View::Misses if app.has_simulated_rows_only() => {
            &[(Command::Filter, "filter"), (Command::Why, "why n/a")]
        }
        View::Misses => &[
            (Command::Level, "VMs or vCPUs"),
            (Command::Order, "order"),
            (Command::Metric, "chart"),
            (Command::Filter, "filter"),
            (Command::LongerWindow, "longer"),
            (Command::Why, "why n/a"),
        ],
        View::Compare => &[(Command::Why, "why n/a")],
        View::Ksm => &[(Command::Order, "order"), (Command::Filter, "filter"), (Command::Why, "why n/a")],
        View::Sharing => &[
            (Command::Filter, "filter"),
            (Command::Order, "order"),
            (Command::Scale, "scale"),
            (Command::Highest, "highest"),
            (Command::Reads, "reads"),
        ],
        View::Log => &[(Command::Filter, "filter"), (Command::Order, "order")],
    };
    let is_stopped = app.is_paused || app.source.replay().is_some_and(|replay| !replay.is_playing);
    let pause = match (is_stopped, app.source.replay()) {
        (true, Some(_)) => "play",
        (true, None) => "follow",
        (false, _) => "pause",
    };
    let mut always = vec![(Command::Help, "help"), (Command::Quit, "quit")];
    match app.experiment() {
        Some(_) => always.extend([(Command::Step, "next arm"), (Command::StepBack, "previous arm")]),
        None => always.push((Command::Pause, pause)),
    }
    always.push((Command::NextView, "view"));
    let mut x = x;
    if let Some(state) = &app.recording {
        let (part, text) = match &state.interrupted {
            None => (area.width / 3, format!("REC {}", state.dir)),
            Some(Interruption { since_unix_us, reason }) => {
                let since = time_of_day(i64::try_from(*since_unix_us).unwrap_or(i64::MAX));
                (area.width * 2 / 3, format!("NOT RECORDING since {since}: {reason}"))
            }
        };
        x = canvas.text(Rect { width: part, ..area }, x, area.y, &text, theme.warning()) + 2;
    }
    if let Source::Attached { lost: Some(why), .. } = &app.source {
        let room = Rect { width: area.width / 2, ..area };
        x = canvas.text(room, x, area.y, &format!("lost: {why}"), theme.warning()) + 2;
    }
    if app.interval_s() > 0 {
        let text = format!("every {} s", app.interval_s());
        x = canvas.text(area, x, area.y, &text, theme.warning()) + 2;
    }
    // A filter, which hides part of the picture, comes before any hint.
    if let Some(filter) = app.filter().filter(|filter| !filter.is_empty()) {
        let text = format!("filter: {filter}");
        let room = Rect { width: area.width / 2, ..area };
        x = canvas.text(room, x, area.y, &text, theme.warning()) + 2;
    }
    for (command, what) in always.iter().chain(hints) {
        if let Some(key) = app.keys.key_of(app.view, *command) {
            // Hints are shown whole or not at all.
            if usize::from(x) + canvas::width(&key) + 1 + what.len() > usize::from(area.right()) {
                break;
            }
            let pieces = [(key.as_str(), theme.strong()), (" ", theme.plain()), (what, theme.faint())];
            x = canvas.pieces(area, x, area.y, &pieces) + 2;
        }
    }
}

/// A value as text, or `n/a` with its reason; the flag tells which.
fn or_reason<T>(value: &Availability<T>, show: impl FnOnce(&T) -> String) -> (String, bool) {
    match value {
        Availability::Available(value) => (show(value), true),
        Availability::Unavailable(reason) => (format!("n/a: {reason}"), false),
    }
}
