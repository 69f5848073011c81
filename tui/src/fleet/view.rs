//! Rendering of a fleet.

use huddle_model::fleet::FleetOverview;
use huddle_model::text::plain;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{FleetApp, Part};
use crate::Tone;
use crate::app::View;
use crate::app::geometry::{MINIMUM_SIZE, window_top};
use crate::app::keys::Command;
use crate::app::scale::{Ramp, Scale, TOP_LEVEL};
use crate::view::canvas::{self, Canvas};
use crate::view::format;
use crate::view::theme::Theme;

/// Rows of header, summary, titles, rule, detail and footer.
const OTHER_ROWS: u16 = 8;
/// Rows of what is said of the selected row.
const DETAIL_ROWS: u16 = 2;
/// Columns of the labels of families.
const LABEL_WIDTH: u16 = 26;
/// Columns of a cell: room for a figure, or for its level alone.
const WIDE_CELL: u16 = 6;
const NARROW_CELL: u16 = 2;
/// Columns of a name in a table, at most.
const NAME_WIDTH: u16 = 32;

pub(super) fn visible_rows(area: Rect) -> usize {
    usize::from(area.height.saturating_sub(OTHER_ROWS))
}

pub(super) fn draw(buffer: &mut Buffer, app: &FleetApp) {
    let area = buffer.area;
    let theme = Theme::new(app.options.colour, app.options.charset, app.palette);
    let mut canvas = Canvas { buffer, theme };
    if area.width < MINIMUM_SIZE.0 || area.height < MINIMUM_SIZE.1 {
        let (width, height) = MINIMUM_SIZE;
        let text = format!("terminal too small: needs {width}x{height}, has {}x{}", area.width, area.height);
        canvas.paragraph(area, &text, theme.warning());
        return;
    }
    let row = |y| Rect::new(area.x, area.y + y, area.width, 1);
    header(&mut canvas, row(0), app);
    summary(&mut canvas, row(1), &app.overview);
    let rows = visible_rows(area) as u16;
    let table = Rect { y: area.y + 2, height: rows + 2, ..area };
    match app.part {
        Part::Families => families(&mut canvas, table, app),
        Part::Hosts => hosts(&mut canvas, table, app),
        Part::Moves => moves(&mut canvas, table, app),
    }
    let detail = Rect { y: table.bottom(), height: DETAIL_ROWS + 1, ..area };
    let inner = canvas.rule(detail, " selected ");
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    canvas.paragraph(inner, &selected(app), theme.plain());
    footer(&mut canvas, row(area.height - 1), app);
}

fn header(canvas: &mut Canvas<'_>, area: Rect, app: &FleetApp) {
    let theme = canvas.theme;
    let mut x = canvas.text(area, area.x + 1, area.y, "huddle ", theme.strong());
    for (digit, part) in (1..).zip(Part::ALL) {
        let is_shown = part == app.part;
        let marks = if is_shown { ['[', ']'] } else { [' ', ' '] };
        let style = if is_shown { theme.selected() } else { theme.plain() };
        let label = format!("{}{digit} {}{}", marks[0], part.name(), marks[1]);
        x = canvas.text(area, x, area.y, &label, style);
    }
    let rest = Rect { x: x + 1, width: area.right().saturating_sub(x + 2), ..area };
    canvas.right(rest, &format!("FLEET {}", plain(&app.name)), theme.warning());
}

fn summary(canvas: &mut Canvas<'_>, area: Rect, fleet: &FleetOverview) {
    let theme = canvas.theme;
    let vms = sum(fleet.hosts.iter().map(|host| host.vms));
    let what =
        format!("{}, {}  ", format::things(fleet.hosts.len() as u64, "host"), format::things(vms, "VM"));
    let saved = sum(fleet.hosts.iter().map(|host| host.saved_bytes()));
    let more = fleet.moves.iter().fold(0_i64, |sum, one| sum.saturating_add(one.saved_bytes));
    let mut pieces = vec![
        (what, theme.plain()),
        ("equal on one host ".to_owned(), theme.faint()),
        (format::bytes(saved), theme.strong()),
    ];
    if !fleet.moves.is_empty() {
        let moves = format::things(fleet.moves.len() as u64, "move");
        let error = format::bytes(fleet.saved_more_standard_error_bytes);
        pieces.push((format!("  by {moves} "), theme.faint()));
        pieces.push((format!("{} more (error {error})", format::signed_bytes(more)), theme.strong()));
    }
    if !fleet.left_out.is_empty() {
        let left_out = format::things(fleet.left_out.len() as u64, "remark");
        pieces.push((format!("  {left_out} in the file"), theme.warning()));
    }
    let pieces: Vec<(&str, _)> = pieces.iter().map(|(text, style)| (text.as_str(), *style)).collect();
    canvas.pieces(area, area.x + 1, area.y, &pieces);
}

