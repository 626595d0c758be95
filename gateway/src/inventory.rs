//! What a replica has, in the words of its engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tutti_api::{Engine, Timestamp};

use crate::answers;
use crate::classify::Api;
use crate::fetch;
use crate::health;
use crate::replica::Replica;
use crate::shared::Shared;
use crate::table::{Apis, Available, Table};
use crate::weights::Known;

/// How long it may take to answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Most models that one replica is asked about at a time.
const ASKED_ABOUT: usize = 500;
/// How many are asked at once. Unit: replicas.
const AT_ONCE: usize = 256;

/// In place of a digest that nobody says. Ollama's command line cuts a digest without looking at its length.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a replica answered.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Whether it answered at all.
    pub(crate) reached: bool,
    /// Whether it is this gateway itself, and no replica.
    pub(crate) ourselves: bool,
    /// What it has, newest first; `None` where it did not say.
    pub(crate) models: Option<Vec<Available>>,
    /// Which APIs it has that not every replica has; `None` where it did not say.
    pub(crate) apis: Option<Apis>,
}

/// A path at which a replica of this engine answers something, whatever it is busy with.
pub(crate) fn sign_of_life(engine: Engine) -> &'static str {
    match engine {
        Engine::Ollama => "/api/version",
        Engine::Openai => "/v1/models",
    }
}

/// Asks replicas of a table what they have: all, or those that `which` wants. Who cannot be reached goes behind the
/// others.
pub(crate) async fn ask_all(
    table: &Table,
    shared: &Arc<Shared>,
    which: impl Fn(&Replica) -> bool,
) -> Vec<(Arc<Replica>, Heard)> {
    let mut asking = JoinSet::new();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let all = table.pools.iter().flat_map(|pool| pool.replicas.iter().map(move |replica| (pool, replica)));
    for (pool, replica) in all.filter(|(_, replica)| which(replica)) {
        let (pool, replica, shared, room) = (pool.clone(), replica.clone(), shared.clone(), room.clone());
        asking.spawn(async move {
            let _room = room.acquire().await;
            let heard = ask(&replica, &shared.instance, &shared.weights).await;
            if !heard.reached {
                health::unreachable(&pool.owner, &replica);
            }
            (replica, heard)
        });
    }
    let mut answers = Vec::new();
    while let Some(answered) = asking.join_next().await {
        answers.extend(answered.ok());
    }
    answers
}

/// Asks a replica what it has. `instance` tells this gateway from others.
async fn ask(replica: &Replica, instance: &HeaderValue, known: &Known) -> Heard {
    // A list of many models may take its time; who does not even say a version cannot be reached.
    let Ok(fetched) = fetch::get(replica, sign_of_life(replica.engine), WITHIN).await else {
        return Heard { reached: false, ourselves: false, models: None, apis: None };
    };
    if fetched.headers.get(answers::INSTANCE) == Some(instance) {
        return Heard { reached: true, ourselves: true, models: None, apis: None };
    }
    let models = match replica.engine {
        Engine::Ollama => {
            version(replica, &fetched.body);
            tags(replica, known).await
        }
        Engine::Openai => fetched.status.is_success().then(|| models(&fetched.body)).flatten(),
    };
    Heard { reached: true, ourselves: false, models, apis: apis(replica).await }
}

/// Which of the later APIs a replica has. It is asked by the wrong method: a path that it has wants POST (405), one that it
/// has not it does not know (404). Versions say less: one that was built from source calls itself 0.0.0.
async fn apis(replica: &Replica) -> Option<Apis> {
    let has = async |api: Api| match fetch::get(replica, api.path(), WITHIN).await.ok()?.status {
        StatusCode::METHOD_NOT_ALLOWED => Some(true),
        status if status.is_server_error() => None,
        _ => Some(false),
    };
    Some(Apis { responses: has(Api::OpenAiResponses).await?, messages: has(Api::AnthropicMessages).await? })
}

