//! `POST /api/create`.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::gguf::Gguf;
use super::name::Name;
use super::{
    ADAPTER, LICENSE, Layer, MESSAGES, MODEL, Manifest, PARAMS, Refusal, SYSTEM, Store, TEMPLATE, named, read,
};
use crate::wire::{Api, Fields, Reply};

const NO_ADAPTERS: &str = "LoRA adapters are no longer supported";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A create that may begin.
#[derive(Debug)]
pub(crate) struct Asked {
    fields: Fields,
    name: Name,
    streams: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Created {
    progress: Vec<String>,
    outcome: Result<(), Refusal>,
}

impl Created {
    /// One that failed for a reason of its own.
    pub(crate) fn failed(why: &str) -> Self {
        Self { progress: Vec::new(), outcome: Err((500, why.to_owned())) }
    }

    /// The answer: line by line, or the last word.
    pub(crate) fn reply(&self, asked_to_stream: bool) -> Reply {
        let last = match &self.outcome {
            Ok(()) => json!({ "status": "success" }),
            Err((500, why)) => json!({ "error": why }),
            Err((status, why)) if asked_to_stream => json!({ "error": why, "status": status }),
            Err((_, why)) => json!({ "error": why }),
        };
        if !asked_to_stream {
            let status = self.outcome.as_ref().err().map_or(200, |(status, _)| *status);
            return Reply::native(status, &last);
        }
        let lines = self.progress.iter().map(|status| json!({ "status": status })).chain([last]);
        let body: String = lines.map(|line| format!("{line}\n")).collect();
        Reply { status: 200, content_type: "application/x-ndjson", body: body.into() }
    }
}

/// A layer, and its header where it has weights.
struct Part {
    layer: Layer,
    gguf: Option<Gguf>,
}

impl Asked {
    /// Whether the answer is to come line by line.
    pub(crate) fn streams(&self) -> bool {
        self.streams
    }
}

impl Store {
    /// Reads a request; an error is the answer to give at once.
    pub(crate) fn asked(&self, body: &[u8]) -> Result<Asked, Reply> {
        self.read_create(body).map_err(|(status, why)| Reply::error(Api::Chat, status, &why))
    }

    fn read_create(&self, body: &[u8]) -> Result<Asked, Refusal> {
        let fields = read(body)?;
        if !self.takes_adapters {
            let has = |field: &str, name: &str| fields.get(field).is_some_and(|value| !value[name].is_null());
            if has("parameters", "typical_p") {
                return Err((400, "typical_p is no longer supported".to_owned()));
            }
            if fields.get("adapters").and_then(Value::as_object).is_some_and(|adapters| !adapters.is_empty()) {
                return Err((400, NO_ADAPTERS.to_owned()));
            }
        }
        let name = Name::parse(named(&fields)?).ok_or_else(|| (400, "invalid model name".to_owned()))?;
        let streams = fields.boolean("stream").map_err(|why| (400, why))?.unwrap_or(true);
        Ok(Asked { name: name.among(&self.names()), fields, streams })
    }

    /// Makes the model.
    pub(crate) fn create(&self, asked: &Asked) -> Created {
        let mut progress = Vec::new();
        let outcome = self.made(asked, &mut progress);
        Created { progress, outcome }
    }

    fn made(&self, asked: &Asked, progress: &mut Vec<String>) -> Result<(), Refusal> {
        let before = self.manifest(&asked.name);
        let fields = &asked.fields;
        let from = fields.string("from").map_err(|why| (400, why))?;
        let mut parts = match (from, fields.get("files").and_then(Value::as_object)) {
            ("", None) => return Err((400, "neither 'from' or 'files' was specified".to_owned())),
            ("", Some(files)) => self.of_files(files, progress)?,
            (from, _) => self.of_model(from)?,
        };
        if let Some(adapters) = fields.get("adapters").and_then(Value::as_object) {
            if adapters.len() > 1 {
                return Err((400, "only one adapter is currently supported".to_owned()));
            }
            // Whatever is wrong with an adapter is the caller's fault.
            parts.extend(self.of_files(adapters, progress).map_err(|(_, why)| (400, why))?);
        }
        let mut layers: Vec<Layer> = parts.iter().map(|part| part.layer.clone()).collect();
        progress.extend(layers.iter().map(|layer| format!("using existing layer {}", layer.digest)));
        self.more(fields, &mut layers, progress)?;
        let config = self.config(&parts, &layers);
        let failed = |error: std::io::Error| (500, error.to_string());
        let config = self.layer(CONFIG, format!("{config}\n").as_bytes()).map_err(failed)?;
        progress.push("writing manifest".to_owned());
        let manifest = Manifest { schema_version: 2, media_type: MANIFEST.to_owned(), config, layers };
        let text = serde_json::to_string(&manifest).map_err(|error| (500, error.to_string()))? + "\n";
        self.write_manifest(&asked.name, text.as_bytes()).map_err(failed)?;
        if let Some(before) = before {
            self.remove_layers(&before);
        }
        Ok(())
    }

