//! The one task a pool that owns its queue, and the way of a request through it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tutti_api::Priority;

use super::cells::Cells;
use super::core::{Action, Arrival, Event, Scheduler, SlotId, Tables, Tally, TargetId, Turn, Waited, WaiterId};
use super::explain::{self, Explained, Tallied};
use super::memory::{self, Ask, Resident};
use super::permit::Permit;
use super::place::{Place, Ticket};
use super::share::{Loading, Loads, NotLoaded, Shared, Terms};
use super::slots::{Slots, SlotsId, Target};
use super::word::Busy;
use crate::classify::LoadWith;
use crate::errors::Code;
use crate::health::core::Event as HealthEvent;
use crate::health::{self, Health};
use crate::loaders::Outcomes;
use crate::replica::Replica;
use crate::retry::RetryBudget;

/// Replicas that are to be asked what they hold and have not been yet; of more those are asked when all are.
const ASKS: usize = 64;

/// What came of asking for a slot.
#[derive(Debug)]
pub enum Verdict {
    /// A slot is taken.
    Go(Permit),
    /// The table has changed: choose again.
    Reroute,
    /// Not to be had; with when it may be, where that is known.
    Refused(Code, Option<Duration>),
}

/// The handle of a pool's owner task. The task ends when the last handle is gone.
#[derive(Debug)]
pub struct Owner {
    /// What is held against the pool's replicas.
    pub(crate) health: Health,
    /// What became of the probes of its adapters.
    pub(crate) proofs: Outcomes,
    /// How many retries the pool may make.
    pub(crate) retries: RetryBudget,
    /// Unbounded, and yet bounded, as requests are by connections: each has at most its arrival and its departure in
    /// it, and of each try the slot it gave back. Where slots become suspect or their number changes, which takes a try
    /// or some time, those with a closed gate are in it once more; and there is one table at a time.
    messages: mpsc::UnboundedSender<Message>,
    queued: Arc<AtomicUsize>,
    /// How often weights were loaded for those who waited.
    pub(crate) loads: Arc<Loads>,
    /// How often which decisions were made.
    pub(crate) tallied: Arc<Tallied>,
    next: AtomicU64,
    /// For who asks the replicas what they hold.
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
enum Message {
    Arrive {
        waiter: WaiterId,
        ticket: Ticket,
        with: LoadWith,
        awaits: bool,
        since: Instant,
        turn: Option<Turn>,
        target: Arc<Target>,
        until: Instant,
        exclude: Option<SlotsId>,
        reply: oneshot::Sender<(Verdict, Option<Turn>)>,
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
    Changed(SlotsId),
    Table {
        live: Vec<Arc<Target>>,
        shared: Shared,
        terms: Terms,
        done: oneshot::Sender<()>,
    },
    /// Somebody waits since then to go with others, so long at most: whether weights are being loaded for them.
    Loads(TargetId, (Instant, Duration), oneshot::Sender<bool>),
    /// Somebody wants to know how the queue stands.
    Explain(Box<str>, oneshot::Sender<Explained>),
    /// A load of a group's weights has ended.
    Loaded(SlotId, Result<Duration, Code>),
    /// A replica says whose weights a runner has.
    Resident(Resident),
    /// An answer says that what was sent then to these slots had waited so long for its weights.
    Waited(Arc<Slots>, Duration, Instant),
}

impl Owner {
    /// Starts the task on the current runtime. At most `bound` requests wait. `news` hears where another table is due, for it
    /// was seen that models exclude each other.
    pub fn start(bound: usize, news: Arc<Notify>) -> Arc<Self> {
        let (messages, inbox) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let tallied = Arc::new(Tallied::default());
        let (sharing, shared) = watch::channel(Shared::default());
        let tell = messages.downgrade();
        let (asks, asked) = mpsc::channel(ASKS);
        let loads = Arc::new(Loads::default());
        tokio::spawn(memory::watch(shared, asked, news, move |resident| {
            tell.upgrade().is_some_and(|owner| owner.send(Message::Resident(resident)).is_ok())
        }));
        let task = Task {
            sharing,
            core: Scheduler::new(bound),
            cells: Cells::default(),
            loading: Loading::default(),
            asks: asks.clone(),
            loads: loads.clone(),
            replies: HashMap::new(),
            queued: queued.clone(),
            tallied: tallied.clone(),
            tally: Tally::default(),
        };
        tokio::spawn(task.run(inbox));
        let retries = RetryBudget::new(Instant::now());
        let owner = Arc::new(Self {
            health: Health::new(),
            proofs: Outcomes::default(),
            retries,
            messages,
            queued,
            loads,
            tallied,
            next: AtomicU64::new(0),
            asks,
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
        if place.ticket.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Verdict::Refused(Code::TooLate, None);
        }
        let exclude = exclude.and_then(|replica| target.on(replica));
        match target.take(generation, exclude, place.ticket.session) {
            Ok(slots) => return Verdict::Go(Permit::of(slots, self.clone(), place.ticket.class)),
            Err(Busy::Stale) => return Verdict::Reroute,
            Err(Busy::Full) => {}
        }
        let (reply, verdict) = oneshot::channel();
        let waiter = place.at(self);
        place.waits = true;
        let since = *place.since.get_or_insert_with(Instant::now);
        let (ticket, with, awaits, turn) = (place.ticket, place.with.clone(), place.awaits, place.turn);
        let (target, owner) = (target.clone(), self.clone());
        self.send(Message::Arrive { waiter, ticket, with, awaits, since, turn, target, until, exclude, reply, owner });
        let (verdict, turn) = verdict.await.unwrap_or((Verdict::Refused(Code::ShuttingDown, None), None));
        place.turn = turn;
        place.waits = false;
        verdict
    }

    /// A slot of these, if one is free now; nobody who waits could have had it.
    pub(crate) async fn spare(self: &Arc<Self>, slots: &Arc<Slots>) -> Option<Permit> {
        let (reply, permit) = oneshot::channel();
        self.send(Message::Spare { slots: slots.clone(), reply, owner: self.clone() });
        permit.await.ok().flatten()
    }

    /// Whether weights are being loaded for those who want this target, so that who waits for their call, since then and else
    /// so long at most, may go on waiting.
    pub(crate) async fn is_loading(&self, target: &Target, since: Instant, wait: Duration) -> bool {
        let (reply, loads) = oneshot::channel();
        self.send(Message::Loads(target.id(), (since, wait), reply));
        loads.await.unwrap_or(false)
    }

    /// Slots have become, or are no longer, suspect, or are more or fewer.
    pub fn changed(&self, slots: &Slots) {
        // A gate that is closed later is closed before the slot is looked at.
        let view = slots.view();
        if view.closed || view.away {
            self.send(Message::Changed(slots.id()));
        }
    }

    /// Tells the task which targets still stand, and which slots share runners; `done` resolves once every waiter whose target is gone was told.
    pub fn table(&self, live: Vec<Arc<Target>>, shared: Shared, terms: Terms) -> oneshot::Receiver<()> {
        let (done, acknowledged) = oneshot::channel();
        self.send(Message::Table { live, shared, terms, done });
        acknowledged
    }

    /// How the queue of this pool stands, and what was decided last. `None`: its runtime is shutting down.
    pub async fn explain(&self, pool: &str) -> Option<Explained> {
        let (reply, explained) = oneshot::channel();
        self.send(Message::Explain(pool.into(), reply));
        explained.await.ok()
    }

    /// An answer says that what was sent then to these slots had waited so long for its weights.
    pub(super) fn waited(&self, slots: Arc<Slots>, told: Duration, sent: Instant) {
        self.send(Message::Waited(slots, told, sent));
    }

    /// A slot was given back behind its closed gate.
    pub(super) fn given_back(&self, slots: &Slots) {
        self.send(Message::Changed(slots.id()));
    }

    /// A number that no other waiter has.
    pub(super) fn number(&self) -> WaiterId {
        self.next.fetch_add(1, Relaxed)
    }

    /// Somebody leaves the queue.
    pub(super) fn departs(&self, waiter: WaiterId) {
        self.send(Message::Depart(waiter));
    }

    fn send(&self, message: Message) {
        // The task lives as long as this handle, unless its runtime is shutting down; then nobody waits for an answer.
        let _ = self.messages.send(message);
    }
}

/// Who waits.
struct Asker {
    reply: oneshot::Sender<(Verdict, Option<Turn>)>,
    owner: Arc<Owner>,
    target: Arc<Target>,
    class: Priority,
    with: LoadWith,
}

/// What the core is told next.
enum Next {
    Event(Event),
    /// How slots stand when it is their turn.
    See(SlotId),
}

struct Task {
    core: Scheduler,
    cells: Cells,
    /// For who asks the replicas what they hold.
    sharing: watch::Sender<Shared>,
    asks: mpsc::Sender<Ask>,
    loading: Loading,
    loads: Arc<Loads>,
    replies: HashMap<WaiterId, Asker>,
    queued: Arc<AtomicUsize>,
    tallied: Arc<Tallied>,
    tally: Tally,
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
            if *self.core.tally() != self.tally {
                self.tally = *self.core.tally();
                self.tallied.set(&self.tally);
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
                let permit = free.then(|| Permit::of(slots.clone(), owner, Priority::Bulk));
                self.take(Some(Message::Changed(slots.id())));
                let _ = reply.send(permit);
            }
            Some(Message::Changed(slots)) => {
                if let Some(slot) = self.cells.of(slots) {
                    self.see(slot);
                }
            }
            Some(Message::Arrive {
                waiter,
                ticket,
                with,
                awaits,
                since,
                turn,
                target,
                until,
                exclude,
                reply,
                owner,
            }) => {
                let Ticket { class, tenant, cost, deadline, session } = ticket;
                let exclude = exclude.and_then(|slots| self.cells.of(slots)).map(|slot| slot.runner);
                let (id, asker) = (target.id(), Asker { reply, owner, target, class, with });
                self.replies.insert(waiter, asker);
                let target = id;
                let arrival = Arrival {
                    waiter,
                    target,
                    class,
                    tenant,
                    cost,
                    turn,
                    since,
                    until,
                    deadline,
                    exclude,
                    session,
                    awaits,
                };
                self.on(Event::Arrive(arrival));
            }
            Some(Message::Resident(resident)) => self.resident(resident),
            Some(Message::Waited(slots, told, sent)) => {
                let Some(slot) = self.cells.of(slots.id()) else { return };
                let there = slots.replica.all_slots();
                let beside = there.iter().filter_map(|slots| Some(self.cells.of(slots.id())?.runner)).collect();
                self.on(Event::Waited(Waited { slot, beside, told, sent }));
            }
            Some(Message::Loads(target, waits, reply)) => {
                let _ = reply.send(self.core.is_loading(target, waits, Instant::now()));
            }
            Some(Message::Explain(pool, reply)) => {
                let _ = reply.send(explain::explained(&pool, &self.core, &self.cells, Instant::now()));
            }
            Some(Message::Loaded(slot, took)) => self.on(Event::Loaded(slot, took)),
            Some(Message::Table { live, shared, terms, done }) => {
                self.table(&live, shared, terms);
                let _ = done.send(());
            }
        }
    }

