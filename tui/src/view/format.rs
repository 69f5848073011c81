//! Formatting of numbers and times.

use huddle_model::page_size::PageSize;
use huddle_model::text;
pub(crate) use huddle_model::text::bytes;

use crate::app::metric::Metric;

/// A number with its thousands separated.
pub(crate) fn count(number: u64) -> String {
    text::thousands(&number.to_string())
}

/// Bytes, possibly negative.
pub(crate) fn signed_bytes(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", bytes(number.unsigned_abs()))
}

/// Bytes of frames or pages.
pub(crate) fn frames_bytes(frames: u64, size: PageSize) -> String {
    bytes(size.bytes_of(frames))
}

/// A fraction (0 to 1) in per cent, with enough digits that a value above 0 does not read as 0.
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

/// The same in three columns: whole per cents.
pub(crate) fn short_percent(part: f64) -> String {
    let value = part * 100.0;
    if value > 0.0 && value < 0.5 { "<1".into() } else { format!("{value:.0}") }
}

/// A metric in its usual unit.
pub(crate) fn metric(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Mpki | Metric::Ipc => small(value),
        Metric::MissRatio | Metric::Run | Metric::OwnDomain => percent(value),
        Metric::MissesPerS | Metric::Operations => si(value),
    }
}

/// Two decimals, more where a value above 0 would read as 0.
fn small(value: f64) -> String {
    if value > 0.0 && value < 0.005 {
        if value < 0.0001 { "<0.0001".into() } else { format!("{value:.4}") }
    } else if value >= 1000.0 {
        si(value)
    } else {
        format!("{value:.2}")
    }
}

/// A number with k, M or G for thousands, millions and billions (10^9).
pub(crate) fn si(value: f64) -> String {
    let mut value = value;
    let mut prefix = "";
    for next in ["k", "M", "G", "T"] {
        if value.abs() < 999.95 {
            break;
        }
        value /= 1000.0;
        prefix = next;
    }
    match prefix {
        "" if value == value.round() => format!("{value:.0}"),
        "" if value > 0.0 && value < 0.05 => "<0.1".into(),
        _ => format!("{value:.1}{prefix}"),
    }
}

/// A number of things: `1 VM`, `2 VMs`.
pub(crate) fn things(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{} {thing}s", count(number)) }
}

/// Time of day in UTC, from microseconds since the Unix epoch.
pub(crate) fn time_of_day(unix_us: u64) -> String {
    text::time_of_day(i64::try_from(unix_us).unwrap_or(i64::MAX))
}

/// A duration given in seconds.
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
        assert_eq!(signed_bytes(-2048), "-2 KiB");
        assert_eq!(time_of_day(86_399_000_000), "23:59:59");
    }

    #[test]
    fn one_thing_is_not_several() {
        assert_eq!(things(1, "CPU"), "1 CPU");
        assert_eq!(things(0, "CPU"), "0 CPUs");
        assert_eq!(things(1_200, "vCPU"), "1,200 vCPUs");
    }

    #[test]
    fn small_rates_never_read_as_zero() {
        assert_eq!(si(0.0), "0");
        assert_eq!(si(0.01), "<0.1");
        assert_eq!(si(999.96), "1.0k");
        assert_eq!(si(12_345_678.0), "12.3M");
        assert_eq!(metric(Metric::Mpki, 0.0), "0.00");
        assert_eq!(metric(Metric::Mpki, 0.001), "0.0010");
        assert_eq!(metric(Metric::Ipc, 0.000_01), "<0.0001");
        assert_eq!(metric(Metric::MissRatio, 0.123), "12.3 %");
    }

    #[test]
    fn frames_have_the_bytes_of_the_host() {
        let of = |bytes| frames_bytes(3, PageSize::new(bytes).unwrap());
        assert_eq!((of(4096), of(16_384), of(65_536)), ("12 KiB".into(), "48 KiB".into(), "192 KiB".into()));
    }

    #[test]
    fn small_fractions_never_read_as_zero() {
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(0.0001), "0.010 %");
        assert_eq!(percent(1e-9), "<0.001 %");
        assert_eq!(cell_percent(1e-9), "<.1");
        assert_eq!(cell_percent(1.0), "100.0");
    }
}
