//! The loaders beside the replicas: what they have told of adapters, and what they are asked to keep.
//!
//! Each has two tasks on the control thread. One waits for its word ([`told`] takes it in), one renews the lease on the names
//! that requests may go to ([`leases`]). Both decisions are pure and under one lock; a name that goes is let go of there before
//! the loader hears of it, and the table is built on the same thread: so no table ever leads to a name without a lease that its
//! loader does not want any more.

mod leases;
mod neighbours;
mod pace;
mod probe;
mod reach;
pub(crate) mod status;
mod told;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tutti_api::{AdapterPath, EngineName, Phase, Timestamp};

use self::leases::{Lease, TTL};
pub(crate) use self::neighbours::Neighbours;
use self::pace::Pace;
pub(crate) use self::probe::{Outcomes, Trial, watch};
pub(crate) use self::reach::Reach;
use self::reach::Unasked;
pub use self::status::{AdapterStatus, LoaderStatus};
pub(crate) use self::told::{Adapter, Word, why};
use self::told::{List, Told};
use crate::adapters;
use crate::discovery::Lead;
use crate::replica::Replica;
use crate::shared::Shared;

/// How long a loader is asked to wait for news. Unit: seconds.
const WAIT: u64 = 30;
/// How much longer its answer may take.
const GRACE: Duration = Duration::from_secs(10);
/// How soon it is asked after an answer: many changes at once are one.
const GAP: Duration = Duration::from_millis(100);
/// How soon it is asked after it has not answered, at first; doubled each time.
const FIRST: Duration = Duration::from_millis(250);
/// At last.
const LONGEST: Duration = Duration::from_secs(10);
/// How often it is looked what is used.
const LOOK: Duration = Duration::from_secs(1);
/// How long a loader may take to take a lease.
const LEASE_WITHIN: Duration = Duration::from_secs(5);
/// How long a gateway that ends waits until its loaders have heard that it needs nothing any more.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

/// The loader beside a replica. Tables refer to it; who was told of it last goes on renewing its lease until the replica has no
/// request left.
#[derive(Debug)]
pub struct Loader {
    reach: Arc<Reach>,
    heard: Arc<Mutex<Heard>>,
    /// Has what is used looked at.
    look: Arc<Notify>,
    news: Arc<Notify>,
    /// What the table has slots for, beside what serves: a probe runs.
    trial: Mutex<Option<Trial>>,
    /// Who renews the lease.
    leasing: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Heard {
    told: Told,
    lease: Lease,
    pace: Pace,
    /// The name that was probed last.
    probed: Option<String>,
    /// When it last answered.
    at: Option<Timestamp>,
    /// Why it does not answer, if it does not.
    failing: Option<String>,
}

/// What is shown of a loader.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) url: String,
    /// When it last answered. Unit: seconds since 1970.
    pub(crate) at: Option<i64>,
    /// Why it does not answer, if it does not.
    pub(crate) failing: Option<String>,
    pub(crate) adapters: Vec<Adapter>,
    /// The names that it has promised to keep.
    pub(crate) leased: Vec<EngineName>,
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loader {
    /// Begins to ask the loader that is reached so, beside this replica, which other pools may have among theirs (`neighbours`).
    /// `news` is notified where requests are to go elsewhere. Called on the control thread's runtime.
    pub(crate) fn start(
        reach: Reach,
        replica: &Arc<Replica>,
        neighbours: Arc<Neighbours>,
        news: Arc<Notify>,
    ) -> Arc<Self> {
        let reach = Arc::new(reach);
        let (heard, look) = (Arc::new(Mutex::new(Heard::default())), Arc::new(Notify::new()));
        let loader = Arc::new(Self {
            reach: reach.clone(),
            heard: heard.clone(),
            look: look.clone(),
            news: news.clone(),
            trial: Mutex::default(),
            leasing: Mutex::default(),
        });
        tokio::spawn(listen(Arc::downgrade(&loader), news.clone()));
        let leasing = Leasing {
            // Each loader of a gateway is another holder: two may be beside one engine, in two pools.
            holder: format!("{:016x}", crate::random()),
            named: Arc::downgrade(&loader),
            replica: Arc::downgrade(replica),
            neighbours,
            reach,
            heard,
            look,
            news,
        };
        *loader.leasing.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::spawn(leasing.run()));
        loader
    }

