//! Where an adapter lies below its pool's `adapters.from`, and so what engines call it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, EngineName};

/// Most characters of a digest that stand in a name.
const SHOWN: usize = 12;
/// Longest last part: with `-` and [`SHOWN`] digits it is a tag, of which Ollama takes 80 characters.
const MAX_LAST: usize = 80 - 1 - SHOWN;

/// A path below `adapters.from`: `[tenant/]model/revision`, no slash at either end.
///
/// Its parts become those of an [`EngineName`], so each is one that Ollama takes: letters, digits, `_`, `-` and (but in the
/// tenant) `.`, beginning with a letter, digit or `_`. So no path climbs, hides or is read in two ways. Ollama folds case:
/// `Risk/v1` and `risk/v1` are two paths whose names differ by their digests alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AdapterPath(String);

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no adapter's path: write [tenant/]model/revision, each of A-Z a-z 0-9 _ - and (but in the tenant) ., beginning with a letter, digit or _; the revision with at most 67 characters, the others with at most 80"
)]
pub struct InvalidPath(pub String);

impl AdapterPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that an engine knows these weights by: `[tenant/]model:revision-<digest12>`. The digest is of all that makes
    /// the weights (the manifest, the base, and how it is brought to the engine): a name never comes to mean others.
    pub fn engine_name(&self, digest: &Digest) -> EngineName {
        let (model, revision) = self.0.rsplit_once('/').unwrap_or_default();
        let name = format!("{model}:{revision}-{}", &digest.hex()[..SHOWN]);
        name.parse().expect("a path's parts are those of a name")
    }
}

impl FromStr for AdapterPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        let invalid = || InvalidPath(text.chars().take(300).collect());
        let Some((model, revision)) = text.rsplit_once('/') else { return Err(invalid()) };
        // A colon would begin a tag, a second slash a host.
        let plain = model.matches('/').count() <= 1 && !text.contains(':') && revision.len() <= MAX_LAST;
        let name = format!("{model}:{revision}");
        if plain && name.parse::<EngineName>().is_ok() { Ok(Self(text.to_owned())) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for AdapterPath {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, InvalidPath> {
        text.parse()
    }
}

impl From<AdapterPath> for String {
    fn from(path: AdapterPath) -> Self {
        path.0
    }
}

impl fmt::Display for AdapterPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_gives_a_name() {
        let name = |path: &str| path.parse::<AdapterPath>().unwrap().engine_name(&Digest::new([0x1a; 32])).to_string();
        assert_eq!(name("risk/v2"), "risk:v2-1a1a1a1a1a1a");
        assert_eq!(name("acme/Risk.2/v2"), "acme/risk.2:v2-1a1a1a1a1a1a");
        for wrong in [
            "",
            "risk",
            "/risk/v2",
            "risk/v2/",
            "risk//v2",
            "../risk/v2",
            "risk/..",
            "risk/./v2",
            "a/b/c/d",
            "风险/v2",
            "risk:v2/x",
            "risk/v2:3",
            "a.b/risk/v2",
            "risk/-v2",
            "risk/v 2",
            "risk\\v2/x",
            "risk/v2\0",
            &format!("risk/{}", "v".repeat(68)),
        ] {
            assert!(wrong.parse::<AdapterPath>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_path_has_a_name_and_none_climbs(text in "[A-Za-z0-9_.:/-]{1,90}", bytes in any::<[u8; 32]>()) {
            if let Ok(path) = text.parse::<AdapterPath>() {
                let name = path.engine_name(&Digest::new(bytes));
                prop_assert!(name.as_str().contains(":"));
                prop_assert!(text.split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
            }
        }
    }
}
