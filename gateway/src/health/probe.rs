//! One token from a replica that has been silent: an Ollama can hang while its lists are as green as ever.
//!
//! [`Pulse`] says when, and is pure. A probe takes a slot as any request does, and asks only for a model that is in the
//! replica's memory, as it was loaded: nothing is loaded for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tutti_api::{Engine, ProbeSpec, canonical};

use super::core::Event;
use super::{Cause, hear};
use crate::exchange::NoHead;
use crate::fetch::{self, Fetched, Unfetched};
use crate::replica::Replica;
use crate::schedule::{Permit, Slots, SlotsId};
use crate::shared::Shared;
use crate::table::{Pool, Table};

/// The longest pause between two looks at who is silent; else it is a quarter of the shortest interval.
const SELDOM: Duration = Duration::from_secs(1);
/// The shortest.
const OFTEN: Duration = Duration::from_millis(20);
/// How long a replica may take to say what it holds in memory.
const LIST_WITHIN: Duration = Duration::from_secs(2);

/// When a pool's replicas are probed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probing {
    interval: Duration,
    timeout: Duration,
}

impl Probing {
    /// As configured; `None`: never.
    pub(crate) fn of(spec: &ProbeSpec) -> Option<Self> {
        let (interval, timeout) = (spec.interval.get(), spec.timeout.get());
        (!interval.is_zero()).then_some(Self { interval, timeout })
    }
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A token.
    Answered,
    /// Nothing in time.
    Silent,
    /// An error, or no connection.
    Failed,
    /// It was not sent: nothing is in memory that it could be sent for, or no slot was free.
    Skipped,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Outcome; 4] = [Outcome::Answered, Outcome::Silent, Outcome::Failed, Outcome::Skipped];

    /// As metrics say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Silent => "silent",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// How long a replica has been silent.
#[derive(Debug, Default)]
struct Pulse {
    /// Since when it has had something to say, and not said it.
    since: Option<Instant>,
    /// What answered last.
    last: Option<SlotsId>,
}

impl Pulse {
    /// Looks at it. `heard`: what has answered since the last look; `owes`: it has requests, or is ejected. True where it
    /// is to be probed.
    fn look(&mut self, heard: Option<SlotsId>, owes: bool, interval: Duration, now: Instant) -> bool {
        self.last = heard.or(self.last);
        if heard.is_some() || !owes {
            self.since = owes.then_some(now);
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let due = now.saturating_duration_since(since) >= interval;
        if due {
            self.since = Some(now);
        }
        due
    }
}

/// Looks at all replicas, now and then, and probes those that are silent.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut pulses: HashMap<u64, (Pulse, Option<JoinHandle<()>>)> = HashMap::new();
    let mut pause = SELDOM;
    loop {
        tokio::time::sleep(pause).await;
        let table = shared.table().clone();
        let now = Instant::now();
        let mut known = HashMap::new();
        pause = SELDOM;
        for (pool, probing) in table.pools.iter().filter_map(|pool| Some((pool, pool.probing?))) {
            if pool.serving().nth(1).is_none() {
                continue; // a lone replica is asked whatever it does
            }
            pause = pause.min((probing.interval / 4).max(OFTEN));
            for replica in pool.serving() {
                let (mut pulse, running) = pulses.remove(&replica.id).unwrap_or_default();
                let running = running.filter(|probe| !probe.is_finished());
                let due = running.is_none() && is_due(&mut pulse, pool, replica, probing.interval, now);
                let running = if due {
                    let (table, pool, replica) = (table.clone(), pool.clone(), replica.clone());
                    Some(tokio::spawn(probe(table, pool, replica, probing, pulse.last)))
                } else {
                    running
                };
                known.insert(replica.id, (pulse, running));
            }
        }
        pulses = known;
    }
}

fn is_due(pulse: &mut Pulse, pool: &Pool, replica: &Replica, interval: Duration, now: Instant) -> bool {
    let all = replica.all_slots();
    let heard = all.iter().filter(|slots| slots.take_heard()).fold(None, |_, slots| Some(slots.id()));
    let owes = all.iter().any(|slots| slots.view().in_flight > 0) || pool.owner.health.is_ejected(replica);
    pulse.look(heard, owes, interval, now) && pool.owner.health.is_reachable(replica)
}

