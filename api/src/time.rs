//! A moment, written in one form.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What every moment is written as, but for its fraction and its zone: `d` is a digit.
const FORM: &[u8; 19] = b"dddd-dd-ddTdd:dd:dd";
/// Unit: seconds.
const DAY: i64 = 86_400;

/// A moment, written as RFC 3339 has it: `2026-12-31T23:59:59Z`. A fraction of a second is dropped. Unit: seconds since
/// 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no time: write it as 2026-12-31T23:59:59Z (RFC 3339)")]
pub struct InvalidTime;

impl Timestamp {
    /// This many seconds after 1970 began.
    pub const fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970.
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// As the system's clock has it.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// Exactly what is read: each month has its days, and any February 29.
    fn pattern() -> String {
        let month_day =
            ["(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])", "(0[469]|11)-(0[1-9]|[12][0-9]|30)", "02-(0[1-9]|[12][0-9])"];
        let time = "([01][0-9]|2[0-3]):[0-5][0-9]";
        format!(r"^[0-9]{{4}}-({})T{time}:[0-5][0-9](\.[0-9]{{1,9}})?(Z|[+-]{time})$", month_day.join("|"))
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        read(text).map(Self).ok_or(InvalidTime)
    }
}

fn read(text: &str) -> Option<i64> {
    let (moment, rest) = text.split_at_checked(FORM.len())?;
    let fits = |(byte, form): (u8, u8)| if form == b'd' { byte.is_ascii_digit() } else { byte == form };
    if !moment.bytes().zip(*FORM).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| moment.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|char: char| char.is_ascii_digit());
            if !(1..=9).contains(&(fraction.len() - zone.len())) {
                return None;
            }
            zone
        }
    };
    Some(day_number(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset(zone)?)
}

/// What a zone is ahead by. Unit: seconds.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (sign, digits) = zone.split_at_checked(1)?;
    let (hours, minutes) = digits.split_once(':')?;
    let number = |text: &str, most: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| digits && *number <= most)
    };
    let seconds = number(hours, 23)? * 3600 + number(minutes, 59)? * 60;
    match sign {
        "+" => Some(seconds),
        "-" => Some(-seconds),
        _ => None,
    }
}

/// Days since 1970 began, by the civil calendar: Howard Hinnant, "chrono-compatible low-level date algorithms".
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year_of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * m + 2) / 5 + day - 1;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day, the other way round.
fn civil(day_number: i64) -> (i64, i64, i64) {
    let shifted = day_number + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * of_year + 2) / 153;
    let day = of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": Self::pattern(),
            "x-form": "a time as 2026-12-31T23:59:59Z",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_lite::Regex;

    use super::*;

    fn unix(text: &str) -> Option<i64> {
        text.parse::<Timestamp>().ok().map(Timestamp::unix)
    }

    #[test]
    fn known_moments() {
        assert_eq!(unix("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix("2026-11-24T08:23:58.123456789Z"), Some(1_795_508_638));
        assert_eq!(unix("2026-11-24T10:23:58.5+02:00"), Some(1_795_508_638));
        assert_eq!(unix("2026-02-29T00:00:00Z"), unix("2026-03-01T00:00:00Z"));
        for wrong in [
            "",
            "yesterday",
            "2026-11-24",
            "2026-11-24T08:23:58",
            "2026-11-24 08:23:58Z",
            "2026-11-24T08:23:58z",
            "2026-11-24T08:23:58.Z",
            "2026-11-24T08:23:60Z",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-24T08:23:58+1:00",
            "2026-11-24T08:23:58+24:00",
            "2026-11-24T08:23:58Z ",
            "2026-11-24T08:23:5é",
        ] {
            assert_eq!(unix(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in -62_167_219_200..253_402_300_800i64) {
            let moment = Timestamp::from_unix(seconds);
            prop_assert_eq!(moment.to_string().parse(), Ok(moment));
        }

        /// Whoever goes by the schema and who reads take the same texts.
        #[test]
        fn the_pattern_says_all_there_is(text in r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?(Z|z|[+-][0-2][0-9]:[0-6][0-9]|)") {
            let matches = Regex::new(&Timestamp::pattern()).unwrap().is_match(&text);
            prop_assert_eq!(unix(&text).is_some(), matches, "{}", text);
        }
    }
}
