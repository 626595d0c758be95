//! A fleet in virtual time, for tests of the core: runners that several groups share, loads and services that take their
//! time, clients that ask in turn or at random times.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::*;

/// Groups and replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) replicas: u64,
    pub(super) groups: u64,
    pub(super) slots: u16,
    pub(super) load: Duration,
    pub(super) service: Duration,
    pub(super) batching: Batching,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Done(SlotId, WaiterId),
    Loaded(SlotId),
    Ask(u64),
    Tick,
}

/// The fleet, and what became of the requests.
pub(super) struct Fleet {
    plan: Plan,
    pub(super) core: Scheduler,
    start: Instant,
    pub(super) now: Instant,
    heap: BinaryHeap<Reverse<(Instant, u64, What)>>,
    order: u64,
    views: HashMap<SlotId, View>,
    asked: HashMap<WaiterId, (u64, Instant, Instant)>,
    next: WaiterId,
    pub(super) loads: u64,
    pub(super) waits: Vec<Duration>,
    /// From asking to the answer's end.
    pub(super) times: Vec<Duration>,
    pub(super) refused: u64,
    random: u64,
    /// Whether who has been answered asks again at once, for a group drawn at random.
    again: bool,
}

impl Fleet {
    pub(super) fn new(plan: Plan, again: bool, seed: u64) -> Self {
        let now = Instant::now();
        let view = View { closed: false, suspect: false, kept: false, away: false, in_flight: 0, limit: plan.slots };
        let slots = 0..plan.replicas * plan.groups;
        let mut fleet = Self {
            plan,
            core: Scheduler::new(1 << 20),
            start: now,
            now,
            heap: BinaryHeap::new(),
            order: 0,
            views: slots.map(|slot| (slot, view)).collect(),
            asked: HashMap::new(),
            next: 0,
            loads: 0,
            waits: Vec::new(),
            times: Vec::new(),
            refused: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            again,
        };
        let runners = (0..plan.replicas).map(|at| (at, (at * plan.groups..(at + 1) * plan.groups).collect()));
        let live = (0..plan.groups).collect();
        fleet.on(Event::Table(Tables { live, runners: runners.collect(), batching: plan.batching }));
        fleet
    }

    pub(super) fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn at(&mut self, at: Instant, group: u64) {
        self.push(at, What::Ask(group));
    }

    fn push(&mut self, at: Instant, what: What) {
        self.order += 1;
        self.heap.push(Reverse((at, self.order, what)));
    }

