//! The decisions: which request gets which slot, and which group's weights a runner that several share loads next.
//!
//! Pure and incremental: [`Scheduler::on`] takes an event and the time and appends actions. It knows slots, runners and
//! waiters by number only. A slot's [`View`] is true while its gate is closed, for then nobody but the owner takes slots;
//! what is given back meanwhile arrives as [`Event::Slot`].
//!
//! Among slots: the least loaded; the highest class first, in it first come first served. Slots that share a runner
//! ([`Event::Table`]) exclude each other: one group's weights are there, and its requests alone are dispatched, until it is
//! dry, its quantum is used up, or another is late; then what runs ends, and the group that is next is loaded.

mod runner;
mod turns;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tutti_api::Priority;

use self::runner::Runner;
pub use self::runner::{Batching, RunnerId};
use super::View;
use crate::errors::Code;

/// How often it is looked whether the weights for a request are still being loaded that has waited long enough else.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A waiting request. Numbers rise with the order of arrival.
pub type WaiterId = u64;
/// The slots of one group on one replica.
pub type SlotId = u64;
/// A set of slots that are equally good for a request.
pub type TargetId = u64;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A request found no free slot and waits.
    Arrive(Arrival),
    /// A waiting request's client has gone.
    Depart(WaiterId),
    /// A slot's word, read behind the closed gate: after closing it, and after each change since.
    Slot(SlotId, View),
    /// A new table took effect.
    Table(Tables),
    /// A load that was asked for has ended, after so long, or failed.
    Loaded(SlotId, Result<Duration, Code>),
    /// A replica says whose weights a runner has; it was asked then. Told only where nothing of ours runs there: our own
    /// requests bring their weights with them.
    Resident(RunnerId, Vec<SlotId>, Instant),
    /// Time has passed.
    Tick,
}

/// What of a table concerns a pool.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The targets that still stand for what they stood for.
    pub live: HashSet<TargetId>,
    /// The runners that several groups share, and the groups' slots.
    pub runners: Vec<(RunnerId, Vec<SlotId>)>,
    /// How they take turns.
    pub batching: Batching,
}

/// A request that begins to wait.
#[derive(Debug)]
pub struct Arrival {
    /// Its number.
    pub waiter: WaiterId,
    /// Its class: no lower one goes before it.
    pub class: Priority,
    /// What it waits for.
    pub target: TargetId,
    /// The slots of that target.
    pub slots: Arc<[SlotId]>,
    /// When it has waited long enough.
    pub until: Instant,
    /// The slots that have just failed it: it waits for the others, unless there are none.
    pub exclude: Option<SlotId>,
}

/// What to do. Actions are carried out in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Let nobody take slots but the owner, and answer with [`Event::Slot`].
    CloseGate(SlotId),
    /// Let requests take slots for themselves again.
    OpenGate(SlotId),
    /// Take a slot for the waiter.
    Dispatch(WaiterId, SlotId),
    /// Whether the weights of these slots are in memory: where not, nobody takes any for himself.
    Home(SlotId, bool),
    /// Have the replica load the weights of these slots, for this waiter, and answer with [`Event::Loaded`]. Plainly: not as he
    /// wants them, for that has failed.
    Load {
        /// Whose weights.
        slot: SlotId,
        /// The first who waits for them.
        waiter: WaiterId,
        /// Whether what he wants of the load shall be left aside.
        plainly: bool,
    },
    /// Refuse the waiter.
    Reject(WaiterId, Code),
    /// The waiter's target is gone: it shall read the table again.
    Reroute(WaiterId),
}

/// The waiters of one pool.
#[derive(Debug)]
pub struct Scheduler {
    bound: usize,
    waiting: HashMap<WaiterId, Waiting>,
    lines: HashMap<LineId, Line>,
    slots: HashMap<SlotId, Slot>,
    deadlines: BTreeSet<(Instant, WaiterId)>,
    /// The targets of the newest table; `None` before a first one was told.
    live: Option<HashSet<TargetId>>,
    /// Rises with every dispatch: equally loaded slots take turns.
    turn: usize,
    batching: Batching,
    /// Those that several groups share.
    runners: HashMap<RunnerId, Runner>,
    /// The runner of each slot that shares one.
    shares: HashMap<SlotId, RunnerId>,
    /// When runners are to be looked at again.
    alarms: BTreeSet<(Instant, RunnerId)>,
}

/// A target, and which of its slots nobody in the line may take.
type LineId = (TargetId, Option<SlotId>);

/// A waiter's place among others: its class, then the order of arrival.
type Rank = (Priority, WaiterId);

