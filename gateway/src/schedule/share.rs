//! Runners that several groups share, and on which terms they take turns.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tutti_api::PoolSpec;

use super::core::Batching;
use super::slots::Slots;
use crate::classify::{LoadWith, Pins};
use crate::errors::Code;
use crate::exchange::NoHead;
use crate::fetch::Unfetched;
use crate::health::Cause;
use crate::limits::Seldom;
use crate::replica::Replica;
use crate::{fetch, weights};

/// A runner of a replica, and the slots that exclude each other there.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// Where it is.
    pub(super) replica: u64,
    /// The base that it has.
    pub(super) base: Box<str>,
    /// Each with its group.
    pub(super) slots: Vec<(Arc<Slots>, Box<str>)>,
}

impl Sharing {
    /// That of a base on a replica.
    pub fn new(replica: u64, base: &str, slots: Vec<(Arc<Slots>, Box<str>)>) -> Self {
        Self { replica, base: base.into(), slots }
    }
}

/// What of a pool's replicas shares runners, and what is held beside each other.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// The runners that several groups share.
    pub runners: Vec<Sharing>,
    /// The replicas that serve models of several bases.
    pub mixed: Vec<Mixed>,
}

/// A replica that serves models of several bases: it may hold some of them at once, or all, or one.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// Which.
    pub replica: Arc<Replica>,
    /// The base of each name, which is canonical.
    pub bases: HashMap<Box<str>, Box<str>>,
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
    /// The longest that one may take.
    most: Duration,
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
            loading: Loading { pins: Pins::of(spec), most: spec.timeouts.first_byte.get() },
        }
    }
}

impl Loading {
    /// Has a replica load a group's weights, and nothing else: a request without a prompt (Ollama's API, "Load a model"). It is
    /// given up after so long, and then the replica gives it up too: it ties a load to who asked for it.
    ///
    /// # Errors
    /// Why it did not.
    pub(super) async fn load(self, slots: &Slots, with: &LoadWith, within: Duration) -> Result<Duration, NotLoaded> {
        let (begun, within) = (Instant::now(), within.min(self.most));
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
            // Never a client's: others wait for the weights too.
            if let Some(stay) = self.pins.keep_alive_of_load().and_then(|json| serde_json::from_str(json).ok()) {
                body.insert("keep_alive".to_owned(), stay);
            }
            Value::Object(body).to_string()
        };
        let post = |path: &'static str, body: String| fetch::post(&slots.replica, path, body, within);
        let generate = || post("/api/generate", body("stream", Value::from(false)));
        let loaded = match generate().await {
            // It may have been missed while another name was deleted (`handle::attempt`).
            Ok(answer) if answer.status == http::StatusCode::NOT_FOUND => generate().await,
            other => other,
        };
        let loaded = match loaded {
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
    unasked: AtomicU64,
    micros: AtomicU64,
}

impl Loads {
    pub(super) fn count(&self, took: Option<Duration>) {
        match took {
            Some(took) => {
                self.done.fetch_add(1, Relaxed);
                self.lose(took);
            }
            None => {
                self.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// A replica has loaded weights that were taken to be there, and a request had to wait for that.
    pub(super) fn count_unasked(&self, took: Duration) {
        self.unasked.fetch_add(1, Relaxed);
        self.lose(took);
    }

    fn lose(&self, took: Duration) {
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Relaxed);
    }

    /// By outcome.
    pub(crate) fn told(&self) -> [(&'static str, u64); 3] {
        let [done, failed, unasked] = [&self.done, &self.failed, &self.unasked].map(|count| count.load(Relaxed));
        [("loaded", done), ("failed", failed), ("unasked", unasked)]
    }

    /// Microseconds of all that were done.
    pub(crate) fn micros(&self) -> u64 {
        self.micros.load(Relaxed)
    }
}
