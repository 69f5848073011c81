//! Numbers of bytes.

/// A number of bytes in a suitable binary unit, with one decimal unless it is whole.
pub fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let digits = usize::from(value.fract() != 0.0);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_units() {
        assert_eq!(
            [0, 1023, 1536, 20 << 20, 1_048_576, 1_500_000, 1 << 40].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "20 MiB", "1 MiB", "1.4 MiB", "1 TiB"]
        );
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }
}
