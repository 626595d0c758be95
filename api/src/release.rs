//! What the driver of releases and the gateways say to each other: which of a model's revisions get its requests now.

use serde::{Deserialize, Serialize};

use crate::Share;

/// A whole, in the parts in which weights are given.
pub const WHOLE: u32 = 1_000_000;

/// How much of a model's requests a revision gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevisionWeight {
    /// The revision's name.
    pub revision: String,
    /// Its part of [`WHOLE`].
    pub weight: u32,
}

/// Who also gets requests, without its answers going to anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorTo {
    /// The revision's name.
    pub revision: String,
    /// The part of [`WHOLE`] that it gets.
    pub share: u32,
}

/// What the requests for a model go by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelTraffic {
    /// The model's name.
    pub model: String,
    /// When the driver last changed it, in its own count.
    pub generation: u64,
    /// Who gets how much, together [`WHOLE`]. Who comes first keeps all who once were sent to it while its weight rises.
    pub revisions: Vec<RevisionWeight>,
    /// Who also gets some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorTo>,
    /// Another in each release, so that not the same clients are the first each time.
    pub salt: u64,
    /// Whether somebody decided so at run time, so that the configuration says something else.
    #[serde(default)]
    pub overridden: bool,
}

/// All that a driver says. Gateways keep what has the highest term, and of that the highest generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficWord {
    /// Who says it, as people would find him.
    pub driver: String,
    /// Which life of the driver's state: higher with each start.
    pub term: u64,
    /// Higher with each change.
    pub generation: u64,
    /// The models that it drives.
    pub models: Vec<ModelTraffic>,
}

impl TrafficWord {
    /// What tells the later of two.
    pub fn age(&self) -> (u64, u64) {
        (self.term, self.generation)
    }
}

impl Share {
    /// The same in parts of [`WHOLE`].
    pub fn parts(self) -> u32 {
        // At most a whole, and never negative: it was read so.
        (self.fraction() * f64::from(WHOLE)).round().clamp(0.0, f64::from(WHOLE)) as u32
    }

    /// Of parts of [`WHOLE`].
    pub fn of_parts(parts: u32) -> Self {
        Self::percent(f64::from(parts.min(WHOLE)) * 100.0 / f64::from(WHOLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_in_parts_is_the_same_share() {
        for (text, parts) in [("0%", 0), ("0.5%", 5_000), ("5%", 50_000), ("33.333333%", 333_333), ("100%", WHOLE)] {
            let share: Share = text.parse().unwrap();
            assert_eq!(share.parts(), parts, "{text}");
            assert_eq!(Share::of_parts(parts).parts(), parts);
        }
    }
}
