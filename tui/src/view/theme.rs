//! Colours and characters, for every [`ColourMode`] and [`Charset`].

use ratatui::style::{Color, Modifier, Style};

use crate::app::scale::TOP_LEVEL;
use crate::colour::{Charset, ColourMode};

const LEVELS: usize = TOP_LEVEL as usize + 1;

/// Cividis (Nunez, Anderton and Renslow, PLOS ONE 13(7), 2018): made so that people with and without
/// colour-vision deficiency rank its colours alike. Levels 1 to 9.
const CIVIDIS: [(u8, u8, u8); LEVELS - 1] = [
    (0, 34, 78),
    (8, 51, 112),
    (53, 69, 108),
    (79, 87, 108),
    (102, 105, 112),
    (125, 124, 120),
    (174, 163, 113),
    (200, 184, 102),
    (254, 232, 56),
];

/// The same ramp in xterm's 256 colours, with their red, green and blue for the contrast of text.
const INDEXED: [(u8, (u8, u8, u8)); LEVELS - 1] = [
    (17, (0, 0, 95)),
    (24, (0, 95, 135)),
    (60, (95, 95, 135)),
    (102, (135, 135, 135)),
    (144, (175, 175, 135)),
    (179, (215, 175, 95)),
    (185, (215, 215, 95)),
    (221, (255, 215, 95)),
    (227, (255, 255, 95)),
];

/// Glyphs of rising ink, level 0 to 9.
const GLYPHS: [char; LEVELS] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];

/// Bars of a sparkline, lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// Characters of borders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    pub(crate) horizontal: char,
    pub(crate) vertical: char,
    pub(crate) corners: [char; 4],
}

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    pub(crate) colour: ColourMode,
    pub(crate) charset: Charset,
}

impl Theme {
    pub(crate) fn new(colour: ColourMode, charset: Charset) -> Self {
        Self { colour, charset }
    }

    /// Whether levels show as backgrounds; else their glyphs must rank them.
    pub(crate) fn has_backgrounds(&self) -> bool {
        matches!(self.colour, ColourMode::TrueColour | ColourMode::Indexed256)
    }

    pub(crate) fn level_style(&self, level: u8) -> Style {
        let Some(step) = usize::from(level.min(TOP_LEVEL)).checked_sub(1) else { return Style::new() };
        match self.colour {
            ColourMode::TrueColour => {
                let (red, green, blue) = CIVIDIS[step];
                Style::new().bg(Color::Rgb(red, green, blue)).fg(text_on(CIVIDIS[step], self.colour))
            }
            ColourMode::Indexed256 => {
                let (index, rgb) = INDEXED[step];
                Style::new().bg(Color::Indexed(index)).fg(text_on(rgb, self.colour))
            }
            ColourMode::Ansi16 => match step {
                0..3 => Style::new().fg(Color::Blue),
                3..6 => Style::new().fg(Color::Cyan),
                _ => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            },
            ColourMode::NoColour => Style::new(),
        }
    }

    /// A glyph that ranks the level by itself.
    pub(crate) fn glyph(&self, level: u8) -> char {
        GLYPHS[usize::from(level.min(TOP_LEVEL))]
    }

    /// A bar for a part (0 to 1) of the whole.
    pub(crate) fn bar(&self, part: f64) -> char {
        let bars = if self.charset == Charset::Unicode { BARS } else { ASCII_BARS };
        let step = (part * bars.len() as f64).ceil() as usize;
        bars[step.clamp(1, bars.len()) - 1]
    }

    /// Stands where there was no value to draw.
    pub(crate) fn gap(&self) -> char {
        if self.charset == Charset::Unicode { '·' } else { 'x' }
    }

    pub(crate) fn lines(&self) -> Lines {
        match self.charset {
            Charset::Unicode => {
                Lines { horizontal: '─', vertical: '│', corners: ['┌', '┐', '└', '┘'] }
            }
            Charset::Ascii => Lines { horizontal: '-', vertical: '|', corners: ['+'; 4] },
        }
    }

