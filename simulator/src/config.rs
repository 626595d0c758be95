//! What is simulated: the models, the machine and how requests are recorded.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::engine::Machine;
use crate::faults::{Fault, Scope};

/// Everything [`crate::Simulator::start`] needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The models that the replica has.
    pub models: Vec<Model>,
    /// Slots, queues, load times and token rates.
    pub machine: Machine,
    /// Tokens of an answer that no `num_predict` or `max_tokens` cuts short.
    pub answer_tokens: u32,
    /// The longest request body in bytes; a longer one gets a 413.
    pub body_bytes_max: usize,
    /// The fault that every request in its scope meets.
    pub fault: Option<(Fault, Scope)>,
    /// What kills the replica when a request's body holds it, as a prompt does that its engine cannot stand.
    pub poison: Option<String>,
    /// What an input holds that is too long for the model: a call with it is refused, whatever else it asks for.
    pub too_long: Option<String>,
    /// Most inputs of a call for embeddings; one with more is refused.
    pub inputs_max: usize,
    /// How many requests are kept for [`crate::Running::seen`]; later ones are only counted.
    pub records_max: usize,
    /// Answer a `/v1/chat/completions` that is JSON and does not ask for a stream with bytes made once, whatever its
    /// model, without the engine.
    pub prerendered: bool,
    /// Answer `GET /health`, which an Ollama does not have: routers that are made for other engines ask for it.
    pub health: bool,
    /// The folder that it keeps blobs and manifests in, as a real one keeps them (`OLLAMA_MODELS`): with it, models are made,
    /// copied and deleted, and those of the folder served beside [`Config::models`]. Absent: none are made.
    pub store: Option<PathBuf>,
    /// Whether it makes models with adapters, as 0.11.4 does; else it is a 0.34.2 in what it makes.
    pub takes_adapters: bool,
    /// Whether it has `/v1/responses` and `/v1/messages`, which came after 0.11.4.
    pub later_apis: bool,
}

impl Config {
    /// A replica on a free port with one chat model and the pace of [`Machine::default`].
    pub fn new(model: Model) -> Self {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            models: vec![model],
            machine: Machine::default(),
            answer_tokens: 16,
            body_bytes_max: 64 << 20,
            fault: None,
            poison: None,
            too_long: None,
            inputs_max: usize::MAX,
            records_max: 10_000,
            prerendered: false,
            health: false,
            later_apis: false,
            store: None,
            takes_adapters: true,
        }
    }

    /// A replica that takes no time to load, read or write, for tests of behaviour rather than of pace.
    pub fn quick(model: Model) -> Self {
        Config { machine: Machine::instant(), ..Config::new(model) }
    }

    /// A replica that costs as little CPU a request as it can: [`Config::quick`], answers made once, nothing recorded.
    pub fn instant(model: Model) -> Self {
        Config { records_max: 0, prerendered: true, ..Config::quick(model) }
    }

    /// The model that a client's `name` means: case folds, and a bare name is its `:latest`.
    pub fn find(&self, name: &str) -> Option<&Model> {
        let wanted = canonical(name);
        self.models.iter().find(|m| canonical(&m.name) == wanted)
    }
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// Completes, chats and embeds.
    Chat,
    /// Only embeds, one input at a time.
    Embedding,
}

/// A name and the blobs behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The name clients use, with or without a tag.
    pub name: String,
    /// The blob of the base weights: models with the same one share a runner, or take it from each other.
    pub base: String,
    /// The blob of the adapter, if there is one.
    pub adapter: Option<String>,
    /// Size of the weights in bytes: what a load reads and a runner occupies.
    pub weight_bytes: u64,
    /// What it can do.
    pub kind: ModelKind,
    /// Whether it lies in the replica's store: then its answers tell of its weights.
    pub stored: bool,
}

impl Model {
    /// A chat model of its own weights.
    pub fn chat(name: &str, weight_bytes: u64) -> Self {
        Model { name: name.into(), base: blob(name), adapter: None, weight_bytes, kind: ModelKind::Chat, stored: false }
    }

    /// An embedding model of its own weights.
    pub fn embedding(name: &str, weight_bytes: u64) -> Self {
        Model { kind: ModelKind::Embedding, ..Model::chat(name, weight_bytes) }
    }

    /// A model that is `self` with an adapter of its own.
    pub fn with_adapter(&self, name: &str) -> Self {
        Model { name: name.into(), adapter: Some(blob(name)), ..self.clone() }
    }

    /// Another name for the same blobs, as `/api/copy` makes it.
    pub fn copied_to(&self, name: &str) -> Self {
        Model { name: name.into(), ..self.clone() }
    }

    /// What its answers tell of its weights.
    pub(crate) fn told(&self) -> Option<String> {
        let told = hex64(&format!("{}+{}", self.base, self.adapter.as_deref().unwrap_or_default()));
        self.stored.then(|| told[..8].to_owned())
    }

    /// The name with its tag, as Ollama lists it.
    pub fn full_name(&self) -> String {
        if self.name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
            self.name.clone()
        } else {
            format!("{}:latest", self.name)
        }
    }

    /// A stand-in for the manifest's digest: 64 hex digits that depend on the blobs alone.
    pub fn digest(&self) -> String {
        hex64(&format!("{}+{}", self.base, self.adapter.as_deref().unwrap_or_default()))
    }
}

fn canonical(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match lower.rsplit('/').next() {
        Some(last) if !last.contains(':') => lower + ":latest",
        _ => lower,
    }
}

fn blob(name: &str) -> String {
    format!("sha256-{}", hex64(&canonical(name)))
}

/// 64 hex digits that look like a digest and are none: four FNV-1a rounds.
fn hex64(text: &str) -> String {
    (0u64..4)
        .map(|round| {
            let seed = 0xcbf2_9ce4_8422_2325 ^ round;
            let hash = text.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
            format!("{hash:016x}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_latest_and_case_folds() {
        let config = Config::new(Model::chat("Qwen", 1));
        assert!(config.find("qwen:latest").is_some() && config.find("QWEN").is_some());
        assert!(config.find("qwen:v2").is_none());
        assert_eq!(Model::chat("host:80/acme/m", 1).full_name(), "host:80/acme/m:latest");
    }

    #[test]
    fn a_copy_shares_its_digest_and_an_adapter_does_not() {
        let base = Model::chat("m", 1);
        assert_eq!(base.copied_to("n").digest(), base.digest());
        assert_ne!(base.with_adapter("m:v1").digest(), base.digest());
        assert_eq!(base.digest().len(), 64);
    }
}
