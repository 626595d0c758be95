//! The one task a pool that owns its queue, and the way of a request through it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tutti_api::Priority;

use super::core::{Action, Arrival, Event, RunnerId, Scheduler, SlotId, Tables, WaiterId};
use super::share::{self, Loading, Loads, NotLoaded, Sharing, Terms};
use super::slots::{Slots, Target};
use super::word::Busy;
use crate::classify::LoadWith;
use crate::errors::Code;
use crate::health::core::Event as HealthEvent;
use crate::health::{self, Cause, Health};
use crate::replica::Replica;
use crate::retry::RetryBudget;

/// What came of asking for a slot.
#[derive(Debug)]
pub enum Verdict {
    /// A slot is taken.
    Go(Permit),
    /// The table has changed: choose again.
    Reroute,
    /// Not to be had.
    Refused(Code),
}

/// A slot in use; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    slots: Arc<Slots>,
    owner: Arc<Owner>,
}

impl Permit {
    /// The replica that the slot is on.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.slots.replica
    }

    /// An answer begins, or goes on.
    pub(crate) fn hear(&self) {
        self.slots.hear();
    }

    /// What is sent has options that make the replica load the model anew, beyond those that a probe can have too.
    pub(crate) fn set_strange(&self) {
        self.slots.set_strange();
    }

    /// What was sent then in this slot was answered whole.
    pub(crate) fn answered(&self, sent: Instant) {
        if self.slots.is_blamed() {
            health::hear(&self.owner, HealthEvent::Answered(self.slots.id(), sent));
        }
    }

    /// It failed.
    pub(crate) fn failed(&self, cause: Cause, sent: Instant) {
        health::hear(&self.owner, HealthEvent::Failed(self.slots.id(), cause, sent));
    }

    /// It could not be sent: no connection came about.
    pub(crate) fn unreachable(&self) {
        health::unreachable(&self.owner, &self.slots.replica);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.slots.word.release() {
            self.owner.send(Message::Changed(self.slots.id()));
        }
    }
}

/// The handle of a pool's owner task. The task ends when the last handle is gone.
#[derive(Debug)]
pub struct Owner {
    /// What is held against the pool's replicas.
    pub(crate) health: Health,
    /// How many retries the pool may make.
    pub(crate) retries: RetryBudget,
    /// Unbounded, and yet bounded, as requests are by connections: each has at most its arrival and its departure in
    /// it, and of each try the slot it gave back. Where slots become suspect or their number changes, which takes a try
    /// or some time, those with a closed gate are in it once more; and there is one table at a time.
    messages: mpsc::UnboundedSender<Message>,
    queued: Arc<AtomicUsize>,
    /// How often weights were loaded for those who waited.
    pub(crate) loads: Loads,
    next: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Arrive {
        waiter: WaiterId,
        class: Priority,
        with: LoadWith,
        target: Arc<Target>,
        until: Instant,
        exclude: Option<SlotId>,
        reply: oneshot::Sender<Verdict>,
        owner: Arc<Owner>,
    },
    Depart(WaiterId),
    /// Somebody wants a slot that nobody else could have now.
    Spare {
        slots: Arc<Slots>,
        reply: oneshot::Sender<Option<Permit>>,
        owner: Arc<Owner>,
    },
    /// A slot's word changed behind the closed gate.
    Changed(SlotId),
    Table {
        live: Vec<Arc<Target>>,
        shared: Vec<Sharing>,
        terms: Terms,
        done: oneshot::Sender<()>,
    },
    /// A load of a group's weights has ended.
    Loaded(SlotId, Result<Duration, Code>),
    /// A replica says whose weights a runner has; it was asked then.
    Resident(RunnerId, Vec<SlotId>, Instant),
}

/// A request's place in a queue, once it has had to take one. Dropping it before a verdict came takes the request out.
#[derive(Debug, Default)]
pub struct Place {
    class: Priority,
    with: LoadWith,
    taken: Option<(Arc<Owner>, WaiterId)>,
    waits: bool,
}

impl Place {
    /// None yet, for a request of this class. Where its weights are loaded for it, it is done with what it says.
    pub(crate) fn of(class: Priority, with: LoadWith) -> Self {
        Self { class, with, taken: None, waits: false }
    }

