//! The core against a world of slots, in which requests also pass by the fast path, come, go and give back at random.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The slots as the owner and the fast path see them.
struct World {
    core: Scheduler,
    now: Instant,
    slots: BTreeMap<RunnerId, View>,
    /// Who was dispatched where, or passed by the fast path.
    running: Vec<(RunnerId, Option<WaiterId>)>,
    /// Who waits for what, in order.
    waiting: BTreeMap<Rank, Wish>,
    departed: HashSet<WaiterId>,
    ended: Vec<(WaiterId, Code)>,
    next: WaiterId,
}

/// A target, and the slot of it that the waiter shall not have.
type Wish = (TargetId, Option<RunnerId>);

/// Two targets: one with the slots 0 and 1, the other with slot 2 alone.
const TARGETS: [&[RunnerId]; 2] = [&[0, 1], &[2]];
const BOUND: usize = 8;
const WAIT: Duration = Duration::from_secs(30);

impl World {
    fn new(limit: u16) -> Self {
        let view = View { closed: false, suspect: false, kept: false, away: false, in_flight: 0, limit };
        let mut world = Self {
            core: Scheduler::new(BOUND),
            now: Instant::now(),
            slots: (0..3).map(|id| (id, view)).collect(),
            running: Vec::new(),
            waiting: BTreeMap::new(),
            departed: HashSet::new(),
            ended: Vec::new(),
            next: 0,
        };
        world.table(&[0, 1]);
        world
    }

    fn table(&mut self, live: &[TargetId]) {
        let route = |id: TargetId| Route { group: id as u32, fixed: TARGETS[id as usize].into(), turning: [].into() };
        let live = live.iter().map(|id| (*id, Arc::new(route(*id)))).collect();
        self.on(Event::Table(Tables { live, ..Tables::default() }));
    }