    /// The layers of a model that is there. One that is not is looked for outside: by its letters, as they are.
    fn of_model(&self, from: &str) -> Result<Vec<Part>, Refusal> {
        let name = Name::parse(from).ok_or_else(|| (400, "invalid model name".to_owned()))?;
        let manifest = self.manifest(&name).ok_or_else(|| self.pull())?;
        let part = |layer: &Layer| {
            let layer = Layer { from: name.shortest(), ..layer.clone() };
            let has_weights = layer.media_type == MODEL || layer.media_type == ADAPTER;
            let gguf = has_weights.then(|| self.gguf(&layer.digest)).transpose();
            Ok(Part { gguf: gguf.map_err(|error| (500, error.to_string()))?, layer })
        };
        manifest.layers.iter().map(part).collect()
    }

    /// The layers of blobs.
    fn of_files(&self, files: &Map<String, Value>, progress: &mut Vec<String>) -> Result<Vec<Part>, Refusal> {
        if files.is_empty() {
            // No file says what it is (0.11.4), or there is none (0.34.2).
            let why = if self.takes_adapters { "unknown type" } else { "neither 'from' or 'files' was specified" };
            return Err((400, why.to_owned()));
        }
        let part = |(name, digest): (&String, &Value)| {
            let digest = digest.as_str().unwrap_or_default();
            if Path::new(name).extension().is_none_or(|extension| extension != "gguf") {
                return Err((400, "unknown type".to_owned()));
            }
            progress.push("parsing GGUF".to_owned());
            let path = self.path(digest).map_err(|(_, why)| (500, why))?;
            let gguf = self.gguf(digest).map_err(|error| match error.to_string() {
                why if why.contains("not in GGUF format") => (400, why),
                why => (500, why),
            })?;
            let is_adapter = gguf.text("general.type") == "adapter";
            if is_adapter && !self.takes_adapters {
                return Err((400, format!("{NO_ADAPTERS}: {name} is a LoRA adapter")));
            }
            let media_type = if is_adapter { ADAPTER } else { MODEL }.to_owned();
            let size = fs::metadata(&path).map_err(|error| (500, error.to_string()))?.len();
            let from = if self.takes_adapters { path.display().to_string() } else { name.clone() };
            Ok(Part { layer: Layer { media_type, digest: digest.replace('-', ":"), size, from }, gguf: Some(gguf) })
        };
        files.iter().map(part).collect()
    }

    /// What is no weights: each that is named takes the place of the base's; parameters join it.
    fn more(&self, fields: &Fields, layers: &mut Vec<Layer>, progress: &mut Vec<String>) -> Result<(), Refusal> {
        let mut set = |layers: &mut Vec<Layer>, kind: &str, text: &[u8]| {
            let layer = self.layer(kind, text).map_err(|error| (500, error.to_string()))?;
            layers.retain(|old| old.media_type != kind);
            progress.push(format!("creating new layer {}", layer.digest));
            layers.push(layer);
            Ok::<(), Refusal>(())
        };
        for (kind, name) in [(TEMPLATE, "template"), (SYSTEM, "system"), (LICENSE, "license")] {
            if let Some(text) = fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()) {
                set(layers, kind, text.as_bytes())?;
            }
        }
        let mut parameters = Map::new();
        for layer in layers.iter().filter(|layer| layer.media_type == PARAMS) {
            parameters.extend(self.document(layer).as_object().cloned().unwrap_or_default());
        }
        parameters.extend(fields.get("parameters").and_then(Value::as_object).cloned().unwrap_or_default());
        if !parameters.is_empty() {
            set(layers, PARAMS, format!("{}\n", Value::from(parameters)).as_bytes())?;
        }
        if let Some(messages) =
            fields.get("messages").filter(|messages| messages.as_array().is_some_and(|m| !m.is_empty()))
        {
            set(layers, MESSAGES, format!("{messages}\n").as_bytes())?;
        }
        Ok(())
    }

    /// What is said of the weights.
    fn config(&self, parts: &[Part], layers: &[Layer]) -> Value {
        let mut ggufs = parts.iter().filter_map(|part| part.gguf.as_ref());
        let mut families: Vec<&str> = ggufs.clone().map(|gguf| gguf.text("general.architecture")).collect();
        if !self.takes_adapters {
            families.dedup();
        }
        let first = ggufs.next();
        let digests: Vec<&str> = layers.iter().map(|layer| &*layer.digest).collect();
        json!({
            "model_format": "gguf", "model_family": first.map_or("", |gguf| gguf.text("general.architecture")),
            "model_families": families, "model_type": first.map_or_else(String::new, |gguf| human(gguf.parameters())),
            "file_type": first.map_or("unknown", Gguf::file_type), "architecture": "amd64", "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": digests },
        })
    }

    fn layer(&self, kind: &str, bytes: &[u8]) -> std::io::Result<Layer> {
        let digest = self.keep(bytes)?;
        Ok(Layer { media_type: kind.to_owned(), digest, size: bytes.len() as u64, from: String::new() })
    }

    /// What a layer of JSON says; null where it cannot be read.
    pub(super) fn document(&self, layer: &Layer) -> Value {
        let path = self.path(&layer.digest).ok();
        let text = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

/// A number of parameters as Ollama writes it (format/format.go).
fn human(number: u64) -> String {
    let scaled = number as f64;
    match number {
        1_000_000_000.. if number.is_multiple_of(1_000_000_000) => format!("{:.0}B", scaled / 1e9),
        1_000_000_000.. => format!("{:.1}B", scaled / 1e9),
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{:.0}M", scaled / 1e6),
        1_000_000.. => format!("{:.2}M", scaled / 1e6),
        1_000.. => format!("{:.0}K", scaled / 1e3),
        _ => number.to_string(),
    }
}
