//! What is held against replicas, and how they come to be trusted again.
//!
//! [`core`] decides and is pure; [`trust`] is its judgement of one replica, or of one model on it. Around them, a
//! replica that could not be reached is asked for its version until it answers. One that was reached and failed its
//! requests is left alone for a while, for its version says nothing of them (Ollama can hang with a green
//! `/api/version`).

pub(crate) mod core;
mod probe;
mod told;
mod trust;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tutti_api::HealthSpec;

use self::core::{Action, Core, Event, Held, Member, Policy, Subject};
pub(crate) use self::probe::{Outcome, Probing, watch};
pub use self::told::{HeldState, HeldStatus};
pub use self::trust::Cause;
use crate::replica::Replica;
use crate::schedule::{Owner, Slots, SlotsId};
use crate::{fetch, inventory};

/// First pause before a replica that could not be reached is tried again; doubled each time.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a try may take.
const TRY: Duration = Duration::from_secs(2);

impl Policy {
    pub(crate) fn of(spec: &HealthSpec) -> Self {
        Self {
            failures: spec.consecutive_failures,
            ejection: spec.base_ejection_time.get(),
            share: spec.max_ejection_percent.fraction(),
            slow_start: spec.slow_start.get(),
        }
    }
}

/// The health of one pool's replicas. Locked only where something is held against one, or begins to be.
#[derive(Debug)]
pub(crate) struct Health {
    inner: Mutex<Inner>,
    /// Wakes the task that lets time pass.
    wake: Arc<Notify>,
    /// The control thread's: where replicas are tried again.
    runtime: Handle,
    ejections: [AtomicU64; Cause::ALL.len()],
    probes: [AtomicU64; Outcome::ALL.len()],
}

#[derive(Debug)]
struct Inner {
    core: Core,
    slots: HashMap<SlotsId, Weak<Slots>>,
    next_tick: Option<Instant>,
}

impl Health {
    /// Of a pool whose replicas are not known yet; called on the control thread's runtime.
    pub(crate) fn new() -> Self {
        let core = Core::new(Policy::default());
        Self {
            inner: Mutex::new(Inner { core, slots: HashMap::new(), next_tick: None }),
            wake: Arc::default(),
            runtime: Handle::current(),
            ejections: Default::default(),
            probes: Default::default(),
        }
    }

    /// Whether a replica could be reached the last time.
    pub(crate) fn is_reachable(&self, replica: &Replica) -> bool {
        self.lock().core.is_reachable(replica.id)
    }

    /// How often replicas or models on them were ejected, by the cause.
    pub(crate) fn ejections(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().map(|cause| (cause, self.ejections[cause as usize].load(Relaxed)))
    }

    /// Whether a whole replica is ejected, or would be if others were well.
    pub(crate) fn is_ejected(&self, replica: &Replica) -> bool {
        matches!(self.lock().core.held(Subject::Replica(replica.id)), Some(Held::Ejected { .. }))
    }

    /// Counts a probe.
    fn probed(&self, outcome: Outcome) {
        self.probes[outcome as usize].fetch_add(1, Relaxed);
    }

    /// How many probes there were, by what came of them.
    pub(crate) fn probes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome, self.probes[outcome as usize].load(Relaxed)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.wake.notify_one(); // its task sees that it is gone
    }
}

/// Takes note of an event.
pub(crate) fn hear(owner: &Arc<Owner>, event: Event) {
    let mut inner = owner.health.lock();
    let actions = inner.on(event);
    act(owner, &mut inner, &actions);
}

/// Takes note of a replica to which no connection came about: others go before it until it answers.
pub(crate) fn unreachable(owner: &Arc<Owner>, replica: &Arc<Replica>) {
    let mut inner = owner.health.lock();
    let actions = inner.on(Event::Unreachable(replica.id));
    if actions.contains(&Action::Recover(replica.id)) {
        tracing::warn!(pool = &*replica.pool, replica = &*replica.url, "replica cannot be reached");
        owner.health.runtime.spawn(recover(owner.clone(), replica.id, Arc::downgrade(replica)));
    }
    act(owner, &mut inner, &actions);
}

