//! Numbers and times for people.

/// Bytes of a page or frame: what `model` counts in.
const PAGE_BYTES: u64 = 4096;

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that suits them.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || (value.fract() == 0.0 && value < 1024.0) {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Bytes that may be negative.
pub(crate) fn signed_bytes(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", bytes(number.unsigned_abs()))
}

/// Bytes of frames or pages.
pub(crate) fn frames_bytes(frames: u64) -> String {
    bytes(frames.saturating_mul(PAGE_BYTES))
}

/// A part (0 to 1) in per cent, with digits enough that what is not 0 does not read as 0.
pub(crate) fn percent(part: f64) -> String {
    let value = part * 100.0;
    if value > 0.0 && value < 0.05 {
        if value < 0.0005 { "<0.001 %".into() } else { format!("{value:.3} %") }
    } else {
        format!("{value:.1} %")
    }
}

/// The same for a cell of the heatmap: no unit, five columns at most.
pub(crate) fn cell_percent(part: f64) -> String {
    let value = part * 100.0;
    if value > 0.0 && value < 0.05 { "<.1".into() } else { format!("{value:.1}") }
}

/// Time of day of a moment given in microseconds since the Unix epoch, in UTC.
pub(crate) fn time_of_day(unix_us: u64) -> String {
    let seconds = unix_us / 1_000_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A span given in seconds.
pub(crate) fn seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1_048_576), "1 MiB");
        assert_eq!(bytes(1_500_000), "1.4 MiB");
        assert_eq!(signed_bytes(-2048), "-2 KiB");
        assert_eq!(time_of_day(86_399_000_000), "23:59:59");
    }

    #[test]
    fn little_never_reads_as_nothing() {
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(0.0001), "0.010 %");
        assert_eq!(percent(1e-9), "<0.001 %");
        assert_eq!(cell_percent(1e-9), "<.1");
        assert_eq!(cell_percent(1.0), "100.0");
    }
}