/// A sum of figures of a file, which may be anything.
fn sum(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

/// The rows of a part that are on the screen, each with its place.
fn rows(app: &FleetApp, table: Rect) -> impl Iterator<Item = (usize, Rect)> + use<> {
    let visible = usize::from(table.height.saturating_sub(2));
    let top = app.top(visible);
    let len = app.len();
    let places = (table.y + 2..table.bottom()).map(move |y| Rect { y, height: 1, ..table });
    (top..len).zip(places)
}

fn families(canvas: &mut Canvas<'_>, table: Rect, app: &FleetApp) {
    let theme = canvas.theme;
    let fleet = &app.overview;
    let title = Rect { height: 1, ..table };
    canvas.text(title, title.x + 1, title.y, "cells: % of the family that the host holds", theme.faint());
    if fleet.families.is_empty() {
        let row = Rect { y: table.y + 2, height: 1, ..table };
        canvas.text(row, row.x + 1, row.y, "no contents are held by many VMs", theme.plain());
        return;
    }
    let room = table.width.saturating_sub(LABEL_WIDTH);
    let fits = |cell: u16| usize::from(room / cell);
    let cell = if fits(WIDE_CELL) >= fleet.hosts.len() { WIDE_CELL } else { NARROW_CELL };
    let visible = fits(cell).max(1);
    let left = window_top(0, app.column, visible, fleet.hosts.len());
    let columns = (left..fleet.hosts.len()).take(visible);
    let place = |host: usize, row: Rect| {
        let x = table.x + LABEL_WIDTH + (host - left) as u16 * cell;
        Rect { x, width: cell, ..row }.intersection(table)
    };
    let names = Rect { y: table.y + 1, height: 1, ..table };
    for host in columns.clone() {
        let own = place(host, names);
        let style = if host == app.column { theme.accent() } else { theme.faint() };
        let own = Rect { width: own.width.saturating_sub(1), ..own };
        canvas.text(own, own.x, own.y, &end_of(&fleet.hosts[host].name, usize::from(own.width)), style);
    }
    let ramp = Ramp::new(Scale::Whole, 1.0);
    for (number, row) in rows(app, table) {
        let family = &fleet.families[number];
        let is_selected = number == app.row();
        let style = if is_selected { theme.accent() } else { theme.plain() };
        let mark = if is_selected { '>' } else { ' ' };
        let vms = format::things(family.vms, "VM");
        let label = format!("{mark}{:>3} {:>9} {vms}", number + 1, format::bytes(family.bytes));
        let own = Rect { width: LABEL_WIDTH - 1, ..row };
        canvas.text(own, own.x, own.y, &label, style);
        let mut shares = vec![0.0; fleet.hosts.len()];
        for on in &family.hosts {
            shares[on.host] = family.share_on(on.host);
        }
        for host in columns.clone() {
            let is_current = is_selected && host == app.column;
            share_cell(canvas, place(host, row), shares[host], ramp, is_current);
        }
    }
}

/// The last characters of a name, which tell the hosts of one place apart.
fn end_of(name: &str, room: usize) -> String {
    let name = plain(name);
    let skipped = name.chars().count().saturating_sub(room);
    name.chars().skip(skipped).collect()
}

fn share_cell(canvas: &mut Canvas<'_>, area: Rect, share: f64, ramp: Ramp, is_current: bool) {
    let theme = canvas.theme;
    let level = ramp.level(share).min(TOP_LEVEL);
    let style = theme.level_style(level);
    let style = if is_current { style.patch(theme.selected()) } else { style };
    let glyph = if theme.has_backgrounds() { ' ' } else { theme.glyph(level) };
    let inner = Rect { width: area.width.saturating_sub(1), ..area };
    for x in inner.x..inner.right() {
        canvas.put(x, area.y, glyph, style);
    }
    if area.width >= WIDE_CELL && share > 0.0 {
        let style = if theme.has_backgrounds() { style } else { theme.plain() };
        canvas.text(inner, inner.x + 1, area.y, &format!("{:>3}", format::short_percent(share)), style);
    } else if is_current {
        canvas.put(area.x, area.y, '[', theme.strong());
    }
}

/// A table's titles and rows: the first column a name, the others figures at the right of their columns.
fn table(
    canvas: &mut Canvas<'_>,
    area: Rect,
    app: &FleetApp,
    titles: &[(&str, u16)],
    cells: impl Fn(usize) -> Vec<String>,
) {
    let theme = canvas.theme;
    let widths: Vec<u16> = titles.iter().map(|(_, width)| *width).collect();
    let line = |canvas: &mut Canvas<'_>, row: Rect, texts: &[String], style| {
        let mut x = row.x + 1;
        for (at, (text, width)) in texts.iter().zip(&widths).enumerate() {
            let own = Rect { x, width: width.saturating_sub(1), ..row }.intersection(area);
            match at {
                0 => _ = canvas.text(own, own.x, own.y, text, style),
                _ => canvas.right(own, text, style),
            }
            x = x.saturating_add(*width);
        }
    };
    let heading: Vec<String> = titles.iter().map(|(title, _)| (*title).to_owned()).collect();
    line(canvas, Rect { y: area.y + 1, height: 1, ..area }, &heading, theme.faint());
    for (number, row) in rows(app, area) {
        let is_selected = number == app.row();
        let style = if is_selected { theme.accent() } else { theme.plain() };
        if is_selected {
            canvas.put(row.x, row.y, '>', style);
        }
        line(canvas, row, &cells(number), style);
    }
}