    /// The name to ask DNS for, where it has one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.reach.name()
    }

    /// Takes note of what DNS said of its name.
    pub(crate) fn locate(&self, lead: Lead) {
        self.reach.locate(lead);
    }

    /// What the table is to have slots for on the replica, beside what serves.
    pub(crate) fn trial(&self) -> Option<Trial> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trial(&self, trial: Option<Trial>) {
        *self.trial.lock().unwrap_or_else(PoisonError::into_inner) = trial;
        self.news.notify_one();
    }

    /// How many probes it asks for, and when all will have had their turn, as far as can be told.
    pub(crate) fn probes(&self, share: f64) -> (usize, Option<Duration>) {
        let heard = lock(&self.heard);
        let wanted = heard.told.probes();
        (wanted, heard.pace.finish(wanted, share, Instant::now()))
    }

    /// Has what is used looked at: the table has changed.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Gives the lease back, for good; yields who does.
    fn let_go(&self) -> Option<JoinHandle<()>> {
        lock(&self.heard).lease.end();
        self.look.notify_one();
        self.leasing.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What is known of the name under which its engine serves an adapter.
    pub(crate) fn word(&self, path: &str) -> Word {
        let Ok(path) = path.parse::<AdapterPath>() else { return Word::None };
        lock(&self.heard).told.word(&path)
    }

    /// How it has an adapter.
    pub(crate) fn adapter(&self, path: &str) -> Option<Adapter> {
        lock(&self.heard).told.adapter(&path.parse().ok()?).cloned()
    }

    /// The names under which its engine serves anything.
    pub(crate) fn names(&self) -> Vec<EngineName> {
        lock(&self.heard).told.names().cloned().collect()
    }

    /// Whether a name is of its making: no model of its own to show.
    pub(crate) fn is_its_own(&self, name: &str) -> bool {
        lock(&self.heard).told.is_its_own(name)
    }

    /// How many adapters are in each phase, of those phases in which some are.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (Phase, usize)> {
        let phases: Vec<Phase> = lock(&self.heard).told.adapters().filter_map(|adapter| adapter.phase).collect();
        Phase::ALL.into_iter().map(move |phase| (phase, phases.iter().filter(|other| **other == phase).count()))
    }

    /// Whether it answered the last time.
    pub(crate) fn answers(&self) -> bool {
        let heard = lock(&self.heard);
        heard.at.is_some() && heard.failing.is_none()
    }

    /// What people are shown.
    pub(crate) fn shown(&self) -> Shown {
        let mut heard = lock(&self.heard);
        let leased = heard.lease.promised(Instant::now()).iter().cloned().collect();
        Shown {
            url: self.reach.to_string(),
            at: heard.at.map(Timestamp::unix),
            failing: heard.failing.clone(),
            adapters: heard.told.adapters().cloned().collect(),
            leased,
        }
    }

    /// Takes an answer in; whether requests go elsewhere now.
    fn hear(&self, list: List) -> bool {
        let mut heard = lock(&self.heard);
        let Heard { told, lease, at, failing, .. } = &mut *heard;
        if failing.take().is_some() {
            tracing::info!(loader = %self.reach, "a loader answers again");
        }
        *at = Some(Timestamp::now());
        told.hear(list, lease.promised(Instant::now()))
    }

    fn failed(&self, why: String) {
        let mut heard = lock(&self.heard);
        if heard.failing.is_none() {
            tracing::warn!(loader = %self.reach, why, "a loader does not answer: what was ready serves on");
        }
        heard.failing = Some(why);
    }
}

/// Gives all leases back: this gateway has sent its last request. A loader that does not hear of it keeps what it has promised
/// until the lease is over.
pub(crate) async fn let_go(shared: &Shared) {
    let table = shared.table().clone();
    let loaders = table.pools.iter().flat_map(|pool| pool.loaders.iter().flatten());
    let leasing: Vec<JoinHandle<()>> = loaders.filter_map(|loader| loader.let_go()).collect();
    let all = async {
        for one in leasing {
            let _ = one.await;
        }
    };
    let _ = tokio::time::timeout(LET_GO_WITHIN, all).await;
}

