//! Files come to the disk, each proven to be what the manifest says.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tutti_api::{Digest, FileEntry, Manifest, Phase, Reason};

use super::manifest::{self, Parts};
use super::{Failure, Work, blocking};
use crate::fault::{Point, point};
use crate::fetch::{self, Counts};
use crate::reconcile::plan::Seen;
use crate::source::Object;
use crate::store::{Fetched, Record, StoreError, file_name};

/// Fetches what lies at the path, unless it says the same as what serves already.
pub(super) async fn step(work: &Work) -> Result<(), Failure> {
    work.phase(Phase::Fetching);
    let path = work.wanted.path.clone();
    let Some(seen) = work.listed.at.get(&path).cloned() else {
        let why = work.listed.down.clone().map(|why| why.message).unwrap_or_else(|| "it was not listed yet".to_owned());
        return Err(Failure::passing(Reason::SourceUnavailable, why));
    };
    let parts = manifest::parts(work, &seen).await?;
    let digest = parts.manifest.as_ref().map(manifest::digest);
    point(Point::FetchAfterManifest);
    if let Some(digest) = digest {
        work.tell(|running| running.digest = Some(digest));
        if accept(work, digest, &seen)? {
            return Ok(());
        }
    }
    let begun = Instant::now();
    let folder = begin(work, &parts, digest, &seen).await?;
    let mut found = Manifest::default();
    {
        let place = work.tools.fetches.acquire().await;
        for (object, entry) in &parts.files {
            let got = file(work, object, *entry, &folder).await?;
            found.files.insert(object.key.clone(), FileEntry { sha256: got, size: object.size });
            point(Point::FetchAfterFile);
        }
        drop(place);
    }
    let said = parts.manifest.unwrap_or(found);
    let digest = manifest::digest(&said);
    if accept(work, digest, &seen)? {
        return Ok(());
    }
    point(Point::FetchBeforeManifest);
    let (text, at) = (said.canonical(), folder.join(Manifest::FILE));
    blocking(move || crate::store::write_new(&at, text.as_bytes())).await??;
    point(Point::FetchBeforeRecord);
    work.keep(|record| {
        if let Some(fetched) = &mut record.fetched {
            (fetched.complete, fetched.manifest) = (true, digest);
        }
    })?;
    point(Point::FetchAfterRecord);
    work.tools.board.metrics.fetched(begun.elapsed());
    tracing::info!(%path, bytes = parts.files.iter().map(|(object, _)| object.size).sum::<u64>(), took = ?begun.elapsed(), "fetched");
    Ok(())
}

/// Whether what lies there is what serves already, and then nothing is fetched; refuses what may not take its place.
fn accept(work: &Work, digest: Digest, seen: &Seen) -> Result<bool, Failure> {
    let path = &work.wanted.path;
    if let Some(expected) = work.wanted.expected.filter(|expected| *expected != digest) {
        let why = format!("{path} has the manifest {digest}, and the models insist on {expected}");
        return Err(Failure::judged(Reason::DigestRefused, why));
    }
    let record = work.record();
    let Some(served) = &record.served else { return Ok(false) };
    if served.manifest != digest {
        let why = format!(
            "what lies at {path} has changed: {} serves on, and {digest} does not: put it under a new path",
            served.manifest
        );
        return Err(Failure::judged(Reason::RevisionChanged, why));
    }
    // The same under other versions: uploaded once more.
    let seen = seen.digest;
    work.keep(|record| {
        record.served.iter_mut().chain(&mut record.candidate).for_each(|made| made.seen = seen);
        record.quarantine = None;
    })?;
    // Where it has to be made anew (for another base) the files are wanted all the same.
    let record = work.record();
    Ok(record
        .served
        .as_ref()
        .is_some_and(|served| work.engine.is_current(served) && (served.on_disk || work.engine.serves(served))))
}

/// Has a folder for the files, and what came for another content gone.
async fn begin(work: &Work, parts: &Parts, digest: Option<Digest>, seen: &Seen) -> Result<std::path::PathBuf, Failure> {
    let content = digest.unwrap_or(seen.digest);
    let fetched = Fetched {
        manifest: content,
        seen: seen.digest,
        folder: file_name(&work.wanted.path, &content),
        bytes: parts.bytes(),
        complete: false,
    };
    let before = work.record();
    if let Some(old) = before.fetched.as_ref().filter(|old| old.folder != fetched.folder) {
        work.tools.store.remove(&work.folder(&old.folder))?;
    }
    if let Some(old) = before.candidate.filter(|old| old.manifest != content) {
        work.tools.store.remove(&work.tools.store.artefact(&work.wanted.path, &old.identity))?;
    }
    work.room(parts.bytes()).await?;
    let folder = work.folder(&fetched.folder);
    std::fs::create_dir_all(&folder).map_err(|error| StoreError::of("make", &folder, error))?;
    work.keep(|record: &mut Record| {
        if record.candidate.as_ref().is_some_and(|old| old.manifest != content) {
            record.give_up_candidate();
        }
        record.fetched = Some(fetched);
    })?;
    Ok(folder)
}

/// Fetches a file, unless it is there.
async fn file(work: &Work, object: &Object, entry: Option<FileEntry>, folder: &Path) -> Result<Digest, Failure> {
    let key = format!("{}/{}", work.wanted.path, object.key);
    let into = folder.join(&object.key);
    if let Some(entry) = entry {
        let (file, size) = (into.clone(), object.size);
        let there = move || crate::store::size(&file) == size && crate::store::digest(&file).ok() == Some(entry.sha256);
        if blocking(there).await? {
            return Ok(entry.sha256); // it came before a crash, and is whole
        }
    }
    let counts = Arc::new(Counts::default());
    let fetch = fetch::fetch(&work.source, &key, object, entry.as_ref(), &into, &work.limits, &counts).await;
    work.tools.board.metrics.bytes(counts.fetched.load(Ordering::Relaxed));
    Ok(fetch?)
}
