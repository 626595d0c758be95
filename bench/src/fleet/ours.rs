//! A fleet behind the gateway's own scheduler: the very same core, its words and loads played.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tutti_api::Priority;
use tutti_gateway::schedule::View;
use tutti_gateway::schedule::core::{
    Action, Arrival, Batching, Event, Route, Scheduler, Served, SlotId, Tables, TargetId, WaiterId,
};

use super::clock::{Clock, Outside};
use super::demand::{Random, Wish};
use super::outcome::Outcome;
use super::plan::Plan;

/// What happens at a time.
#[derive(Clone, Copy, Debug)]
enum What {
    Outside(Outside),
    Leaves(WaiterId),
    Done(SlotId, WaiterId),
    Loaded(SlotId, u32),
    Tick,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Way {
    wish: Wish,
    since: Instant,
    /// When it was given a slot; `None`: it waits.
    begun: Option<Instant>,
}

/// How the slots of an adapter on a replica stand.
#[derive(Clone, Copy, Debug)]
struct Word {
    view: View,
    served: Served,
}

/// The fleet.
pub(crate) struct Ours<'p> {
    plan: &'p Plan,
    wishes: &'p [Wish],
    core: Scheduler,
    clock: Clock<What>,
    start: Instant,
    words: HashMap<SlotId, Word>,
    /// Where each adapter is in memory.
    homes: Vec<Vec<u32>>,
    dead: Vec<bool>,
    /// How often a replica has died: what it began before is void.
    lives: Vec<u32>,
    ways: HashMap<WaiterId, Way>,
    next: WaiterId,
    /// The core's own time is measured while at least so many wait.
    measured: Option<usize>,
    last_tick: Option<Instant>,
    random: Random,
    outcome: Outcome,
}

impl<'p> Ours<'p> {
    /// One that has served nothing yet. The core's own time is measured while at least `measured` wait.
    pub(crate) fn new(plan: &'p Plan, wishes: &'p [Wish], measured: Option<usize>) -> Self {
        let start = Instant::now();
        let mut ours = Self {
            plan,
            wishes,
            core: Scheduler::new(plan.queue),
            clock: Clock::default(),
            start,
            words: HashMap::new(),
            homes: vec![Vec::new(); plan.adapters],
            dead: vec![false; plan.replicas],
            lives: vec![0; plan.replicas],
            ways: HashMap::new(),
            next: 0,
            measured,
            last_tick: None,
            random: Random::new(plan.seed ^ 0xc105ed),
            outcome: Outcome::new(plan),
        };
        let runners: Box<[u32]> = (0..plan.replicas as u32).collect();
        let route = |group| {
            let (fixed, turning) =
                if plan.fixed { (runners.clone(), Box::default()) } else { (Box::default(), runners.clone()) };
            Arc::new(Route { group, fixed, turning })
        };
        let live = (0..plan.adapters as u32).map(|group| (TargetId::from(group), route(group))).collect();
        let turning = if plan.fixed { Vec::new() } else { runners.iter().map(|runner| (*runner, 0)).collect() };
        let batching = Batching { cold_wait: Duration::from_secs(300), ..plan.batching };
        ours.on(Event::Table(Tables { live, turning, batching, ..Tables::default() }), start);
        for (runner, group) in runners.iter().flat_map(|runner| (0..plan.adapters).map(move |group| (*runner, group))) {
            if plan.fixed {
                ours.word(SlotId { runner, group: group as u32 }).view.away = false;
                ours.homes[group].push(runner);
            }
        }
        ours
    }

    /// Serves all wishes.
    pub(crate) fn run(self) -> Outcome {
        self.run_for(f64::INFINITY)
    }

    /// Serves those of the first so many seconds.
    pub(crate) fn run_for(mut self, seconds: f64) -> Outcome {
        self.clock.set(self.start, self.wishes, &self.plan.deaths, What::Outside);
        for _ in 0..self.plan.closed.map_or(0, |(clients, _)| clients) {
            self.again(self.start);
        }
        self.set_tick();
        while let Some((now, what)) = self.clock.next() {
            if (now - self.start).as_secs_f64() > seconds {
                break;
            }
            match what {
                What::Outside(Outside::Asks(wish)) => self.ask(self.wishes[wish], now, now),
                What::Leaves(waiter) => self.leaves(waiter, now),
                What::Done(slot, waiter) => self.done(slot, waiter, now),
                What::Loaded(slot, life) => self.loaded(slot, life, now),
                What::Outside(Outside::Dies(replica)) => self.dies(replica, now),
                What::Outside(Outside::Lives(replica)) => self.lives(replica, now),
                What::Tick => {
                    self.last_tick = None;
                    self.on(Event::Tick, now);
                }
            }
            self.set_tick();
        }
        self.outcome.waiting = self.core.len();
        self.outcome
    }

