//! The engine beside the loader: what it has, and how weights get there.
//!
//! What an Ollama does was seen on 0.11.4: a create from a base that is not there would pull it from outside, so the base is
//! listed first; a create takes no lock, so one goes at a time; nearly every call walks all manifests, and one that meets the
//! deletion of another name fails with an error that says nothing of itself (500 `stat …`, 400 `model is required`, 404), so
//! what it refuses is asked again before it is believed.

mod base;
mod claims;
mod doubt;
mod http;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tutti_api::{Digest, EngineName, Reason, ReplicaUrl};

pub(crate) use base::{BaseFacts, listed_base};
pub(crate) use claims::Claim;
pub(crate) use doubt::{REFUSALS, is_certain};

use crate::pipeline::Failure;
use claims::Claims;
use doubt::Doubt;
use http::Said;

/// How long a small question may take.
const SMALL: Duration = Duration::from_secs(15);
/// How long a create may take: it copies and looks at whole models.
const CREATE: Duration = Duration::from_secs(1800);
/// How long a blob may take to go there.
const SEND: Duration = Duration::from_secs(3600);
/// How long an answer may take: a base may have to be loaded first.
const ASK: Duration = Duration::from_secs(600);
/// Most of a pool's name that stands in that namespace, where more does. Unit: bytes.
const MAX_POOL: usize = 50;
/// A parameter that engines without adapters refuse in a create (0.34.2: 400 `typical_p is no longer supported`).
const TYPICAL_P: &str = "typical_p";

/// An Ollama.
#[derive(Debug)]
pub(crate) struct Ollama {
    url: ReplicaUrl,
    staging: Staging,
    /// One model is made, or taken away, at a time.
    makes: Arc<Mutex<()>>,
    /// What it was found to take, as long as it answers.
    takes: Mutex<Option<Takes>>,
    /// The staging names that somebody works towards.
    claims: Claims,
}

/// What an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Adapters beside their base.
    Adapters,
    /// Whole models alone: adapters are merged into the base.
    MergedOnly,
}

/// Why an engine does not do what is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// It does not answer, or not now.
    #[error("the engine at {engine} does not answer ({path}): {why}")]
    Unavailable { engine: String, path: String, why: String },
    /// It says no.
    #[error("the engine refuses {what}: {why}")]
    Refused { what: String, why: String },
    /// A file that it should get cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: String },
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Refused { .. } => Self::judged(Reason::EngineRefused, error.to_string()),
            EngineError::Unavailable { .. } => Self::passing(Reason::EngineUnavailable, error.to_string()),
            EngineError::Unreadable { .. } => Self::passing(Reason::InvalidFile, error.to_string()),
        }
    }
}

/// What an engine knows candidates by until they are proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staging {
    namespace: String,
}

impl Staging {
    /// Of a pool's loaders: its name is in it, for two pools may share an engine.
    pub(crate) fn of(pool: &str) -> Self {
        let mut own = pool.to_ascii_lowercase();
        if own != pool {
            // Ollama folds case; two pools' names may differ by it alone. No pool's name has a `_`.
            own.truncate(MAX_POOL);
            own = format!("{own}_{}", &crate::identity::of(pool.as_bytes()).hex()[..8]);
        }
        Self { namespace: format!("{}{own}/", EngineName::STAGING) }
    }

    /// The name of the candidate that is to have this one.
    pub(crate) fn name(&self, name: &EngineName) -> EngineName {
        // The tenant goes into the model's name: three parts would begin with a host.
        let (model, tag) = name.as_str().split_once(':').unwrap_or((name.as_str(), "latest"));
        let model: String = model.replace('/', "_.").chars().take(80).collect();
        format!("{}{model}:{tag}", self.namespace).parse().expect("parts of a name make a name")
    }

    /// Whether a name is of a candidate.
    pub(crate) fn has(&self, name: &EngineName) -> bool {
        name.as_str().starts_with(&self.namespace)
    }
}

impl Ollama {
    /// At this address, for the loader of this pool. Nothing is asked yet.
    pub(crate) fn new(url: &ReplicaUrl, pool: &str) -> Self {
        Self {
            url: url.clone(),
            staging: Staging::of(pool),
            makes: Arc::default(),
            takes: Mutex::default(),
            claims: Claims::default(),
        }
    }

