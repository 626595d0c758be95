//! The decisions: which request gets which slot, and which group's weights a runner that several share loads next.
//!
//! Pure and incremental: [`Scheduler::on`] takes an event and the time and appends actions. It knows runners, groups and
//! waiters by number only. A slot's [`View`] is true while its gate is closed, for then nobody but the owner takes slots;
//! what is given back meanwhile arrives as [`Event::Slot`].
//!
//! Two halves. `lines` hands out slots: among those where a request's weights are, the least loaded; the highest class
//! first, tenants in turn by what they ask for, of each the first come. `turns` decides where whose weights are: runners of
//! one base ([`Tables::turning`]) have one group's at a time; `homes` does what it decides. What an event leaves to be looked at
//! is noted, and looked at before the event is over: who hands out slots calls nobody who turns runners.

mod crowd;
mod fair;
mod family;
mod homes;
mod keys;
mod lines;
mod residency;
mod told;
mod turns;
mod waits;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tutti_api::Priority;

use self::crowd::Crowd;
pub(crate) use self::fair::Fair;
pub use self::fair::{Tag, Turn};
pub use self::family::{Batching, LOAD_LEAST};
use self::family::{Family, Group, Runner};
pub use self::keys::Keys;
use self::lines::{Line, Slot};
pub use self::residency::{Source, Waited};
pub(crate) use self::told::SIZES_SHOWN;
pub use self::told::{Decision, GroupTold, RunnerTold, Tally, Told, Why};
use self::waits::Expected;
use super::View;
use crate::errors::Code;

/// How often it is looked whether the weights for a request are still being loaded that has waited long enough else.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A waiting request. Numbers rise with the order of arrival.
pub type WaiterId = u64;
/// What is equally good for a request.
pub type TargetId = u64;
/// What has one group's weights at a time: a base on a replica, or what shares with nobody.
pub type RunnerId = u32;
/// What an engine need not load anew between: names of the same weights.
pub type GroupId = u32;
/// Runners that the same groups share: those of one base.
pub type FamilyId = u32;

/// The slots of a group on a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    /// Where.
    pub runner: RunnerId,
    /// Whose.
    pub group: GroupId,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A request found no free slot and waits.
    Arrive(Arrival),
    /// A waiting request's client has gone.
    Depart(WaiterId),
    /// A slot's word, read behind the closed gate: after closing it, and after each change since; and of slots whose gate is
    /// open, when they become suspect or are no longer. With what was served since it was read before.
    Slot(SlotId, View, Served),
    /// A new table took effect.
    Table(Tables),
    /// A load that was asked for has ended, after so long, or failed.
    Loaded(SlotId, Result<Duration, Code>),
    /// A replica says whose weights a runner has; it was asked then. While something of ours runs there only what agrees with
    /// what is known: our own requests bring their weights with them.
    Resident(RunnerId, Vec<GroupId>, Instant),
    /// An answer says that its request had waited for its weights.
    Waited(Waited),
    /// Time has passed.
    Tick,
}

/// Requests that ended, and how long they had their slots in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// How many.
    pub count: u32,
    /// How many of them somebody awaited: those that were no bulk.
    pub awaited: u32,
    /// How long, together.
    pub time: Duration,
}

/// What of a table concerns a pool.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The targets that there are. One that leads elsewhere than before has its waiters sent to choose anew.
    pub live: HashMap<TargetId, Arc<Route>>,
    /// The runners that several groups share, and who shares which.
    pub turning: Vec<(RunnerId, FamilyId)>,
    /// How they take turns.
    pub batching: Batching,
    /// By what groups and sessions are placed.
    pub keys: Arc<Keys>,
}

/// Where a target's requests may go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Their group.
    pub group: GroupId,
    /// The runners that always have its weights, as far as is known; in order.
    pub fixed: Box<[RunnerId]>,
    /// Those that may load them; in order.
    pub turning: Box<[RunnerId]>,
}

impl Route {
    /// Whether a request may go to this runner.
    fn allows(&self, runner: RunnerId) -> bool {
        self.turning.binary_search(&runner).is_ok() || self.fixed.binary_search(&runner).is_ok()
    }

    fn runners(&self) -> impl Iterator<Item = RunnerId> {
        self.fixed.iter().chain(&self.turning).copied()
    }
}

