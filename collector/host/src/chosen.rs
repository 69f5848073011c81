//! The choice among several that a file of sysfs offers, as `[none] scan-time`.

/// The word in brackets; the whole text, trimmed, where none is.
pub fn chosen(text: &str) -> &str {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text.trim(), |(choice, _)| choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_brackets_is_the_choice() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("[none] scan-time"), "none");
        assert_eq!(chosen("1000\n"), "1000");
        assert_eq!(chosen("a [b\n"), "a [b");
    }
}