/// Probes a replica, and has what comes of it heard.
async fn probe(table: Arc<Table>, pool: Arc<Pool>, replica: Arc<Replica>, probing: Probing, last: Option<SlotsId>) {
    let question = match pool.engine {
        Engine::Ollama => of_ollama(&pool, &replica).await,
        Engine::Openai => of_openai(&table, &pool, &replica, last).await,
    };
    let outcome = match question {
        Some(question) => question.ask(&pool, &replica, probing).await,
        None => Outcome::Skipped,
    };
    tracing::debug!(pool = &*pool.name, replica = &*replica.url, outcome = outcome.name(), "probe");
    pool.owner.health.probed(outcome);
}

/// What to ask: a path and a body, and the same for a model that only embeds. The slot is taken.
struct Question {
    permit: Permit,
    generates: (&'static str, Value),
    embeds: (&'static str, Value),
}

/// A question for a model in an Ollama's memory, as it was loaded.
async fn of_ollama(pool: &Pool, replica: &Arc<Replica>) -> Option<Question> {
    let fetched =
        fetch::get(replica, "/api/ps", LIST_WITHIN).await.ok().filter(|fetched| fetched.status.is_success())?;
    let list: Value = serde_json::from_slice(&fetched.body).ok()?;
    let all = replica.all_slots();
    for resident in list["models"].as_array()? {
        let (Some(name), Some(num_ctx)) = (resident["name"].as_str(), resident["context_length"].as_u64()) else {
            continue; // an Ollama that does not say how it was loaded
        };
        let key = canonical(name);
        let Some(slots) = all.iter().find(|slots| *slots.name == *key && !slots.is_strange()) else { continue };
        let Some(options) = options(pool, num_ctx) else { continue };
        if let Some(permit) = pool.owner.spare(slots).await {
            let mut generate = options.clone();
            generate.insert("num_predict".to_owned(), 1.into());
            let generates = json!({
                "model": name, "prompt": "1", "raw": true, "stream": false, "options": generate,
            });
            let embeds = json!({ "model": name, "input": "1", "options": options });
            return Some(Question { permit, generates: ("/api/generate", generates), embeds: ("/api/embed", embeds) });
        }
    }
    None
}

/// The options that a model was loaded with, where they are those of the pool.
fn options(pool: &Pool, num_ctx: u64) -> Option<Map<String, Value>> {
    let mut options = Map::new();
    for (name, json) in pool.pins.options() {
        let value: Value = serde_json::from_str(json).ok()?;
        if name == "num_ctx" && value != num_ctx {
            return None; // whoever loaded it did not come through the gateway
        }
        options.insert(name.to_owned(), value);
    }
    options.insert("num_ctx".to_owned(), num_ctx.into());
    Some(options)
}

/// A question for a model that a server of OpenAI's API is working on, or else for the one that answered last: it says
/// nothing of its memory.
async fn of_openai(table: &Table, pool: &Arc<Pool>, replica: &Arc<Replica>, last: Option<SlotsId>) -> Option<Question> {
    let mut all = replica.all_slots();
    let works = |slots: &Slots| slots.view().in_flight > 0;
    all.retain(|slots| works(slots) || Some(slots.id()) == last);
    all.sort_by_key(|slots| !works(slots));
    for slots in all {
        let Some(route) = table.leading_to(pool, &slots.name).next() else { continue };
        if let Some(permit) = pool.owner.spare(&slots).await {
            let name = route.engine_name();
            let generates = json!({
                "model": name, "messages": [{ "role": "user", "content": "1" }], "max_tokens": 1, "stream": false,
            });
            let embeds = json!({ "model": name, "input": "1" });
            let (chat, embeddings) = ("/v1/chat/completions", "/v1/embeddings");
            return Some(Question { permit, generates: (chat, generates), embeds: (embeddings, embeds) });
        }
    }
    None
}

impl Question {
    async fn ask(&self, pool: &Pool, replica: &Replica, probing: Probing) -> Outcome {
        let sent = Instant::now();
        let ask = async |(path, body): &(&'static str, Value)| {
            fetch::post(replica, path, body.to_string(), probing.timeout.saturating_sub(sent.elapsed())).await
        };
        let status = |answer: Result<Fetched, Unfetched>| answer.map(|answer| answer.status.as_u16());
        // One that only embeds is refused for what it is, before anything is tried; or the server has no other API.
        let judged = match status(ask(&self.generates).await) {
            Ok(first) if is_refusal(first) => status(ask(&self.embeds).await).map(|then| judged(first, then)),
            Ok(only) => Ok(judged(only, only)),
            Err(why) => Err(why),
        };
        match judged {
            Ok(Ok(outcome)) => {
                if outcome == Outcome::Answered {
                    self.permit.answered(sent);
                }
                outcome
            }
            Ok(Err(cause)) => self.failed(cause, sent),
            Err(Unfetched::Late(_)) => {
                // By then the next one is over.
                let at_least = 2 * (probing.interval + probing.timeout);
                hear(&pool.owner, Event::Unanswered(replica.id, at_least));
                Outcome::Silent
            }
            Err(Unfetched::NoHead(NoHead::Connect(_))) => {
                self.permit.unreachable();
                Outcome::Failed
            }
            Err(Unfetched::NoHead(NoHead::Local(_))) => Outcome::Skipped,
            Err(Unfetched::NoHead(NoHead::Broken(_)) | Unfetched::Broken(_)) => self.failed(Cause::Closed, sent),
        }
    }

    fn failed(&self, cause: Cause, sent: Instant) -> Outcome {
        self.permit.failed(cause, sent);
        Outcome::Failed
    }
}

/// Whether a status says that the question was wrong.
fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) || status == 501
}

