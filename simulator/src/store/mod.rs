//! What a replica keeps on its disk: blobs and manifests in a folder, as a real Ollama keeps them (`OLLAMA_MODELS`), so that
//! either can go on with the other's. Models are made, copied, shown and deleted as 0.11.4 does it, or as 0.34.2, which takes no
//! adapters: both were asked.
//!
//! Not simulated: weights that are no GGUF, quantising, and templates that a GGUF brings itself.

mod create;
mod gguf;
mod name;
mod show;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) use create::Created;

use crate::config::{Model, ModelKind};
use crate::wire::{Api, Fields, Reply};
use gguf::Gguf;
use name::Name;

const MODEL: &str = "application/vnd.ollama.image.model";
const ADAPTER: &str = "application/vnd.ollama.image.adapter";
const TEMPLATE: &str = "application/vnd.ollama.image.template";
const SYSTEM: &str = "application/vnd.ollama.image.system";
const PARAMS: &str = "application/vnd.ollama.image.params";
const MESSAGES: &str = "application/vnd.ollama.image.messages";
const LICENSE: &str = "application/vnd.ollama.image.license";

/// The folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    takes_adapters: bool,
    pulls: Arc<AtomicU64>,
}

/// What a name stands for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: Layer,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    from: String,
}

/// A status and what is said with it.
type Refusal = (u16, String);

impl Store {
    /// In this folder, which need not be there yet; `pulls` counts what would be looked for outside.
    pub(crate) fn new(folder: &Path, takes_adapters: bool, pulls: Arc<AtomicU64>) -> Self {
        Self { folder: folder.to_owned(), takes_adapters, pulls }
    }

    /// The models that it has, in the order of their names.
    pub(crate) fn models(&self) -> Vec<Model> {
        self.manifests().iter().filter_map(|(name, manifest)| self.model(name, manifest)).collect()
    }

    fn model(&self, name: &Name, manifest: &Manifest) -> Option<Model> {
        let blob = |layer: &Layer| layer.digest.replace(':', "-");
        let model = manifest.layers.iter().find(|layer| layer.media_type == MODEL)?;
        let adapter = manifest.layers.iter().find(|layer| layer.media_type == ADAPTER).map(blob);
        let embeds =
            self.gguf(&model.digest).is_ok_and(|gguf| gguf.keys.keys().any(|key| key.ends_with("pooling_type")));
        let kind = if embeds { ModelKind::Embedding } else { ModelKind::Chat };
        Some(Model { name: name.shortest(), base: blob(model), adapter, weight_bytes: model.size, kind, stored: true })
    }

    /// `HEAD` (without a body) or `POST` of `/api/blobs/:digest`.
    pub(crate) fn blob(&self, digest: &str, body: Option<&[u8]>) -> Reply {
        let is_there = match self.path(digest) {
            Ok(path) => path.exists(),
            Err((status, why)) => return Reply::error(Api::Chat, status, &why),
        };
        let body = match body {
            _ if is_there => return Reply::text(200, ""),
            None => return Reply::error(Api::Chat, 404, &format!("blob {digest:?} not found")),
            Some(body) => body,
        };
        match self.keep(body) {
            Ok(found) if found == digest => Reply::text(201, ""),
            Ok(found) => {
                let why = format!("digest mismatch, expected {digest:?}, got {found:?}");
                Reply::error(Api::Chat, 400, &why)
            }
            Err(error) => Reply::error(Api::Chat, 500, &error.to_string()),
        }
    }

    /// `POST /api/copy`.
    pub(crate) fn copy(&self, body: &[u8]) -> Reply {
        match self.copied(body) {
            Ok(()) => Reply::text(200, ""),
            Err((status, why)) => Reply::error(Api::Chat, status, &why),
        }
    }