fn hosts(canvas: &mut Canvas<'_>, area: Rect, app: &FleetApp) {
    let name = name_width(area, 4 * 13);
    let titles = [("host", name), ("VMs", 13), ("they hold", 13), ("saved", 13), ("of that", 13)];
    table(canvas, area, app, &titles, |number| {
        let host = &app.overview.hosts[number];
        vec![
            plain(&host.name).into_owned(),
            format::count(host.vms),
            format::bytes(host.held_bytes),
            format::bytes(host.saved_bytes()),
            host.saved_share().map_or_else(|| "n/a".to_owned(), format::percent),
        ]
    });
}

fn moves(canvas: &mut Canvas<'_>, area: Rect, app: &FleetApp) {
    if app.overview.moves.is_empty() {
        let row = Rect { y: area.y + 2, height: 1, ..area };
        let text = "no move within the limits brings more together";
        canvas.text(row, row.x + 1, row.y, text, canvas.theme.plain());
        return;
    }
    let name = name_width(area, 18 + 18 + 13 + 12);
    let titles = [("VM", name), ("from", 18), ("to", 18), ("saves", 13), ("copies", 12)];
    table(canvas, area, app, &titles, |number| {
        let one = &app.overview.moves[number];
        vec![
            plain(&one.vm).into_owned(),
            plain(&one.from).into_owned(),
            plain(&one.to).into_owned(),
            format::signed_bytes(one.saved_bytes),
            format::bytes(one.memory_bytes),
        ]
    });
}

/// Columns of names beside so many columns of figures.
fn name_width(area: Rect, others: u16) -> u16 {
    area.width.saturating_sub(others + 2).clamp(8, NAME_WIDTH)
}

/// What is said of the selected row.
fn selected(app: &FleetApp) -> String {
    let fleet = &app.overview;
    let text = match app.part {
        Part::Families => fleet.families.get(app.row()).map(|family| {
            let on = family.hosts.iter().find(|on| on.host == app.column);
            let host = fleet.hosts.get(app.column).map_or("", |host| host.name.as_str());
            let here = match on {
                Some(on) => format!(
                    "{host} holds {} of it ({}) in {}",
                    format::percent(family.share_on(app.column)),
                    format::bytes(on.bytes),
                    format::things(on.vms, "VM")
                ),
                None => format!("{host} holds none of it"),
            };
            let vms = format::things(family.vms, "VM");
            let hosts = format::things(family.hosts.len() as u64, "host");
            let bytes = format::bytes(family.bytes);
            format!("family {}: {bytes} in {vms} on {hosts}; {here}", app.row() + 1)
        }),
        Part::Hosts => fleet.hosts.get(app.row()).map(|host| {
            format!(
                "{}: {} hold {}, of which {} is equal and needs no memory of its own once it is merged",
                host.name,
                format::things(host.vms, "VM"),
                format::bytes(host.held_bytes),
                format::bytes(host.saved_bytes())
            )
        }),
        Part::Moves => fleet.moves.get(app.row()).map(|one| {
            let why = match one.saved_bytes {
                saved if saved > 0 => format!("brings together {}", format::bytes(saved.unsigned_abs())),
                0 => "makes room for the moves after it".to_owned(),
                lost => format!(
                    "makes room for the moves after it, and takes apart {}",
                    format::bytes(lost.unsigned_abs())
                ),
            };
            let copied = format::bytes(one.memory_bytes);
            format!(
                "{} from {} to {}: {why}; copies {copied}. Nothing moves by itself.",
                one.vm, one.from, one.to
            )
        }),
    };
    plain(&text.unwrap_or_else(|| "nothing".to_owned())).into_owned()
}

fn footer(canvas: &mut Canvas<'_>, area: Rect, app: &FleetApp) {
    let theme = canvas.theme;
    let mut x = area.x + 1;
    if let Some((tone, text)) = &app.notice {
        let style = if *tone == Tone::Warning { theme.warning() } else { theme.strong() };
        canvas.text(area, x, area.y, text, style);
        return;
    }
    let hints = [
        (Command::Quit, "quit"),
        (Command::NextView, "view"),
        (Command::Up, "up"),
        (Command::Down, "down"),
        (Command::Left, "left"),
        (Command::Right, "right"),
        (Command::SaveText, "save text"),
        (Command::SaveSvg, "save SVG"),
    ];
    for (command, what) in hints {
        let Some(key) = app.keys.key_of(View::Overview, command) else { continue };
        if usize::from(x) + canvas::width(&key) + 1 + what.len() > usize::from(area.right()) {
            break;
        }
        let pieces = [(key.as_str(), theme.strong()), (" ", theme.plain()), (what, theme.faint())];
        x = canvas.pieces(area, x, area.y, &pieces) + 2;
    }
}
