//! Adapters are proven on replicas that serve by whoever schedules the pool: a probe has its turn among requests, and takes no
//! more of the replica's time than `adapters.probeShare`. The loader says what to ask, and judges what came of it.
//!
//! A probe has a [`Trial`] in the table while it runs: slots for the candidate's staging name, and for the base, which share the
//! replica's runner with all others of that base. So the scheduler lets those end that run, has the weights loaded, and goes on
//! with others after it, as between any two adapters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokio::task::JoinHandle;
use tutti_api::{Priority, ProbeRequest, ProbeResult};

use super::pace::Load;
use super::reach::Unasked;
use super::{Loader, lock};
use crate::classify::LoadWith;
use crate::ending::Phase;
use crate::errors::Code;
use crate::fetch;
use crate::peer::{self, Whose};
use crate::replica::Replica;
use crate::schedule::{Permit, Place, Ticket, Verdict};
use crate::shared::Shared;
use crate::table::{Pool, Table};

/// How often it is looked whether there is a moment for a probe.
const LOOK: Duration = Duration::from_millis(50);
/// How long the table may take to hold a trial.
const TABLE_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether it does.
const TABLE_LOOK: Duration = Duration::from_millis(10);
/// How long an answer may take: 64 tokens, and a load where the scheduler knows of none.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How long a loader may take to hear of it.
const TELL_WITHIN: Duration = Duration::from_secs(10);

/// Most of an engine's error that is passed on. Unit: characters.
const MAX_SAID: usize = 300;

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered, and the loader has heard.
    Answered,
    /// The replica refused it, or did not answer; the loader has heard.
    Failed,
    /// It did not get its turn in time.
    NoTurn,
    /// Nobody waits for it any more, or the loader does not answer.
    Unwanted,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::NoTurn, Self::Unwanted];

    /// As metrics say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::NoTurn => "no_turn",
            Self::Unwanted => "unwanted",
        }
    }
}

/// How often each became of one, of a pool.
#[derive(Debug, Default)]
pub(crate) struct Outcomes([AtomicU64; Outcome::ALL.len()]);

impl Outcomes {
    fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Relaxed);
    }

    /// By what became of them.
    pub(crate) fn told(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome, self.0[outcome as usize].load(Relaxed)))
    }
}

/// The names that a replica has slots for while a probe runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial(Vec<String>);

impl Trial {
    fn of(request: &ProbeRequest) -> Self {
        Self(request.base.iter().cloned().chain([request.staging_name.to_string()]).collect())
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }
}

/// Looks at all loaders, now and then, and runs the probes that they ask for.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut running: HashMap<u64, JoinHandle<()>> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        running.retain(|_, probe| !probe.is_finished());
        if shared.ending.has_reached(Phase::Leaving) {
            continue;
        }
        let table = shared.table().clone();
        for pool in table.pools.iter().filter(|pool| schedules(&shared, pool)) {
            let Some(share) = pool.probe_share else { continue };
            for (replica, loader) in pool.with_loaders() {
                let Some(loader) = loader.filter(|_| !running.contains_key(&replica.id)) else { continue };
                if let Some(request) = due(pool, replica, loader) {
                    let (shared, pool, replica, loader) =
                        (shared.clone(), pool.clone(), replica.clone(), loader.clone());
                    let id = replica.id;
                    let probe = async move { probe(&shared, &pool, &replica, &loader, request, share).await };
                    running.insert(id, tokio::spawn(probe));
                }
            }
        }
    }
}

/// Whether this gateway schedules a pool.
fn schedules(shared: &Shared, pool: &Pool) -> bool {
    let peers = shared.peers.as_ref().filter(|_| peer::one_schedules(pool));
    peers.is_none_or(|peers| matches!(peers.whose(pool), Whose::Here))
}

/// The probe that is made now, if one is.
fn due(pool: &Pool, replica: &Replica, loader: &Loader) -> Option<ProbeRequest> {
    let mut heard = lock(&loader.heard);
    let Some(request) = heard.told.probe_after(heard.probed.as_deref()).cloned() else {
        heard.pace.rests();
        return None;
    };
    if pool.drained.contains(&replica.id) || !pool.owner.health.is_reachable(replica) {
        return None;
    }
    let load = match (pool.owner.queued(), replica.in_flight()) {
        (0, 0) => Load::Idle,
        (0, _) => Load::Quiet,
        _ => Load::Busy,
    };
    heard.pace.may(load, Instant::now()).then(|| {
        heard.probed = Some(request.engine_name.to_string());
        request
    })
}