    fn table(&mut self, live: &[Arc<Target>], shared: Shared, terms: Terms) {
        self.core.set_bound(terms.bound);
        self.loading = terms.loading;
        let table = self.cells.number(live, &shared.runners);
        let (live, turning, keys) = (table.live.clone(), table.turning.clone(), table.keys.clone());
        self.on(Event::Table(Tables { live, turning, batching: terms.batching, keys }));
        self.cells.forget(table);
        self.sharing.send_replace(shared);
        // Some are in use, some are suspect, and the number of slots may have changed.
        for slot in self.cells.all() {
            let (view, served) = self.cells.read(slot);
            if view.closed || view.suspect || view.in_flight > 0 || view.limit == 0 {
                self.on(Event::Slot(slot, view, served));
            }
        }
    }

    /// A replica says what it holds. While something of ours runs there, that alone counts which agrees with what is known.
    fn resident(&mut self, Resident { of, held, asked }: Resident) {
        let slot = |slots| self.cells.of(slots);
        let Some(SlotId { runner, .. }) = of.slots.first().and_then(|(slots, _)| slot(slots.id())) else { return };
        let groups: Vec<_> = held.into_iter().filter_map(slot).map(|slot| slot.group).collect();
        let is_busy = of.slots.iter().any(|(slots, _)| slots.view().in_flight > 0);
        if !is_busy || self.core.loaded_by(runner).is_some_and(|group| groups.contains(&group)) {
            self.on(Event::Resident(runner, groups, asked));
        }
    }