    /// What it knows candidates by.
    pub(crate) fn staging(&self) -> &Staging {
        &self.staging
    }

    /// Its models and their digests.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn models(&self) -> Result<HashMap<EngineName, String>, EngineError> {
        Ok(self.listed().await?.into_iter().map(|listed| (listed.name, listed.digest)).collect())
    }

    async fn listed(&self) -> Result<Vec<Listed>, EngineError> {
        let said = self.sure(Method::GET, "/api/tags", None, SMALL, "to list its models").await;
        if matches!(said, Err(EngineError::Unavailable { .. })) {
            *self.takes.lock().await = None; // whoever answers next may be another
        }
        let json = said?;
        let of = |model: &Value| {
            let (as_it_is, digest) = (model["name"].as_str()?.to_owned(), model["digest"].as_str()?.to_owned());
            Some(Listed { name: as_it_is.parse().ok()?, as_it_is, digest })
        };
        Ok(json["models"].as_array().into_iter().flatten().filter_map(of).collect())
    }

    /// What it shows of a base that it lists under a digest.
    ///
    /// # Errors
    /// It does not answer, or has no such base.
    pub(crate) async fn show(&self, base: &str, listed: &str) -> Result<BaseFacts, EngineError> {
        let body = json!({ "model": base, "verbose": true });
        let what = format!("to show {base}");
        let shown = self.sure(Method::POST, "/api/show", Some(&body), SMALL, &what).await?;
        BaseFacts::read(listed, &shown).map_err(|why| EngineError::Refused { what, why })
    }

    /// What it takes, found out by asking for a model of an adapter that is nowhere, on no base: an engine that takes none says
    /// so before it looks (0.34.1: 400 `LoRA adapters are no longer supported`), another misses the base (0.11.4: 400), and
    /// neither has anything to look for outside.
    ///
    /// # Errors
    /// It does not answer, or not to the question.
    pub(crate) async fn takes(&self) -> Result<Takes, EngineError> {
        const PATH: &str = "/api/create";
        // Never held while the engine is asked: who makes a model may want to forget what is known.
        if let Some(takes) = *self.takes.lock().await {
            return Ok(takes);
        }
        let nowhere = format!("sha256:{}", "0".repeat(64));
        let name = format!("{}preflight:latest", self.staging.namespace);
        let body = json!({ "model": name, "adapters": { "adapter.gguf": nowhere }, "stream": false });
        // It makes nothing, so it has no turn to wait for.
        let said = http::ask(&self.url, Method::POST, PATH, Some(&body), SMALL).await?;
        let error = said.error().to_ascii_lowercase();
        let takes = match said.status {
            StatusCode::BAD_REQUEST if error.contains("supported") => Takes::MergedOnly,
            StatusCode::BAD_REQUEST => Takes::Adapters,
            status => {
                let why = format!("{status} {error}");
                return Err(EngineError::Unavailable { engine: self.url.to_string(), path: PATH.to_owned(), why });
            }
        };
        tracing::info!(engine = %self.url, ?takes, "what the engine takes");
        *self.takes.lock().await = Some(takes);
        Ok(takes)
    }

    /// The right to make models. Who has it sees no model taken away meanwhile, nor the blob of one: a blob that nothing refers
    /// to goes with the last model that did.
    pub(crate) async fn making(&self) -> Making<'_> {
        Making { engine: self, one: Arc::new(self.makes.clone().lock_owned().await) }
    }

    /// Gives a model a second name.
    ///
    /// # Errors
    /// It does not answer, or has no such model.
    pub(crate) async fn copy(&self, from: &EngineName, to: &EngineName) -> Result<(), EngineError> {
        let body = json!({ "source": from, "destination": to });
        self.sure(Method::POST, "/api/copy", Some(&body), SMALL, to.as_str()).await.map(drop)
    }

    /// Takes a name away; one that is not there is gone already.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn delete(&self, name: &EngineName) -> Result<(), EngineError> {
        let _one = self.makes.lock().await;
        self.forget(name).await
    }

    async fn forget(&self, name: &EngineName) -> Result<(), EngineError> {
        let body = json!({ "model": name });
        let said = http::ask(&self.url, Method::DELETE, "/api/delete", Some(&body), SMALL).await?;
        if said.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        self.success("/api/delete", said, name.as_str()).map(drop)
    }

    /// Says that somebody works towards a staging name, as long as the claim is kept.
    pub(crate) fn claim(&self, staged: &EngineName) -> Claim {
        self.claims.claim(staged)
    }

    /// Takes a staging name away that nobody works towards; yields whether it did. Looked at when nobody can make one: whoever
    /// wants to has a claim by then.
    ///
    /// # Errors
    /// As [`Self::delete`].
    pub(crate) async fn delete_orphan(&self, staged: &EngineName) -> Result<bool, EngineError> {
        self.delete_if(staged, || (!self.claims.has(staged)).then_some(())).await
    }

    /// Takes a name away, if it `may` go: looked at when its turn has come, for while another model is made that may be long
    /// after somebody has decided it. What `may` yields is kept until the engine has answered; yields whether it went.
    ///
    /// # Errors
    /// As [`Self::delete`].
    pub(crate) async fn delete_if<G>(
        &self,
        name: &EngineName,
        may: impl FnOnce() -> Option<G>,
    ) -> Result<bool, EngineError> {
        let _one = self.makes.lock().await;
        let Some(_goes) = may() else { return Ok(false) };
        self.forget(name).await.map(|()| true)
    }

    /// Asks a model; yields the body of its answer.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn ask(&self, model: &str, request: &Value) -> Result<Value, EngineError> {
        let mut request = request.clone();
        (request["model"], request["stream"]) = (json!(model), false.into());
        self.sure(Method::POST, "/api/chat", Some(&request), ASK, "to answer the probe").await
    }

    /// What it answers, as JSON; asked again where it refuses.
    async fn sure(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
        what: &str,
    ) -> Result<Value, EngineError> {
        let mut doubt = Doubt::new();
        loop {
            let said = http::ask(&self.url, method.clone(), path, body, within).await?;
            let answer = self.success(path, said, what);
            if !doubt.holds(&answer).await {
                return Ok(answer?.json());
            }
        }
    }

    /// An answer that is a success; an engine that is too busy is asked again.
    fn success(&self, path: &str, said: Said, what: &str) -> Result<Said, EngineError> {
        match said.status {
            status if status.is_success() => Ok(said),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                let why = format!("{} {}", said.status, said.error());
                Err(EngineError::Unavailable { engine: self.url.to_string(), path: path.to_owned(), why })
            }
            status => Err(EngineError::Refused {
                what: what.to_owned(),
                why: format!("{} {}", status.as_u16(), said.error()),
            }),
        }
    }
}

