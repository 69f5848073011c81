//! Numbers as text.

/// A p value with four decimals; a smaller one is not written as 0.
pub fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".to_owned() } else { format!("{p:.4}") }
}

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
    use super::*;

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

    #[test]
    fn small_p_values_are_not_zero() {
        assert_eq!([0.5, 0.0001, 0.00009].map(p_value), ["0.5000", "0.0001", "< 0.0001"]);
    }
}
