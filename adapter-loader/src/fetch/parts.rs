//! The parts of a file, and the record of those that are there: pure.
//!
//! The record is text: a line of JSON that says what the parts are of, then a line for each part that is there, written once
//! its bytes are. Who is killed while writing leaves at most half a line at its end, which counts for nothing. A record of
//! another start of the machine counts for nothing either: then the bytes may not be there although it is.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::source::{Object, Version};

/// Largest record that is read. Unit: bytes; a line takes seven or so.
pub(super) const MAX_RECORD: u64 = 4 << 20;

/// The parts that a file comes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Parts {
    key: String,
    version: Version,
    /// Unit: bytes.
    pub(super) size: u64,
    /// Of every part but the last. Unit: bytes.
    pub(super) part: u64,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) range: Range<u64>,
}

impl Parts {
    pub(super) fn new(key: &str, object: &Object, part: u64) -> Self {
        Self { key: key.to_owned(), version: object.version.clone(), size: object.size, part }
    }

    pub(super) fn count(&self) -> u64 {
        self.size.div_ceil(self.part)
    }

    pub(super) fn range(&self, number: u64) -> Range<u64> {
        let start = number * self.part;
        start..(start + self.part).min(self.size)
    }

    /// The parts that are not there, in order.
    pub(super) fn missing(&self, there: &BTreeSet<u64>) -> Vec<Part> {
        let missing = (0..self.count()).filter(|number| !there.contains(number));
        missing.map(|number| Part { number, range: self.range(number) }).collect()
    }

    /// How far the file is there without a gap. Unit: bytes.
    pub(super) fn whole_to(&self, there: &BTreeSet<u64>) -> u64 {
        let number = (0..).find(|number| !there.contains(number)).unwrap_or_default();
        (number * self.part).min(self.size)
    }

    /// The beginning of a record.
    pub(super) fn head(&self, boot: &str) -> String {
        let head = Head { boot: boot.to_owned(), of: self.clone() };
        serde_json::to_string(&head).unwrap_or_default() + "\n"
    }

    /// The line of a part that is there.
    pub(super) fn line(number: u64) -> String {
        format!("{number}\n")
    }

    /// The parts that a record says are there; none where it is of something else.
    pub(super) fn recorded(&self, record: &str, boot: &str) -> Option<BTreeSet<u64>> {
        let (head, lines) = record.split_once('\n')?;
        let head: Head = serde_json::from_str(head).ok()?;
        if boot.is_empty() || head.boot != boot || head.of != *self {
            return None;
        }
        // The last one is half a line, or nothing.
        let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let numbers = whole.lines().filter_map(|line| line.parse::<u64>().ok());
        Some(numbers.filter(|number| *number < self.count()).collect())
    }
}

/// What a record begins with.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// The start of the machine that it was written in.
    boot: String,
    of: Parts,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(size: u64, part: u64) -> Parts {
        let version = Version::Etag("\"e\"".to_owned());
        Parts::new("risk/v2/a", &Object { key: "a".to_owned(), size, version }, part)
    }

    #[test]
    fn a_record_of_something_else_counts_for_nothing() {
        let own = parts(100, 10);
        let record = own.head("boot") + &Parts::line(3);
        assert_eq!(own.recorded(&record, "boot"), Some([3].into()));
        assert_eq!(own.recorded(&record, "later"), None, "another start of the machine");
        assert_eq!(own.recorded(&record, ""), None, "who does not know his start trusts nothing");
        assert_eq!(parts(101, 10).recorded(&record, "boot"), None);
        let mut other = own.clone();
        other.version = Version::Etag("\"f\"".to_owned());
        assert_eq!(other.recorded(&record, "boot"), None);
        assert_eq!(own.recorded("", "boot"), None);
        assert_eq!(own.recorded("nonsense\n1\n", "boot"), None);
        assert_eq!(
            own.recorded(&(record + "99\n-1\nx\n4"), "boot"),
            Some([3].into()),
            "no such parts, and half a line"
        );
    }

    proptest! {
        #[test]
        fn parts_are_the_whole_without_gap(size in 0_u64..1000, part in 1_u64..50) {
            let parts = parts(size, part);
            let mut at = 0;
            for one in parts.missing(&BTreeSet::new()) {
                prop_assert_eq!(one.range.start, at);
                prop_assert!(!one.range.is_empty());
                at = one.range.end;
            }
            prop_assert_eq!(at, size);
        }

        /// A kill at any byte of the record loses at most parts, and invents none.
        #[test]
        fn a_cut_record_says_nothing_that_is_not_so(done in prop::collection::vec(0_u64..10, 0..10), cut in 0_usize..300) {
            let parts = parts(100, 10);
            let record = done.iter().fold(parts.head("b"), |record, number| record + &Parts::line(*number));
            let record = &record[..cut.min(record.len())];
            let there = parts.recorded(record, "b").unwrap_or_default();
            prop_assert!(there.iter().all(|number| done.contains(number)));
            prop_assert_eq!(parts.missing(&there).len() as u64, parts.count() - there.len() as u64);
            prop_assert!(parts.whole_to(&there) <= there.len() as u64 * 10);
        }
    }
}
