//! Colours and characters, for every [`ColourMode`] and [`Charset`].

use ratatui::style::{Color, Modifier, Style};

use super::palette::{Ramps, luma};
use crate::app::scale::TOP_LEVEL;
use crate::colour::{Charset, ColourMode, Palette};

const LEVELS: usize = TOP_LEVEL as usize + 1;

/// Glyphs of increasing density, level 0 to 9.
const GLYPHS: [char; LEVELS] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];

/// Bars of a sparkline, lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// Colours of cache domains, in 24 bits, of xterm's 256, and of 16: those of Okabe and Ito, which are told apart with every
/// kind of colour vision (Color Universal Design, 2008), without the yellow of the highest rates.
const DOMAINS: [((u8, u8, u8), u8, Color); 6] = [
    ((86, 180, 233), 74, Color::Cyan),
    ((213, 94, 0), 166, Color::Red),
    ((0, 158, 115), 36, Color::Green),
    ((204, 121, 167), 175, Color::Magenta),
    ((0, 114, 178), 25, Color::Blue),
    ((230, 159, 0), 178, Color::Yellow),
];

/// Characters of borders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    pub(crate) horizontal: char,
    pub(crate) vertical: char,
    pub(crate) corners: [char; 4],
    /// Where two corners meet.
    pub(crate) cross: char,
}

/// Styles and characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    pub(crate) colour: ColourMode,
    pub(crate) charset: Charset,
    pub(crate) palette: Palette,
}

impl Theme {
    pub(crate) fn new(colour: ColourMode, charset: Charset, palette: Palette) -> Self {
        Self { colour, charset, palette }
    }

    /// Whether levels are shown as backgrounds; otherwise glyphs rank them.
    pub(crate) fn has_backgrounds(&self) -> bool {
        matches!(self.colour, ColourMode::TrueColour | ColourMode::Indexed256)
    }

    pub(crate) fn level_style(&self, level: u8) -> Style {
        let Some(step) = usize::from(level.min(TOP_LEVEL)).checked_sub(1) else { return Style::new() };
        match self.colour {
            ColourMode::TrueColour => {
                let rgb @ (red, green, blue) = Ramps::of(self.palette).rgb[step];
                Style::new().bg(Color::Rgb(red, green, blue)).fg(text_on(rgb, self.colour))
            }
            ColourMode::Indexed256 => {
                let (index, rgb) = Ramps::of(self.palette).indexed[step];
                Style::new().bg(Color::Indexed(index)).fg(text_on(rgb, self.colour))
            }
            // No colour for greys: glyphs rank them.
            ColourMode::Ansi16 if self.palette == Palette::Grey => Style::new(),
            ColourMode::Ansi16 if self.palette == Palette::Ember => match step {
                0..3 => Style::new().fg(Color::Magenta),
                3..6 => Style::new().fg(Color::Red),
                _ => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            },
            ColourMode::Ansi16 => match step {
                0..3 => Style::new().fg(Color::Blue),
                3..6 => Style::new().fg(Color::Cyan),
                _ => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            },
            ColourMode::NoColour => Style::new(),
        }
    }

    /// The colour of a cache domain, by its position: neighbours differ. Its number is always there too.
    pub(crate) fn domain_style(&self, domain: usize) -> Style {
        let nth = domain % DOMAINS.len();
        let (rgb, index, ansi) = DOMAINS[nth];
        match self.colour {
            ColourMode::TrueColour => {
                Style::new().bg(Color::Rgb(rgb.0, rgb.1, rgb.2)).fg(text_on(rgb, self.colour))
            }
            ColourMode::Indexed256 => Style::new().bg(Color::Indexed(index)).fg(text_on(rgb, self.colour)),
            // Black on a terminal's blue is not readable.
            ColourMode::Ansi16 if ansi == Color::Blue => Style::new().bg(ansi).fg(Color::White),
            ColourMode::Ansi16 => Style::new().bg(ansi).fg(Color::Black),
            ColourMode::NoColour => Style::new(),
        }
    }

    /// A glyph that ranks the level by itself.
    pub(crate) fn glyph(&self, level: u8) -> char {
        GLYPHS[usize::from(level.min(TOP_LEVEL))]
    }

    /// A bar for a fraction (0 to 1) of the whole.
    pub(crate) fn bar(&self, part: f64) -> char {
        let bars = if self.charset == Charset::Unicode { BARS } else { ASCII_BARS };
        let step = (part * bars.len() as f64).ceil() as usize;
        bars[step.clamp(1, bars.len()) - 1]
    }

    /// Drawn in place of a missing value.
    pub(crate) fn gap(&self) -> char {
        if self.charset == Charset::Unicode { '·' } else { 'x' }
    }

    pub(crate) fn lines(&self) -> Lines {
        match self.charset {
            Charset::Unicode => {
                Lines {
                    horizontal: '─', vertical: '│', corners: ['┌', '┐', '└', '┘'], cross: '┼'
                }
            }
            Charset::Ascii => Lines { horizontal: '-', vertical: '|', corners: ['+'; 4], cross: '+' },
        }
    }

    /// Lines at the left and the right edge of a cell; `None` where there are no such characters, or cells have glyphs.
    pub(crate) fn edges(&self) -> Option<[char; 2]> {
        (self.charset == Charset::Unicode && self.has_backgrounds()).then_some(['▏', '▕'])
    }

    /// Arrow of the sort direction.
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

    /// Drawn where text was cut.
    pub(crate) fn ellipsis(&self) -> char {
        if self.charset == Charset::Unicode { '…' } else { '~' }
    }

    pub(crate) fn plain(&self) -> Style {
        Style::new()
    }

    /// Headings and marked items.
    pub(crate) fn strong(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Explanations.
    pub(crate) fn faint(&self) -> Style {
        match self.colour {
            ColourMode::TrueColour => Style::new().fg(Color::Rgb(140, 140, 140)),
            ColourMode::Indexed256 => Style::new().fg(Color::Indexed(245)),
            // Bright black and DIM are unreadable on some palettes.
            ColourMode::Ansi16 | ColourMode::NoColour => Style::new(),
        }
    }

    /// An unavailable value, a failure, a pause.
    pub(crate) fn warning(&self) -> Style {
        let bold = self.strong();
        match self.colour {
            ColourMode::TrueColour => bold.fg(Color::Rgb(230, 159, 0)),
            ColourMode::Indexed256 => bold.fg(Color::Indexed(214)),
            ColourMode::Ansi16 => bold.fg(Color::Yellow),
            ColourMode::NoColour => bold,
        }
    }

    /// The selected item.
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

fn text_on(background: (u8, u8, u8), colour: ColourMode) -> Color {
    let (black, white) = match colour {
        ColourMode::TrueColour => (Color::Rgb(0, 0, 0), Color::Rgb(255, 255, 255)),
        // 0 to 15 depend on the user's palette; 16 and 231 are always black and white.
        _ => (Color::Indexed(16), Color::Indexed(231)),
    };
    if luma(background) > 110.0 { black } else { white }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_levels_differ_by_glyph_and_carry_none() {
        let theme = Theme::new(ColourMode::NoColour, Charset::Ascii, Palette::Cividis);
        let glyphs: std::collections::HashSet<char> =
            (0..=TOP_LEVEL).map(|level| theme.glyph(level)).collect();
        assert_eq!(glyphs.len(), LEVELS);
        for style in [theme.level_style(9), theme.warning(), theme.accent(), theme.faint(), theme.selected()]
        {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
