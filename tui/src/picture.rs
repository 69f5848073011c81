//! The screen as text and as SVG, for files.

use std::fmt::Write as _;

use huddle_model::text::xml;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use ratatui::text::Span;

/// Size of a cell in the SVG, in its pixels.
const CELL_WIDTH: f64 = 8.4;
const CELL_HEIGHT: f64 = 17.0;
const FONT_SIZE: f64 = 14.0;
/// From the top of a cell to the baseline of its text.
const BASELINE: f64 = 13.0;

const FOREGROUND: (u8, u8, u8) = (222, 222, 222);
const BACKGROUND: (u8, u8, u8) = (16, 16, 16);

/// xterm's first 16 colours.
const BASE: [(u8, u8, u8); 16] = [
    (0, 0, 0),
    (205, 0, 0),
    (0, 205, 0),
    (205, 205, 0),
    (0, 0, 238),
    (205, 0, 205),
    (0, 205, 205),
    (229, 229, 229),
    (127, 127, 127),
    (255, 0, 0),
    (0, 255, 0),
    (255, 255, 0),
    (92, 92, 255),
    (255, 0, 255),
    (0, 255, 255),
    (255, 255, 255),
];

/// One line of text a row, without trailing blanks.
pub fn text(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let line: String = cells(buffer, y).map(|(_, cell, _)| cell.symbol()).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// An SVG 1.1 document with the colours of the screen: text stays text, so that it can be searched.
pub fn svg(buffer: &Buffer) -> String {
    let (width, height) =
        (f64::from(buffer.area.width) * CELL_WIDTH, f64::from(buffer.area.height) * CELL_HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.1}\" height=\"{height:.1}\" \
         viewBox=\"0 0 {width:.1} {height:.1}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"{FONT_SIZE}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{}\"/>\n",
        hex(BACKGROUND)
    );
    for y in buffer.area.top()..buffer.area.bottom() {
        let mut run: Option<Run> = None;
        for (x, cell, columns) in cells(buffer, y) {
            let look = Look::of(cell);
            let symbol = cell.symbol();
            match &mut run {
                // Characters of two columns are separate elements, so that no font shifts what follows them.
                Some(open) if open.look == look && columns == 1 && open.is_narrow => {
                    open.text.push_str(symbol);
                    open.columns += 1;
                }
                _ => {
                    if let Some(done) = run.take() {
                        done.write(&mut out, y - buffer.area.top());
                    }
                    let x = x - buffer.area.left();
                    run = Some(Run { x, columns, text: symbol.into(), look, is_narrow: columns == 1 });
                }
            }
        }
        if let Some(done) = run {
            done.write(&mut out, y - buffer.area.top());
        }
    }
    out.push_str("</svg>\n");
    out
}

/// The cells of a row with their columns; cells covered by a wide character are skipped.
fn cells(buffer: &Buffer, y: u16) -> impl Iterator<Item = (u16, &Cell, u16)> {
    let mut covered_to = buffer.area.left();
    (buffer.area.left()..buffer.area.right()).filter_map(move |x| {
        let cell = buffer.cell((x, y)).filter(|_| x >= covered_to)?;
        let symbol = cell.symbol();
        let columns = if symbol.is_ascii() { 1 } else { Span::raw(symbol).width().max(1) as u16 };
        covered_to = x + columns;
        Some((x, cell, columns))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    foreground: (u8, u8, u8),
    background: (u8, u8, u8),
    is_bold: bool,
    is_underlined: bool,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let foreground = rgb(cell.fg).unwrap_or(FOREGROUND);
        let background = rgb(cell.bg).unwrap_or(BACKGROUND);
        let is_reversed = cell.modifier.contains(Modifier::REVERSED);
        let (foreground, background) =
            if is_reversed { (background, foreground) } else { (foreground, background) };
        Self {
            foreground,
            background,
            is_bold: cell.modifier.contains(Modifier::BOLD),
            is_underlined: cell.modifier.contains(Modifier::UNDERLINED),
        }
    }
}

struct Run {
    x: u16,
    columns: u16,
    text: String,
    look: Look,
    is_narrow: bool,
}

impl Run {
    fn write(&self, out: &mut String, row: u16) {
        let (x, y) = (f64::from(self.x) * CELL_WIDTH, f64::from(row) * CELL_HEIGHT);
        let width = f64::from(self.columns) * CELL_WIDTH;
        // Writing to a String cannot fail.
        if self.look.background != BACKGROUND {
            let fill = hex(self.look.background);
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{CELL_HEIGHT}\" fill=\"{fill}\"/>"
            );
        }
        if self.look.is_underlined {
            // A line of its own, since blanks of a text may have none.
            let fill = hex(self.look.foreground);
            let bottom = y + CELL_HEIGHT - 1.0;
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{bottom:.1}\" width=\"{width:.1}\" height=\"1\" fill=\"{fill}\"/>"
            );
        }
        if self.text.chars().all(|character| character == ' ') {
            return;
        }
        let weight = if self.look.is_bold { " font-weight=\"bold\"" } else { "" };
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
             fill=\"{}\"{weight} xml:space=\"preserve\">{}</text>",
            y + BASELINE,
            hex(self.look.foreground),
            xml(&self.text)
        );
    }
}

/// `None` for the terminal's own colour.
fn rgb(colour: Color) -> Option<(u8, u8, u8)> {
    let index = match colour {
        Color::Reset => return None,
        Color::Rgb(red, green, blue) => return Some((red, green, blue)),
        Color::Indexed(index) => index,
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 8,
        Color::LightRed => 9,
        Color::LightGreen => 10,
        Color::LightYellow => 11,
        Color::LightBlue => 12,
        Color::LightMagenta => 13,
        Color::LightCyan => 14,
        Color::White => 15,
    };
    Some(match index {
        0..16 => BASE[usize::from(index)],
        16..232 => {
            let level = |part: u8| if part == 0 { 0 } else { 55 + 40 * part };
            let cube = index - 16;
            (level(cube / 36), level(cube / 6 % 6), level(cube % 6))
        }
        232.. => {
            let grey = 8 + 10 * (index - 232);
            (grey, grey, grey)
        }
    })
}

fn hex((red, green, blue): (u8, u8, u8)) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::*;

    fn buffer() -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        buffer.set_string(1, 0, "a<b & 漢c", Style::new());
        buffer.set_string(0, 1, "hot", Style::new().fg(Color::Indexed(16)).bg(Color::Indexed(227)));
        buffer
    }

    #[test]
    fn text_has_a_line_a_row_and_wide_characters_once() {
        assert_eq!(text(&buffer()), " a<b & 漢c\nhot\n");
    }

    #[test]
    fn svg_escapes_keeps_columns_and_colours() {
        let svg = svg(&buffer());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("> a&lt;b &amp; </text>"), "{svg}");
        // Seven columns precede the wide character, and nine the text after it.
        assert!(svg.contains(&format!("x=\"{:.1}\"", 7.0 * CELL_WIDTH)), "{svg}");
        assert!(svg.contains(&format!("x=\"{:.1}\"", 9.0 * CELL_WIDTH)), "{svg}");
        assert!(svg.contains("fill=\"#ffff5f\"") && svg.contains("fill=\"#000000\""), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn reversed_cells_swap_their_colours() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 3, 1));
        buffer.set_string(0, 0, "x", Style::new().add_modifier(Modifier::REVERSED));
        assert!(svg(&buffer).contains(&format!("fill=\"{}\"", hex(BACKGROUND))));
        assert!(svg(&buffer).contains("<rect x=\"0.0\""));
    }
}
