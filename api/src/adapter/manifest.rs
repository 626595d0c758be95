//! `manifest.json`, which stands beside an adapter's files and is uploaded last: what is not in it is no part of the adapter.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A SHA-256, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: write sha256: and 64 hexadecimal digits")]
pub struct InvalidDigest(pub String);

impl Digest {
    /// The digest that is these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its 64 digits alone.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(text.chars().take(100).collect());
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if digits.len() != 64 {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let half = |digit: u8| char::from(digit).to_digit(16).and_then(|half| u8::try_from(half).ok());
            *byte = half(pair[0]).zip(half(pair[1])).map(|(high, low)| high << 4 | low).ok_or_else(invalid)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

/// What an adapter, or a base model, is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// Its files, by their names beside the manifest: plain names, no folders.
    pub files: BTreeMap<String, FileEntry>,
    /// The base model that an adapter is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRef>,
    /// Rank of its matrices (PEFT's `r`); the largest, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// PEFT's `lora_alpha`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Where it comes from: run, dataset, code, whatever its maker says. Shown, never obeyed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lineage: BTreeMap<String, Value>,
    /// What it must answer before it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ManifestProbe>,
    /// Of a base model: the template of its prompts, as Ollama writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Of a base model: Ollama's parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Value>,
    /// What a later version says. It counts for the digest.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What a manifest is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A LoRA: PEFT's two files, or a GGUF.
    #[default]
    Adapter,
    /// A base model, as one GGUF.
    Base,
}

/// A file of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Of its content.
    pub sha256: Digest,
    /// Unit: bytes.
    pub size: u64,
}

/// A base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseRef {
    /// The engine's name for it, `qwen2.5:0.5b`, or the one it was trained from, `Qwen/Qwen2.5-0.5B-Instruct`: for people.
    pub name: String,
    /// Of its GGUF, which is also the name of its blob in an Ollama. An adapter with one serves on that base alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What an adapter must answer before it serves: asked with temperature 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestProbe {
    /// What a user says.
    pub prompt: String,
    /// What must stand in the answer; absent: anything but the base's own answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

impl Manifest {
    /// Its name beside the files.
    pub const FILE: &str = "manifest.json";
    /// Largest manifest that is read. Unit: bytes.
    pub const MAX: usize = 1 << 20;

    /// The form that its digest is of: JSON without blanks, keys in the order of their bytes. Who only writes it otherwise
    /// does not change what it says.
    pub fn canonical(&self) -> String {
        // A map of serde_json without `preserve_order` is sorted.
        serde_json::to_value(self).map(|value| value.to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_of_keys_and_blanks_change_no_digest() {
        let digest = "sha256:".to_owned() + &"0f".repeat(32);
        let one = format!(
            r#"{{"files":{{"b":{{"size":1,"sha256":"{digest}"}},"a":{{"sha256":"{digest}","size":2}}}},"rank":8,"new":{{"z":1,"y":2}}}}"#
        );
        let other = format!(
            r#"{{ "new": {{"y": 2, "z": 1}}, "rank": 8, "kind": "adapter",
                 "files": {{"a": {{"size": 2, "sha256": "{digest}"}}, "b": {{"sha256": "{digest}", "size": 1}}}} }}"#
        );
        let of = |text: &str| serde_json::from_str::<Manifest>(text).unwrap().canonical();
        assert_eq!(of(&one), of(&other));
        assert!(of(&one).starts_with(r#"{"files":{"a":{"sha256":"sha256:0f"#), "{}", of(&one));
        assert!(of(&one).contains(r#""new":{"y":2,"z":1}"#), "what a later version says counts");
    }

    proptest! {
        #[test]
        fn a_digest_is_read_as_it_is_written(bytes in any::<[u8; 32]>()) {
            let digest = Digest::new(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            prop_assert_eq!(digest.hex().to_uppercase().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn what_is_no_digest_is_refused(text in ".{0,80}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert!(digest.to_string().ends_with(&text.trim_start_matches("sha256:").to_lowercase()));
            }
        }
    }
}