/// What the statuses of the first question and of the last come to.
fn judged(first: u16, last: u16) -> Result<Outcome, Cause> {
    match (first, last) {
        (_, 200..300) => Ok(Outcome::Answered),
        (401, _) | (_, 401) => Err(Cause::Denied),
        (404, 404) => Err(Cause::Missing),
        (503 | 429, _) | (_, 503 | 429) => Err(Cause::Busy),
        (_, last) if is_refusal(last) => Ok(Outcome::Skipped),
        _ => Err(Cause::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_does_not_fit_says_nothing_of_the_replica() {
        for (first, last) in [(400, 404), (404, 400), (400, 400), (501, 404), (404, 501), (422, 403)] {
            assert_eq!(judged(first, last), Ok(Outcome::Skipped), "{first} {last}");
        }
        assert_eq!((judged(404, 200), judged(200, 200)), (Ok(Outcome::Answered), Ok(Outcome::Answered)));
        assert_eq!((judged(404, 404), judged(401, 401)), (Err(Cause::Missing), Err(Cause::Denied)));
        assert_eq!(
            (judged(503, 503), judged(429, 404), judged(400, 500)),
            (Err(Cause::Busy), Err(Cause::Busy), Err(Cause::Error))
        );
    }

    #[test]
    fn who_owes_an_answer_and_gives_none_for_an_interval_is_due_once_an_interval() {
        let (begun, interval) = (Instant::now(), Duration::from_secs(10));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut pulse = Pulse::default();
        assert!(!pulse.look(None, false, interval, at(0)));
        assert!(!pulse.look(None, false, interval, at(100)), "it has nothing to say");
        assert!(!pulse.look(None, true, interval, at(101)));
        assert!(!pulse.look(None, true, interval, at(110)));
        assert!(!pulse.look(Some(7), true, interval, at(111)), "it answers");
        assert!(!pulse.look(None, true, interval, at(120)));
        assert!(pulse.look(None, true, interval, at(121)));
        assert!(!pulse.look(None, true, interval, at(130)));
        assert!(pulse.look(None, true, interval, at(131)));
        assert!(!pulse.look(None, false, interval, at(145)), "all have gone");
        assert!(!pulse.look(None, true, interval, at(146)));
        assert_eq!(pulse.last, Some(7));
    }
}
