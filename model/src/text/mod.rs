//! Formatting for people and files: times, bytes, escapes, shared by all programs here.

mod bytes;
mod counted;
mod escape;
mod number;
mod plain;
mod time;

pub use bytes::bytes;
pub use counted::counted;
pub use escape::xml;
pub use number::{p_value, thousands};
pub use plain::{is_plain, plain, plain_lines, plain_short};
pub use time::{time_of_day, unix_us, utc_compact, utc_text};

/// The choice in brackets of a sysfs file like `[none] scan-time`; the whole text if none is.
pub fn chosen(text: &str) -> &str {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text.trim(), |(choice, _)| choice)
}

/// The first line of an error of a library, which may be followed by pages of its context.
pub fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::{chosen, first_line};

    #[test]
    fn the_first_line_is_the_first_with_text() {
        assert_eq!(first_line("\n  \n  it failed \nPLAN\n"), "it failed");
        assert_eq!(first_line(" \n"), "no reason given");
    }

    #[test]
    fn the_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("1\n"), "1");
        assert_eq!(chosen("[none"), "[none");
    }
}