    /// The place in this queue: the one it has, or a new one behind all others.
    fn at(&mut self, owner: &Arc<Owner>) -> WaiterId {
        match &self.taken {
            Some((known, waiter)) if Arc::ptr_eq(known, owner) => *waiter,
            _ => self.taken.insert((owner.clone(), owner.next.fetch_add(1, Relaxed))).1,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (true, Some((owner, waiter))) = (self.waits, &self.taken) {
            owner.send(Message::Depart(*waiter));
        }
    }
}

impl Owner {
    /// Starts the task on the current runtime. At most `bound` requests wait.
    pub fn start(bound: usize) -> Arc<Self> {
        let (messages, inbox) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let (sharing, shared) = watch::channel(Vec::new());
        let tell = messages.downgrade();
        tokio::spawn(share::watch(shared, move |runner, slots, asked| {
            tell.upgrade().is_some_and(|owner| owner.send(Message::Resident(runner, slots, asked)).is_ok())
        }));
        let task = Task {
            sharing,
            core: Scheduler::new(bound),
            slots: HashMap::new(),
            shared: HashMap::new(),
            loading: Loading::default(),
            replies: HashMap::new(),
            queued: queued.clone(),
        };
        tokio::spawn(task.run(inbox));
        let retries = RetryBudget::new(Instant::now());
        let owner = Arc::new(Self {
            health: Health::new(),
            retries,
            messages,
            queued,
            loads: Loads::default(),
            next: AtomicU64::new(0),
        });
        tokio::spawn(health::run(Arc::downgrade(&owner)));
        owner
    }

    /// How many requests wait.
    pub fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    /// Takes a slot of the target, at once or when it is the request's turn. A request that was told to reroute asks
    /// again with the same place and keeps its turn. `exclude` is a replica that has just failed the request: it waits
    /// for another, unless the target has none.
    pub async fn acquire(
        self: &Arc<Self>,
        target: &Arc<Target>,
        generation: u32,
        until: Instant,
        place: &mut Place,
        exclude: Option<&Replica>,
    ) -> Verdict {
        let exclude = exclude.and_then(|replica| target.on(replica));
        match target.take(generation, exclude) {
            Ok(slots) => return Verdict::Go(Permit { slots, owner: self.clone() }),
            Err(Busy::Stale) => return Verdict::Reroute,
            Err(Busy::Full) => {}
        }
        let (reply, verdict) = oneshot::channel();
        let waiter = place.at(self);
        place.waits = true;
        let (class, with, target, owner) = (place.class, place.with.clone(), target.clone(), self.clone());
        self.send(Message::Arrive { waiter, class, with, target, until, exclude, reply, owner });
        let verdict = verdict.await.unwrap_or(Verdict::Refused(Code::ShuttingDown));
        place.waits = false;
        verdict
    }

    /// A slot of these, if one is free now; nobody who waits could have had it.
    pub(crate) async fn spare(self: &Arc<Self>, slots: &Arc<Slots>) -> Option<Permit> {
        let (reply, permit) = oneshot::channel();
        self.send(Message::Spare { slots: slots.clone(), reply, owner: self.clone() });
        permit.await.ok().flatten()
    }

    /// Slots have become, or are no longer, suspect, or are more or fewer.
    pub fn changed(&self, slots: &Slots) {
        // A gate that is closed later is closed before the slot is looked at.
        if slots.view().closed {
            self.send(Message::Changed(slots.id()));
        }
    }

    /// Tells the task which targets still stand, and which slots share runners; `done` resolves once every waiter whose target is gone was told.
    pub fn table(&self, live: Vec<Arc<Target>>, shared: Vec<Sharing>, terms: Terms) -> oneshot::Receiver<()> {
        let (done, acknowledged) = oneshot::channel();
        self.send(Message::Table { live, shared, terms, done });
        acknowledged
    }

