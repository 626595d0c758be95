//! The times that Ollama writes.

/// Seconds since 1970 of an RFC 3339 time; `None` for what is none.
pub(super) fn unix_seconds(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let zone = text.get(19..)?.trim_start_matches(|char: char| char == '.' || char.is_ascii_digit());
    let offset = match zone.split_at_checked(1) {
        Some(("+", rest)) => rest.get(0..2)?.parse::<i64>().ok()? * 3600 + rest.get(3..5)?.parse::<i64>().ok()? * 60,
        Some(("-", rest)) => -(rest.get(0..2)?.parse::<i64>().ok()? * 3600 + rest.get(3..5)?.parse::<i64>().ok()? * 60),
        _ => 0,
    };
    // Days from the civil calendar: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year_of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * m + 2) / 5 + day - 1;
    Some((era * 146_097 + day_of_era - 719_468) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_times_that_ollama_writes() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2026-11-24T08:23:58.123456789Z"), Some(1_795_508_638));
        assert_eq!(unix_seconds("2026-11-24T10:23:58.5+02:00"), Some(1_795_508_638));
        assert_eq!(unix_seconds("yesterday"), None);
    }
}
