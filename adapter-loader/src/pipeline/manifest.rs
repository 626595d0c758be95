//! What an adapter is made of: by its manifest, or, where none is required, by what lies there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tutti_api::{AdapterPath, Digest, FileEntry, Kind, Manifest, ManifestRule, Reason};

use super::{Failure, Work};
use crate::identity;
use crate::reconcile::plan::Seen;
use crate::source::Object;

/// How long a list must have been the same to stand for a manifest.
const SETTLED: Duration = Duration::from_secs(30);
/// Most files of an adapter.
const MAX_FILES: usize = 64;

/// The files to fetch.
#[derive(Debug)]
pub(super) struct Parts {
    /// The manifest; absent where what lies there has to make one.
    pub(super) manifest: Option<Manifest>,
    /// Each file, by its name, and what the manifest says of it.
    pub(super) files: Vec<(Object, Option<FileEntry>)>,
}

impl Parts {
    /// All files together. Unit: bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(object, _)| object.size).fold(0, u64::saturating_add)
    }
}

/// The digest of a manifest.
pub(super) fn digest(manifest: &Manifest) -> Digest {
    identity::of(manifest.canonical().as_bytes())
}

/// Reads the manifest and finds its files in the list.
pub(super) async fn parts(work: &Work, seen: &Seen) -> Result<Parts, Failure> {
    let path = &work.wanted.path;
    let objects = seen.objects.clone().map_err(Failure::Judged)?;
    let Some(object) = objects.iter().find(|object| object.key == Manifest::FILE) else {
        return without(path, work.wants.spec.manifest, seen, &objects);
    };
    let key = format!("{path}/{}", Manifest::FILE);
    let text =
        work.source.read_whole(&key, object, Manifest::MAX).await.map_err(|error| match Failure::from(error) {
            Failure::Judged(why) => Failure::judged(Reason::InvalidManifest, why.message),
            passing => passing,
        })?;
    work.tools.board.metrics.bytes(object.size);
    let manifest = read(&text).map_err(|why| Failure::judged(Reason::InvalidManifest, format!("{key}: {why}")))?;
    let files = files(path, &manifest, &objects)?;
    Ok(Parts { manifest: Some(manifest), files })
}

/// Reads what a manifest says.
pub(super) fn read(text: &[u8]) -> Result<Manifest, String> {
    let manifest: Manifest = serde_json::from_slice(text).map_err(|error| format!("it is no manifest: {error}"))?;
    if manifest.kind != Kind::Adapter {
        return Err("it is a base model's, not an adapter's: adapters.baseFrom takes those".to_owned());
    }
    if manifest.files.is_empty() || manifest.files.len() > MAX_FILES {
        return Err(format!("it names {} files: an adapter has 1 to {MAX_FILES}", manifest.files.len()));
    }
    if let Some(odd) = manifest.files.keys().find(|name| !is_plain(name)) {
        let odd: String = odd.chars().take(100).collect();
        return Err(format!("it names a file {odd:?}: write plain names of letters, digits, `.`, `_` and `-`"));
    }
    Ok(manifest)
}

/// A name that is a file in every folder, and never one of ours.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=200).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) && name != Manifest::FILE
}

/// The objects that are the manifest's files.
fn files(
    path: &AdapterPath,
    manifest: &Manifest,
    objects: &[Object],
) -> Result<Vec<(Object, Option<FileEntry>)>, Failure> {
    let by_key: BTreeMap<&str, &Object> = objects.iter().map(|object| (&*object.key, object)).collect();
    let of = |(name, entry): (&String, &FileEntry)| {
        let Some(object) = by_key.get(&**name) else {
            let why = format!("{path}/{name} is not there, and the manifest names it: the manifest is uploaded last");
            return Err(Failure::judged(Reason::DigestMismatch, why));
        };
        if object.size != entry.size {
            let why = format!("{path}/{name} has {} bytes, and {} by its manifest", object.size, entry.size);
            return Err(Failure::judged(Reason::DigestMismatch, why));
        }
        Ok(((*object).clone(), Some(*entry)))
    };
    manifest.files.iter().map(of).collect()
}

/// Without a manifest: refused, or what lies there once it has settled.
fn without(path: &AdapterPath, rule: ManifestRule, seen: &Seen, objects: &Arc<[Object]>) -> Result<Parts, Failure> {
    if rule == ManifestRule::Required {
        let why = format!(
            "{path} has no {}: `tutti adapter pack` writes it and `tutti adapter push` uploads it last; or write adapters.manifest: optional",
            Manifest::FILE
        );
        return Err(Failure::judged(Reason::InvalidManifest, why));
    }
    if seen.since.elapsed() < SETTLED {
        let why = format!("{path} has no manifest: it is taken as it is once it has been the same for {SETTLED:?}");
        return Err(Failure::passing(Reason::InvalidManifest, why));
    }
    let is_part = |object: &&Object| {
        let key = &*object.key;
        is_plain(key) && (matches!(key, "adapter_config.json" | "adapter_model.safetensors") || key.ends_with(".gguf"))
    };
    let files: Vec<_> = objects.iter().filter(is_part).map(|object| (object.clone(), None)).collect();
    if files.is_empty() {
        let why = format!("{path} has neither adapter_model.safetensors nor a GGUF");
        return Err(Failure::judged(Reason::InvalidFile, why));
    }
    Ok(Parts { manifest: None, files })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Version;

    fn manifest(names: &[&str]) -> Manifest {
        let entry = FileEntry { sha256: Digest::new([1; 32]), size: 5 };
        Manifest { files: names.iter().map(|name| ((*name).to_owned(), entry)).collect(), ..Manifest::default() }
    }

    fn object(key: &str, size: u64) -> Object {
        Object { key: key.to_owned(), size, version: Version::Etag("x".to_owned()) }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let text = |names: &[&str]| serde_json::to_vec(&manifest(names)).unwrap();
        assert!(read(&text(&["adapter_model.safetensors", "adapter_config.json"])).is_ok());
        for wrong in ["../x", "a/b", "", ".hidden", "manifest.json", "a\\b", "风", "a\0", "a b", &"x".repeat(201)] {
            let why = read(&text(&[wrong])).unwrap_err();
            assert!(why.contains("plain names"), "{why}");
        }
        assert!(read(b"{}").unwrap_err().contains("no manifest"));
        assert!(read(br#"{"files":{}}"#).unwrap_err().contains("0 files"));
        assert!(read(br#"{"kind":"base","files":{}}"#).unwrap_err().contains("baseFrom"));
    }

    #[test]
    fn the_list_has_what_the_manifest_names_or_says_what_it_lacks() {
        let path: AdapterPath = "risk/v1".parse().unwrap();
        let of = |objects: &[Object]| files(&path, &manifest(&["a", "b"]), objects);
        assert_eq!(of(&[object("a", 5), object("b", 5), object("c", 9)]).unwrap().len(), 2);
        for objects in [vec![object("a", 5)], vec![object("a", 5), object("b", 6)]] {
            let Err(Failure::Judged(why)) = of(&objects) else { panic!("it was taken") };
            assert!(why.reason == Reason::DigestMismatch && why.message.contains("risk/v1/b"), "{why:?}");
        }
    }
}