/// A request that begins to wait.
#[derive(Debug)]
pub struct Arrival {
    /// Its number.
    pub waiter: WaiterId,
    /// What it waits for.
    pub target: TargetId,
    /// Its class: no lower one goes before it.
    pub class: Priority,
    /// Who asks: tenants of a class have the slots in turn.
    pub tenant: u64,
    /// What it asks for, in tokens of its tenant's share.
    pub cost: u32,
    /// The turn that it had before, if it was sent to choose anew.
    pub turn: Option<Turn>,
    /// Since when it waits.
    pub since: Instant,
    /// When it has waited long enough.
    pub until: Instant,
    /// When it must have been answered: what cannot be is refused at once.
    pub deadline: Option<Instant>,
    /// The runner that has just failed it: it waits for the others, unless there are none.
    pub exclude: Option<RunnerId>,
    /// What it has in common with others that an engine does not read twice: they go to the same of equal slots.
    pub session: Option<u64>,
    /// Its pool has, or had when it came, no replica at all, and may get one: it waits for that as long as for weights.
    pub awaits: bool,
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
        /// After how long it is given up.
        within: Duration,
    },
    /// Ask the replica of these slots what it has: a request had to wait so long for its weights.
    Ask(SlotId, Duration),
    /// Refuse the waiter. With after how long it may have better luck, where that is known.
    Reject(WaiterId, Code, Option<Duration>),
    /// The waiter's target is gone, or leads elsewhere: it shall read the table again, and has this turn.
    Reroute(WaiterId, Option<Turn>),
}

/// The waiters of one pool.
#[derive(Debug)]
pub struct Scheduler {
    bound: usize,
    waiting: HashMap<WaiterId, Waiting>,
    lines: HashMap<LineId, Line>,
    /// Those that are watched: their gates are closed.
    slots: HashMap<SlotId, Slot>,
    /// Those that are suspect, or have no slot to use.
    troubled: HashSet<SlotId>,
    deadlines: BTreeSet<(Instant, WaiterId)>,
    crowd: Crowd,
    /// The targets of the newest table.
    live: HashMap<TargetId, Arc<Route>>,
    fair: Fair,
    /// Rises with every dispatch: equally loaded slots take turns.
    turn: usize,
    batching: Batching,
    keys: Arc<Keys>,
    families: HashMap<FamilyId, Family>,
    /// Those that several groups share.
    runners: HashMap<RunnerId, Runner>,
    groups: HashMap<GroupId, Group>,
    /// When groups and runners are to be looked at again.
    alarms: BTreeSet<(Instant, Dirty)>,
    /// What this event leaves to be looked at.
    dirty: VecDeque<Dirty>,
    /// When a request was last found to have waited for weights that were taken to be there.
    doubted: HashMap<RunnerId, Instant>,
    told: Told,
    /// When it saw its first table.
    start: Option<Instant>,
}

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dirty {
    /// Whether slots are to be had for those who wait for them.
    Slot(SlotId),
    /// Whether a group wants a runner, and one is to be had.
    Group(GroupId),
    /// Whether a runner goes to another group.
    Runner(RunnerId),
}

/// A target, and the runner that nobody in the line may take.
type LineId = (TargetId, Option<RunnerId>);

/// A waiter's place among others: its class, its turn, then the order of arrival.
type Rank = (Priority, Tag, WaiterId);

#[derive(Debug)]
struct Waiting {
    line: LineId,
    class: Priority,
    turn: Turn,
    since: Instant,
    until: Instant,
    /// How long one may wait that wants nothing but a slot.
    wait: Duration,
    /// When it must have a slot to be of use.
    last: Option<Instant>,
    session: Option<u64>,
    tenant: u64,
    cost: u32,
}

impl Arrival {
    /// The turn that it had in this group, if it was its own.
    fn turn_in(&self, group: GroupId) -> Option<Tag> {
        self.turn.filter(|turn| turn.group.0 == group).map(|turn| turn.group.1)
    }
}

impl Waiting {
    /// Its places in its group, and in the pool.
    fn ranks(&self, waiter: WaiterId) -> [Rank; 2] {
        [self.turn.group.1, self.turn.pool].map(|tag| (self.class, tag, waiter))
    }
}

