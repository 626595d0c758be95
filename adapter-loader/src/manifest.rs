//! `manifest.json`: read from a source, looked at, and its digest.

use sha2::{Digest as _, Sha256};
use tutti_api::{Digest, Manifest, Reason};

use crate::source::{Object, Source, SourceError, key};

/// Most files of an adapter.
const MAX_FILES: usize = 64;

/// Why there is no manifest to go by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// There is none.
    #[error(
        "{0}: there is no manifest.json: `tutti adapter pack` writes one, and `tutti adapter push` uploads it last"
    )]
    Missing(String),
    /// It cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is none.
    #[error("{place}manifest.json: {why}: write it with `tutti adapter pack`")]
    Invalid {
        /// The adapter's place.
        place: String,
        /// What is wrong.
        why: String,
    },
}

impl ManifestError {
    /// The reason of the adapter that this keeps from serving.
    pub fn reason(&self) -> Reason {
        match self {
            ManifestError::Missing(_) | ManifestError::Invalid { .. } => Reason::InvalidManifest,
            ManifestError::Source(error) => error.reason(),
        }
    }
}

/// The digest that specs name and that engine names are made of.
pub fn digest(manifest: &Manifest) -> Digest {
    Digest::new(Sha256::digest(manifest.canonical()).into())
}

/// Reads the bytes of a manifest; `place` is the adapter's, for errors.
///
/// # Errors
/// They are none, it names no file, or one that is no plain name.
pub fn parse(bytes: &[u8], place: &str) -> Result<Manifest, ManifestError> {
    let invalid = |why: String| ManifestError::Invalid { place: place.to_owned(), why };
    if bytes.len() > Manifest::MAX {
        return Err(invalid(format!("it has more than {} bytes", Manifest::MAX)));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if manifest.files.is_empty() {
        return Err(invalid("it names no file".to_owned()));
    }
    if manifest.files.len() > MAX_FILES {
        return Err(invalid(format!("it names more than {MAX_FILES} files")));
    }
    for name in manifest.files.keys() {
        let odd = key::check(name).err().map(|odd| odd.to_string());
        let odd = odd.or_else(|| name.contains('/').then(|| "it is in another folder".to_owned()));
        let odd = odd.or_else(|| (name == Manifest::FILE).then(|| "that is the manifest itself".to_owned()));
        if let Some(odd) = odd {
            return Err(invalid(format!("the file {}: {odd}", key::shown(name))));
        }
    }
    Ok(manifest)
}

/// Reads the manifest of what was listed below `path` (empty: the source itself).
///
/// # Errors
/// There is none, it cannot be read, or it is none.
pub async fn read(source: &Source, path: &str, listed: &[Object]) -> Result<Manifest, ManifestError> {
    let at = below(path, Manifest::FILE);
    let place = format!("{}{}", source.place(), below(path, ""));
    let Some(object) = listed.iter().find(|object| object.key == Manifest::FILE) else {
        return Err(ManifestError::Missing(place));
    };
    let bytes = source.read_whole(&at, object, Manifest::MAX).await?;
    parse(&bytes, &place)
}

/// A key below a path, which may be empty.
pub(crate) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_plain_files_or_is_none() {
        let entry = format!(r#"{{"sha256":"sha256:{}","size":1}}"#, "0f".repeat(32));
        let of = |name: &str| parse(format!(r#"{{"files":{{"{name}":{entry}}}}}"#).as_bytes(), "s3://b/a/v1/");
        assert!(of("adapter_model.safetensors").is_ok());
        for wrong in ["../x", "a/b", "manifest.json", "", "模", "..", "a\\\\b"] {
            let error = of(wrong).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidManifest);
            assert!(error.to_string().starts_with("s3://b/a/v1/manifest.json: the file "), "{error}");
        }
        for wrong in ["", "{}", r#"{"files":{}}"#, "[1]", r#"{"files":{"a":{"sha256":"x","size":1}}}"#] {
            assert!(parse(wrong.as_bytes(), "").is_err(), "{wrong}");
        }
    }
}
