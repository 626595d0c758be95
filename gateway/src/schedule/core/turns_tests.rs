//! Groups that share runners, in a world where requests, loads and replicas do as they please.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// One, as in the pools whose groups take turns so far (`Table::shared`).
const RUNNERS: u64 = 1;
const GROUPS: u64 = 4;
const WAIT: Duration = Duration::from_secs(3600);

struct World {
    core: Scheduler,
    now: Instant,
    views: BTreeMap<SlotId, View>,
    /// Whose weights each runner has, and whose it loads.
    held: BTreeMap<RunnerId, Option<SlotId>>,
    loading: BTreeMap<RunnerId, SlotId>,
    /// Who waits, and for which group.
    waiting: BTreeMap<(u64, Rank), ()>,
    /// Where requests run, and whether the core knows that they run beside others of a runner.
    running: Vec<(SlotId, bool)>,
    shared: Vec<SlotId>,
    refused: usize,
    next: WaiterId,
}

fn runner(slot: SlotId) -> RunnerId {
    slot / GROUPS
}

impl World {
    fn new(limit: u16) -> Self {
        let view = View { closed: false, suspect: false, kept: false, away: false, in_flight: 0, limit };
        let mut world = Self {
            core: Scheduler::new(1000),
            now: Instant::now(),
            views: (0..RUNNERS * GROUPS).map(|slot| (slot, view)).collect(),
            held: (0..RUNNERS).map(|runner| (runner, None)).collect(),
            loading: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            shared: Vec::new(),
            refused: 0,
            next: 0,
        };
        world.table(0xff);
        world
    }

