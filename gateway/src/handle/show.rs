//! `/api/show`: what a replica says of a model. It takes no slot, and waits for none.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use tutti_api::Engine;

use super::attempt::{Attempt, no_head, too_late};
use crate::answers;
use crate::classify::Edits;
use crate::errors::{Code, Failure};
use crate::exchange::{Line, NoHead, ResponseBody};
use crate::health;
use crate::json::{self, Kind};
use crate::settle::Settlement;
use crate::table::Route;

/// How long a replica may take to say what it knows of a model: it reads files, and loads nothing.
const WITHIN: Duration = Duration::from_secs(10);

impl Attempt<'_> {
    /// Asks the replicas that have the model, one after the other, those that are trusted first, until one answers.
    pub(super) async fn show(&mut self, settlement: &mut Settlement) -> Result<Response<ResponseBody>, Failure> {
        let (_, route) = self.route(&mut false).await?;
        settlement.record.served = Some(route.served.clone());
        if route.pool.engine != Engine::Ollama {
            return Ok(answers::shown(&route));
        }
        let mut slots: Vec<_> = route.target.slots().iter().collect();
        slots.sort_by_key(|slots| slots.view().suspect);
        let mut failure = Failure::new(Code::NoReplica, "the pool has no replica for this model");
        for replica in slots.into_iter().map(|slots| slots.replica.clone()) {
            settlement.asks(&replica);
            let request = self.request(&route, &replica, settlement)?;
            let sent = tokio::time::timeout(WITHIN, Line::send(&replica, request, route.pool.connect)).await;
            failure = match sent {
                Ok(Ok(answer)) => return self.answer(&route, answer, settlement).await,
                Ok(Err(why)) => {
                    // That it answers this says nothing of whether it can generate: it is not forgiven for that.
                    if matches!(why, NoHead::Connect(_)) {
                        health::unreachable(&route.pool.owner, &replica);
                    }
                    no_head(why)
                }
                Err(_) => too_late(WITHIN),
            };
        }
        Err(failure)
    }

    /// The answer with the names that clients use; all else as the replica has it.
    pub(super) fn shown(&self, route: &Route, body: Bytes) -> Bytes {
        if route.engine_name.is_none() {
            return body;
        }
        let table = self.shared.table();
        let parent = |engine_name: &str| {
            let mut routes = table.leading_to(&route.pool, engine_name);
            let route = routes.find(|route| answers::may_use(self.caller, &table, route));
            route.map(|route| route.served.model.to_string()).unwrap_or_default()
        };
        let pieces = renaming(&body, &self.reading.facts.model, parent).apply(&body);
        if let [only] = pieces.as_slice() { only.clone() } else { pieces.concat().into() }
    }
}

/// What makes an answer to `/api/show` name `model`, and its base as `parent` calls that; nothing where it is no such
/// answer.
fn renaming(body: &[u8], model: &str, parent: impl Fn(&str) -> String) -> Edits {
    let (mut modelfile, mut details) = (None, None);
    let scanned = json::members(body, |member| match (&body[member.key], member.kind) {
        (b"modelfile", Kind::String) => modelfile = Some(member.value),
        (b"details", Kind::Object) => details = Some(member.value),
        _ => {}
    });
    let mut edits = Edits::default();
    if scanned.is_err() {
        return edits;
    }
    let text = |raw: &[u8]| serde_json::from_slice::<String>(raw).unwrap_or_default();
    let quoted = |text: String| Bytes::from(Value::from(text).to_string());
    if let Some(range) = modelfile {
        edits.replace(range.clone(), quoted(renamed(&text(&body[range]), model)));
    }
    if let Some(within) = details {
        let start = within.start;
        // It is well formed: the object around it was read already.
        let _ = json::members(&body[within.clone()], |member| {
            let value = start + member.value.start..start + member.value.end;
            if &body[within.clone()][member.key] == b"parent_model" && member.kind == Kind::String {
                edits.replace(value.clone(), quoted(parent(&text(&body[value]))));
            }
        });
    }
    edits
}

/// A modelfile whose comment says how to build on this very model: `# FROM name`.
fn renamed(modelfile: &str, model: &str) -> String {
    let renamed = |line: &str| if line.starts_with("# FROM ") { format!("# FROM {model}") } else { line.to_owned() };
    modelfile.split('\n').map(renamed).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_names_the_model_as_clients_do() {
        let said = |from: &str, parent: &str| {
            json!({
                "license": "\u{1f600}",
                "modelfile": format!("# Modelfile generated by \"ollama show\"\n# FROM {from}\n\nFROM /blobs/sha256-1\n"),
                "details": { "parent_model": parent, "families": ["a", "b"] },
                "model_info": { "modelfile": "# FROM x", "n": 1.50 },
            })
        };
        let parent = |name: &str| if name == "base:latest" { "base".to_owned() } else { String::new() };
        for (before, after) in [("base:latest", "base"), ("hidden:latest", ""), ("", "")] {
            let body = Bytes::from(said("engine:v1-0a", before).to_string());
            let changed = renaming(&body, "risk@v2 \"x\"", parent).apply(&body).concat();
            let changed: Value = serde_json::from_slice(&changed).unwrap();
            assert_eq!(changed, said("risk@v2 \"x\"", after));
        }
        for strange in ["", "[]", "{\"modelfile\":1}", "{\"details\":null}", "{\"details\":{}}"] {
            let body = Bytes::copy_from_slice(strange.as_bytes());
            assert_eq!(renaming(&body, "m", parent).apply(&body).concat(), strange.as_bytes());
        }
    }
}