/// Goes by a new table: each model's slots and how many there are, on each replica that has it.
pub(crate) fn table(owner: &Arc<Owner>, policy: Policy, models: &[Vec<(Arc<Slots>, u16)>]) {
    let member =
        |(slots, limit): &(Arc<Slots>, u16)| Member { slot: slots.id(), replica: slots.replica.id, limit: *limit };
    let members = models.iter().map(|model| model.iter().map(member).collect()).collect();
    let mut inner = owner.health.lock();
    let actions = inner.on(Event::Table(policy, members));
    inner.slots.extend(models.iter().flatten().map(|(slots, _)| (slots.id(), Arc::downgrade(slots))));
    act(owner, &mut inner, &actions);
    inner.slots.retain(|_, slots| slots.strong_count() > 0);
}

impl Inner {
    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.core.on(event, Instant::now(), &mut actions);
        actions
    }
}

fn act(owner: &Arc<Owner>, inner: &mut Inner, actions: &[Action]) {
    for action in actions {
        match action {
            Action::Set(slot, force) => {
                if let Some(slots) = inner.slots.get(slot).and_then(Weak::upgrade) {
                    slots.set_force(*force);
                    owner.changed(&slots);
                }
            }
            Action::Recover(_) => {}
            Action::Ejected(subject, ejection) => {
                owner.health.ejections[ejection.cause as usize].fetch_add(1, Relaxed);
                let Some((pool, replica, model)) = inner.name(*subject) else { continue };
                let (cause, length) = (ejection.cause.name(), ejection.until - ejection.since);
                tracing::warn!(pool, replica, model, cause, "others go before a replica that fails, for {length:?}");
            }
            Action::Returned(subject) => {
                let Some((pool, replica, model)) = inner.name(*subject) else { continue };
                tracing::info!(pool, replica, model, "a replica that failed is tried again");
            }
        }
    }
    let next = inner.core.next_tick(Instant::now());
    if next != inner.next_tick {
        inner.next_tick = next;
        owner.health.wake.notify_one();
    }
}

impl Inner {
    /// Pool, replica and, where it is about one, model.
    fn name(&self, subject: Subject) -> Option<(String, String, Option<String>)> {
        let mut all = self.slots.values().filter_map(Weak::upgrade);
        let (slots, model) = match subject {
            Subject::Replica(id) => (all.find(|slots| slots.replica.id == id)?, None),
            Subject::Slot(id) => {
                let slots = all.find(|slots| slots.id() == id)?;
                let model = slots.name.to_string();
                (slots, Some(model))
            }
        };
        Some((slots.replica.pool.to_string(), slots.replica.url.to_string(), model))
    }
}

/// Lets time pass for a pool's replicas, until the pool is gone.
pub(crate) async fn run(owner: Weak<Owner>) {
    let wake = match owner.upgrade() {
        Some(owner) => owner.health.wake.clone(),
        None => return,
    };
    loop {
        let Some(due) = owner.upgrade().map(|owner| owner.health.lock().next_tick) else { return };
        let passed = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wake.notified() => {}
            () = passed => {
                if let Some(owner) = owner.upgrade() {
                    hear(&owner, Event::Tick);
                }
            }
        }
    }
}

/// Tries a replica that could not be reached until it answers, whatever it answers, or until nobody uses it any more.
async fn recover(owner: Arc<Owner>, id: u64, replica: Weak<Replica>) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let Some(replica) = replica.upgrade() else { break };
        if fetch::get(&replica, inventory::sign_of_life(replica.engine), TRY).await.is_ok() {
            tracing::info!(pool = &*replica.pool, replica = &*replica.url, "replica is back");
            break;
        }
        pause = LONGEST.min(pause * 2);
    }
    hear(&owner, Event::Reached(id));
}
