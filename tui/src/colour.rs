//! What the terminal can show, derived from environment variables that the caller passes.

/// How many colours may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColourMode {
    /// 24-bit colours.
    TrueColour,
    /// The 256 colours of xterm.
    Indexed256,
    /// The 16 colours of ANSI terminals.
    Ansi16,
    /// No colours: values are ranked by glyphs alone.
    NoColour,
}

/// The environment variables about colours; `None` for one that is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColourEnv<'a> {
    /// `NO_COLOR` (<https://no-color.org>): no colours when set to anything but the empty string.
    pub no_color: Option<&'a str>,
    /// `COLORTERM`: `truecolor` or `24bit` where the terminal has 24-bit colours.
    pub colorterm: Option<&'a str>,
    /// `TERM`: the terminal's name in terminfo.
    pub term: Option<&'a str>,
}

impl ColourMode {
    /// The richest mode that the environment indicates.
    pub fn detect(env: ColourEnv<'_>) -> Self {
        if env.no_color.is_some_and(|value| !value.is_empty()) {
            return Self::NoColour;
        }
        let term = env.term.unwrap_or("");
        let no_colours = ["", "dumb", "vt100", "vt102", "vt220", "unknown"];
        if no_colours.contains(&term) || term.ends_with("-mono") || term.ends_with("-m") {
            return Self::NoColour;
        }
        let colorterm = env.colorterm.unwrap_or("").to_ascii_lowercase();
        if colorterm == "truecolor" || colorterm == "24bit" || term.ends_with("-direct") {
            Self::TrueColour
        } else if term.contains("256color") {
            Self::Indexed256
        } else {
            Self::Ansi16
        }
    }
}

/// The colour ramp of the heatmap, if there are enough colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Palette {
    /// Blue to yellow, the same for every kind of colour vision.
    #[default]
    Cividis,
    /// Black through red to pale yellow.
    Ember,
    /// Greys.
    Grey,
}

impl Palette {
    /// All palettes, the default first.
    pub const ALL: [Self; 3] = [Self::Cividis, Self::Ember, Self::Grey];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cividis => "cividis",
            Self::Ember => "ember",
            Self::Grey => "grey",
        }
    }
}

impl std::fmt::Display for Palette {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// No palette has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaletteError(String);

impl std::fmt::Display for PaletteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown palette `{}`; the palettes are cividis, ember and grey", self.0)
    }
}

impl std::error::Error for PaletteError {}

impl std::str::FromStr for Palette {
    type Err = PaletteError;

    fn from_str(name: &str) -> Result<Self, PaletteError> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| PaletteError(name.into()))
    }
}

/// Supported characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Charset {
    /// Box drawing, block elements, and names as they are.
    Unicode,
    /// 7-bit ASCII; other characters in names are shown as `?`.
    Ascii,
}

/// The environment variables that name the character set, in the C library's order of precedence (locale(7));
/// `None` for one that is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocaleEnv<'a> {
    /// `LC_ALL`.
    pub lc_all: Option<&'a str>,
    /// `LC_CTYPE`.
    pub lc_ctype: Option<&'a str>,
    /// `LANG`.
    pub lang: Option<&'a str>,
}

impl Charset {
    /// [`Charset::Unicode`] if the effective locale is UTF-8, else [`Charset::Ascii`].
    pub fn detect(env: LocaleEnv<'_>) -> Self {
        let locale =
            [env.lc_all, env.lc_ctype, env.lang].into_iter().flatten().find(|value| !value.is_empty());
        let locale = locale.unwrap_or("C").to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Self::Unicode } else { Self::Ascii }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(no_color: Option<&str>, colorterm: Option<&str>, term: Option<&str>) -> ColourMode {
        ColourMode::detect(ColourEnv { no_color, colorterm, term })
    }

    #[test]
    fn the_environment_decides_the_colours() {
        assert_eq!(mode(None, Some("truecolor"), Some("xterm-256color")), ColourMode::TrueColour);
        assert_eq!(mode(None, None, Some("xterm-direct")), ColourMode::TrueColour);
        assert_eq!(mode(None, None, Some("tmux-256color")), ColourMode::Indexed256);
        assert_eq!(mode(None, None, Some("linux")), ColourMode::Ansi16);
        for term in [None, Some(""), Some("dumb"), Some("vt100"), Some("xterm-mono")] {
            assert_eq!(mode(None, None, term), ColourMode::NoColour, "{term:?}");
        }
    }

    #[test]
    fn no_color_counts_only_when_not_empty() {
        assert_eq!(mode(Some("1"), Some("truecolor"), Some("xterm-256color")), ColourMode::NoColour);
        assert_eq!(mode(Some(""), Some("24bit"), Some("xterm")), ColourMode::TrueColour);
    }

    #[test]
    fn the_first_locale_variable_that_is_set_decides_the_characters() {
        let detect = |lc_all, lc_ctype, lang| Charset::detect(LocaleEnv { lc_all, lc_ctype, lang });
        assert_eq!(detect(None, None, Some("en_GB.UTF-8")), Charset::Unicode);
        assert_eq!(detect(Some("C"), None, Some("en_GB.UTF-8")), Charset::Ascii);
        assert_eq!(detect(Some(""), Some("C.utf8"), None), Charset::Unicode);
        assert_eq!(detect(None, None, None), Charset::Ascii);
    }

    #[test]
    fn palettes_are_read_by_name_and_the_default_is_safe() {
        for palette in Palette::ALL {
            assert_eq!(palette.name().parse(), Ok(palette));
        }
        assert_eq!(Palette::default(), Palette::Cividis);
        let wrong = "rainbow".parse::<Palette>().map_err(|error| error.to_string());
        assert_eq!(wrong, Err("unknown palette `rainbow`; the palettes are cividis, ember and grey".into()));
    }
}