    /// Which way a column orders.
    pub(crate) fn order(&self, is_descending: bool) -> char {
        match (self.charset, is_descending) {
            (Charset::Unicode, true) => '▼',
            (Charset::Unicode, false) => '▲',
            (Charset::Ascii, true) => 'v',
            (Charset::Ascii, false) => '^',
        }
    }

    pub(crate) fn arrow(&self) -> &'static str {
        if self.charset == Charset::Unicode { "→" } else { "->" }
    }

    /// Stands where text was cut.
    pub(crate) fn ellipsis(&self) -> char {
        if self.charset == Charset::Unicode { '…' } else { '~' }
    }

    pub(crate) fn plain(&self) -> Style {
        Style::new()
    }

    /// Headings and what is marked.
    pub(crate) fn strong(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What explains rather than tells.
    pub(crate) fn faint(&self) -> Style {
        match self.colour {
            ColourMode::TrueColour => Style::new().fg(Color::Rgb(140, 140, 140)),
            ColourMode::Indexed256 => Style::new().fg(Color::Indexed(245)),
            // Bright black and DIM are unreadable on some palettes.
            ColourMode::Ansi16 | ColourMode::NoColour => Style::new(),
        }
    }

    /// A value that is not there, a failure, a pause.
    pub(crate) fn warning(&self) -> Style {
        let bold = self.strong();
        match self.colour {
            ColourMode::TrueColour => bold.fg(Color::Rgb(230, 159, 0)),
            ColourMode::Indexed256 => bold.fg(Color::Indexed(214)),
            ColourMode::Ansi16 => bold.fg(Color::Yellow),
            ColourMode::NoColour => bold,
        }
    }

    /// What is selected.
    pub(crate) fn selected(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The cursor's row, column and box.
    pub(crate) fn accent(&self) -> Style {
        let bold = self.strong();
        match self.colour {
            ColourMode::TrueColour => bold.fg(Color::Rgb(86, 180, 233)),
            ColourMode::Indexed256 => bold.fg(Color::Indexed(74)),
            ColourMode::Ansi16 => bold.fg(Color::Cyan),
            ColourMode::NoColour => bold,
        }
    }
}

/// Luma (ITU-R BT.709, without gamma) from 0 to 255.
fn luma((red, green, blue): (u8, u8, u8)) -> f64 {
    0.2126 * f64::from(red) + 0.7152 * f64::from(green) + 0.0722 * f64::from(blue)
}

fn text_on(background: (u8, u8, u8), colour: ColourMode) -> Color {
    let (black, white) = match colour {
        ColourMode::TrueColour => (Color::Rgb(0, 0, 0), Color::Rgb(255, 255, 255)),
        // 0 to 15 are the user's palette; 16 and 231 are black and white for certain.
        _ => (Color::Indexed(16), Color::Indexed(231)),
    };
    if luma(background) > 110.0 { black } else { white }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ramp_rises_in_brightness() {
        assert!(CIVIDIS.windows(2).all(|pair| luma(pair[0]) < luma(pair[1])));
        assert!(INDEXED.windows(2).all(|pair| luma(pair[0].1) < luma(pair[1].1)));
    }

    #[test]
    fn the_256_colours_are_those_of_the_cube() {
        for (index, rgb) in INDEXED {
            let step = |part: u8| if part == 0 { 0 } else { 55 + 40 * part };
            let cube = index - 16;
            let expected = (step(cube / 36), step(cube / 6 % 6), step(cube % 6));
            // 102 lies on the cube's diagonal.
            assert_eq!(rgb, expected, "{index}");
        }
    }

    #[test]
    fn without_colours_levels_differ_by_glyph_and_carry_none() {
        let theme = Theme::new(ColourMode::NoColour, Charset::Ascii);
        let glyphs: std::collections::HashSet<char> =
            (0..=TOP_LEVEL).map(|level| theme.glyph(level)).collect();
        assert_eq!(glyphs.len(), LEVELS);
        for style in [theme.level_style(9), theme.warning(), theme.accent(), theme.faint(), theme.selected()]
        {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
