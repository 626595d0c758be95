//! The core against a world of slots, in which requests also pass by the fast path, come, go and give back at random.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The slots as the owner and the fast path see them.
struct World {
    core: Scheduler,
    now: Instant,
    slots: BTreeMap<SlotId, View>,
    /// Who was dispatched where, or passed by the fast path.
    running: Vec<(SlotId, Option<WaiterId>)>,
    /// Who waits for what, in order.
    waiting: BTreeMap<Rank, Wish>,
    departed: HashSet<WaiterId>,
    ended: Vec<(WaiterId, Code)>,
    next: WaiterId,
}

/// A target, and the slot of it that the waiter shall not have.
type Wish = (TargetId, Option<SlotId>);

/// Two targets: one with the slots 0 and 1, the other with slot 2 alone.
const TARGETS: [&[SlotId]; 2] = [&[0, 1], &[2]];
const BOUND: usize = 8;
const WAIT: Duration = Duration::from_secs(30);

impl World {
    fn new(limit: u16) -> Self {
        let view = View { closed: false, suspect: false, kept: false, away: false, in_flight: 0, limit };
        Self {
            core: Scheduler::new(BOUND),
            now: Instant::now(),
            slots: (0..3).map(|id| (id, view)).collect(),
            running: Vec::new(),
            waiting: BTreeMap::new(),
            departed: HashSet::new(),
            ended: Vec::new(),
            next: 0,
        }
    }