    fn on(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.core.on(event, self.now, &mut actions);
            for action in actions {
                match action {
                    Action::CloseGate(id) => {
                        let view = self.slots.get_mut(&id.runner).unwrap();
                        assert!(!view.closed, "closed twice");
                        view.closed = true;
                        events.push_back(Event::Slot(id, *view, Served::default()));
                    }
                    Action::OpenGate(id) => self.slots.get_mut(&id.runner).unwrap().closed = false,
                    Action::Dispatch(waiter, SlotId { runner: slot, .. }) => {
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
                    Action::Reject(waiter, code, _) => {
                        self.leave(waiter);
                        self.ended.push((waiter, code));
                    }
                    Action::Home(..) | Action::Load { .. } => panic!("no slot shares a runner"),
                    Action::Ask(..) => panic!("no answer tells of a load"),
                    Action::Reroute(waiter, _) => {
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
    fn room(&self, wish: Wish) -> Vec<RunnerId> {
        let mut slots = allowed(wish);
        let all_suspect = slots.iter().all(|id| self.slots[id].suspect);
        slots.retain(|id| self.slots[id].free() > 0 && (all_suspect || !self.slots[id].suspect));
        slots
    }

    /// A request: by the fast path where it is open, else to the owner.
    fn request(&mut self, target: TargetId, exclude: Option<RunnerId>) {
        self.request_of(Priority::Normal, target, exclude);
    }

    fn request_of(&mut self, class: Priority, target: TargetId, exclude: Option<RunnerId>) {
        let slots = allowed((target, exclude));
        if let Some(id) = slots.iter().find(|id| !self.slots[id].closed && self.slots[id].free() > 0) {
            self.slots.get_mut(id).unwrap().in_flight += 1;
            return self.running.push((*id, None));
        }
        self.arrive_of(class, target, exclude);
    }

    fn rank(&self, waiter: WaiterId) -> Option<Rank> {
        self.waiting.keys().find(|(_, _, other)| *other == waiter).copied()
    }

    fn leave(&mut self, waiter: WaiterId) -> Option<Wish> {
        self.rank(waiter).and_then(|rank| self.waiting.remove(&rank))
    }

    fn arrive(&mut self, target: TargetId, exclude: Option<RunnerId>) {
        self.arrive_of(Priority::Normal, target, exclude);
    }

    fn arrive_of(&mut self, class: Priority, target: TargetId, exclude: Option<RunnerId>) {
        let waiter = self.next;
        self.next += 1;
        self.waiting.insert((class, 0, waiter), (target, exclude));
        self.on(Event::Arrive(arrival(waiter, class, target, exclude, self.now)));
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
            self.on(Event::Slot(id(slot), view, Served::default()));
        }
    }

    fn depart(&mut self, pick: usize) {
        let Some(rank) = self.waiting.keys().nth(pick % self.waiting.len().max(1)).copied() else { return };
        self.waiting.remove(&rank);
        let (_, _, waiter) = rank;
        self.departed.insert(waiter);
        self.on(Event::Depart(waiter));
    }

    /// As an owner does after a table.
    fn tell(&mut self) {
        for (slot, view) in self.slots.clone() {
            self.on(Event::Slot(id(slot), view, Served::default()));
        }
    }

    fn suspect(&mut self, slot: RunnerId, suspect: bool) {
        self.change(slot, |view| view.suspect = suspect);
    }

    fn change(&mut self, slot: RunnerId, change: impl Fn(&mut View)) {
        let view = self.slots.get_mut(&slot).unwrap();
        change(view);
        let view = *view;
        if view.closed {
            self.on(Event::Slot(id(slot), view, Served::default()));
        }
    }
}

fn id(runner: RunnerId) -> SlotId {
    SlotId { runner, group: u32::from(runner == 2) }
}

fn arrival(waiter: WaiterId, class: Priority, target: TargetId, exclude: Option<RunnerId>, now: Instant) -> Arrival {
    let (tenant, cost, turn, deadline, session) = (0, 1, None, None, None);
    Arrival {
        waiter,
        target,
        class,
        tenant,
        cost,
        turn,
        since: now,
        until: now + WAIT,
        deadline,
        exclude,
        session,
        awaits: false,
    }
}

/// The slots that a waiter may ever have: all but the excluded one, unless there is no other.
fn allowed((target, exclude): Wish) -> Vec<RunnerId> {
    let all = TARGETS[target as usize];
    let others: Vec<RunnerId> = all.iter().copied().filter(|id| Some(*id) != exclude).collect();
    if others.is_empty() { all.to_vec() } else { others }
}

#[derive(Clone, Debug)]
enum Step {
    Request(Priority, TargetId, Option<RunnerId>),
    GiveBack(usize),
    Depart(usize),
    Suspect(RunnerId, bool),
    Kept(RunnerId, bool),
    Limit(RunnerId, u16),
    Table(bool, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::sample::select(&Priority::ALL[..]), 0..2u64, prop::option::of(0..3u32))
            .prop_map(|(class, target, exclude)| Step::Request(class, target, exclude)),
        4 => any::<usize>().prop_map(Step::GiveBack),
        2 => any::<usize>().prop_map(Step::Depart),
        1 => (0..3u32, any::<bool>()).prop_map(|(slot, suspect)| Step::Suspect(slot, suspect)),
        1 => (0..3u32, any::<bool>()).prop_map(|(slot, kept)| Step::Kept(slot, kept)),
        1 => (0..3u32, 1..4u16).prop_map(|(slot, limit)| Step::Limit(slot, limit)),
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
                    let live = [(0, first), (1, second)].into_iter().filter_map(|(id, live)| live.then_some(id));
                    world.table(&live.collect::<Vec<_>>());
                    world.tell();
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
fn in_a_full_queue_a_higher_class_has_the_place_of_who_came_last_of_a_lower_one() {
    let mut world = World::new(1);
    world.request(1, None);
    for number in 0..BOUND {
        world.arrive_of(if number == 0 { Priority::Normal } else { Priority::Bulk }, 1, None);
    }
    world.arrive_of(Priority::Interactive, 1, None);
    assert_eq!(world.ended, [(BOUND as u64 - 1, Code::QueueFull)], "the last of the lowest class");
    world.arrive_of(Priority::Bulk, 1, None);
    assert_eq!(world.ended[1..], [(BOUND as u64 + 1, Code::QueueFull)], "nobody is lower");
    world.give_back(0);
    assert_eq!(world.running, [(2, Some(BOUND as u64))]);
}

#[test]
fn in_a_full_queue_who_has_most_waiting_gives_way_to_others_until_they_have_as_much() {
    let mut world = World::new(1);
    (0..=BOUND).for_each(|_| world.request(1, None));
    for waiter in BOUND as u64..(BOUND + BOUND / 2 + 1) as u64 {
        world.waiting.insert((Priority::Normal, 0, waiter), (1, None));
        let arrival = arrival(waiter, Priority::Normal, 1, None, world.now);
        world.on(Event::Arrive(Arrival { tenant: 7, ..arrival }));
    }
    let gave_way = (BOUND / 2..BOUND).rev().chain([BOUND + BOUND / 2]);
    assert_eq!(world.ended, gave_way.map(|waiter| (waiter as u64, Code::QueueFull)).collect::<Vec<_>>());
}

#[test]
fn who_is_refused_himself_takes_nobodys_place() {
    let mut world = World::new(1);
    world.request(1, None);
    for _ in 0..BOUND {
        world.arrive_of(Priority::Bulk, 1, None);
    }
    // What requests take is known: three of them took ten seconds each.
    let (view, served) = (world.slots[&2], Served { count: 3, awaited: 3, time: Duration::from_secs(30) });
    world.on(Event::Slot(id(2), view, served));
    let (waiter, now) = (world.next, world.now);
    world.waiting.insert((Priority::Interactive, 0, waiter), (1, None));
    let late = arrival(waiter, Priority::Interactive, 1, None, now);
    world.on(Event::Arrive(Arrival { deadline: Some(now + Duration::from_secs(15)), ..late }));
    assert_eq!(world.ended, [(waiter, Code::TooLate)]);
    assert_eq!(world.core.len(), BOUND, "all of the others go on waiting");
}

#[test]
fn who_chose_by_the_last_table_and_arrives_after_the_next_chooses_again() {
    let (mut core, now, mut actions) = (Scheduler::new(1), Instant::now(), Vec::new());
    let route = Arc::new(Route { group: 0, fixed: [0].into(), turning: [].into() });
    core.on(Event::Table(Tables { live: [(7, route)].into(), ..Tables::default() }), now, &mut actions);
    core.on(Event::Arrive(arrival(1, Priority::Normal, 6, None, now)), now, &mut actions);
    assert_eq!(actions, [Action::Reroute(1, None)]);
    core.on(Event::Arrive(arrival(1, Priority::Normal, 7, None, now)), now, &mut actions);
    assert_eq!(actions[1..], [Action::CloseGate(id(0))]);
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

/// Where somebody goes who waits with this in common with others, the four slots being in use so often.
fn goes(core: &mut Scheduler, waiter: WaiterId, session: u64, in_flight: [u16; 4]) -> RunnerId {
    let now = Instant::now();
    let arrival = Arrival { session: Some(session), ..arrival(waiter, Priority::Normal, 0, None, now) };
    let (mut actions, mut to) = (Vec::new(), None);
    core.on(Event::Arrive(arrival), now, &mut actions);
    let closed: Vec<SlotId> = actions
        .drain(..)
        .filter_map(|action| if let Action::CloseGate(slot) = action { Some(slot) } else { None })
        .collect();
    for slot in closed {
        let in_flight = in_flight[slot.runner as usize];
        let view = View { closed: true, suspect: false, kept: false, away: false, in_flight, limit: 4 };
        core.on(Event::Slot(slot, view, Served::default()), now, &mut actions);
    }
    for action in actions {
        if let Action::Dispatch(_, slot) = action {
            assert!(to.replace(slot.runner).is_none(), "twice");
        }
    }
    to.expect("there is room")
}

#[test]
fn of_equal_slots_who_has_something_in_common_gets_the_same() {
    let mut core = Scheduler::new(BOUND);
    let route = Arc::new(Route { group: 0, fixed: [0, 1, 2, 3].into(), turning: [].into() });
    let tables = Tables { live: HashMap::from([(0, route)]), ..Tables::default() };
    core.on(Event::Table(tables), Instant::now(), &mut Vec::new());
    let mut used = BTreeSet::new();
    let mut next = 0;
    let mut goes = |session, in_flight| {
        next += 1;
        goes(&mut core, next, session, in_flight)
    };
    for session in 0..16 {
        let first = goes(session, [0; 4]);
        used.insert(first);
        for _ in 0..5 {
            assert_eq!(goes(session, [1; 4]), first, "whoever came between");
        }
        let mut busy = [0; 4];
        busy[first as usize] = 1;
        let other = goes(session, busy);
        assert_ne!(other, first, "it breaks ties, and nothing else");
        assert_eq!(goes(session, busy), other, "of those that are left the same again");
    }
    assert_eq!(used.len(), 4, "sessions are spread");
}
