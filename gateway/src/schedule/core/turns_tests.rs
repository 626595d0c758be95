//! Groups that share runners, in a world where requests, loads and replicas do as they please.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod bound;
mod classes;
mod placement;
mod residency;

const RUNNERS: RunnerId = 3;
const GROUPS: GroupId = 4;
const WAIT: Duration = Duration::from_secs(3600);

/// One who waits: for a group, in a class, of a tenant; the runner that he shall not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    group: GroupId,
    class: Priority,
    tenant: u64,
    exclude: Option<RunnerId>,
}

struct World {
    core: Scheduler,
    now: Instant,
    views: BTreeMap<SlotId, View>,
    /// Whose weights each runner has, and whose it loads.
    loading: BTreeMap<RunnerId, GroupId>,
    waiting: BTreeMap<WaiterId, Wish>,
    /// Where requests run, and whether the core knows that they run beside others of a runner.
    running: Vec<(SlotId, bool)>,
    /// The runners that the table has.
    there: Vec<RunnerId>,
    refused: Vec<(WaiterId, Code)>,
    loads: usize,
    /// After how long the last of them is given up.
    within: Duration,
    /// Replicas that were to be asked what they have.
    asked: Vec<SlotId>,
    /// Gates that were closed, in all.
    closed: usize,
    keys: Arc<Keys>,
    next: WaiterId,
}

fn every() -> impl Iterator<Item = SlotId> {
    (0..RUNNERS).flat_map(|runner| (0..GROUPS).map(move |group| SlotId { runner, group }))
}

impl World {
    fn new(limit: u16) -> Self {
        let view = View { closed: false, suspect: false, kept: false, away: true, in_flight: 0, limit };
        let mut world = Self {
            core: Scheduler::new(1000),
            now: Instant::now(),
            views: every().map(|slot| (slot, view)).collect(),
            loading: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            there: Vec::new(),
            refused: Vec::new(),
            loads: 0,
            within: Duration::ZERO,
            asked: Vec::new(),
            closed: 0,
            keys: Arc::default(),
            next: 0,
        };
        world.table(0xff);
        world
    }

    /// The runners whose bits are set are there; one always is. They are one family's, and by the highest bit another's.
    fn table(&mut self, bits: u8) {
        let before =
            std::mem::replace(&mut self.there, (0..RUNNERS).filter(|at| *at == 0 || bits >> at & 1 == 1).collect());
        for gone in before.iter().filter(|at| !self.there.contains(at)) {
            self.loading.remove(gone); // it ends, and means nothing any more
            self.running.iter_mut().filter(|(slot, _)| slot.runner == *gone).for_each(|(_, known)| *known = false);
        }
        let route = |group| Arc::new(Route { group, fixed: [].into(), turning: self.there.clone().into() });
        let live = (0..GROUPS).map(|group| (TargetId::from(group), route(group))).collect();
        let turning = self.there.iter().map(|runner| (*runner, FamilyId::from(bits >> 7))).collect();
        let (max_wait, quantum) = (Some(Duration::from_secs(4)), Some(Duration::from_secs(2)));
        let batching = Batching { max_wait, quantum, cold_wait: Duration::ZERO };
        self.on(Event::Table(Tables { live, turning, batching, keys: self.keys.clone() }));
        for (slot, view) in self.views.clone() {
            if self.there.contains(&slot.runner) {
                self.on(Event::Slot(slot, view, Served::default()));
            }
        }
    }

