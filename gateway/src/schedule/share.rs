//! Runners that several groups share, and on which terms they take turns.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::watch;
use tutti_api::{PoolSpec, canonical};

use super::core::{Batching, RunnerId, SlotId};
use super::slots::Slots;
use crate::classify::{LoadWith, Pins};
use crate::errors::Code;
use crate::exchange::NoHead;
use crate::fetch::Unfetched;
use crate::health::Cause;
use crate::limits::Seldom;
use crate::replica::Replica;
use crate::{fetch, inventory, weights};

/// A runner of a replica, and the slots that exclude each other there.
#[derive(Clone, Debug)]
pub struct Sharing {
    pub(super) runner: RunnerId,
    pub(super) slots: Vec<Arc<Slots>>,
}

impl Sharing {
    /// Whose weights the runner has, as far as is known, on this replica.
    pub(crate) fn loaded_on(&self, replica: &Replica) -> Option<&str> {
        let mut here = self.slots.iter().filter(|slots| std::ptr::eq(replica, &raw const *slots.replica));
        here.find(|slots| !slots.view().away).map(|slots| &*slots.name)
    }

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
                cold_wait: spec.queue.cold_wait.get(),
            },
            loading: Loading { pins: Pins::of(spec), within: spec.timeouts.first_byte.get() },
        }
    }
}

impl Loading {
    /// Has a replica load a group's weights, and nothing else: a request without a prompt (Ollama's API, "Load a model").
    ///
    /// # Errors
    /// Why it did not.
    pub(super) async fn load(self, slots: &Slots, with: &LoadWith) -> Result<Duration, NotLoaded> {
        let begun = Instant::now();
        let body = |name: &str, value: Value| {
            let mut body = Map::new();
            body.insert("model".to_owned(), Value::from(&*slots.name));
            body.insert(name.to_owned(), value);
            let mut options = with.options.as_deref().map(runner_options).unwrap_or_default();
            let pinned = self.pins.options();
            options.extend(pinned.filter_map(|(name, json)| Some((name.to_owned(), serde_json::from_str(json).ok()?))));
            if !options.is_empty() {
                body.insert("options".to_owned(), Value::Object(options));
            }
            Value::Object(body).to_string()
        };
        let post = |path: &'static str, body: String| fetch::post(&slots.replica, path, body, self.within);
        let generate = post("/api/generate", body("stream", Value::from(false))).await;
        let loaded = match generate {
            // A model that only embeds.
            Ok(answer) if answer.status == http::StatusCode::BAD_REQUEST => {
                post("/api/embed", body("input", Value::Array(Vec::new()))).await
            }
            other => other,
        };
        let not = match loaded {
            Ok(answer) if answer.status.is_success() => return Ok(begun.elapsed()),
            // What it says of itself, as of any request (`handle::attempt`). A 400 says nothing of it.
            Ok(answer) => {
                let cause = match answer.status.as_u16() {
                    404 => Some(Cause::Missing),
                    503 => Some(Cause::Busy),
                    500.. => Some(Cause::Error),
                    _ => None,
                };
                NotLoaded { code: Code::UpstreamError, cause, why: format!("the replica answered {}", answer.status) }
            }
            Err(Unfetched::NoHead(NoHead::Connect(why))) => NotLoaded { code: Code::NoReplica, cause: None, why },
            Err(Unfetched::NoHead(NoHead::Local(why))) => NotLoaded { code: Code::Overloaded, cause: None, why },
            Err(Unfetched::Late(after)) => NotLoaded {
                code: Code::UpstreamTimeout,
                cause: Some(Cause::Silent),
                why: format!("no answer within {after:?}"),
            },
            Err(error) => NotLoaded { code: Code::UpstreamError, cause: Some(Cause::Closed), why: error.to_string() },
        };
        static NOT: Seldom = Seldom::new();
        if let Some(unsaid) = NOT.say() {
            let (replica, model, why) = (&*slots.replica.url, &*slots.name, &*not.why);
            tracing::warn!(replica, model, why, unsaid, "a model is not loaded");
        }
        Err(not)
    }
}

/// Why weights were not loaded.
#[derive(Debug)]
pub(super) struct NotLoaded {
    /// What those are told who wait for them.
    pub(super) code: Code,
    /// What it says of the replica, or of the model there.
    pub(super) cause: Option<Cause>,
    why: String,
}

/// Of a client's options those that a runner is started with.
fn runner_options(json: &[u8]) -> Map<String, Value> {
    let mut options: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
    options.retain(|name, value| {
        weights::PARAMETERS.contains(&name.as_str()) && (value.is_number() || value.is_boolean())
    });
    options
}

/// How often weights were loaded, and how long that took.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    done: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

impl Loads {
    pub(super) fn count(&self, took: Option<Duration>) {
        match took {
            Some(took) => {
                self.done.fetch_add(1, Relaxed);
                self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Relaxed);
            }
            None => {
                self.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// By outcome.
    pub(crate) fn told(&self) -> [(&'static str, u64); 2] {
        [("loaded", self.done.load(Relaxed)), ("failed", self.failed.load(Relaxed))]
    }

    /// Microseconds of those that were done.
    pub(crate) fn micros(&self) -> u64 {
        self.micros.load(Relaxed)
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
