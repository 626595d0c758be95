//! Whole adapters to a source and from it, for people's tools.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tutti_api::Manifest;

use crate::fetch::{Counts, FetchError, Limits, fetch};
use crate::manifest::{self, ManifestError, below};
use crate::pack::{self, PackError};
use crate::source::{MAX_OBJECTS, Object, Source, SourceError, Trouble, key};

/// Why an adapter did not get there.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The source does not answer, or refuses.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no manifest to go by.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The folder is not what its manifest says.
    #[error(transparent)]
    Folder(#[from] PackError),
    /// The system does not do what it should with a file.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// What came of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was uploaded.
    Now,
    /// The same was there already.
    Before,
}

/// A folder with a manifest, looked at: its files are what the manifest says.
///
/// # Errors
/// It has no manifest, or is not what that says.
pub fn checked(folder: &Path) -> Result<Manifest, TransferError> {
    let path = folder.join(Manifest::FILE);
    let place = format!("{}/", folder.display());
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ManifestError::Missing(place).into()),
        Err(error) => return Err(TransferError::File { path, error }),
    };
    let manifest = manifest::parse(&bytes, &place)?;
    pack::compare(folder, &manifest)?;
    Ok(manifest)
}

/// Uploads a folder that was [`checked`] to `path` (empty: the source itself): its files, then the manifest, which makes them
/// an adapter. What is an adapter already is not touched: another one under its path is an error.
///
/// # Errors
/// There is another one, or the source does not take it.
pub async fn push(
    folder: &Path,
    manifest: &Manifest,
    source: &Source,
    path: &str,
    counts: &Counts,
) -> Result<Pushed, TransferError> {
    let listed = source_list(source, path).await?;
    if is_there(source, path, &listed, manifest).await? {
        return Ok(Pushed::Before);
    }
    for (name, entry) in &manifest.files {
        let sent = |bytes| {
            counts.there.fetch_add(bytes, Ordering::Relaxed);
        };
        source.put(&below(path, name), &folder.join(name), &entry.sha256, &sent).await?;
    }
    let text = serde_json::to_string_pretty(manifest).unwrap_or_default() + "\n";
    match source.put_new(&below(path, Manifest::FILE), Bytes::from(text)).await {
        Ok(()) => Ok(Pushed::Now),
        // Somebody else was quicker: it may have been the same.
        Err(error) if error.trouble() == Trouble::Exists => {
            let listed = source_list(source, path).await?;
            match is_there(source, path, &listed, manifest).await? {
                true => Ok(Pushed::Before),
                false => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether this very adapter is there.
async fn is_there(source: &Source, path: &str, listed: &[Object], wanted: &Manifest) -> Result<bool, TransferError> {
    let there = match manifest::read(source, path, listed).await {
        Ok(there) => there,
        Err(ManifestError::Missing(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let place = format!("{}{}", source.place(), below(path, ""));
    let has = |name: &String, size| listed.iter().any(|object| object.key == *name && object.size == size);
    if there.canonical() != wanted.canonical() {
        return Err(SourceError::new(Trouble::Exists, place, manifest::digest(&there).to_string()).into());
    }
    match wanted.files.iter().find(|(name, entry)| !has(name, entry.size)) {
        None => Ok(true),
        Some((name, _)) => {
            let detail = format!("its manifest is, and {name} is not what that says");
            Err(SourceError::new(Trouble::Exists, place, detail).into())
        }
    }
}

/// Downloads the adapter at `path` (empty: the source itself) into a folder, which is made: its files, each checked, then the
/// manifest. `begin` hears what is to come before it does.
///
/// # Errors
/// It has no manifest, or a file is not what that says, or does not come.
pub async fn pull(
    source: &Arc<Source>,
    path: &str,
    folder: &Path,
    limits: &Limits,
    begin: impl FnOnce(&Manifest),
    counts: &Arc<Counts>,
) -> Result<Manifest, TransferError> {
    let listed = source_list(source, path).await?;
    let manifest = manifest::read(source, path, &listed).await?;
    begin(&manifest);
    fs::create_dir_all(folder).map_err(|error| TransferError::File { path: folder.to_owned(), error })?;
    for (name, entry) in &manifest.files {
        let at = below(path, name);
        let Some(object) = listed.iter().find(|object| object.key == *name) else {
            let place = format!("{}{}", source.place(), key::shown(&at));
            return Err(SourceError::new(Trouble::NotFound, place, "the manifest names it").into());
        };
        fetch(source, &at, object, Some(entry), &folder.join(name), limits, counts).await?;
    }
    pack::write(folder, &manifest).map_err(|error| TransferError::File { path: folder.join(Manifest::FILE), error })?;
    Ok(manifest)
}

async fn source_list(source: &Source, path: &str) -> Result<Vec<Object>, SourceError> {
    match source.list(path, MAX_OBJECTS).await {
        // A folder that is yet to come has nothing in it.
        Err(error) if matches!(source, Source::Folder(_)) && error.trouble() == Trouble::NoBucket => Ok(Vec::new()),
        outcome => outcome,
    }
}
