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

/// A size, written with a binary unit: `512B`, `32Ki`, `32Mi`, `2Gi`. Unit: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// A duration, written with its unit: `250ms`, `30s`, `5m`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

/// A share of a whole, written in percent: `5%`, `0.5%`, at most `100%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

/// A unit: its name, what one of it is, and the most digits it is written with. These bound a number so that none is too
/// large and the pattern of the schema says all there is.
type Unit = (&'static str, u64, usize);

/// Units of sizes, the largest first. Unit: bytes; at most 10 EiB.
const SIZES: [Unit; 5] =
    [("Ti", 1 << 40, 7), ("Gi", 1 << 30, 10), ("Mi", 1 << 20, 13), ("Ki", 1 << 10, 16), ("B", 1, 19)];
/// Units of durations, the largest first. Unit: milliseconds; at most eleven years, for no clock overflows on that.
const DURATIONS: [Unit; 4] = [("h", 3_600_000, 5), ("m", 60_000, 6), ("s", 1_000, 7), ("ms", 1, 10)];

impl ByteSize {
    const WHAT: &'static str = "size";
    const EXAMPLE: &'static str = "a number with its unit, such as 512B, 64Ki, 32Mi or 2Gi";

    fn pattern() -> String {
        format!("^({})$", alternatives(&SIZES))
    }

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

    fn pattern() -> String {
        Self::pattern_or("")
    }

    /// What a duration is written as, or else the words of this pattern.
    pub(crate) fn pattern_or(words: &str) -> String {
        format!("^({words}{})$", alternatives(&DURATIONS))
    }

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

    fn pattern() -> String {
        r"^([0-9]{1,2}(\.[0-9]{1,6})?|100(\.0{1,6})?)%$".to_owned()
    }

    /// This much of a hundred.
    pub const fn percent(percent: f64) -> Self {
        Self(percent / 100.0)
    }

    /// From 0 to 1.
    pub const fn fraction(self) -> f64 {
        self.0
    }
}

/// The pattern of a whole number with one of the units.
fn alternatives(units: &[Unit]) -> String {
    units.iter().map(|(unit, _, digits)| format!("[0-9]{{1,{digits}}}{unit}")).collect::<Vec<_>>().join("|")
}

/// What a whole number with one of the units stands for.
fn whole(text: &str, units: &[Unit]) -> Option<u64> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let (_, factor, most) = units.iter().find(|(unit, ..)| *unit == &text[digits.len()..])?;
    let good = (1..=*most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| good)?.checked_mul(*factor)
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let invalid = || InvalidUnit { given: text.to_owned(), what: Self::WHAT, example: Self::EXAMPLE };
        whole(text, &SIZES).map(Self).ok_or_else(invalid)
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let invalid = || InvalidUnit { given: text.to_owned(), what: Self::WHAT, example: Self::EXAMPLE };
        whole(text, &DURATIONS).map(Self::from_millis).ok_or_else(invalid)
    }
}

impl FromStr for Share {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let invalid = || InvalidUnit { given: text.to_owned(), what: Self::WHAT, example: Self::EXAMPLE };
        let digits =
            |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.strip_suffix('%').ok_or_else(invalid)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let good = (digits(whole, 2) || whole == "100") && digits(part, 6);
        let percent = number.parse::<f64>().ok().filter(|percent| good && *percent <= 100.0);
        percent.map(Self::percent).ok_or_else(invalid)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&Unit| self.0.is_multiple_of(unit.1) && self.0 > 0;
        let (unit, factor, _) = SIZES.iter().find(fits).unwrap_or(&("B", 1, 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |unit: &&Unit| millis.is_multiple_of(unit.1) && millis > 0;
        let (unit, factor, _) = DURATIONS.iter().find(fits).unwrap_or(&("s", 1_000, 1));
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
                json_schema!({ "type": "string", "pattern": Self::pattern(), "x-form": Self::EXAMPLE })
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
        for wrong in ["", "30", "1d", "s", "1m30s", "99999999h", "100000h"] {
            assert!(wrong.parse::<HumanDuration>().is_err(), "{wrong}");
        }
        for wrong in
            ["", "5", "0.05", "101%", "-1%", "+5%", "NaN%", "%", "1e1%", "5.%", "007%", "100.1%", "100.0000001%"]
        {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    /// The schema's pattern says which texts are read, and each of these fits its type.
    fn agree<T: FromStr>(pattern: &str, text: &str) -> bool {
        regex_lite::Regex::new(pattern).unwrap().is_match(text) == text.parse::<T>().is_ok()
    }

    proptest! {
        #[test]
        fn the_patterns_are_right(
            size in "[0-9]{0,21}(B|Ki|Mi|Gi|Ti|s)?",
            duration in "[0-9]{0,12}(ms|s|m|h|B)?",
            share in "(100|[0-9]{0,4})[.]?(0{0,8}|[0-9]{0,8})%?",
        ) {
            prop_assert!(agree::<ByteSize>(&ByteSize::pattern(), &size), "{}", size);
            prop_assert!(agree::<HumanDuration>(&HumanDuration::pattern(), &duration), "{}", duration);
            prop_assert!(agree::<Share>(&Share::pattern(), &share), "{}", share);
        }

        /// The largest unit that fits never takes more digits than it may have.
        #[test]
        fn what_was_read_and_printed_is_read_again(
            size in "[0-9]{1,7}(B|Ki|Mi|Gi|Ti)",
            duration in "[0-9]{1,5}(ms|s|m|h)|[0-9]{1,7}s|[0-9]{1,10}ms",
        ) {
            let (size, duration): (ByteSize, HumanDuration) = (size.parse().unwrap(), duration.parse().unwrap());
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
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