    fn on(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.core.on(event, self.now, &mut actions);
            for action in actions {
                match action {
                    Action::CloseGate(slot) => {
                        let view = self.views.get_mut(&slot).unwrap();
                        assert!(!view.closed, "closed twice");
                        view.closed = true;
                        events.push_back(Event::Slot(slot, *view));
                    }
                    Action::OpenGate(slot) => {
                        let view = self.views.get_mut(&slot).unwrap();
                        assert!(view.closed, "opened twice");
                        view.closed = false;
                    }
                    Action::Home(slot, home) => self.views.get_mut(&slot).unwrap().away = !home,
                    Action::Load { slot, .. } => {
                        let first = slot / self.plan.groups * self.plan.groups;
                        let busy = (first..first + self.plan.groups).any(|slot| self.views[&slot].in_flight > 0);
                        assert!(!busy, "loaded beside work");
                        self.loads += 1;
                        self.push(self.now + self.plan.load, What::Loaded(slot));
                    }
                    Action::Dispatch(waiter, slot) => {
                        let (_, asked, _) = self.asked[&waiter];
                        self.waits.push(self.now - asked);
                        self.begin(waiter, slot);
                    }
                    Action::Reject(waiter, _) => {
                        self.asked.remove(&waiter);
                        self.refused += 1;
                    }
                    Action::Reroute(_) => panic!("the table stands"),
                }
            }
        }
    }

    fn begin(&mut self, waiter: WaiterId, slot: SlotId) {
        let view = self.views.get_mut(&slot).unwrap();
        assert!(!view.away, "dispatched where the weights are not");
        view.in_flight += 1;
        assert!(view.in_flight <= view.limit, "more than there are slots");
        self.push(self.now + self.plan.service, What::Done(slot, waiter));
    }

    fn ask(&mut self, group: u64) {
        let waiter = self.next;
        self.next += 1;
        let until = self.now + Duration::from_secs(3600);
        self.asked.insert(waiter, (group, self.now, until));
        let slots: Arc<[SlotId]> = (0..self.plan.replicas).map(|at| at * self.plan.groups + group).collect();
        let free = slots.iter().find(|slot| {
            let view = self.views[slot];
            !view.closed && !view.away && view.free() > 0
        });
        if let Some(slot) = free {
            self.waits.push(Duration::ZERO);
            return self.begin(waiter, *slot);
        }
        let class = Priority::Normal;
        self.on(Event::Arrive(Arrival { waiter, class, target: group, slots, until, exclude: None }));
    }

    /// Runs for so long.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.start + time;
        loop {
            let tick = self.core.next_tick().filter(|at| self.heap.peek().is_none_or(|Reverse((next, ..))| at < next));
            let (at, what) = match tick {
                Some(at) => (at.max(self.now), What::Tick),
                None => match self.heap.pop() {
                    Some(Reverse((at, _, what))) => (at, what),
                    None => return,
                },
            };
            if at > end {
                return;
            }
            self.now = at;
            match what {
                What::Ask(group) => self.ask(group),
                What::Tick => self.on(Event::Tick),
                What::Loaded(slot) => self.on(Event::Loaded(slot, Ok(self.plan.load))),
                What::Done(slot, waiter) => {
                    let view = self.views.get_mut(&slot).unwrap();
                    view.in_flight -= 1;
                    let view = *view;
                    if view.closed {
                        self.on(Event::Slot(slot, view));
                    }
                    let (_, asked, _) = self.asked.remove(&waiter).expect("asked once");
                    self.times.push(self.now - asked);
                    if self.again {
                        let group = (self.random() * self.plan.groups as f64) as u64;
                        self.ask(group);
                    }
                }
            }
        }
    }
}

const OLLAMA: Plan = Plan {
    replicas: 1,
    groups: 4,
    slots: 1,
    load: Duration::from_millis(260),
    service: Duration::from_millis(8),
    batching: Batching { max_wait: Some(Duration::from_secs(1)), quantum: None, cold_wait: Duration::ZERO },
};

#[test]
fn a_closed_loop_comes_near_the_ceiling() {
    for (clients, ceiling) in [(16u32, 31.0), (64, 71.0)] {
        let mut fleet = Fleet::new(OLLAMA, true, 1);
        for _ in 0..clients {
            let group = (fleet.random() * 4.0) as u64;
            fleet.at(fleet.now, group);
        }
        fleet.run(Duration::from_secs(200));
        let rate = fleet.times.len() as f64 / 200.0;
        let longest = fleet.waits.iter().max().unwrap();
        println!("{clients} clients: {rate:.1}/s of {ceiling}, longest wait {longest:?}, {} loads", fleet.loads);
        assert!(rate > 0.9 * ceiling);
    }
}

#[test]
fn a_fleet_serves_many_adapters_within_their_time() {
    let plan = Plan {
        replicas: 6,
        groups: 40,
        slots: 1,
        load: Duration::from_secs(5),
        service: Duration::from_secs(2),
        batching: Batching::default(),
    };
    let weights: Vec<f64> = (1..=plan.groups).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = weights.iter().sum();
    let mut fleet = Fleet::new(plan, false, 7);
    let (mut at, time) = (fleet.now, Duration::from_secs(600));
    let end = at + time;
    while at < end {
        at += Duration::from_secs_f64(-(1.0 - fleet.random()).ln()); // one a second: a third of what there is
        let mut pick = fleet.random() * total;
        let group = weights.iter().position(|weight| {
            pick -= weight;
            pick < 0.0
        });
        fleet.at(at, group.unwrap_or(0) as u64);
    }
    fleet.run(time);
    let good = fleet.times.iter().filter(|time| **time <= Duration::from_secs(15)).count();
    println!("{good} of {} within 15 s, {} loads", fleet.times.len(), fleet.loads);
    assert!(good as f64 > 0.95 * fleet.times.len() as f64);
}