/// Runs a probe, and tells the loader what came of it.
async fn probe(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    replica: &Arc<Replica>,
    loader: &Arc<Loader>,
    request: ProbeRequest,
    share: f64,
) {
    let trial = Trial::of(&request);
    loader.set_trial(Some(trial.clone()));
    let held = Held(loader);
    let begun = Instant::now();
    let hold = lock(&loader.heard).pace.hold(pool.wait);
    let mut turns = Turns { shared, replica, trial: &trial, hold, loads: Duration::ZERO };
    let result = turns.ask_both(&request).await;
    // Whoever comes next has the weights loaded anew, which takes as long.
    let (cost, loads) = (begun.elapsed(), turns.loads);
    drop(held);
    let outcome = match result {
        None => Outcome::NoTurn,
        Some(result) => {
            let path = format!("/v1/probes/{}", request.engine_name);
            let failed = result.error.is_some();
            let body = serde_json::to_vec(&result).ok();
            match loader.reach.ask(Method::PUT, &path, body, TELL_WITHIN).await {
                Ok(_) if failed => Outcome::Failed,
                Ok(_) => Outcome::Answered,
                Err(Unasked::Refused(_) | Unasked::Failed(_)) => Outcome::Unwanted,
            }
        }
    };
    lock(&loader.heard).pace.took(begun, cost + loads, share, outcome != Outcome::NoTurn);
    pool.owner.proofs.count(outcome);
    tracing::debug!(pool = &*pool.name, replica = &*replica.url, name = %request.engine_name, outcome = outcome.name(), "an adapter's probe");
}

/// A trial that is in the table. Dropping it takes it out.
struct Held<'l>(&'l Loader);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.set_trial(None);
    }
}

/// The turns of one probe.
struct Turns<'p> {
    shared: &'p Arc<Shared>,
    replica: &'p Arc<Replica>,
    trial: &'p Trial,
    /// How long requests may be held back for each.
    hold: Duration,
    /// What it took to get the last turn.
    loads: Duration,
}

impl Turns<'_> {
    /// Asks base and candidate; `None` where there was no turn to be had.
    async fn ask_both(&mut self, request: &ProbeRequest) -> Option<ProbeResult> {
        let mut result = ProbeResult::default();
        if let Some(base) = &request.base {
            match self.ask(base, &request.request).await? {
                Ok(answer) => result.base = Some(answer),
                Err(failed) => return Some(failed),
            }
        }
        match self.ask(request.staging_name.as_str(), &request.request).await? {
            Ok(answer) => result.candidate = Some(answer),
            Err(failed) => return Some(failed),
        }
        Some(result)
    }

    /// Asks one model in its turn.
    async fn ask(&mut self, model: &str, question: &Value) -> Option<Result<Value, ProbeResult>> {
        let asked = Instant::now();
        let permit = match self.turn(model).await? {
            Ok(permit) => permit,
            Err(failed) => return Some(Err(failed)),
        };
        self.loads = asked.elapsed();
        let mut body = question.clone();
        let fields = body.as_object_mut()?;
        fields.insert("model".to_owned(), model.into());
        fields.insert("stream".to_owned(), false.into());
        let answer = fetch::post(self.replica, "/api/chat", body.to_string(), ANSWER_WITHIN).await;
        drop(permit);
        let failed =
            |error: String, refused: bool| ProbeResult { error: Some(error), refused, ..ProbeResult::default() };
        Some(match answer {
            Ok(answer) if answer.status.is_success() => {
                serde_json::from_slice(&answer.body).map_err(|_| failed("the engine answers no JSON".to_owned(), false))
            }
            Ok(answer) => {
                let busy = matches!(answer.status.as_u16(), 502..=504);
                let why = format!("the engine answers {} for {model}: {}", answer.status, said(&answer.body));
                Err(failed(why, !busy))
            }
            Err(why) => Err(failed(why.to_string(), false)),
        })
    }

    /// A slot on the replica; or that it does not load the weights.
    async fn turn(&self, model: &str) -> Option<Result<Permit, ProbeResult>> {
        let until = Instant::now() + TABLE_WITHIN;
        // Their share of the time is what probes have; in it they stand in line as others do, for weights that only bulk
        // waits for are not loaded on a replica that others use all the time.
        let ticket = Ticket { class: Priority::Normal, ..Ticket::default() };
        let mut place = Place::of(ticket, LoadWith::default());
        let mut asks = None;
        while Instant::now() < until {
            let table: Arc<Table> = self.shared.table().clone();
            let found = table.trial(self.replica.id, self.trial).and_then(|targets| targets.get(model).cloned());
            let owner = table.pools.iter().find(|pool| *pool.name == *self.replica.pool).map(|pool| pool.owner.clone());
            let Some((target, owner)) = found.zip(owner) else {
                tokio::time::sleep(TABLE_LOOK).await;
                continue;
            };
            let last = *asks.get_or_insert_with(|| Instant::now() + self.hold);
            match owner.acquire(&target, table.generation, last, &mut place, None).await {
                Verdict::Go(permit) => return Some(Ok(permit)),
                Verdict::Reroute => tokio::task::yield_now().await,
                // Who waits for a turn would wait for ever: it was tried twice, some time apart.
                Verdict::Refused(Code::UpstreamError, _) => {
                    let error = Some(format!("the engine does not load {model}: its own log says why"));
                    return Some(Err(ProbeResult { error, refused: true, again: true, ..ProbeResult::default() }));
                }
                Verdict::Refused(..) => return None,
            }
        }
        None
    }
}

/// What an engine says of its error: the loader knows which of them it would say again.
fn said(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = json["error"].as_str().map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    text.chars().take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_error_is_passed_on_and_no_more_than_is_read() {
        assert_eq!(said(br#"{"error":"loras are not yet implemented"}"#), "loras are not yet implemented");
        assert_eq!(said(b"bad gateway"), "bad gateway");
        assert_eq!(said("风".repeat(1000).as_bytes()).chars().count(), MAX_SAID);
    }
}