/// Waits for a loader's word, again and again, until no table refers to it.
async fn listen(loader: Weak<Loader>, news: Arc<Notify>) {
    let Some(reach) = loader.upgrade().map(|loader| loader.reach.clone()) else { return };
    let (mut known, mut pause) = (None, FIRST);
    loop {
        // One that was started anew may come to the same number: after each failure all is heard again.
        let (path, within) = match &known {
            Some((_, version)) => {
                (format!("/v1/adapters?since={version}&wait={WAIT}"), Duration::from_secs(WAIT) + GRACE)
            }
            None => ("/v1/adapters?wait=0".to_owned(), GRACE),
        };
        let answer = reach.ask(Method::GET, &path, None, within).await.map_err(|why| why.to_string());
        let Some(loader) = loader.upgrade() else { return };
        let rest = match answer.and_then(|body| List::read(&body)) {
            Ok(list) => {
                let now = (list.instance.clone(), list.version);
                let is_other = known.replace(now.clone()).is_some_and(|known| known.0 != now.0);
                if is_other {
                    tracing::info!(loader = %reach, "a loader was started anew");
                }
                if loader.hear(list) {
                    news.notify_one();
                }
                pause = FIRST;
                GAP
            }
            Err(why) => {
                known = None;
                loader.failed(why);
                let rest = pause;
                pause = LONGEST.min(pause * 2);
                rest
            }
        };
        drop(loader);
        tokio::time::sleep(rest).await;
    }
}

/// Who renews a lease.
struct Leasing {
    holder: String,
    named: Weak<Loader>,
    replica: Weak<Replica>,
    neighbours: Arc<Neighbours>,
    reach: Arc<Reach>,
    heard: Arc<Mutex<Heard>>,
    look: Arc<Notify>,
    news: Arc<Notify>,
}

impl Leasing {
    /// Renews it until no table refers to the loader, and no request of its replica is left.
    async fn run(self) {
        let mut failing = false;
        loop {
            if lock(&self.heard).lease.is_over() {
                let _ = self.put(&BTreeSet::new(), Duration::ZERO).await; // else it ends by itself
                return;
            }
            let is_named = self.named.strong_count() > 0;
            let used = self.used(is_named);
            if !is_named && used.is_empty() && !self.is_promised_anything() {
                return;
            }
            if let Some(names) = self.ask(used) {
                let asked = Instant::now();
                match self.put(&names, TTL).await {
                    Ok(_) => {
                        lock(&self.heard).lease.granted(names, asked);
                        failing = false;
                    }
                    Err(why) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(loader = %self.reach, %why, "a loader takes no lease");
                        }
                    }
                }
            }
            // A lease that was not taken is tried again a moment later.
            let _ = tokio::time::timeout(LOOK, self.look.notified()).await;
        }
    }

    async fn put(&self, names: &BTreeSet<EngineName>, ttl: Duration) -> Result<(), Unasked> {
        let lease = json!({ "holder": self.holder, "names": names, "ttlMs": ttl.as_millis() as u64 });
        let body = Some(lease.to_string().into_bytes());
        self.reach.ask(Method::PUT, "/v1/leases", body, LEASE_WITHIN).await.map(drop)
    }

    /// The names of the engine's slots that somebody has: the table, and requests that wait or run, of whichever pool the engine
    /// is in. For the engine has a name once: a loader that takes it away for its pool takes it from all. Where no table names the
    /// loader any more, those of requests of its own pool that run.
    fn used(&self, is_named: bool) -> BTreeSet<EngineName> {
        let replicas = if is_named { self.neighbours.all() } else { self.replica.upgrade().into_iter().collect() };
        let slots = replicas.iter().flat_map(|replica| replica.all_slots());
        let used = slots.filter(|slots| is_named || slots.view().in_flight > 0);
        used.filter_map(|slots| adapters::of_a_loader(&slots.name)).collect()
    }

    /// What to ask for now, where it is time; what goes, no table leads to from now on.
    fn ask(&self, used: BTreeSet<EngineName>) -> Option<BTreeSet<EngineName>> {
        let now = Instant::now();
        let mut heard = lock(&self.heard);
        let Heard { told, lease, .. } = &mut *heard;
        let names = lease.ask(used, now);
        if told.keeps(lease.promised(now)) {
            self.news.notify_one();
        }
        names
    }

    fn is_promised_anything(&self) -> bool {
        !lock(&self.heard).lease.promised(Instant::now()).is_empty()
    }
}

#[cfg(test)]
mod tests;
