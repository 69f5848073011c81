//! Numbers for people.

/// A p value with four decimals; a smaller one is not written as 0.
pub fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".to_owned() } else { format!("{p:.4}") }
}

/// A string of digits, optionally with decimals, grouped by thousands: `12,345,678.9`.
pub fn grouped(number: &str) -> String {
    let (whole, decimals) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut out = String::with_capacity(number.len() + whole.len() / 3);
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + decimals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let cases = [("7", "7"), ("999", "999"), ("1234.57", "1,234.57"), ("123456789", "123,456,789")];
        for (number, expected) in cases {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn small_p_values_are_not_zero() {
        assert_eq!([0.5, 0.0001, 0.00009].map(p_value), ["0.5000", "0.0001", "< 0.0001"]);
    }
}