#[derive(Debug)]
struct Waiting {
    line: LineId,
    class: Priority,
    since: Instant,
    until: Instant,
}

/// Those who wait for the same slots, in order.
#[derive(Debug)]
struct Line {
    slots: Arc<[SlotId]>,
    waiters: BTreeSet<Rank>,
}

/// A slot with a closed gate; `view` is missing until the owner has read it.
#[derive(Debug, Default)]
struct Slot {
    view: Option<View>,
    lines: SmallVec<[LineId; 1]>,
    /// Its runner has it, and another group waits for that.
    held: bool,
}

impl Scheduler {
    /// An empty one that lets at most `bound` requests wait.
    pub fn new(bound: usize) -> Self {
        Self {
            bound,
            waiting: HashMap::new(),
            lines: HashMap::new(),
            slots: HashMap::new(),
            deadlines: BTreeSet::new(),
            live: None,
            turn: 0,
            batching: Batching::default(),
            runners: HashMap::new(),
            shares: HashMap::new(),
            alarms: BTreeSet::new(),
        }
    }

    /// From now on at most `bound` requests wait; those beyond it who wait already may go on waiting.
    pub fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    /// Takes an event; appends what follows from it.
    pub fn on(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Arrive(arrival) => self.arrive(arrival, now, actions),
            Event::Depart(waiter) => {
                let line = self.waiting.get(&waiter).and_then(|waiting| self.lines.get(&waiting.line));
                let slots = line.map(|line| line.slots.clone());
                self.leave(waiter, actions);
                // A group may be dry now, or nobody may wait for another any more.
                self.spread(slots.as_deref().unwrap_or_default(), now, actions);
            }
            Event::Slot(slot, view) => {
                let Some(known) = self.slots.get_mut(&slot) else { return };
                let is_new = known.view.replace(view).is_none();
                let lines = if is_new { known.lines.clone() } else { SmallVec::new() };
                self.look(slot, now, actions);
                // Now that it is known, others may be the better ones.
                for slots in
                    lines.iter().filter_map(|id| self.lines.get(id)).map(|line| line.slots.clone()).collect::<Vec<_>>()
                {
                    self.spread(&slots, now, actions);
                }
            }
            Event::Table(tables) => self.table(tables, now, actions),
            Event::Loaded(slot, ended) => self.loaded(slot, ended, now, actions),
            Event::Resident(runner, slots, asked) => self.resident(runner, &slots, asked, now, actions),
            Event::Tick => {}
        }
        while let Some((until, waiter)) = self.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            if self.is_loading_for(waiter, now) {
                let later = now + LOOK_AGAIN;
                self.deadlines.remove(&(until, waiter));
                self.deadlines.insert((later, waiter));
                if let Some(waiting) = self.waiting.get_mut(&waiter) {
                    waiting.until = later;
                }
                continue;
            }
            self.leave(waiter, actions);
            actions.push(Action::Reject(waiter, Code::QueueTimeout));
        }
        while let Some((at, runner)) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, runner));
            if let Some(known) = self.runners.get_mut(&runner) {
                known.alarm = None;
            }
            self.take_turns(runner, now, actions);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits; then every gate is open.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When [`Event::Tick`] is due.
    pub fn next_tick(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(until, _)| *until);
        deadline.into_iter().chain(self.alarms.first().map(|(at, _)| *at)).min()
    }

    fn arrive(&mut self, arrival: Arrival, now: Instant, actions: &mut Vec<Action>) {
        let Arrival { waiter, class, target, slots, until, exclude } = arrival;
        // It chose by one table and arrived after the next: nothing would ever free what it waits for.
        if self.live.as_ref().is_some_and(|live| !live.contains(&target)) {
            return actions.push(Action::Reroute(waiter));
        }
        if slots.is_empty() {
            return actions.push(Action::Reject(waiter, Code::NoReplica));
        }
        // Who waits for weights alone is in nobody's queue.
        if self.waiting.len() >= self.bound && !slots.iter().any(|slot| self.is_uncontested(*slot)) {
            return actions.push(Action::Reject(waiter, Code::QueueFull));
        }
        let others = |exclude: SlotId| slots.iter().copied().filter(move |slot| *slot != exclude);
        let exclude = exclude.filter(|exclude| others(*exclude).next().is_some());
        let id = (target, exclude);
        let slots = exclude.map_or_else(|| slots.clone(), |exclude| others(exclude).collect());
        self.waiting.insert(waiter, Waiting { line: id, class, since: now, until });
        self.deadlines.insert((until, waiter));
        let line = self.lines.entry(id).or_insert_with(|| Line { slots: slots.clone(), waiters: BTreeSet::new() });
        line.waiters.insert((class, waiter));
        if line.waiters.len() > 1 {
            // The gates are closed, and the others have not been served either; but another runner may be wanted by now.
            return self.spread(&slots, now, actions);
        }
        for slot in slots.iter() {
            self.close(*slot, actions);
            if let Some(known) = self.slots.get_mut(slot) {
                known.lines.push(id);
            }
            self.concern(*slot, id, actions);
        }
        // Where another line had closed the gates before, no answer to CloseGate will come.
        if slots.iter().all(|slot| self.slots[slot].view.is_some()) {
            self.serve(slots[0], now, actions);
        }
        self.spread(&slots, now, actions);
    }

    /// Closes a gate that is open.
    fn close(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        let known = self.slots.entry(slot).or_default();
        if known.lines.is_empty() && !known.held {
            actions.push(Action::CloseGate(slot));
        }
    }

    /// Opens a gate behind which nobody waits for anything.
    fn open(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        if self.slots.get(&slot).is_some_and(|known| known.lines.is_empty() && !known.held) {
            self.slots.remove(&slot);
            actions.push(Action::OpenGate(slot));
        }
    }

    fn table(&mut self, tables: Tables, now: Instant, actions: &mut Vec<Action>) {
        let Tables { live, runners, batching } = tables;
        let gone: Vec<WaiterId> = self
            .lines
            .iter()
            .filter(|((target, _), _)| !live.contains(target))
            .flat_map(|(_, line)| line.waiters.iter().map(|(_, waiter)| *waiter))
            .collect();
        for waiter in gone {
            self.leave(waiter, actions);
            actions.push(Action::Reroute(waiter));
        }
        self.live = Some(live);
        self.batching = batching;
        self.share(runners, now, actions);
    }

    /// A slot is another than it was: serves who waits for it, and looks whether its runner goes to another group.
    fn look(&mut self, slot: SlotId, now: Instant, actions: &mut Vec<Action>) {
        match self.shares.get(&slot).copied() {
            Some(runner) => self.take_turns(runner, now, actions),
            None => self.serve(slot, now, actions),
        }
    }

    /// Hands out what is free, to the highest class and in it the oldest first, among the lines that the slot concerns.
    fn serve(&mut self, slot: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let Some(lines) = self.slots.get(&slot).map(|slot| slot.lines.clone()) else { return };
        loop {
            let next = lines
                .iter()
                .filter_map(|id| {
                    let line = self.lines.get(id)?;
                    Some((*line.waiters.first()?, self.best(&line.slots)?))
                })
                .min();
            let Some(((_, waiter), slot)) = next else { return };
            if let Some(view) = self.slots.get_mut(&slot).and_then(|slot| slot.view.as_mut()) {
                view.in_flight += 1;
            }
            if let Some(runner) = self.shares.get(&slot).and_then(|runner| self.runners.get_mut(runner)) {
                runner.given(now);
            }
            actions.push(Action::Dispatch(waiter, slot));
            self.turn = self.turn.wrapping_add(1);
            self.leave(waiter, actions);
        }
    }

    /// The best of the slots with room, in turn where several are. `None` also while the views are not complete: a
    /// better slot may be among the missing.
    fn best(&self, slots: &[SlotId]) -> Option<SlotId> {
        let mut views: SmallVec<[(SlotId, View); 4]> =
            slots.iter().map(|id| Some((*id, self.slots.get(id)?.view?))).collect::<Option<_>>()?;
        views.retain(|(id, _)| self.serves(*id));
        let all_suspect = views.iter().all(|(_, view)| view.suspect);
        let first = self.turn % views.len().max(1);
        views.rotate_left(first);
        let ranked = views.into_iter().enumerate();
        let ranked = ranked.filter_map(|(at, (id, view))| Some((view.rank(at == 0, all_suspect)?, id)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, id)| id)
    }

    /// Takes a waiter out; the last of its line opens the gates that no other line needs.
    fn leave(&mut self, waiter: WaiterId, actions: &mut Vec<Action>) {
        let Some(Waiting { line: line_id, class, until, .. }) = self.waiting.remove(&waiter) else { return };
        self.deadlines.remove(&(until, waiter));
        let Some(line) = self.lines.get_mut(&line_id) else { return };
        line.waiters.remove(&(class, waiter));
        if !line.waiters.is_empty() {
            return;
        }
        let slots = line.slots.clone();
        self.lines.remove(&line_id);
        for id in slots.iter() {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.lines.retain(|line| *line != line_id);
            }
            self.unconcern(*id, line_id, actions);
            self.open(*id, actions);
        }
    }
}

#[cfg(test)]
mod fleet;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turns_tests;