/// A model that an engine lists.
#[derive(Debug)]
struct Listed {
    name: EngineName,
    /// In the engine's own letters.
    as_it_is: String,
    digest: String,
}

/// The right to make models.
#[derive(Debug)]
pub(crate) struct Making<'e> {
    engine: &'e Ollama,
    one: Arc<OwnedMutexGuard<()>>,
}

impl Making<'_> {
    /// Gives it a blob, unless it has it.
    ///
    /// # Errors
    /// It does not answer, does not take it, or the file cannot be read or has another content.
    pub(crate) async fn ensure_blob(&self, file: &Path, digest: &Digest) -> Result<(), EngineError> {
        let path = format!("/api/blobs/{digest}");
        let said = http::ask(&self.engine.url, Method::HEAD, &path, None, SMALL).await?;
        if said.status.is_success() {
            return Ok(());
        }
        let said = http::send(&self.engine.url, &path, file, SEND).await?;
        self.engine.success(&path, said, "the artefact").map(drop)
    }

    /// Makes a model of a base and an adapter's blob.
    ///
    /// # Errors
    /// It does not answer, has no such base, or refuses.
    pub(crate) async fn create_adapter(&self, name: &EngineName, base: &str, blob: &Digest) -> Result<(), EngineError> {
        let mut doubt = Doubt::new();
        loop {
            let made = self.try_adapter(name.as_str(), base, blob).await;
            if !doubt.holds(&made).await {
                return made;
            }
        }
    }

    /// One try: with the base looked for anew, for what has gone meanwhile would be looked for outside.
    async fn try_adapter(&self, name: &str, base: &str, blob: &Digest) -> Result<(), EngineError> {
        let listed = self.engine.listed().await?;
        let Some(base) = base.parse().ok().and_then(|base: EngineName| listed.into_iter().find(|l| l.name == base))
        else {
            let why = format!("it has no base {base}, and would look for it outside");
            return Err(EngineError::Refused { what: name.to_owned(), why });
        };
        // In its own letters: by others it would not find it, and look for it outside (0.11.4, 0.34.2).
        let create = json!({ "from": base.as_it_is, "adapters": { "adapter.gguf": blob } });
        self.try_create(name, create.as_object().cloned().unwrap_or_default()).await
    }

    /// Makes a model of a blob that behaves like a base, as far as an engine `takes` what that has.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn create_model(
        &self,
        name: &EngineName,
        blob: &Digest,
        like: &BaseFacts,
        takes: Takes,
    ) -> Result<(), EngineError> {
        let mut create = like.like.clone();
        let mut files = Map::new();
        files.insert("model.gguf".to_owned(), json!(blob));
        for (number, digest) in like.projectors.iter().enumerate() {
            files.insert(format!("projector-{number}.gguf"), json!(digest));
        }
        create.insert("files".to_owned(), files.into());
        let parameters = create.get_mut("parameters").and_then(Value::as_object_mut);
        if takes == Takes::MergedOnly && parameters.is_some_and(|all| all.remove(TYPICAL_P).is_some()) {
            tracing::warn!(%name, "the base has {TYPICAL_P}, which this engine takes no more: what is merged goes without");
        }
        self.create(name.as_str(), create).await
    }

    /// Makes a model of a blob, in the words of `/api/create`.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn create_of(
        &self,
        name: &str,
        blob: &Digest,
        mut words: Map<String, Value>,
    ) -> Result<(), EngineError> {
        words.insert("files".to_owned(), json!({ "model.gguf": blob }));
        self.create(name, words).await
    }

    async fn create(&self, name: &str, body: Map<String, Value>) -> Result<(), EngineError> {
        let mut doubt = Doubt::new();
        loop {
            let made = self.try_create(name, body.clone()).await;
            if !doubt.holds(&made).await {
                return made;
            }
        }
    }

    async fn try_create(&self, name: &str, mut body: Map<String, Value>) -> Result<(), EngineError> {
        body.insert("model".to_owned(), json!(name));
        body.insert("stream".to_owned(), false.into());
        let said = self.engine.success("/api/create", self.create_once(body).await?, name)?;
        // Some failures come with a status of success.
        match said.json()["error"].as_str() {
            Some(_) => Err(EngineError::Refused { what: name.to_owned(), why: said.error() }),
            None => Ok(()),
        }
    }

    async fn create_once(&self, body: Map<String, Value>) -> Result<Said, EngineError> {
        // Ollama goes on with a create whose caller has left (0.11.4), so whoever comes next waits for it all the same.
        let (url, one) = (self.engine.url.clone(), self.one.clone());
        let create = async move {
            let said = http::ask(&url, Method::POST, "/api/create", Some(&body.into()), CREATE).await;
            drop(one);
            said
        };
        tokio::spawn(create).await.map_err(|error| EngineError::Unavailable {
            engine: self.engine.url.to_string(),
            path: "/api/create".to_owned(),
            why: error.to_string(),
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_names_are_names_and_known_by_their_looks() {
        let staging = Staging::of("Qwen-1");
        for (name, expected) in [
            ("risk:v2-1a2b3c4d5e6f", "tutti-staging-qwen-1_d21d9548/risk:v2-1a2b3c4d5e6f"),
            ("acme/risk:v2-1a2b3c4d5e6f", "tutti-staging-qwen-1_d21d9548/acme_.risk:v2-1a2b3c4d5e6f"),
        ] {
            let name: EngineName = name.parse().unwrap();
            assert_eq!(staging.name(&name).as_str(), expected);
            assert!(staging.has(&staging.name(&name)) && !staging.has(&name));
            for other in ["qwen", "qwen-1", "QWEN-1"] {
                assert!(!Staging::of(other).has(&staging.name(&name)), "another pool's");
            }
        }
        let long: EngineName = format!("{}/{}:v", "t".repeat(80), "m".repeat(80)).parse().unwrap();
        for pool in ["p".repeat(63), "P".repeat(63)] {
            assert!(Staging::of(&pool).name(&long).as_str().len() > 100);
        }
    }
}