    fn on(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.core.on(event, self.now, &mut actions);
            for action in actions {
                match action {
                    Action::CloseGate(id) => {
                        let view = self.slots.get_mut(&id).unwrap();
                        assert!(!view.closed, "closed twice");
                        view.closed = true;
                        events.push_back(Event::Slot(id, *view));
                    }
                    Action::OpenGate(id) => self.slots.get_mut(&id).unwrap().closed = false,
                    Action::Dispatch(waiter, slot) => {
                        let rank = self.rank(waiter).expect("dispatched, and does not wait");
                        let wish = self.waiting.remove(&rank).expect("it waits");
                        assert!(!self.departed.contains(&waiter), "dispatched after it left");
                        let mut before = self.waiting.range(..rank);
                        assert!(!before.any(|(_, wish)| self.room(*wish).contains(&slot)), "passed one before it");
                        assert!(self.room(wish).contains(&slot), "not a slot for this one");
                        let view = self.slots.get_mut(&slot).unwrap();
                        assert!(view.closed, "dispatched through an open gate");
                        view.in_flight += 1;
                        assert!(view.in_flight <= view.limit, "more than there are slots");
                        self.running.push((slot, Some(waiter)));
                    }
                    Action::Reject(waiter, code) => {
                        self.leave(waiter);
                        self.ended.push((waiter, code));
                    }
                    Action::Home(..) | Action::Load { .. } => panic!("no slot shares a runner"),
                    Action::Reroute(waiter) => {
                        self.leave(waiter).expect("rerouted, and does not wait");
                    }
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.core.len(), self.waiting.len());
        assert!(self.core.len() <= BOUND);
        assert!(self.waiting.values().all(|wish| self.room(*wish).is_empty()), "somebody waits beside a free slot");
        for (id, view) in &self.slots {
            let waits = self.waiting.values().any(|wish| allowed(*wish).contains(id));
            assert_eq!(view.closed, waits, "a gate is closed exactly while somebody waits for it");
        }
    }

    /// The slots that would do now.
    fn room(&self, wish: Wish) -> Vec<SlotId> {
        let mut slots = allowed(wish);
        let all_suspect = slots.iter().all(|id| self.slots[id].suspect);
        slots.retain(|id| self.slots[id].free() > 0 && (all_suspect || !self.slots[id].suspect));
        slots
    }

    /// A request: by the fast path where it is open, else to the owner.
    fn request(&mut self, target: TargetId, exclude: Option<SlotId>) {
        self.request_of(Priority::Normal, target, exclude);
    }

    fn request_of(&mut self, class: Priority, target: TargetId, exclude: Option<SlotId>) {
        let slots = allowed((target, exclude));
        if let Some(id) = slots.iter().find(|id| !self.slots[id].closed && self.slots[id].free() > 0) {
            self.slots.get_mut(id).unwrap().in_flight += 1;
            return self.running.push((*id, None));
        }
        self.arrive_of(class, target, exclude);
    }

    fn rank(&self, waiter: WaiterId) -> Option<Rank> {
        self.waiting.keys().find(|(_, other)| *other == waiter).copied()
    }

    fn leave(&mut self, waiter: WaiterId) -> Option<Wish> {
        self.rank(waiter).and_then(|rank| self.waiting.remove(&rank))
    }

    fn arrive(&mut self, target: TargetId, exclude: Option<SlotId>) {
        self.arrive_of(Priority::Normal, target, exclude);
    }

    fn arrive_of(&mut self, class: Priority, target: TargetId, exclude: Option<SlotId>) {
        let (waiter, until, slots) = (self.next, self.now + WAIT, TARGETS[target as usize].into());
        self.next += 1;
        self.waiting.insert((class, waiter), (target, exclude));
        self.on(Event::Arrive(Arrival { waiter, class, target, slots, until, exclude }));
    }

    fn give_back(&mut self, pick: usize) {
        if self.running.is_empty() {
            return;
        }
        let (slot, _) = self.running.swap_remove(pick % self.running.len());
        let view = self.slots.get_mut(&slot).unwrap();
        view.in_flight -= 1;
        if view.closed {
            let view = *view;
            self.on(Event::Slot(slot, view));
        }
    }

    fn depart(&mut self, pick: usize) {
        let Some(rank) = self.waiting.keys().nth(pick % self.waiting.len().max(1)).copied() else { return };
        self.waiting.remove(&rank);
        let (_, waiter) = rank;
        self.departed.insert(waiter);
        self.on(Event::Depart(waiter));
    }

    fn suspect(&mut self, slot: SlotId, suspect: bool) {
        self.change(slot, |view| view.suspect = suspect);
    }

    fn change(&mut self, slot: SlotId, change: impl Fn(&mut View)) {
        let view = self.slots.get_mut(&slot).unwrap();
        change(view);
        let view = *view;
        if view.closed {
            self.on(Event::Slot(slot, view));
        }
    }
}

/// The slots that a waiter may ever have: all but the excluded one, unless there is no other.
fn allowed((target, exclude): Wish) -> Vec<SlotId> {
    let all = TARGETS[target as usize];
    let others: Vec<SlotId> = all.iter().copied().filter(|id| Some(*id) != exclude).collect();
    if others.is_empty() { all.to_vec() } else { others }
}

#[derive(Clone, Debug)]
enum Step {
    Request(Priority, TargetId, Option<SlotId>),
    GiveBack(usize),
    Depart(usize),
    Suspect(SlotId, bool),
    Kept(SlotId, bool),
    Limit(SlotId, u16),
    Table(bool, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::sample::select(&Priority::ALL[..]), 0..2u64, prop::option::of(0..3u64))
            .prop_map(|(class, target, exclude)| Step::Request(class, target, exclude)),
        4 => any::<usize>().prop_map(Step::GiveBack),
        2 => any::<usize>().prop_map(Step::Depart),
        1 => (0..3u64, any::<bool>()).prop_map(|(slot, suspect)| Step::Suspect(slot, suspect)),
        1 => (0..3u64, any::<bool>()).prop_map(|(slot, kept)| Step::Kept(slot, kept)),
        1 => (0..3u64, 1..4u16).prop_map(|(slot, limit)| Step::Limit(slot, limit)),
        1 => any::<(bool, bool)>().prop_map(|(first, second)| Step::Table(first, second)),
        1 => (0..40u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn nobody_is_lost_doubled_or_passed(limit in 1..3u16, steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new(limit);
        for step in steps {
            match step {
                Step::Request(class, target, exclude) => world.request_of(class, target, exclude),
                Step::GiveBack(pick) => world.give_back(pick),
                Step::Depart(pick) => world.depart(pick),
                Step::Suspect(slot, suspect) => world.suspect(slot, suspect),
                Step::Kept(slot, kept) => world.change(slot, |view| view.kept = kept),
                Step::Limit(slot, limit) => world.change(slot, |view| view.limit = limit),
                Step::Table(first, second) => {
                    let live = [(0, first), (1, second)].into_iter().filter_map(|(id, live)| live.then_some(id)).collect();
                    world.on(Event::Table(Tables { live, ..Tables::default() }));
                }
                Step::Pass(seconds) => {
                    world.now += Duration::from_secs(seconds);
                    world.on(Event::Tick);
                }
            }
        }
        // Once all work is done, nobody waits and every gate is open.
        for slot in 0..3 {
            world.suspect(slot, false);
        }
        while !world.running.is_empty() {
            world.give_back(0);
        }
        prop_assert!(world.core.is_empty());
        prop_assert!(world.slots.values().all(|view| !view.closed && view.in_flight == 0));
    }
}

#[test]
fn a_full_queue_refuses_and_a_long_wait_ends() {
    let mut world = World::new(1);
    for _ in 0..BOUND + 2 {
        world.request(1, None); // one runs, BOUND wait, one is refused
    }
    assert_eq!(world.ended, [(BOUND as u64, Code::QueueFull)]);
    assert_eq!(world.core.next_tick(), Some(world.now + WAIT));
    world.now += WAIT;
    world.on(Event::Tick);
    assert_eq!(world.ended.len(), BOUND + 1);
    assert!(world.ended[1..].iter().all(|(_, code)| *code == Code::QueueTimeout));
}

#[test]
fn who_chose_by_the_last_table_and_arrives_after_the_next_chooses_again() {
    let (mut core, now, mut actions) = (Scheduler::new(1), Instant::now(), Vec::new());
    let arrival = |waiter, target| {
        Event::Arrive(Arrival {
            waiter,
            class: Priority::Normal,
            target,
            slots: [0].into(),
            until: now + WAIT,
            exclude: None,
        })
    };
    core.on(Event::Table(Tables { live: [7].into(), ..Tables::default() }), now, &mut actions);
    core.on(arrival(1, 6), now, &mut actions);
    assert_eq!(actions, [Action::Reroute(1)]);
    core.on(arrival(1, 7), now, &mut actions);
    assert_eq!(actions[1..], [Action::CloseGate(0)]);
}

#[test]
fn the_least_loaded_is_taken_and_a_suspect_one_last() {
    let mut world = World::new(2);
    for _ in 0..4 {
        world.request(0, None);
    }
    world.suspect(0, true);
    world.request(0, None);
    world.request(0, None);
    world.running.sort_unstable();
    world.give_back(0); // one of slot 0: its replica is suspect, and nobody is sent there
    assert_eq!(world.core.len(), 2);
    world.suspect(1, true); // all are: better to try than to wait
    assert_eq!(world.core.len(), 1);
}

#[test]
fn a_retry_waits_for_another_replica_than_the_one_that_failed_it() {
    let mut world = World::new(1);
    world.slots.get_mut(&1).unwrap().in_flight = 1;
    world.running.push((1, None));
    world.arrive(0, Some(0));
    assert_eq!(world.core.len(), 1, "slot 0 is free, and it is not for this one");
    world.arrive(0, None);
    assert_eq!(world.running, [(1, None), (0, Some(1))], "another may have it");
    world.give_back(0);
    assert_eq!(world.running, [(0, Some(1)), (1, Some(0))]);
    world.arrive(1, Some(2));
    assert_eq!(world.running.last(), Some(&(2, Some(2))), "there is no other");
}

#[test]
fn the_equally_loaded_take_turns() {
    let mut world = World::new(8);
    let taken = [(); 4].map(|()| {
        world.arrive(0, None);
        let (slot, _) = world.running[0];
        world.give_back(0);
        slot
    });
    assert_eq!(taken, [0, 1, 0, 1]);
}

#[test]
fn one_that_fails_and_is_kept_gets_its_turn_and_no_more() {
    let mut world = World::new(8);
    world.change(0, |view| view.kept = true);
    let taken = [(); 6].map(|()| {
        world.arrive(0, None);
        let (slot, _) = *world.running.last().unwrap();
        if slot == 0 {
            let last = world.running.len() - 1;
            world.give_back(last); // at once, as failures are: it has the fewest in flight, always
        }
        slot
    });
    assert_eq!(taken, [0, 1, 0, 1, 0, 1]);
    for _ in 0..13 {
        world.arrive(0, None);
    }
    assert_eq!([0, 1].map(|slot| world.slots[&slot].in_flight), [8, 8], "better than to wait");
}

#[test]
fn the_highest_class_goes_first_and_in_it_who_came_first() {
    let mut world = World::new(1);
    world.request(1, None);
    for class in [Priority::Bulk, Priority::Normal, Priority::Interactive, Priority::Normal, Priority::Interactive] {
        world.request_of(class, 1, None);
    }
    let mut order = Vec::new();
    while !world.core.is_empty() {
        world.give_back(0);
        order.extend(world.running.last().and_then(|(_, waiter)| *waiter));
    }
    assert_eq!(order, [2, 4, 1, 3, 0]);
}