    /// Of each runner the slots whose bits are set share it.
    fn table(&mut self, bits: u8) {
        let of = |at: RunnerId| (at * GROUPS..(at + 1) * GROUPS).filter(|slot| bits >> slot & 1 == 1).collect();
        let mut runners: Vec<(RunnerId, Vec<SlotId>)> = (0..RUNNERS).map(|at| (at, of(at))).collect();
        runners.retain(|(_, slots)| slots.len() > 1);
        self.shared = runners.iter().flat_map(|(_, slots)| slots.clone()).collect();
        self.loading.retain(|_, slot| self.shared.contains(slot)); // it ends, and means nothing any more
        self.running.iter_mut().for_each(|(_, known)| *known = false);
        let (max_wait, quantum) = (Some(Duration::from_secs(4)), Some(Duration::from_secs(2)));
        let batching = Batching { max_wait, quantum, cold_wait: Duration::ZERO };
        self.on(Event::Table(Tables { live: (0..GROUPS).collect(), runners, batching }));
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
                let view = self.views.get_mut(&slot).unwrap();
                assert!(!std::mem::replace(&mut view.closed, true), "closed twice");
                events.push_back(Event::Slot(slot, *view));
            }
            Action::OpenGate(slot) => {
                assert!(std::mem::replace(&mut self.views.get_mut(&slot).unwrap().closed, false), "opened twice");
            }
            Action::Home(slot, home) => self.views.get_mut(&slot).unwrap().away = !home,
            Action::Load { slot, .. } => {
                let beside = |(running, known): &(SlotId, bool)| *known && runner(*running) == runner(slot);
                assert!(!self.running.iter().any(beside), "loaded beside work");
                assert!(self.loading.insert(runner(slot), slot).is_none(), "two loads at once");
                self.held.insert(runner(slot), None);
            }
            Action::Dispatch(waiter, slot) => {
                let found = self.waiting.keys().find(|(_, (_, other))| *other == waiter).copied();
                let (group, rank) = found.expect("dispatched, and does not wait");
                self.waiting.remove(&(group, rank));
                assert_eq!(group, slot % GROUPS, "another group's slot");
                assert!(!self.waiting.keys().any(|(of, other)| *of == group && *other < rank), "passed one before it");
                self.take(slot);
            }
            Action::Reject(waiter, code) => {
                assert_eq!(code, Code::UpstreamError);
                self.waiting.retain(|(_, (_, other)), ()| *other != waiter);
                self.refused += 1;
            }
            Action::Reroute(_) => panic!("the table stands"),
        }
    }

    fn take(&mut self, slot: SlotId) {
        let view = self.views.get_mut(&slot).unwrap();
        let shared = self.shared.contains(&slot);
        assert!(!view.away, "the weights are not there");
        assert!(!shared || !self.loading.contains_key(&runner(slot)), "others are being loaded");
        view.in_flight += 1;
        assert!(view.in_flight <= view.limit, "more than there are slots");
        self.running.push((slot, shared));
    }

    fn ask(&mut self, group: u64, class: Priority) {
        let slots: Arc<[SlotId]> = (0..RUNNERS).map(|at| at * GROUPS + group).collect();
        // The fast path, as `Target::take` has it.
        let views = || slots.iter().map(|slot| (*slot, self.views[slot]));
        if views().all(|(_, view)| !view.closed)
            && let Some((slot, _)) = views().find(|(_, view)| !view.away && view.free() > 0)
        {
            return self.take(slot);
        }
        let waiter = self.next;
        self.next += 1;
        self.waiting.insert((group, (class, waiter)), ());
        let until = self.now + WAIT;
        self.on(Event::Arrive(Arrival { waiter, class, target: group, slots, until, exclude: None }));
    }

    fn depart(&mut self, pick: usize) {
        let Some((group, (class, waiter))) = self.waiting.keys().nth(pick % self.waiting.len().max(1)).copied() else {
            return;
        };
        self.waiting.remove(&(group, (class, waiter)));
        self.on(Event::Depart(waiter));
    }

    fn done(&mut self, pick: usize) {
        if self.running.is_empty() {
            return;
        }
        let (slot, _) = self.running.swap_remove(pick % self.running.len());
        let view = self.views.get_mut(&slot).unwrap();
        view.in_flight -= 1;
        let view = *view;
        if view.closed {
            self.on(Event::Slot(slot, view));
        }
    }

    fn load_ends(&mut self, pick: usize, well: bool) {
        let Some((at, slot)) = self.loading.iter().nth(pick % self.loading.len().max(1)).map(|(at, slot)| (*at, *slot))
        else {
            return;
        };
        self.loading.remove(&at);
        self.held.insert(at, well.then_some(slot));
        self.on(Event::Loaded(slot, if well { Ok(Duration::from_secs(1)) } else { Err(Code::UpstreamError) }));
    }

    fn suspect(&mut self, slot: SlotId, suspect: bool) {
        let view = self.views.get_mut(&slot).unwrap();
        view.suspect = suspect;
        let view = *view;
        if view.closed {
            self.on(Event::Slot(slot, view));
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        while self.core.next_tick().is_some_and(|at| at <= self.now) {
            self.on(Event::Tick);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u64, Priority),
    Done(usize),
    Depart(usize),
    LoadEnds(usize, bool),
    Resident(RunnerId, Option<SlotId>),
    Table(u8),
    Suspect(SlotId, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..GROUPS, prop::sample::select(&Priority::ALL[..])).prop_map(|(group, class)| Step::Ask(group, class)),
        6 => any::<usize>().prop_map(Step::Done),
        1 => any::<usize>().prop_map(Step::Depart),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(pick, well)| Step::LoadEnds(pick, well)),
        1 => (0..RUNNERS, prop::option::of(0..RUNNERS * GROUPS)).prop_map(|(at, slot)| Step::Resident(at, slot)),
        1 => any::<u8>().prop_map(Step::Table),
        1 => (0..RUNNERS * GROUPS, any::<bool>()).prop_map(|(slot, suspect)| Step::Suspect(slot, suspect)),
        3 => (0..5000u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn nobody_is_lost_and_no_load_is_beside_work(limit in 1..4u16, steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new(limit);
        for step in steps {
            match step {
                Step::Ask(group, class) => world.ask(group, class),
                Step::Done(pick) => world.done(pick),
                Step::Depart(pick) => world.depart(pick),
                Step::LoadEnds(pick, well) => world.load_ends(pick, well),
                Step::Resident(at, slot) => {
                    world.pass(1);
                    if world.running.iter().any(|(slot, _)| runner(*slot) == at) {
                        continue; // the owner tells none then
                    }
                    let (asked, slots) = (world.now, slot.into_iter().collect());
                    world.on(Event::Resident(at, slots, asked));
                }
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
            world.load_ends(0, true);
            world.done(0);
            world.pass(100);
        }
        prop_assert!(world.core.is_empty(), "{} wait", world.core.len());
        while !world.running.is_empty() {
            world.done(0);
        }
        prop_assert!(world.views.values().all(|view| !view.closed), "every gate is open");
    }
}

#[test]
fn a_load_that_fails_twice_fails_its_own_group_alone() {
    let mut world = World::new(1);
    // The second runner is never there: its slots are in no target of this test.
    for group in [0, 1] {
        let (waiter, class) = (world.next, Priority::Normal);
        world.next += 1;
        world.waiting.insert((group, (class, waiter)), ());
        let until = world.now + WAIT;
        world.on(Event::Arrive(Arrival { waiter, class, target: group, slots: [group].into(), until, exclude: None }));
    }
    world.load_ends(0, false);
    assert_eq!((world.loading.get(&0), world.refused), (None, 0), "it is left alone for a moment");
    world.pass(1000);
    assert_eq!((world.loading.get(&0), world.refused), (Some(&0), 0), "once more");
    world.load_ends(0, false);
    assert_eq!((world.loading.get(&0), world.refused), (Some(&1), 1), "the other's turn");
    world.load_ends(0, true);
    assert_eq!(world.running, [(1, true)]);
}

#[test]
fn what_a_replica_said_before_a_load_is_old() {
    let mut world = World::new(1);
    let asked = world.now;
    world.pass(1);
    world.ask(0, Priority::Normal);
    let (at, slot) = world.loading.iter().next().map(|(at, slot)| (*at, *slot)).unwrap();
    world.load_ends(0, true);
    world.on(Event::Resident(at, vec![slot + 1], asked));
    assert!(!world.views[&slot].away && world.views[&(slot + 1)].away);
    world.pass(1);
    world.done(0);
    let now = world.now;
    world.on(Event::Resident(at, vec![slot + 1], now));
    assert!(world.views[&slot].away && !world.views[&(slot + 1)].away);
}