/// Takes note of an Ollama's version.
fn version(replica: &Replica, body: &[u8]) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(version) = body["version"].as_str() {
        replica.set_version(version.to_owned());
    }
}

async fn tags(replica: &Replica, known: &Known) -> Option<Vec<Available>> {
    let fetched = fetch::get(replica, "/api/tags", WITHIN).await.ok().filter(|fetched| fetched.status.is_success())?;
    let (mut available, mut asks, begun) = (Vec::new(), ASKED_ABOUT, Instant::now());
    for entry in listed(&fetched.body)? {
        let Some(name) = entry["name"].as_str().map(str::to_owned) else { continue };
        let weights = match known.known(&entry) {
            Some(weights) => weights,
            // One that does not answer holds up nothing; the others are asked for the next time.
            None if asks > 0 && begun.elapsed() < WITHIN => match known.ask(replica, &entry, WITHIN).await {
                Ok(weights) => {
                    asks -= 1;
                    weights
                }
                Err(_) => {
                    asks = 0;
                    None
                }
            },
            None => None,
        };
        available.push(Available { name, entry, weights });
    }
    Some(sorted(available))
}

/// The entries of `/api/tags` or `/api/ps`; `None` where it is neither.
pub(crate) fn listed(body: &[u8]) -> Option<Vec<Value>> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    body.get_mut("models")?.as_array_mut().map(std::mem::take)
}

/// What `GET /v1/models` lists, each as an entry of `/api/tags` with all that is known for one.
fn models(body: &[u8]) -> Option<Vec<Available>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let available = |model: &Value| {
        let name = model["id"].as_str()?.to_owned();
        let created = Timestamp::from_unix(model["created"].as_i64().unwrap_or(0)).to_string();
        let details = json!({
            "parent_model": "", "format": "", "family": "", "families": null, "parameter_size": "",
            "quantization_level": "",
        });
        let entry = json!({
            "name": name, "model": name, "modified_at": created, "size": 0, "digest": NO_DIGEST,
            "details": details, answers::OWNED_BY: model["owned_by"],
        });
        Some(Available { name, entry, weights: None })
    };
    Some(sorted(body["data"].as_array()?.iter().filter_map(available).collect()))
}

/// The newest first. Ollama lists those of one second in another order each time, which would be news each time.
fn sorted(mut models: Vec<Available>) -> Vec<Available> {
    let modified = |model: &Available| model.entry["modified_at"].as_str().unwrap_or_default().to_owned();
    models.sort_by(|a, b| modified(b).cmp(&modified(a)).then_with(|| a.name.cmp(&b.name)));
    models
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_lists_nothing() {
        assert_eq!(listed(br#"{"models":[{"name":"a"},1]}"#), Some(vec![json!({ "name": "a" }), json!(1)]));
        for strange in ["", "[]", "[1]", "1", "\"models\"", "{}", r#"{"models":null}"#, r#"{"models":{}}"#, "<html>"] {
            assert_eq!(listed(strange.as_bytes()), None, "{strange}");
        }
    }

    #[test]
    fn what_openai_lists_is_what_ollama_would() {
        let list = br#"{"object":"list","data":[
            {"id":"old","object":"model","created":1,"owned_by":"me"},
            {"id":"Acme/New","created":86400},
            {"created":3}]}"#;
        let models = models(list).unwrap();
        let named: Vec<(&str, &str)> =
            models.iter().map(|model| (&*model.name, model.entry["modified_at"].as_str().unwrap())).collect();
        assert_eq!(named, [("Acme/New", "1970-01-02T00:00:00Z"), ("old", "1970-01-01T00:00:01Z")]);
        assert_eq!(models[1].entry["owned_by"], "me");
        assert_eq!(super::models(b"<html>"), None);
        assert_eq!(super::models(br#"{"data":null}"#), None);
    }
}
