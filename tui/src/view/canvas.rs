//! Writing into a buffer, clipped to the given area.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

use super::theme::Theme;
use crate::colour::Charset;

/// A buffer with the theme to draw in.
pub(crate) struct Canvas<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) theme: Theme,
}

/// Width of a text in columns.
pub(crate) fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { Span::raw(text).width() }
}

impl Canvas<'_> {
    /// Writes one line at `x`, `y`, at most to the right edge of `area`; text that does not fit ends
    /// in an ellipsis. Returns the column after it.
    pub(crate) fn text(&mut self, area: Rect, x: u16, y: u16, text: &str, style: Style) -> u16 {
        let area = area.intersection(self.buffer.area);
        if !area.contains((x, y).into()) {
            return x;
        }
        let room = usize::from(area.right() - x);
        let plain;
        let text = if self.theme.charset == Charset::Ascii && !text.is_ascii() {
            plain = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect::<String>();
            &plain
        } else {
            text
        };
        if width(text) <= room {
            return self.buffer.set_stringn(x, y, text, room, style).0;
        }
        let (end, _) = self.buffer.set_stringn(x, y, text, room - 1, style);
        self.put(end, y, self.theme.ellipsis(), style);
        end + 1
    }

    /// Writes one line so that it ends at the right edge of `area`; cut like [`Self::text`].
    pub(crate) fn right(&mut self, area: Rect, text: &str, style: Style) {
        let room = usize::from(area.width);
        let start = area.right().saturating_sub(width(text).min(room) as u16);
        self.text(area, start, area.y, text, style);
    }

    /// Writes several pieces on one line. Returns the column after it.
    pub(crate) fn pieces(&mut self, area: Rect, mut x: u16, y: u16, pieces: &[(&str, Style)]) -> u16 {
        for (text, style) in pieces {
            x = self.text(area, x, y, text, *style);
        }
        x
    }

    /// Writes text in lines broken between words. Returns how many lines it took, at most the height of
    /// `area`; text that does not fit ends in an ellipsis.
    pub(crate) fn paragraph(&mut self, area: Rect, text: &str, style: Style) -> u16 {
        let area = area.intersection(self.buffer.area);
        if area.is_empty() {
            return 0;
        }
        let mut rest = text.trim();
        let mut lines = 0;
        while !rest.is_empty() {
            if lines + 1 == area.height {
                self.text(area, area.x, area.y + lines, rest, style);
                return area.height;
            }
            let (line, after) = break_line(rest, usize::from(area.width));
            self.text(area, area.x, area.y + lines, line, style);
            lines += 1;
            rest = after.trim_start();
        }
        lines
    }

    /// Writes one character, if the cell is in the buffer.
    pub(crate) fn put(&mut self, x: u16, y: u16, character: char, style: Style) {
        if let Some(cell) = self.buffer.cell_mut((x, y)) {
            cell.set_char(character).set_style(style);
        }
    }

    /// Clears an area.
    pub(crate) fn clear(&mut self, area: Rect) {
        let area = area.intersection(self.buffer.area);
        for y in area.y..area.bottom() {
            for x in area.x..area.right() {
                if let Some(cell) = self.buffer.cell_mut((x, y)) {
                    cell.reset();
                }
            }
        }
    }

    /// A frame with a title; returns its inside.
    pub(crate) fn frame(&mut self, area: Rect, title: &str, style: Style, title_style: Style) -> Rect {
        let area = area.intersection(self.buffer.area);
        if area.width < 2 || area.height < 2 {
            return Rect::new(area.x, area.y, 0, 0);
        }
        let lines = self.theme.lines();
        let (right, bottom) = (area.right() - 1, area.bottom() - 1);
        for x in area.x + 1..right {
            self.put(x, area.y, lines.horizontal, style);
            self.put(x, bottom, lines.horizontal, style);
        }
        for y in area.y + 1..bottom {
            self.put(area.x, y, lines.vertical, style);
            self.put(right, y, lines.vertical, style);
        }
        let corners = [(area.x, area.y), (right, area.y), (area.x, bottom), (right, bottom)];
        for ((x, y), corner) in corners.into_iter().zip(lines.corners) {
            self.put(x, y, corner, style);
        }
        let inner = Rect::new(area.x + 1, area.y, area.width - 2, 1);
        self.text(inner, area.x + 1, area.y, title, title_style);
        Rect::new(area.x + 1, area.y + 1, area.width - 2, area.height - 2)
    }

    /// A horizontal line with a title; returns the part of `area` below it.
    pub(crate) fn rule(&mut self, area: Rect, title: &str) -> Rect {
        let line = self.theme.lines().horizontal;
        let row = Rect { height: area.height.min(1), ..area };
        for x in row.x..row.right() {
            self.put(x, area.y, line, self.theme.faint());
        }
        self.text(row, area.x.saturating_add(1), area.y, title, self.theme.strong());
        Rect { y: area.y.saturating_add(1), height: area.height.saturating_sub(1), ..area }
    }
}

/// Breaks at the last space that fits, or within a word that is longer than the line.
fn break_line(text: &str, room: usize) -> (&str, &str) {
    let mut columns = 0;
    let mut last_space = None;
    for (at, character) in text.char_indices() {
        if character == ' ' {
            last_space = Some(at);
        }
        columns += width(character.encode_utf8(&mut [0; 4]));
        if columns > room {
            // At least one character, or the loop would never end.
            let at = last_space.filter(|space| *space > 0).unwrap_or(at);
            let at = if at == 0 { character.len_utf8() } else { at };
            return text.split_at(at);
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colour::{ColourMode, Palette};

    #[test]
    fn lines_break_between_words_and_long_words_within() {
        assert_eq!(break_line("one two three", 9), ("one two", " three"));
        assert_eq!(break_line("abcdef", 4), ("abcd", "ef"));
        assert_eq!(break_line("漢字", 1), ("漢", "字"));
        assert_eq!(break_line("short", 9), ("short", ""));
    }

    #[test]
    fn nothing_is_written_beyond_the_area_and_cuts_show() {
        let area = Rect::new(0, 0, 12, 3);
        let mut buffer = Buffer::empty(area);
        let mut canvas = Canvas {
            buffer: &mut buffer,
            theme: Theme::new(ColourMode::NoColour, Charset::Ascii, Palette::Cividis),
        };
        canvas.text(Rect::new(0, 0, 6, 1), 2, 0, "long text", Style::new());
        canvas.text(area, 0, 1, "naïve 漢\u{1b}[31m", Style::new());
        canvas.text(area, 40, 40, "nowhere", Style::new());
        let row = |y: u16| (0..12).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        assert_eq!(row(0), "  lon~      ");
        assert!(row(1).starts_with("na?ve ?[31m"), "{}", row(1));
    }
}