    /// A request had to wait so long for weights that were taken to be there.
    fn doubt(&self, slot: SlotId, lost: Duration) {
        self.loads.count_unasked(lost);
        // Where there are too many to ask the next round does.
        let _ = self.cells.replica(slot).map(|replica| self.asks.try_send(Ask::Doubted(replica)));
    }

    /// Has the core see how slots stand.
    fn see(&mut self, slot: SlotId) {
        let (view, served) = self.cells.read(slot);
        self.on(Event::Slot(slot, view, served));
    }

    /// Feeds the core, carries out what it says, and feeds it what that brings.
    fn on(&mut self, event: Event) {
        let mut actions = Vec::new();
        let mut next = VecDeque::from([Next::Event(event)]);
        while let Some(event) = next.pop_front() {
            let event = match event {
                Next::Event(event) => event,
                Next::See(slot) => {
                    let (view, served) = self.cells.read(slot);
                    Event::Slot(slot, view, served)
                }
            };
            self.core.on(event, Instant::now(), &mut actions);
            for action in actions.drain(..) {
                match action {
                    Action::CloseGate(slot) => {
                        self.cells.set_closed(slot, true);
                        next.push_back(Next::See(slot));
                    }
                    Action::OpenGate(slot) => self.cells.set_closed(slot, false),
                    Action::Dispatch(waiter, slot) => {
                        let Some(Asker { reply, owner, target, class, .. }) = self.replies.remove(&waiter) else {
                            continue;
                        };
                        let Some(slots) = self.cells.slots(slot, &target) else { continue };
                        slots.word.take_behind_gate();
                        // Where the request has left meanwhile, this drops the permit, which gives the slot back.
                        let _ = reply.send((Verdict::Go(Permit::of(slots.clone(), owner, class)), None));
                    }
                    Action::Home(slot, home) => self.cells.set_home(slot, home),
                    Action::Ask(slot, lost) => self.doubt(slot, lost),
                    Action::Load { slot, waiter, plainly, within } => {
                        if !self.load(slot, (waiter, plainly), within) {
                            next.push_back(Next::Event(Event::Loaded(slot, Err(Code::NoReplica))));
                        }
                    }
                    Action::Reject(waiter, code, after) => self.reply(waiter, Verdict::Refused(code, after), None),
                    Action::Reroute(waiter, turn) => self.reply(waiter, Verdict::Reroute, turn),
                }
            }
        }
    }

