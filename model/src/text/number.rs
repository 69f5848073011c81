//! Numbers as text.

/// A decimal number with its thousands separated: `-12,345.6`.
pub fn thousands(decimal: &str) -> String {
    let begin = decimal.find(|digit: char| digit.is_ascii_digit()).unwrap_or(decimal.len());
    let end = decimal.find('.').unwrap_or(decimal.len());
    let mut separated = String::with_capacity(decimal.len() + decimal.len() / 3);
    for (at, digit) in decimal.char_indices() {
        if (begin + 1..end).contains(&at) && (end - at).is_multiple_of(3) {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn thousands_are_separated_before_the_point_only() {
        for (decimal, separated) in [
            ("7", "7"),
            ("999", "999"),
            ("123456789", "123,456,789"),
            ("1234.5678", "1,234.5678"),
            ("-123456", "-123,456"),
            ("-1234", "-1,234"),
            ("", ""),
        ] {
            assert_eq!(thousands(decimal), separated);
        }
    }
}
