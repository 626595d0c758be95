//! Runners that several groups share, and on which terms they take turns.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::watch;
use tutti_api::{PoolSpec, canonical};

use super::core::{Batching, RunnerId, SlotId};
use super::slots::Slots;
use crate::classify::Pins;
use crate::{fetch, inventory};

/// A runner of a replica, and the slots that exclude each other there.
#[derive(Clone, Debug)]
pub struct Sharing {
    pub(super) runner: RunnerId,
    pub(super) slots: Vec<Arc<Slots>>,
}

impl Sharing {
    /// That of a base on a replica.
    pub fn new(replica: u64, base: &str, slots: Vec<Arc<Slots>>) -> Self {
        let mut hasher = DefaultHasher::new();
        (replica, base).hash(&mut hasher);
        Self { runner: hasher.finish(), slots }
    }
}

/// What a pool's specification says of its queue.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Most requests that wait.
    pub(super) bound: usize,
    pub(super) batching: Batching,
    pub(super) loading: Loading,
}

/// How weights are loaded.
#[derive(Clone, Debug, Default)]
pub(super) struct Loading {
    /// What every request for the pool pins, and a load with them.
    pins: Pins,
    within: Duration,
}

impl Terms {
    /// Those of a pool.
    pub fn of(spec: &PoolSpec) -> Self {
        Self {
            bound: spec.queue.size as usize,
            batching: Batching {
                max_wait: spec.batching.max_wait.duration(),
                quantum: spec.batching.quantum.duration(),
            },
            loading: Loading { pins: Pins::of(spec), within: spec.timeouts.first_byte.get() },
        }
    }
}

impl Loading {
    /// Has a replica load a group's weights, and nothing else: a request without a prompt (Ollama's API, "Load a model").
    /// `None`: it did not.
    pub(super) async fn load(self, slots: Arc<Slots>) -> Option<Duration> {
        let begun = Instant::now();
        let body = |more: &[(&str, Value)]| {
            let mut body = Map::new();
            body.insert("model".to_owned(), Value::from(&*slots.name));
            body.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            let options: Map<String, Value> = (self.pins.options())
                .filter_map(|(name, json)| Some((name.to_owned(), serde_json::from_str(json).ok()?)))
                .collect();
            if !options.is_empty() {
                body.insert("options".to_owned(), Value::Object(options));
            }
            if let Some(keep_alive) = self.pins.keep_alive().and_then(|json| serde_json::from_str(json).ok()) {
                body.insert("keep_alive".to_owned(), keep_alive);
            }
            Value::Object(body).to_string()
        };
        let post = |path: &'static str, body: String| fetch::post(&slots.replica, path, body, self.within);
        let generate = post("/api/generate", body(&[("stream", Value::from(false))])).await;
        let loaded = match generate {
            // A model that only embeds.
            Ok(answer) if answer.status == http::StatusCode::BAD_REQUEST => {
                post("/api/embed", body(&[("input", Value::Array(Vec::new()))])).await
            }
            other => other,
        };
        match loaded {
            Ok(answer) if answer.status.is_success() => Some(begun.elapsed()),
            Ok(answer) => {
                tracing::warn!(replica = %slots.replica.url, model = %slots.name, status = %answer.status, "a model is not loaded");
                None
            }
            Err(error) => {
                tracing::warn!(replica = %slots.replica.url, model = %slots.name, %error, "a model is not loaded");
                None
            }
        }
    }
}

/// How often a replica is asked what it holds.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// Asks the replicas now and then what they hold, one after the other, as long as somebody wants to know: they may have been
/// restarted, have let go of weights, or be used by others.
pub(super) async fn watch(
    sharing: watch::Receiver<Vec<Sharing>>,
    tell: impl Fn(RunnerId, Vec<SlotId>, Instant) -> bool,
) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let runners = sharing.borrow().clone();
        for Sharing { runner, slots } in runners {
            let Some(replica) = slots.first().map(|slots| slots.replica.clone()) else { continue };
            let asked = Instant::now();
            let Ok(answer) = fetch::get(&replica, "/api/ps", ASK_WITHIN).await else { continue };
            let Some(held) = inventory::listed(&answer.body).filter(|_| answer.status.is_success()) else { continue };
            let is_held = |slots: &&Arc<Slots>| {
                let mut names = held.iter().filter_map(|entry| entry["name"].as_str());
                names.any(|name| canonical(name) == *slots.name)
            };
            let held = slots.iter().filter(is_held).map(|slots| slots.id()).collect();
            if !tell(runner, held, asked) {
                return;
            }
        }
        if sharing.has_changed().is_err() {
            return; // the pool is gone
        }
    }
}
