//! The name an engine knows a revision's weights by.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest part of a name, as Ollama has it (types/model/name.go, 0.11.4). Unit: bytes.
const MAX_PART: usize = 80;
/// What a name without a tag has for one.
const LATEST: &str = ":latest";

/// A name as Ollama reads it, `[[host/]namespace/]model[:tag]`, in its canonical form: lower case, `latest` left out.
///
/// Two names that Ollama takes for one are equal here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EngineName(String);

/// Why a text is no engine name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name that Ollama takes: write [[host/]namespace/]model[:tag], each of A-Z a-z 0-9 _ - and (but in the namespace) ., beginning with a letter, digit or _, with at most 80 characters"
)]
pub struct InvalidName(pub String);

impl EngineName {
    /// What the names begin with under which loaders have candidates, whichever pool they are of, until they are proven.
    pub const STAGING: &str = "tutti-staging-";

    /// The canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EngineName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName(text.to_owned());
        let mut parts = text.rsplitn(3, '/');
        let model = parts.next().unwrap_or_default();
        let (model, tag) = model.split_once(':').unwrap_or((model, "latest"));
        let namespace = parts.next().is_none_or(|namespace| part(namespace, false));
        let host = parts.next().is_none_or(|host| host.split(':').all(|half| part(half, true)));
        if !part(model, true) || !part(tag, true) || !namespace || !host {
            return Err(invalid());
        }
        Ok(Self(canonical(text).into_owned()))
    }
}

impl TryFrom<String> for EngineName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<EngineName> for String {
    fn from(name: EngineName) -> Self {
        name.0
    }
}

/// A model's name as names are compared: Ollama folds case and reads a bare name as `:latest`.
pub fn canonical(name: &str) -> Cow<'_, str> {
    let bare = match name.len().checked_sub(LATEST.len()).and_then(|at| name.split_at_checked(at)) {
        Some((bare, tag)) if tag.eq_ignore_ascii_case(LATEST) => bare,
        _ => name,
    };
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) { bare.to_ascii_lowercase().into() } else { bare.into() }
}

fn part(text: &str, dots: bool) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (dots && byte == b'.');
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first && text.len() <= MAX_PART && text.bytes().all(allowed)
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_ollama_takes_for_one_are_equal() {
        let name = |text: &str| text.parse::<EngineName>().unwrap();
        assert_eq!(name("Risk"), name("risk:latest"));
        assert_eq!(name("acme/risk:v2-1a2b3c4d5e6f").as_str(), "acme/risk:v2-1a2b3c4d5e6f");
        assert_eq!(name("hf.co/Someone/Model-GGUF:Q4_K_M").as_str(), "hf.co/someone/model-gguf:q4_k_m");
        assert_eq!(name("qwen2.5:0.5B"), name("qwen2.5:0.5b"));
        assert_ne!(name("risk:v1"), name("risk:v2"));
        for wrong in
            ["", "risk@v2", "a.b/risk", "risk:", ":v1", "a/b/c/d", "//c", "风险", ".risk", "-risk", &"x".repeat(81)]
        {
            assert!(wrong.parse::<EngineName>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(text in "[A-Za-z0-9_.:/-]{1,30}") {
            if let Ok(name) = text.parse::<EngineName>() {
                prop_assert_eq!(name.as_str().parse::<EngineName>(), Ok(name.clone()));
                prop_assert_eq!(text.to_ascii_uppercase().parse::<EngineName>(), Ok(name));
            }
        }
    }
}