    /// The core wants to be woken.
    fn set_tick(&mut self) {
        if let Some(at) = self.core.next_tick().filter(|at| self.last_tick.is_none_or(|last| *at < last)) {
            self.last_tick = Some(at);
            self.clock.at(at, What::Tick);
        }
    }

    /// A client of a closed loop asks for any adapter.
    fn again(&mut self, now: Instant) {
        let Some((_, until)) = self.plan.closed else { return };
        let at = (now - self.start).as_secs_f64();
        if at < until {
            let adapter = self.random.one_of(self.plan.adapters);
            self.ask(Wish { at, adapter, class: Priority::Normal }, now, now);
        }
    }

    fn word(&mut self, slot: SlotId) -> &mut Word {
        let limit = self.plan.slots;
        let suspect = self.dead[slot.runner as usize];
        let view = View { closed: false, suspect, kept: false, away: true, in_flight: 0, limit };
        self.words.entry(slot).or_insert(Word { view, served: Served::default() })
    }

    fn ask(&mut self, wish: Wish, since: Instant, now: Instant) {
        let waiter = self.next;
        self.next += 1;
        self.ways.insert(waiter, Way { wish, since, begun: None });
        let group = wish.adapter as u32;
        let free = self.homes[wish.adapter].iter().map(|runner| SlotId { runner: *runner, group });
        let free = free.filter(|slot| {
            let view = self.words[slot].view;
            !view.closed && !view.suspect && view.free() > 0
        });
        if let Some(slot) = free.min_by_key(|slot| self.words[slot].view.in_flight) {
            return self.begin(waiter, slot, now);
        }
        let slo = since + self.plan.slo;
        let arrival = Arrival {
            waiter,
            target: TargetId::from(group),
            class: wish.class,
            tenant: self.plan.tenant(wish.adapter) as u64,
            cost: 1,
            turn: None,
            since: now,
            until: now + self.plan.wait,
            deadline: self.plan.deadlines.then_some(slo),
            exclude: None,
            session: None,
            awaits: false,
        };
        if let Some((_, after)) = self.plan.leaves.filter(|(of, _)| waiter.is_multiple_of(*of as u64)) {
            self.clock.at(now + Duration::from_secs_f64(after), What::Leaves(waiter));
        }
        self.on(Event::Arrive(arrival), now);
    }

    fn leaves(&mut self, waiter: WaiterId, now: Instant) {
        let Some(Way { wish, begun: None, .. }) = self.ways.get(&waiter).copied() else { return };
        self.ways.remove(&waiter);
        self.outcome.left(wish);
        self.on(Event::Depart(waiter), now);
    }

    fn begin(&mut self, waiter: WaiterId, slot: SlotId, now: Instant) {
        let word = self.word(slot);
        assert!(!word.view.away, "sent where the weights are not");
        word.view.in_flight += 1;
        assert!(word.view.in_flight <= word.view.limit, "more than there are slots");
        let way = self.ways.get_mut(&waiter).expect("on its way");
        way.begun = Some(now);
        let service = self.outcome.service(self.plan, way.wish.class);
        self.clock.at(now + service, What::Done(slot, waiter));
    }

    fn done(&mut self, slot: SlotId, waiter: WaiterId, now: Instant) {
        let Some(way) = self.ways.remove(&waiter) else { return }; // its replica died
        let work = way.begun.map(|begun| now - begun).unwrap_or_default();
        self.outcome.answered(way.wish, now - way.since, work);
        let word = self.word(slot);
        word.view.in_flight -= 1;
        word.served.count += 1;
        word.served.awaited += u32::from(way.wish.class != Priority::Bulk);
        word.served.time += work;
        if word.view.closed {
            self.see(slot, now);
        }
        self.again(now);
    }

