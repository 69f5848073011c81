//! Times as text, without a clock or time zones: UTC of the proleptic Gregorian calendar.

const US_A_SECOND: i64 = 1_000_000;

/// `unix_us` (microseconds since the Unix epoch) as `2026-11-23T06:02:33Z`; fractions are cut off.
pub fn utc_text(unix_us: i64) -> String {
    let (date, [h, m, s]) = parts(unix_us);
    format!("{date}T{h:02}:{m:02}:{s:02}Z")
}

/// The moment that [`utc_text`] writes like this, in microseconds since the Unix epoch; `None` for any other text.
pub fn unix_us(utc: &str) -> Option<i64> {
    let number = |part: std::ops::Range<usize>| {
        let digits = utc.get(part).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<i64>().ok()
    };
    let days = days(number(0..4)?, number(5..7)?, number(8..10)?);
    let of_day = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let unix_us = (days * 86_400 + of_day) * US_A_SECOND;
    // Written again it is the same text only if every field is within its bounds.
    (utc_text(unix_us) == utc).then_some(unix_us)
}

/// The same in a form that sorts by time and is safe in paths and shells: `20261123T060233Z`.
pub fn utc_compact(unix_us: i64) -> String {
    utc_text(unix_us).replace(['-', ':'], "")
}

/// Time of day of a moment: `06:02:33`.
pub fn time_of_day(unix_us: i64) -> String {
    let (_, [h, m, s]) = parts(unix_us);
    format!("{h:02}:{m:02}:{s:02}")
}

fn parts(unix_us: i64) -> (String, [i64; 3]) {
    let seconds = unix_us.div_euclid(US_A_SECOND);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    (format!("{year:04}-{month:02}-{day:02}"), [of_day / 3600, of_day / 60 % 60, of_day % 60])
}

/// Year, month and day of a day counted from 1970-01-01, by Howard Hinnant's `civil_from_days`
/// ("chrono-Compatible Low-Level Date Algorithms"): years begin in March, so the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`], by the `days_from_civil` of the same source.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9).rem_euclid(12);
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts from `date -u -d @SECONDS`.
    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_413_753, "2026-11-23T06:02:33Z"),
        ] {
            assert_eq!(utc_text(seconds * US_A_SECOND + 999_999), text, "{seconds}");
            assert_eq!(unix_us(text), Some(seconds * US_A_SECOND), "{text}");
        }
        assert_eq!(utc_compact(1_795_413_753 * US_A_SECOND), "20261123T060233Z");
        assert_eq!((time_of_day(86_399_000_000), time_of_day(-1)), ("23:59:59".into(), "23:59:59".into()));
    }

    #[test]
    fn other_texts_are_no_moments() {
        for text in [
            "",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T06:02:33+01:00",
            "2026-11-23T06:02:33",
            "+026-11-23T06:02:33Z",
            "2026-11-23T06:02:3\u{e9}",
        ] {
            assert_eq!(unix_us(text), None, "{text}");
        }
    }
}