    /// Loads a group's weights. Nobody's departure ends that: Ollama ties a load to who asked for it.
    /// False where the slots, or who waits for them, are gone.
    fn load(&self, slot: SlotId, (waiter, plainly): (WaiterId, bool), within: Duration) -> bool {
        let Some(asker) = self.replies.get(&waiter) else { return false };
        let Some(slots) = self.cells.slots(slot, &asker.target).cloned() else { return false };
        let with = if plainly { LoadWith::default() } else { asker.with.clone() };
        let (loading, owner) = (self.loading.clone(), asker.owner.clone());
        tokio::spawn(async move {
            let sent = Instant::now();
            let ended = loading.load(&slots, &with, within).await;
            owner.loads.count(ended.as_ref().ok().copied());
            match &ended {
                Err(NotLoaded { cause: Some(cause), .. }) => {
                    health::hear(&owner, HealthEvent::Failed(slots.id(), *cause, sent));
                }
                Err(NotLoaded { code: Code::NoReplica, .. }) => health::unreachable(&owner, &slots.replica),
                _ => {}
            }
            if ended.is_ok() {
                let _ = owner.asks.try_send(Ask::Loaded(slots.replica.id)); // or the next round asks
            }
            owner.send(Message::Loaded(slot, ended.map_err(|not| not.code)));
        });
        true
    }

    fn reply(&mut self, waiter: WaiterId, verdict: Verdict, turn: Option<Turn>) {
        if let Some(Asker { reply, .. }) = self.replies.remove(&waiter) {
            let _ = reply.send((verdict, turn));
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