    fn see(&mut self, slot: SlotId, now: Instant) {
        let word = self.word(slot);
        let (view, served) = (word.view, std::mem::take(&mut word.served));
        self.on(Event::Slot(slot, view, served), now);
    }

    fn loaded(&mut self, slot: SlotId, life: u32, now: Instant) {
        let lives = self.lives[slot.runner as usize] == life && !self.dead[slot.runner as usize];
        let ended = if lives { Ok(self.plan.load) } else { Err(tutti_gateway::errors::Code::NoReplica) };
        self.on(Event::Loaded(slot, ended), now);
    }

    fn dies(&mut self, replica: u32, now: Instant) {
        self.dead[replica as usize] = true;
        self.lives[replica as usize] += 1;
        let slots: Vec<SlotId> = self.words.keys().filter(|slot| slot.runner == replica).copied().collect();
        for slot in slots {
            let word = self.word(slot);
            word.view.suspect = true;
            word.view.in_flight = 0;
            self.see(slot, now);
        }
        let lost = self.clock.take(|what| matches!(what, What::Done(slot, _) if slot.runner == replica));
        for what in lost {
            let What::Done(_, waiter) = what else { continue };
            if let Some(way) = self.ways.remove(&waiter) {
                self.outcome.retried += 1;
                self.ask(way.wish, way.since, now);
            }
        }
        self.on(Event::Resident(replica, Vec::new(), now), now);
    }

    fn lives(&mut self, replica: u32, now: Instant) {
        self.dead[replica as usize] = false;
        let slots: Vec<SlotId> = self.words.keys().filter(|slot| slot.runner == replica).copied().collect();
        for slot in slots {
            self.word(slot).view.suspect = false;
            self.see(slot, now);
        }
        self.on(Event::Resident(replica, Vec::new(), now + Duration::from_nanos(1)), now);
    }

    fn on(&mut self, event: Event, now: Instant) {
        let mut events = VecDeque::from([event]);
        let mut actions = Vec::new();
        while let Some(event) = events.pop_front() {
            let kind = kind(&event);
            let begun = self.measured.filter(|least| self.core.len() >= *least).map(|_| Instant::now());
            self.core.on(event, now, &mut actions);
            if let Some(cost) = begun.map(|begun| begun.elapsed().as_nanos()) {
                // Ticks find out that there is nothing to do, at that.
                if kind != "tick" || !actions.is_empty() {
                    self.outcome.costs.push((kind, u32::try_from(cost).unwrap_or(u32::MAX)));
                }
            }
            for action in std::mem::take(&mut actions) {
                if let Some(event) = self.carry_out(action, now) {
                    events.push_back(event);
                }
            }
        }
    }

    fn carry_out(&mut self, action: Action, now: Instant) -> Option<Event> {
        match action {
            Action::CloseGate(slot) => {
                let word = self.word(slot);
                word.view.closed = true;
                return Some(Event::Slot(slot, word.view, std::mem::take(&mut word.served)));
            }
            Action::OpenGate(slot) => self.word(slot).view.closed = false,
            Action::Home(slot, home) => {
                self.word(slot).view.away = !home;
                let homes = &mut self.homes[slot.group as usize];
                homes.retain(|runner| *runner != slot.runner);
                if home {
                    homes.push(slot.runner);
                }
            }
            Action::Load { slot, .. } => {
                self.outcome.loads += 1;
                self.outcome.busy += self.plan.load;
                let life = self.lives[slot.runner as usize];
                self.clock.at(now + self.plan.load, What::Loaded(slot, life));
            }
            Action::Dispatch(waiter, slot) => self.begin(waiter, slot, now),
            Action::Reject(waiter, ..) => {
                if let Some(way) = self.ways.remove(&waiter) {
                    self.outcome.refused(way.wish);
                }
            }
            Action::Ask(..) | Action::Reroute(..) => unreachable!("the table stands, and nobody tells of loads"),
        }
        None
    }
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Arrive(_) => "arrive",
        Event::Depart(_) => "depart",
        Event::Slot(..) => "slot",
        Event::Table(_) => "table",
        Event::Loaded(..) => "loaded",
        Event::Resident(..) => "resident",
        Event::Waited(_) => "waited",
        Event::Tick => "tick",
    }
}
