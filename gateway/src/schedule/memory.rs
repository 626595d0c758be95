//! What replicas hold in memory, as they say when they are asked.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tutti_api::canonical;

use super::share::{Mixed, Shared, Sharing};
use super::slots::SlotsId;
use crate::replica::Replica;
use crate::{answers, fetch, inventory};

/// How often a replica is asked what it holds.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How many are asked at once.
const AT_ONCE: usize = 16;
/// How long it may take to say so.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// What a replica holds of what shares a runner, and when it was asked.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) of: Sharing,
    pub(super) held: Vec<SlotsId>,
    pub(super) asked: Instant,
}

/// Why a replica is asked at once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// It has loaded weights: those of another base may be gone, for it was one too many.
    Loaded(u64),
    /// What it was taken to hold it did not.
    Doubted(u64),
}

/// A replica, and what is to be known of it.
struct Asked {
    replica: Arc<Replica>,
    runners: Vec<Sharing>,
    mixed: Option<Mixed>,
}

/// Asks the replicas now and then what they hold, a few at a time and each once at a time: they may have been restarted, have
/// let go of weights, or be used by others. `asks`: which are asked at once. `changed` hears where it has become known that
/// bases exclude each other on a replica, or no longer.
pub(super) async fn watch(
    shared: watch::Receiver<Shared>,
    mut asks: mpsc::Receiver<Ask>,
    changed: Arc<Notify>,
    tell: impl Fn(Resident) -> bool + Clone + Send + 'static,
) {
    let mut every = tokio::time::interval_at((Instant::now() + ASK_EVERY).into(), ASK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut due, mut urgent) = (VecDeque::new(), VecDeque::new());
    let mut asking = JoinSet::new();
    // Who is being asked; and who again then, for what he is about to say may be old.
    let (mut under_way, mut again) = (HashSet::<u64>::new(), HashSet::<u64>::new());
    loop {
        tokio::select! {
            // Who has not been asked yet since the last time is not asked twice.
            _ = every.tick(), if due.is_empty() => due.extend(asked(&shared.borrow(), None)),
            Some(ask) = asks.recv(), if urgent.len() < AT_ONCE => {
                let meant = asked(&shared.borrow(), Some(ask));
                again.extend(meant.keys().filter(|id| under_way.contains(*id)));
                urgent.extend(meant);
            }
            Some(answered) = asking.join_next() => {
                let answered: u64 = answered.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                under_way.remove(&answered);
                if again.remove(&answered) {
                    urgent.extend(asked(&shared.borrow(), Some(Ask::Doubted(answered))));
                }
            }
        }
        while asking.len() < AT_ONCE
            && let Some((id, of)) = urgent.pop_front().or_else(|| due.pop_front())
        {
            if under_way.insert(id) {
                let (changed, tell) = (changed.clone(), tell.clone());
                asking.spawn(async move {
                    ask(of, changed, tell).await;
                    id
                });
            }
        }
        if shared.has_changed().is_err() {
            return; // the pool is gone
        }
    }
}

/// Whom to ask, by number.
fn asked(shared: &Shared, at_once: Option<Ask>) -> BTreeMap<u64, Asked> {
    let is_meant = |id: u64| match at_once {
        None => true,
        Some(Ask::Doubted(replica) | Ask::Loaded(replica)) => replica == id,
    };
    let mut all: BTreeMap<u64, Asked> = BTreeMap::new();
    let new = |replica: &Arc<Replica>| Asked { replica: replica.clone(), runners: Vec::new(), mixed: None };
    for of in shared.runners.iter().filter(|of| is_meant(of.replica)) {
        let Some((slots, _)) = of.slots.first() else { continue };
        all.entry(of.replica).or_insert_with(|| new(&slots.replica)).runners.push(of.clone());
    }
    for of in shared.mixed.iter().filter(|of| is_meant(of.replica.id)) {
        all.entry(of.replica.id).or_insert_with(|| new(&of.replica)).mixed = Some(of.clone());
    }
    if matches!(at_once, Some(Ask::Loaded(_))) {
        all.retain(|_, asked| asked.mixed.is_some());
    }
    all
}

/// Asks one replica what it holds.
async fn ask(of: Asked, changed: Arc<Notify>, tell: impl Fn(Resident) -> bool) {
    let asked = Instant::now();
    let Ok(answer) = fetch::get(&of.replica, "/api/ps", ASK_WITHIN).await else { return };
    let Some(held) = inventory::listed(&answer.body).filter(|_| answer.status.is_success()) else { return };
    let name = |entry: &Value| Some(canonical(entry["name"].as_str()?).into_owned());
    // What stays for ever is told to go in a far century.
    let until = |entry: &Value| answers::unix(&entry["expires_at"]).unwrap_or(i64::MAX);
    let held: HashMap<String, i64> = held.iter().filter_map(|entry| Some((name(entry)?, until(entry)))).collect();
    for of in of.runners {
        let held = of.slots.iter().filter(|(slots, _)| held.contains_key(&*slots.name));
        let held = held.map(|(slots, _)| slots.id()).collect();
        if !tell(Resident { of, held, asked }) {
            return; // the pool is gone
        }
    }
    if let Some(Mixed { replica, bases }) = of.mixed {
        let held = held.iter().filter_map(|(name, until)| Some((bases.get(&**name)?.clone(), *until)));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_news = replica.crowding().see(held.collect(), i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        if is_news {
            changed.notify_one();
        }
    }
}
