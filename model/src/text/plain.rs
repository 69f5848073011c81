//! Text that somebody else wrote, as it may be shown.

use std::borrow::Cow;

/// Text that stays one piece of one line wherever it is shown. Characters that could end the line, steer a
/// terminal, turn the order of what follows or hide are written as in Rust: `\n`, `\u{202e}`. The backslash itself
/// is not, so the text cannot be read back.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// The same for text of several lines: its line ends stay.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character == '\n')
}

/// [`plain`] text of at most `most` bytes: the end of what is longer is cut off, and two dots say so. (With fewer
/// than two bytes to give it is empty.)
pub fn plain_short(text: &str, most: usize) -> String {
    // What is far beyond the limit need not be escaped first: no character becomes shorter.
    let head = &text[..text.floor_char_boundary(most.saturating_add(1))];
    let plain = plain(head);
    if plain.len() <= most && head.len() == text.len() {
        return plain.into_owned();
    }
    let Some(room) = most.checked_sub(MORE.len()) else { return String::new() };
    format!("{}{MORE}", &plain[..plain.floor_char_boundary(room)])
}

const MORE: &str = "..";

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |character: char| !is_plain(character) && !stays(character);
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Whether a character shows as itself and changes nothing around it: no control character, no line or paragraph
/// separator, none of Unicode's marks and overrides of direction (UAX #9), and none without width or shape, by which
/// two names look alike.
pub fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_deceive_is_written_out() {
        for (text, shown) in [
            ("web-1 \u{e9}\u{4e2d}", "web-1 \u{e9}\u{4e2d}"),
            ("a\nINFO forged", "a\\nINFO forged"),
            ("\u{1b}[2Ja\t\r\u{9b}", "\\u{1b}[2Ja\\t\\r\\u{9b}"),
            ("gpj\u{202e}exe", "gpj\\u{202e}exe"),
            ("a\u{2066}b\u{2069}\u{200f}\u{200b}", "a\\u{2066}b\\u{2069}\\u{200f}\\u{200b}"),
            ("C:\\n", "C:\\n"),
        ] {
            assert_eq!(plain(text), shown);
        }
        assert_eq!(plain_lines("a\nb\u{202e}\n"), "a\nb\\u{202e}\n");
        assert!(matches!(plain("web"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        assert_eq!(plain_short("abcd", 4), "abcd");
        assert_eq!(plain_short("abcde", 4), "ab..");
        assert_eq!(plain_short("\u{e9}\u{e9}\u{e9}", 5), "\u{e9}..");
        assert_eq!(plain_short("ab\n", 3), "a..");
        assert_eq!(plain_short("abc", 1), "");
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_plain_line(text in any::<String>(), most in 0usize..40) {
            let shown = plain(&text);
            prop_assert!(shown.chars().all(is_plain));
            prop_assert_eq!(plain(&shown), &*shown, "what is plain stays");
            prop_assert_eq!(plain_lines(&text).split('\n').map(|line| plain(line).into_owned()).collect::<Vec<_>>(),
                text.split('\n').map(|line| plain(line).into_owned()).collect::<Vec<_>>());
            let short = plain_short(&text, most);
            prop_assert!(short.len() <= most && short.chars().all(is_plain));
            prop_assert!(shown.len() > most || short == shown);
        }

        #[test]
        fn no_mark_of_direction_is_left(text in "[a\u{61c}\u{200e}\u{200f}\u{202a}-\u{202e}\u{2066}-\u{2069}\\x00-\\x1f\\x7f-\u{9f}]{0,40}") {
            prop_assert!(plain(&text).is_ascii());
        }
    }
}