    fn copied(&self, body: &[u8]) -> Result<(), Refusal> {
        let fields = read(body)?;
        let there = self.names();
        let name = |what: &str| {
            let text = fields.string(what).map_err(|why| (400, why))?;
            let name = Name::parse(text).ok_or_else(|| (400, format!("{what} {text:?} is invalid")))?;
            Ok((text.to_owned(), name.among(&there)))
        };
        let ((text, source), (_, destination)) = (name("source")?, name("destination")?);
        let lost = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => (404, format!("model {text:?} not found")),
            _ => (500, error.to_string()),
        };
        let manifest = fs::read(self.manifest_path(&source)).map_err(lost)?;
        self.write_manifest(&destination, &manifest).map_err(|error| (500, error.to_string()))
    }

    /// `DELETE /api/delete`.
    pub(crate) fn delete(&self, body: &[u8]) -> Reply {
        match self.deleted(body) {
            Ok(()) => Reply::text(200, ""),
            Err((status, why)) => Reply::error(Api::Chat, status, &why),
        }
    }

    fn deleted(&self, body: &[u8]) -> Result<(), Refusal> {
        let fields = read(body)?;
        let text = named(&fields)?;
        let name = Name::parse(text).ok_or_else(|| (400, format!("name {text:?} is invalid")))?;
        let name = name.among(&self.names());
        let manifest = self.manifest(&name).ok_or_else(|| (404, format!("model '{text}' not found")))?;
        fs::remove_file(self.manifest_path(&name)).map_err(|error| (500, error.to_string()))?;
        self.remove_layers(&manifest);
        Ok(())
    }

    /// Removes the blobs of a manifest that nothing refers to any more.
    fn remove_layers(&self, manifest: &Manifest) {
        let all = self.manifests();
        let used = |digest: &str| {
            all.values()
                .flat_map(|other| other.layers.iter().chain([&other.config]))
                .any(|layer| layer.digest == digest)
        };
        for layer in manifest.layers.iter().chain([&manifest.config]).filter(|layer| !used(&layer.digest)) {
            if let Ok(path) = self.path(&layer.digest) {
                let _ = fs::remove_file(path); // gone already
            }
        }
    }

    /// What `/api/tags` says of them, the latest first.
    pub(crate) fn tags(&self) -> Vec<Value> {
        let mut tags: Vec<_> = self.manifests().iter().map(|(name, manifest)| self.tag(name, manifest)).collect();
        tags.sort_by(|(a, _), (b, _)| b.cmp(a));
        tags.into_iter().map(|(_, tag)| tag).collect()
    }

    /// `POST /api/show` of one that it has; `None` where it has none of this name.
    pub(crate) fn show(&self, body: &[u8]) -> Option<Reply> {
        let fields = read(body).ok()?;
        let name = Name::parse(named(&fields).ok()?)?.among(&self.names());
        let manifest = self.manifest(&name)?;
        let verbose = fields.boolean("verbose").ok()?.unwrap_or(false);
        Some(match self.shown(&name, &manifest, verbose) {
            Ok(shown) => Reply::native(200, &shown),
            Err(error) => Reply::error(Api::Chat, 500, &error.to_string()),
        })
    }

    /// Where a blob lies.
    fn path(&self, digest: &str) -> Result<PathBuf, Refusal> {
        let hex = digest.strip_prefix("sha256").and_then(|rest| rest.strip_prefix([':', '-']));
        match hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            Some(hex) => Ok(self.folder.join("blobs").join(format!("sha256-{hex}"))),
            None => Err((400, "invalid digest format".to_owned())),
        }
    }

    /// Keeps bytes under their digest.
    fn keep(&self, bytes: &[u8]) -> io::Result<String> {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = self.folder.join("blobs");
        fs::create_dir_all(&folder)?;
        let (part, path) = (folder.join(format!("sha256-{hex}.part")), folder.join(format!("sha256-{hex}")));
        if !path.exists() {
            fs::write(&part, bytes).and_then(|()| fs::rename(&part, &path))?;
        }
        Ok(format!("sha256:{hex}"))
    }

    fn gguf(&self, digest: &str) -> io::Result<Gguf> {
        let path = self.path(digest).map_err(|(_, why)| io::Error::other(why))?;
        let file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => io::Error::other(format!("open {}: no such file or directory", path.display())),
            _ => error,
        })?;
        Gguf::read(BufReader::new(file))
    }

    fn manifest_path(&self, name: &Name) -> PathBuf {
        self.folder.join("manifests").join(name.path())
    }

    fn manifest(&self, name: &Name) -> Option<Manifest> {
        serde_json::from_slice(&fs::read(self.manifest_path(name)).ok()?).ok()
    }

    fn write_manifest(&self, name: &Name, text: &[u8]) -> io::Result<()> {
        let path = self.manifest_path(name);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(path, text)
    }

    fn names(&self) -> Vec<Name> {
        self.manifests().into_keys().collect()
    }

    /// All manifests that can be read.
    fn manifests(&self) -> BTreeMap<Name, Manifest> {
        let mut found = BTreeMap::new();
        let mut folders = vec![(self.folder.join("manifests"), Vec::<String>::new())];
        while let Some((folder, parts)) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let parts = [&parts[..], &[entry.file_name().to_string_lossy().into_owned()]].concat();
                match &parts[..] {
                    [host, namespace, model, tag] => {
                        let name = Name::parse(&format!("{host}/{namespace}/{model}:{tag}"));
                        found.extend(name.and_then(|name| Some((name.clone(), self.manifest(&name)?))));
                    }
                    _ => folders.push((entry.path(), parts)),
                }
            }
        }
        found
    }

    /// Would ask the registry for a model.
    fn pull(&self) -> Refusal {
        self.pulls.fetch_add(1, Relaxed);
        (500, "pull model manifest: file does not exist".to_owned())
    }
}

fn read(body: &[u8]) -> Result<Fields, Refusal> {
    Fields::read(body).map_err(|error| (400, if error == "EOF" { "missing request body".to_owned() } else { error }))
}

/// The model that a request names: by `model`, or as older clients say it.
fn named(fields: &Fields) -> Result<&str, Refusal> {
    let text = |name| fields.string(name).map_err(|why| (400, why));
    Ok(match text("model")? {
        "" => text("name")?,
        model => model,
    })
}

/// The sha256 of a manifest, as it is listed.
fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `/api/tags` and `/api/show` call details.
fn details(config: &Value, parent: &str) -> Value {
    json!({
        "parent_model": parent, "format": config["model_format"], "family": config["model_family"],
        "families": config["model_families"], "parameter_size": config["model_type"],
        "quantization_level": config["file_type"],
    })
}