impl Scheduler {
    /// An empty one that lets at most `bound` requests wait.
    pub fn new(bound: usize) -> Self {
        Self {
            bound,
            waiting: HashMap::new(),
            lines: HashMap::new(),
            slots: HashMap::new(),
            troubled: HashSet::new(),
            deadlines: BTreeSet::new(),
            crowd: Crowd::default(),
            live: HashMap::new(),
            fair: Fair::default(),
            turn: 0,
            batching: Batching::default(),
            keys: Arc::default(),
            families: HashMap::new(),
            runners: HashMap::new(),
            groups: HashMap::new(),
            alarms: BTreeSet::new(),
            dirty: VecDeque::new(),
            doubted: HashMap::new(),
            told: Told::default(),
            start: None,
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
            Event::Depart(waiter) => self.give_up(waiter, actions),
            Event::Slot(slot, view, served) => {
                self.see(slot, view, served, now);
                if view.in_flight > 0 {
                    self.infer(slot, now, actions);
                }
            }
            Event::Table(tables) => self.table(tables, now, actions),
            Event::Loaded(slot, ended) => self.loaded(slot, ended, now, actions),
            Event::Resident(runner, groups, asked) => self.resident(runner, &groups, asked, now, actions),
            Event::Waited(waited) => self.waited(&waited, now, actions),
            Event::Tick => {}
        }
        while let Some((at, what)) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, what));
            self.dirty.push_back(what);
        }
        self.look(now, actions);
        while let Some((until, waiter)) = self.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            let last = self.waiting.get(&waiter).and_then(|waiting| waiting.last);
            let is_too_late = last.is_some_and(|last| last <= now);
            if !is_too_late && self.is_loading_for(waiter, now) {
                let later = last.map_or(now + LOOK_AGAIN, |last| last.min(now + LOOK_AGAIN));
                self.deadlines.remove(&(until, waiter));
                self.deadlines.insert((later, waiter));
                if let Some(waiting) = self.waiting.get_mut(&waiter) {
                    waiting.until = later;
                }
                continue;
            }
            let is_asleep = self.waiting.get(&waiter).is_some_and(|waiting| self.is_asleep(waiting.line));
            let code = match (is_too_late, is_asleep) {
                (true, _) => Code::TooLate,
                (false, true) => Code::NoReplica,
                (false, false) => Code::QueueTimeout,
            };
            self.give_up(waiter, actions);
            actions.push(Action::Reject(waiter, code, None));
        }
        self.look(now, actions);
    }

    /// Whether there is nothing that a line could get.
    fn is_asleep(&self, line: LineId) -> bool {
        self.lines.get(&line).is_some_and(|line| line.route.runners().next().is_none())
    }

    /// A waiter gets nothing.
    fn give_up(&mut self, waiter: WaiterId, actions: &mut Vec<Action>) {
        self.leave(waiter, false, actions);
    }

    /// Looks at what has been left to be looked at, until nothing is.
    fn look(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some(dirty) = self.dirty.pop_front() {
            match dirty {
                Dirty::Slot(slot) => self.serve(slot, now, actions),
                Dirty::Group(group) => self.seek(group, now, actions),
                Dirty::Runner(runner) => self.turn(runner, now, actions),
            }
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
        let Arrival { waiter, target, class, since, exclude, .. } = arrival;
        // It chose by one table and arrived after the next: nothing would ever free what it waits for.
        let Some(route) = self.live.get(&target).cloned() else {
            return actions.push(Action::Reroute(waiter, arrival.turn));
        };
        let is_asleep = route.runners().next().is_none();
        if is_asleep && !arrival.awaits {
            return actions.push(Action::Reject(waiter, Code::NoReplica, None));
        }
        // Who waits for weights alone is in nobody's queue.
        let is_full = self.waiting.len() >= self.bound && !self.is_uncontested(&route);
        let gives_way = is_full.then(|| self.crowd.gives_way(class, arrival.tenant)).flatten();
        if is_full && gives_way.is_none() {
            let turn = (class, self.turn_in(route.group, &arrival));
            let after = self.expected(&route, (target, None), turn, now).map(Expected::whole);
            return actions.push(Action::Reject(waiter, Code::QueueFull, after));
        }
        if let Some(after) = self.barred_for(&route, now) {
            return actions.push(Action::Reject(waiter, Code::UpstreamError, Some(after)));
        }
        let cold = since + self.batching.cold_wait;
        let may_wait = match (is_asleep, arrival.awaits) {
            (true, _) => cold,
            (false, true) => arrival.until.max(cold), // there is a replica by now, and all who waited come at once
            (false, false) => arrival.until,
        };
        let exclude = exclude.filter(|exclude| route.runners().any(|runner| runner != *exclude));
        let id = (target, exclude);
        let serving = self.groups.get(&route.group).and_then(Group::service).unwrap_or_default();
        // What would be answered later than that is of no use.
        let last = arrival.deadline.map(|deadline| deadline.checked_sub(serving).unwrap_or(now));
        let until = last.map_or(may_wait, |last| may_wait.min(last));
        let turn = (class, self.turn_in(route.group, &arrival));
        if let Some(expected) = self.expected(&route, id, turn, now) {
            // A load may take longer than one waits for a slot.
            let cold = last.map_or(cold.max(until), |last| last.min(cold.max(until)));
            let loaded = if expected.load.is_zero() { until } else { cold };
            let turned = now + expected.turn;
            let over =
                turned.saturating_duration_since(until).max((turned + expected.load).saturating_duration_since(loaded));
            if !over.is_zero() {
                self.told.refused(route.group, expected.whole(), now);
                return actions.push(Action::Reject(waiter, Code::TooLate, Some(over)));
            }
        }
        if let Some(other) = gives_way {
            self.displace(other, now, actions);
        }
        let (tenant, cost) = (arrival.tenant, arrival.cost);
        let pool = self.fair.take(class, tenant, cost, arrival.turn.map(|turn| turn.pool));
        let fair = &mut self.groups.entry(route.group).or_default().fair;
        let own = fair.take(class, tenant, cost, arrival.turn_in(route.group));
        let (turn, session) = (Turn { pool, group: (route.group, own) }, arrival.session);
        let wait = may_wait.saturating_duration_since(since);
        let waiting = Waiting { line: id, class, turn, since, until, wait, last, session, tenant, cost };
        let ranks = waiting.ranks(waiter);
        self.waiting.insert(waiter, waiting);
        self.deadlines.insert((until, waiter));
        self.crowd.join(class, tenant, waiter);
        self.join(id, &route, ranks, actions);
        self.dirty.push_back(Dirty::Group(route.group));
    }

    /// The turn that a request would have in a group.
    fn turn_in(&self, group: GroupId, arrival: &Arrival) -> Tag {
        let had = arrival.turn_in(group);
        let known = self.groups.get(&group).map(|group| group.fair.peek(arrival.class, arrival.tenant, had));
        known.or(had).unwrap_or_default()
    }

    /// A waiter makes room for another. It is told when it would have had its slot.
    fn displace(&mut self, waiter: WaiterId, now: Instant, actions: &mut Vec<Action>) {
        let after = self.waiting.get(&waiter).and_then(|waiting| {
            let route = &self.lines.get(&waiting.line)?.route;
            let turn = (waiting.class, waiting.turn.group.1);
            self.expected(route, waiting.line, turn, now).map(Expected::whole)
        });
        self.give_up(waiter, actions);
        actions.push(Action::Reject(waiter, Code::QueueFull, after));
    }

    fn table(&mut self, tables: Tables, now: Instant, actions: &mut Vec<Action>) {
        let Tables { live, turning, batching, keys } = tables;
        let stands = |id: &LineId, line: &Line| live.get(&id.0).is_some_and(|route| *route == line.route);
        let gone = self.lines.iter().filter(|(id, line)| !stands(id, line));
        let gone: Vec<WaiterId> = gone.flat_map(|(_, line)| line.waiters().map(|rank| rank.2)).collect();
        for waiter in gone {
            let turn = self.waiting.get(&waiter).map(|waiting| waiting.turn);
            self.give_up(waiter, actions);
            actions.push(Action::Reroute(waiter, turn));
        }
        self.doubted.retain(|runner, _| live.values().any(|route| route.allows(*runner)));
        self.live = live;
        self.batching = batching;
        self.keys = keys;
        self.share(&turning, now, actions);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod turns_tests;
