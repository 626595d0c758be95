//! The base model itself comes from the source, where a site reaches nothing else: fetched, its digest checked, and made on the
//! engine under the name that the pool has for it. Only where the engine has none by that name: another base is another name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tutti_api::{AdapterPath, Digest, FileEntry, Kind, Manifest, Reason};

use super::{Failure, Room, Tools, blocking};
use crate::engine::listed_base;
use crate::fault::{Point, point};
use crate::fetch::{self, Counts, Limits};
use crate::gguf::{self, Header};
use crate::manifest;
use crate::source::{MAX_OBJECTS, Object, Source};
use crate::store::StoreError;
use crate::wanted::Wants;

/// What a base's manifest may say beside what every manifest has, in the words of `/api/create`.
const WORDS: [&str; 5] = ["system", "license", "messages", "renderer", "parser"];

/// A base in the source.
#[derive(Debug)]
pub(crate) struct Found {
    manifest: Manifest,
    object: Object,
    entry: FileEntry,
}

/// Looks for the base at its path.
///
/// # Errors
/// The source does not answer; or what is there is no base.
pub(crate) async fn find(source: &Source, path: &AdapterPath) -> Result<Found, Failure> {
    let listed = source.list(path.as_str(), MAX_OBJECTS).await?;
    let manifest = manifest::read(source, path.as_str(), &listed).await.map_err(|error| match error {
        manifest::ManifestError::Source(error) => error.into(),
        error => Failure::judged(error.reason(), error.to_string()),
    })?;
    let invalid = |why: String| Failure::judged(Reason::InvalidManifest, format!("{path}: {why}"));
    if manifest.kind != Kind::Base {
        return Err(invalid(
            "its manifest is an adapter's: `tutti adapter pack --kind base` writes a base's".to_owned(),
        ));
    }
    let mut files = manifest.files.iter();
    let (Some((name, entry)), None) = (files.next(), files.next()) else {
        return Err(invalid(format!("its manifest names {} files: a base is one GGUF", manifest.files.len())));
    };
    let object = listed.into_iter().find(|object| object.key == *name);
    let object = object.ok_or_else(|| invalid(format!("{name} is not there, and its manifest names it")))?;
    Ok(Found { object, entry: *entry, manifest })
}

/// Brings the base to the engine.
pub(crate) async fn bring(
    tools: Arc<Tools>,
    wants: Arc<Wants>,
    source: Arc<Source>,
    limits: Limits,
    path: AdapterPath,
) -> Result<(), Failure> {
    let found = find(&source, &path).await?;
    let folder = tools.store.source(&crate::store::file_name(&path, &found.entry.sha256));
    tools.store.keep_one_base(&path, &folder)?;
    let file = fetched(&tools, &source, &limits, &path, &found, &folder).await?;
    point(Point::BaseAfterFetch);
    let looked_at = file.clone();
    blocking(move || is_model(&looked_at)).await??;
    made(&tools, &wants, &found, &file).await?;
    tools.store.remove(&folder)?;
    tracing::info!(base = wants.base, %path, digest = %found.entry.sha256, "the engine has its base from the source");
    Ok(())
}

/// The weights, on the disk and as the manifest says.
async fn fetched(
    tools: &Tools,
    source: &Arc<Source>,
    limits: &Limits,
    path: &AdapterPath,
    found: &Found,
    folder: &Path,
) -> Result<PathBuf, Failure> {
    let (answer, answered) = oneshot::channel();
    let gone = || Failure::passing(Reason::NoSpace, "the loader is ending");
    let room = Room { path: path.clone(), bytes: found.entry.size, answer };
    tools.rooms.send(room).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())??;
    std::fs::create_dir_all(folder).map_err(|error| StoreError::of("make", folder, error))?;
    let into = folder.join("base.gguf");
    let (there, entry) = (into.clone(), found.entry);
    let is_there =
        move || crate::store::size(&there) == entry.size && crate::store::digest(&there).ok() == Some(entry.sha256);
    if blocking(is_there).await? {
        return Ok(into); // it came before a crash, and is whole
    }
    tracing::info!(%path, bytes = found.entry.size, "the engine has no base: it is fetched");
    let key = format!("{path}/{}", found.object.key);
    let counts = Arc::new(Counts::default());
    fetch::fetch(source, &key, &found.object, Some(&found.entry), &into, limits, &counts).await?;
    tools.board.metrics.bytes(found.entry.size);
    Ok(into)
}

/// Refuses what is no model.
fn is_model(file: &Path) -> Result<(), Failure> {
    let wrong = |why: String| Failure::judged(Reason::InvalidFile, format!("the base from the source: {why}"));
    let opened = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    let header = Header::read(std::io::BufReader::new(opened), &gguf::Limits::default());
    let header = header.map_err(|error| wrong(error.to_string()))?;
    if header.text("general.type") == Some("adapter") || header.architecture().is_none() {
        return Err(wrong("it is no model (its general.type is `adapter`, or it names no architecture)".to_owned()));
    }
    Ok(())
}

/// The engine makes it, and is asked what it has made.
async fn made(tools: &Tools, wants: &Wants, found: &Found, file: &Path) -> Result<(), Failure> {
    let right = tools.engine.making().await;
    right.ensure_blob(file, &found.entry.sha256).await?;
    let has = tools.engine.models().await?;
    point(Point::BaseAfterBlob);
    if listed_base(&has, &wants.base).is_some() {
        tracing::info!(base = wants.base, "the engine has a base of that name by now, and keeps it");
        return Ok(());
    }
    right.create_of(&wants.base, &found.entry.sha256, words(&found.manifest)).await?;
    drop(right);
    point(Point::BaseAfterCreate);
    let has = tools.engine.models().await?;
    let listed = listed_base(&has, &wants.base);
    let lost = || Failure::passing(Reason::EngineUnavailable, format!("the engine took {} and has it not", wants.base));
    let facts = tools.engine.show(&wants.base, listed.ok_or_else(lost)?).await?;
    if facts.digest != found.entry.sha256 {
        return Err(other(&wants.base, &facts.digest, &found.entry.sha256));
    }
    Ok(())
}

fn other(base: &str, has: &Digest, wanted: &Digest) -> Failure {
    Failure::judged(Reason::DigestMismatch, format!("the engine has {has} as {base}, and it was given {wanted}"))
}

/// What makes the model of the weights.
fn words(manifest: &Manifest) -> Map<String, Value> {
    let mut words = Map::new();
    for name in WORDS {
        words.extend(manifest.other.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    words.extend(manifest.template.clone().map(|template| ("template".to_owned(), template.into())));
    if !manifest.parameters.is_empty() {
        let parameters = manifest.parameters.clone().into_iter().collect::<Map<_, _>>();
        words.insert("parameters".to_owned(), parameters.into());
    }
    words
}
