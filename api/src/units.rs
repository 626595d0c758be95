//! Sizes, durations and shares, each written in one form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is no size, duration or share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no {what}: write {example}")]
pub struct InvalidUnit {
    given: String,
    what: &'static str,
    example: &'static str,
}

/// A size, written with a binary unit: `512`, `32Ki`, `32Mi`, `2Gi`. Unit: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// A duration, written with its unit: `250ms`, `30s`, `5m`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

/// A share of a whole, written in percent: `5%`, `0.5%`, at most `100%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

const SIZES: [(&str, u64); 5] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("B", 1)];
/// Units of durations. Unit: milliseconds.
const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

impl ByteSize {
    const WHAT: &'static str = "size";
    const EXAMPLE: &'static str = "a number with its unit, such as 512B, 64Ki, 32Mi or 2Gi";
    const PATTERN: &'static str = "^[0-9]+(B|Ki|Mi|Gi|Ti)$";

    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size. Unit: bytes; a size beyond the address space is its end.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl HumanDuration {
    const WHAT: &'static str = "duration";
    const EXAMPLE: &'static str = "a number with its unit, such as 250ms, 30s, 5m or 2h";
    const PATTERN: &'static str = "^[0-9]+(ms|s|m|h)$";

    /// This many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// This many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Share {
    const WHAT: &'static str = "share";
    const EXAMPLE: &'static str = "percent, such as 5% or 0.5%, at most 100%";
    const PATTERN: &'static str = r"^[0-9]+(\.[0-9]+)?%$";

    /// This much of a hundred.
    pub const fn percent(percent: f64) -> Self {
        Self(percent / 100.0)
    }

    /// From 0 to 1.
    pub const fn fraction(self) -> f64 {
        self.0
    }
}

/// A whole number and the unit behind it.
fn whole<T: Copy>(text: &str, units: &[(&str, T)]) -> Option<(u64, T)> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let (_, factor) = units.iter().find(|(unit, _)| *unit == &text[digits.len()..])?;
    Some((digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??, *factor))
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let bytes = whole(text, &SIZES).and_then(|(number, factor)| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| InvalidUnit { given: text.to_owned(), what: Self::WHAT, example: Self::EXAMPLE })
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let millis = whole(text, &DURATIONS).and_then(|(number, factor)| number.checked_mul(factor));
        millis
            .filter(|millis| *millis <= 10 * 365 * 24 * DURATIONS[1].1) // ten years: no clock overflows on it
            .map(Self::from_millis)
            .ok_or_else(|| InvalidUnit { given: text.to_owned(), what: Self::WHAT, example: Self::EXAMPLE })
    }
}

impl FromStr for Share {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let digits = text.strip_suffix('%').filter(|digits| digits.starts_with(|char: char| char.is_ascii_digit()));
        let percent =
            digits.and_then(|digits| digits.parse::<f64>().ok()).filter(|percent| (0.0..=100.0).contains(percent));
        percent.map(Self::percent).ok_or_else(|| InvalidUnit {
            given: text.to_owned(),
            what: Self::WHAT,
            example: Self::EXAMPLE,
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            SIZES.iter().find(|(_, factor)| self.0.is_multiple_of(*factor) && self.0 > 0).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |unit: &&(&str, u64)| millis.is_multiple_of(unit.1) && millis > 0;
        let (unit, factor) =
            DURATIONS[1..].iter().find(fits).unwrap_or(if millis == 0 { &DURATIONS[3] } else { &DURATIONS[0] });
        write!(f, "{}{unit}", millis / factor)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

macro_rules! as_text {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a {} ({})", $type::WHAT, $type::EXAMPLE)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": Self::PATTERN, "x-form": Self::EXAMPLE })
            }
        }
    )*};
}

as_text!(ByteSize, HumanDuration, Share);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_has_one_form() {
        assert_eq!("32Mi".parse(), Ok(ByteSize::new(32 << 20)));
        assert_eq!("30s".parse(), Ok(HumanDuration::from_secs(30)));
        assert_eq!("250ms".parse(), Ok(HumanDuration::from_millis(250)));
        assert_eq!("5%".parse(), Ok(Share::percent(5.0)));
        for wrong in ["", "32", "32MB", "Mi", "-1Mi", "1.5Mi", "99999999999Ti", "32 Mi"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
        for wrong in ["", "30", "1d", "s", "1m30s", "99999999h"] {
            assert!(wrong.parse::<HumanDuration>().is_err(), "{wrong}");
        }
        for wrong in ["", "5", "0.05", "101%", "-1%", "+5%", "NaN%", "%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(bytes in 0..1u64 << 50, millis in 0..100_000_000u64, percent in 0..10_000u32) {
            let (size, duration) = (ByteSize::new(bytes), HumanDuration::from_millis(millis));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            let share = Share::percent(f64::from(percent) / 100.0);
            let again: Share = share.to_string().parse().unwrap();
            prop_assert!((again.fraction() - share.fraction()).abs() < 1e-9);
        }
    }
}
