//! The project's tiny models, imported once into a store that replicas get a copy of.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cache;
use crate::ollama::{self, Ollama, OllamaOptions};

/// `models.json`: what is imported, in this order.
#[derive(Debug, Deserialize)]
struct Listed {
    models: Vec<Model>,
    adapters: Vec<Adapter>,
}

#[derive(Debug, Deserialize)]
struct Model {
    name: String,
    gguf: String,
    #[serde(default)]
    template: Option<String>,
    #[serde(default)]
    parameters: Value,
}

#[derive(Debug, Deserialize)]
struct Adapter {
    name: String,
    base: String,
    gguf: String,
}

/// The name of the embedding model.
pub const EMBEDDING: &str = "tutti-embed";

/// Its file.
pub(crate) fn embedding() -> PathBuf {
    folder().join("tutti-embed.gguf")
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn read(file: &str) -> Result<Vec<u8>> {
    let path = folder().join(file);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A store (`OLLAMA_MODELS`) with all of them, imported through Ollama's API as a user would.
pub(crate) fn store() -> Result<PathBuf> {
    let list = read("models.json")?;
    let listed: Listed = serde_json::from_slice(&list).context("models.json")?;
    let names =
        listed.models.iter().map(|model| &model.gguf).chain(listed.adapters.iter().map(|adapter| &adapter.gguf));
    let files = names.map(|name| read(name)).collect::<Result<Vec<_>>>()?;
    let parts = [list.as_slice(), ollama::VERSION.as_bytes()].into_iter().chain(files.iter().map(Vec::as_slice));
    let name = format!("store-{}", cache::key(parts));
    cache::made(&name, "seconds", |half| import(&listed, half))
}

fn import(listed: &Listed, store: &Path) -> Result<()> {
    let env = vec![("OLLAMA_MODELS".to_owned(), store.display().to_string())];
    let ollama = Ollama::start(&OllamaOptions { env, models: false, ..OllamaOptions::default() })?;
    for model in &listed.models {
        let mut create = json!({ "model": model.name, "files": { "model.gguf": push(&ollama, &model.gguf)? } });
        create["stream"] = false.into();
        create["parameters"] = model.parameters.clone();
        create["template"] = model.template.clone().map_or(Value::Null, Value::String);
        ollama.post("/api/create", &create).with_context(|| model.name.clone())?;
    }
    for adapter in &listed.adapters {
        let blob = push(&ollama, &adapter.gguf)?;
        let create = json!({
            "model": adapter.name, "from": adapter.base, "adapters": { "adapter.gguf": blob }, "stream": false,
        });
        ollama.post("/api/create", &create).with_context(|| adapter.name.clone())?;
    }
    Ok(())
}

/// Pushes a file as a blob; yields its digest.
fn push(ollama: &Ollama, file: &str) -> Result<String> {
    push_bytes(ollama, &read(file)?)
}

fn push_bytes(ollama: &Ollama, bytes: &[u8]) -> Result<String> {
    let digest = format!("sha256:{}", cache::hex(&Sha256::digest(bytes)));
    ureq::post(format!("{}/api/blobs/{digest}", ollama.url())).send(bytes)?;
    Ok(digest)
}

/// Gives an Ollama with the rig's models so many adapters on one base that differ a little in their alpha, and so in their
/// blobs; yields their names.
///
/// # Errors
/// The Ollama does not take them.
pub(crate) fn adapters(ollama: &Ollama, count: u8) -> Result<Vec<String>> {
    /// What stands before the value in the GGUF: the key, and the type of a 32-bit float (GGUF specification, version 3).
    const ALPHA: &[u8] = b"adapter.lora.alpha\x06\0\0\0";
    let list: Listed = serde_json::from_slice(&read("models.json")?).context("models.json")?;
    let adapter = list.adapters.first().context("models.json has no adapter")?;
    let mut bytes = read(&adapter.gguf)?;
    let at = bytes.windows(ALPHA.len()).position(|window| window == ALPHA).context("an adapter without alpha")?;
    let at = at + ALPHA.len();
    (1..=count)
        .map(|number| {
            bytes[at..at + 4].copy_from_slice(&(16.0 + f32::from(number) / 100.0).to_le_bytes());
            let name = format!("adapter-{number}");
            let create = json!({
                "model": name, "from": adapter.base, "adapters": { "adapter.gguf": push_bytes(ollama, &bytes)? },
                "stream": false,
            });
            ollama.post("/api/create", &create).with_context(|| name.clone())?;
            Ok(name)
        })
        .collect()
}