    fn send(&self, message: Message) {
        // The task lives as long as this handle, unless its runtime is shutting down; then nobody waits for an answer.
        let _ = self.messages.send(message);
    }
}

/// Who waits.
struct Asker {
    reply: oneshot::Sender<Verdict>,
    owner: Arc<Owner>,
    with: LoadWith,
}

struct Task {
    core: Scheduler,
    slots: HashMap<SlotId, Arc<Slots>>,
    /// Those that share a runner.
    shared: HashMap<SlotId, Arc<Slots>>,
    /// For who asks the replicas what they hold.
    sharing: watch::Sender<Vec<Sharing>>,
    loading: Loading,
    replies: HashMap<WaiterId, Asker>,
    queued: Arc<AtomicUsize>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        loop {
            let tick = self.core.next_tick();
            let message = tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => Some(message),
                    None => return,
                },
                () = sleep_until(tick) => None,
            };
            self.take(message);
            self.queued.store(self.core.len(), Relaxed);
            if self.core.is_empty() {
                self.slots.clear(); // every gate is open: nothing more will be said of them
            }
        }
    }

    fn take(&mut self, message: Option<Message>) {
        match message {
            None => self.on(Event::Tick),
            Some(Message::Depart(waiter)) => {
                self.replies.remove(&waiter);
                self.on(Event::Depart(waiter));
            }
            Some(Message::Spare { slots, reply, owner }) => {
                // Nor is it one where it would have weights loaded.
                let free = !slots.view().away && slots.word.take_spare(slots.all());
                let permit = free.then(|| Permit { slots: slots.clone(), owner });
                self.take(Some(Message::Changed(slots.id())));
                let _ = reply.send(permit);
            }
            Some(Message::Changed(slot)) => {
                if let Some(view) = self.slot(slot).map(|slots| slots.view()) {
                    self.on(Event::Slot(slot, view));
                }
            }
            Some(Message::Arrive { waiter, class, with, target, until, exclude, reply, owner }) => {
                self.slots.extend(target.slots().iter().map(|slots| (slots.id(), slots.clone())));
                self.replies.insert(waiter, Asker { reply, owner, with });
                let slots = target.ids.clone();
                self.on(Event::Arrive(Arrival { waiter, class, target: target.id(), slots, until, exclude }));
            }
            Some(Message::Resident(runner, slots, asked)) => {
                let sharing = self.sharing.borrow().iter().find(|sharing| sharing.runner == runner).cloned();
                if sharing.is_some_and(|sharing| sharing.slots.iter().all(|slots| slots.view().in_flight == 0)) {
                    self.on(Event::Resident(runner, slots, asked));
                }
            }
            Some(Message::Loaded(slot, took)) => self.on(Event::Loaded(slot, took)),
            Some(Message::Table { live, shared, terms, done }) => {
                self.core.set_bound(terms.bound);
                self.loading = terms.loading;
                let of_runner =
                    |sharing: &Sharing| (sharing.runner, sharing.slots.iter().map(|slots| slots.id()).collect());
                let runners = shared.iter().map(of_runner).collect();
                // What is no longer shared is told so too.
                self.shared.extend(shared.iter().flat_map(|of| &of.slots).map(|slots| (slots.id(), slots.clone())));
                let live = live.iter().map(|target| target.id()).collect();
                self.on(Event::Table(Tables { live, runners, batching: terms.batching }));
                self.shared = shared.iter().flat_map(|of| &of.slots).map(|slots| (slots.id(), slots.clone())).collect();
                self.sharing.send_replace(shared);
                // The number of slots may have changed.
                for slot in self.slots.keys().copied().collect::<Vec<_>>() {
                    self.take(Some(Message::Changed(slot)));
                }
                let _ = done.send(());
            }
        }
    }

    /// Feeds the core, carries out what it says, and feeds it what that brings.
    fn on(&mut self, event: Event) {
        let mut actions = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.core.on(event, Instant::now(), &mut actions);
            for action in actions.drain(..) {
                match action {
                    Action::CloseGate(slot) => {
                        if let Some(slots) = self.slot(slot) {
                            slots.word.close();
                            events.push(Event::Slot(slot, slots.view()));
                        }
                    }
                    Action::OpenGate(slot) => {
                        if let Some(slots) = self.slot(slot) {
                            slots.word.open();
                        }
                    }
                    Action::Dispatch(waiter, slot) => {
                        let slots = self.slot(slot).cloned();
                        if let (Some(slots), Some(Asker { reply, owner, .. })) = (slots, self.replies.remove(&waiter)) {
                            slots.word.take_behind_gate();
                            // Where the request has left meanwhile, this drops the permit, which gives the slot back.
                            let _ = reply.send(Verdict::Go(Permit { slots, owner }));
                        }
                    }
                    Action::Home(slot, home) => {
                        if let Some(slots) = self.shared.get(&slot) {
                            slots.word.set_home(home);
                        }
                    }
                    Action::Load { slot, waiter, plainly } => {
                        if !self.load(slot, waiter, plainly) {
                            events.push(Event::Loaded(slot, Err(Code::NoReplica)));
                        }
                    }
                    Action::Reject(waiter, code) => self.reply(waiter, Verdict::Refused(code)),
                    Action::Reroute(waiter) => self.reply(waiter, Verdict::Reroute),
                }
            }
        }
    }

    fn slot(&self, slot: SlotId) -> Option<&Arc<Slots>> {
        self.slots.get(&slot).or_else(|| self.shared.get(&slot))
    }

    /// Loads a group's weights. Nobody's departure ends that: Ollama ties a load to who asked for it.
    /// False where the slots, or who waits for them, are gone.
    fn load(&self, slot: SlotId, waiter: WaiterId, plainly: bool) -> bool {
        let (Some(slots), Some(asker)) = (self.shared.get(&slot).cloned(), self.replies.get(&waiter)) else {
            return false;
        };
        let with = if plainly { LoadWith::default() } else { asker.with.clone() };
        let (loading, owner) = (self.loading.clone(), asker.owner.clone());
        tokio::spawn(async move {
            let sent = Instant::now();
            let ended = loading.load(&slots, &with).await;
            owner.loads.count(ended.as_ref().ok().copied());
            match &ended {
                Err(NotLoaded { cause: Some(cause), .. }) => {
                    health::hear(&owner, HealthEvent::Failed(slot, *cause, sent));
                }
                Err(NotLoaded { code: Code::NoReplica, .. }) => health::unreachable(&owner, &slots.replica),
                _ => {}
            }
            owner.send(Message::Loaded(slot, ended.map_err(|not| not.code)));
        });
        true
    }

    fn reply(&mut self, waiter: WaiterId, verdict: Verdict) {
        if let Some(Asker { reply, .. }) = self.replies.remove(&waiter) {
            let _ = reply.send(verdict);
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