    fn on(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.core.on(event, self.now, &mut actions);
            for action in actions {
                self.carry_out(action, &mut events);
            }
        }
        assert_eq!(self.core.len(), self.waiting.len());
    }

    fn carry_out(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::CloseGate(slot) => {
                self.closed += 1;
                let view = self.views.get_mut(&slot).unwrap();
                assert!(!std::mem::replace(&mut view.closed, true), "closed twice");
                events.push_back(Event::Slot(slot, *view, Served::default()));
            }
            Action::OpenGate(slot) => {
                assert!(std::mem::replace(&mut self.views.get_mut(&slot).unwrap().closed, false), "opened twice");
            }
            Action::Home(slot, home) => self.views.get_mut(&slot).unwrap().away = !home,
            Action::Ask(slot, _) => self.asked.push(slot),
            Action::Load { slot, within, .. } => {
                let beside = |(running, known): &(SlotId, bool)| *known && running.runner == slot.runner;
                assert!(!self.running.iter().any(beside), "loaded beside work");
                assert!(self.loading.insert(slot.runner, slot.group).is_none(), "two loads at once");
                self.loads += 1;
                self.within = within;
            }
            Action::Dispatch(waiter, slot) => {
                let wish = self.waiting.remove(&waiter).expect("dispatched, and does not wait");
                assert_eq!(wish.group, slot.group, "another group's slot");
                assert!(wish.exclude != Some(slot.runner) || self.there.len() == 1, "the one that has failed it");
                let before = self.waiting.range(..waiter);
                assert!(!before.into_iter().any(|(_, other)| *other == wish), "passed one before it");
                self.take(slot);
            }
            Action::Reject(waiter, code, _) => {
                self.waiting.remove(&waiter).expect("refused, and does not wait");
                self.refused.push((waiter, code));
            }
            // It comes again, as it would when it has read the table.
            Action::Reroute(waiter, turn) => {
                let wish = self.waiting[&waiter];
                let exclude = wish.exclude;
                events.push_back(Event::Arrive(Arrival { turn, exclude, ..self.arrival(waiter, wish, None) }));
            }
        }
    }

    fn take(&mut self, slot: SlotId) {
        let view = self.views.get_mut(&slot).unwrap();
        assert!(!view.away, "the weights are not there");
        assert!(!self.loading.contains_key(&slot.runner), "others are being loaded");
        view.in_flight += 1;
        assert!(view.in_flight <= view.limit, "more than there are slots");
        self.running.push((slot, true));
    }

    fn arrival(&self, waiter: WaiterId, wish: Wish, deadline: Option<Instant>) -> Arrival {
        let Wish { group, class, tenant, exclude } = wish;
        let (now, target) = (self.now, TargetId::from(group));
        let until = now + WAIT;
        Arrival {
            waiter,
            target,
            class,
            tenant,
            cost: 1,
            turn: None,
            since: now,
            until,
            deadline,
            exclude,
            session: None,
            awaits: false,
        }
    }

    fn ask(&mut self, group: GroupId) {
        self.ask_as(Wish { group, class: Priority::Normal, tenant: 0, exclude: None }, None);
    }

    fn ask_as(&mut self, wish: Wish, within: Option<Duration>) {
        // The fast path, as `Target::take` has it.
        let slots = self.there.iter().map(|runner| SlotId { runner: *runner, group: wish.group });
        let slots: Vec<SlotId> = slots.filter(|slot| wish.exclude != Some(slot.runner)).collect();
        let views = || slots.iter().map(|slot| (*slot, self.views[slot]));
        let all_suspect = views().all(|(_, view)| view.suspect);
        if views().all(|(_, view)| !view.closed)
            && let Some((slot, _)) =
                views().find(|(_, view)| !view.away && view.free() > 0 && (all_suspect || !view.suspect))
        {
            return self.take(slot);
        }
        let waiter = self.next;
        self.next += 1;
        self.waiting.insert(waiter, wish);
        let arrival = self.arrival(waiter, wish, within.map(|within| self.now + within));
        self.on(Event::Arrive(arrival));
    }

    fn depart(&mut self, pick: usize) {
        let Some(waiter) = self.waiting.keys().nth(pick % self.waiting.len().max(1)).copied() else { return };
        self.waiting.remove(&waiter);
        self.on(Event::Depart(waiter));
    }

    fn done(&mut self, pick: usize) {
        if self.running.is_empty() {
            return;
        }
        let (slot, _) = self.running.swap_remove(pick % self.running.len());
        let view = self.views.get_mut(&slot).unwrap();
        view.in_flight -= 1;
        self.tell(slot, Served { count: 1, awaited: 1, time: Duration::from_millis(100) });
    }

    /// As an owner does, where somebody listens.
    fn tell(&mut self, slot: SlotId, served: Served) {
        let view = self.views[&slot];
        if (view.closed || view.away) && self.there.contains(&slot.runner) {
            self.on(Event::Slot(slot, view, served));
        }
    }

    fn load_ends(&mut self, pick: usize, well: bool) {
        let found = self.loading.iter().nth(pick % self.loading.len().max(1));
        let Some((runner, group)) = found.map(|(runner, group)| (*runner, *group)) else { return };
        self.loading.remove(&runner);
        let ended = if well { Ok(Duration::from_secs(1)) } else { Err(Code::UpstreamError) };
        self.on(Event::Loaded(SlotId { runner, group }, ended));
    }

    fn suspect(&mut self, slot: SlotId, suspect: bool) {
        self.views.get_mut(&slot).unwrap().suspect = suspect;
        self.tell(slot, Served::default());
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        while self.core.next_tick().is_some_and(|at| at <= self.now) {
            self.on(Event::Tick);
        }
    }

    fn home(&self, group: GroupId) -> Vec<RunnerId> {
        every().filter(|slot| slot.group == group && !self.views[slot].away).map(|slot| slot.runner).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Wish, Option<u64>),
    Done(usize),
    Depart(usize),
    LoadEnds(usize, bool),
    Resident(RunnerId, Option<GroupId>),
    /// An answer says that its request had waited so long for its weights, and was sent so long ago.
    Waited(SlotId, u64, u64),
    Table(u8),
    Suspect(SlotId, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let wish = (0..GROUPS, prop::sample::select(&Priority::ALL[..]), 0..2u64, prop::option::weighted(0.2, 0..RUNNERS));
    let wish = wish.prop_map(|(group, class, tenant, exclude)| Wish { group, class, tenant, exclude });
    prop_oneof![
        8 => (wish, prop::option::weighted(0.2, 0..20_000u64)).prop_map(|(wish, within)| Step::Ask(wish, within)),
        6 => any::<usize>().prop_map(Step::Done),
        1 => any::<usize>().prop_map(Step::Depart),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(pick, well)| Step::LoadEnds(pick, well)),
        1 => (0..RUNNERS, prop::option::of(0..GROUPS)).prop_map(|(at, group)| Step::Resident(at, group)),
        1 => (0..RUNNERS, 0..GROUPS, 0..2000u64, 0..5000u64)
            .prop_map(|(runner, group, told, ago)| Step::Waited(SlotId { runner, group }, told, ago)),
        1 => any::<u8>().prop_map(Step::Table),
        1 => (0..RUNNERS, 0..GROUPS, any::<bool>())
            .prop_map(|(runner, group, suspect)| Step::Suspect(SlotId { runner, group }, suspect)),
        3 => (0..5000u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn nobody_is_lost_and_no_load_is_beside_work(limit in 1..4u16, steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new(limit);
        for step in steps {
            match step {
                Step::Ask(wish, within) => world.ask_as(wish, within.map(Duration::from_millis)),
                Step::Done(pick) => world.done(pick),
                Step::Depart(pick) => world.depart(pick),
                Step::LoadEnds(pick, well) => world.load_ends(pick, well),
                Step::Resident(at, group) => {
                    world.pass(1);
                    if !world.there.contains(&at) || world.running.iter().any(|(slot, _)| slot.runner == at) {
                        continue; // the owner tells none then
                    }
                    let asked = world.now;
                    world.on(Event::Resident(at, group.into_iter().collect(), asked));
                }
                Step::Waited(slot, told, ago) if world.there.contains(&slot.runner) => {
                    let (told, sent) = (Duration::from_millis(told), world.now - Duration::from_millis(ago));
                    let (homes, asked) = (world.core.loaded_by(slot.runner), world.asked.len());
                    world.on(Event::Waited(Waited { slot, beside: [slot.runner].into(), told, sent }));
                    prop_assert_eq!(world.core.loaded_by(slot.runner), homes, "a doubt changes nothing");
                    world.on(Event::Waited(Waited { slot, beside: [slot.runner].into(), told, sent }));
                    prop_assert!(world.asked.len() <= asked + 1, "and costs one question");
                }
                Step::Waited(..) => {} // the owner does not know it either
                Step::Table(bits) => world.table(bits),
                Step::Suspect(slot, suspect) => world.suspect(slot, suspect),
                Step::Pass(millis) => world.pass(millis),
            }
        }
        // Whatever has happened, once loads and requests end everybody has had an answer.
        for _ in 0..2000 {
            if world.core.is_empty() {
                break;
            }
            for _ in 0..RUNNERS {
                world.load_ends(0, true);
            }
            world.done(0);
            world.pass(100);
        }
        let core = &world.core;
        prop_assert!(
            core.is_empty(),
            "{:?} wait, {:?} load, {:?} {:?} {:?} {:?} {:?} {:?}",
            world.waiting, world.loading, core.families, core.groups, core.runners, core.alarms, core.troubled, core.slots,
        );
        while !world.loading.is_empty() {
            world.load_ends(0, true);
        }
        while !world.running.is_empty() {
            world.done(0);
        }
        let closed: Vec<_> = world.views.iter().filter(|(slot, view)| view.closed && world.there.contains(&slot.runner)).collect();
        prop_assert!(closed.is_empty(), "every gate is open, but {closed:?}");
        let homes = every().filter(|slot| world.there.contains(&slot.runner) && !world.views[slot].away);
        let mut homes: Vec<RunnerId> = homes.map(|slot| slot.runner).collect();
        let all = homes.len();
        homes.dedup();
        prop_assert_eq!(homes.len(), all, "a runner has one group's weights");
    }
}

/// One runner, and no other.
fn alone() -> World {
    let mut world = World::new(1);
    world.table(0);
    world
}

#[test]
fn a_load_that_fails_twice_fails_its_own_group_alone() {
    let mut world = alone();
    world.ask(0);
    world.ask(1);
    world.load_ends(0, false);
    assert_eq!((world.loading.get(&0), world.refused.len()), (Some(&1), 0), "the other's turn meanwhile");
    world.load_ends(0, true);
    world.done(0);
    world.pass(1000);
    assert_eq!((world.loading.get(&0), world.refused.len()), (Some(&0), 0), "once more");
    world.load_ends(0, false);
    assert_eq!(world.refused, [(0, Code::UpstreamError)]);
}

#[test]
fn a_load_that_fails_on_one_replica_is_tried_on_another() {
    let mut world = World::new(1);
    world.ask(0);
    let first = *world.loading.keys().next().unwrap();
    world.load_ends(0, false);
    let second = *world.loading.keys().next().unwrap();
    assert_ne!(first, second);
    world.load_ends(0, true);
    assert_eq!(world.running, [(SlotId { runner: second, group: 0 }, true)]);
    assert!(world.refused.is_empty());
}

#[test]
fn a_load_that_hangs_is_not_waited_for() {
    let mut world = World::new(1);
    world.ask(0);
    world.load_ends(0, true);
    world.ask(1);
    let hangs = *world.loading.keys().next().unwrap();
    world.pass(11_000);
    assert_eq!(world.loading.len(), 2, "another loads it too");
    let other = world.loading.keys().position(|runner| *runner != hangs).unwrap();
    world.load_ends(other, true);
    assert!(world.waiting.is_empty());
}

#[test]
fn what_cannot_be_used_holds_up_nobody() {
    let mut world = World::new(1);
    world.suspect(SlotId { runner: 0, group: 0 }, true);
    world.suspect(SlotId { runner: 1, group: 0 }, true);
    world.ask(0);
    assert_eq!(world.loading.iter().next(), Some((&2, &0)));
    world.load_ends(0, true);
    world.suspect(SlotId { runner: 2, group: 0 }, true);
    world.ask(0);
    assert_eq!(
        (world.waiting.len(), world.loading.len()),
        (1, 0),
        "all are suspect: it waits for where the weights are"
    );
    world.done(0);
    assert_eq!(world.running, [(SlotId { runner: 2, group: 0 }, true)]);
}

#[test]
fn a_group_that_is_asked_for_much_has_several_runners() {
    let mut world = World::new(1);
    for _ in 0..100 {
        world.ask(0);
    }
    world.load_ends(0, true);
    while world.running.len() < 3 && !world.waiting.is_empty() {
        world.load_ends(0, true);
        world.done(0);
    }
    assert_eq!(world.home(0).len(), 3);
}

#[test]
fn ten_thousand_leave_at_once_and_nothing_is_left_of_them() {
    let mut world = World::new(1);
    world.core.set_bound(20_000);
    for number in 0..10_000 {
        world.ask(number % GROUPS);
    }
    while !world.waiting.is_empty() {
        let last = world.waiting.len() - 1;
        world.depart(if last.is_multiple_of(2) { 0 } else { last });
    }
    while !world.loading.is_empty() {
        world.load_ends(0, true);
    }
    while !world.running.is_empty() {
        world.done(0);
    }
    assert!(world.core.is_empty() && world.views.values().all(|view| !view.closed));
    assert_eq!(world.core.groups_told(world.now).iter().map(|group| group.waiting).sum::<usize>(), 0);
}

#[test]
fn when_time_jumps_everybody_is_still_served_in_order() {
    let mut world = alone();
    for group in [0, 1, 2, 0, 1, 2] {
        world.ask(group);
    }
    world.pass(3_000_000);
    let mut served = Vec::new();
    for _ in 0..20 {
        world.load_ends(0, true);
        served.extend(world.running.first().map(|(slot, _)| slot.group));
        world.done(0);
    }
    assert_eq!(served, [0, 0, 1, 1, 2, 2]);
}

#[test]
fn what_would_come_too_late_is_refused_at_once() {
    let mut world = alone();
    world.ask(0);
    world.load_ends(0, true); // a second, as is known now
    world.done(0);
    let wish = |group| Wish { group, class: Priority::Normal, tenant: 0, exclude: None };
    world.ask_as(wish(1), Some(Duration::from_millis(900)));
    assert_eq!(world.refused, [(1, Code::TooLate)]);
    world.ask_as(wish(1), Some(Duration::from_millis(3900)));
    assert_eq!((world.refused.len(), world.loading.get(&0)), (1, Some(&1)));
}

#[test]
fn what_a_replica_said_before_a_load_is_old() {
    let mut world = alone();
    let asked = world.now;
    world.pass(1);
    world.ask(0);
    world.load_ends(0, true);
    world.on(Event::Resident(0, vec![1], asked));
    assert_eq!((world.home(0), world.home(1)), (vec![0], vec![]));
    world.pass(1);
    world.done(0);
    let now = world.now;
    world.on(Event::Resident(0, vec![1], now));
    assert_eq!((world.home(0), world.home(1)), (vec![], vec![0]));
}
