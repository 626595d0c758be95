//! A fleet behind a proxy that sends each request on as it comes. The replicas have queues of their own, first come first
//! served, and load what the next request wants.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tutti_api::Priority;

use super::clock::{Clock, Outside};
use super::demand::{Random, Wish};
use super::outcome::Outcome;
use super::plan::Plan;

/// How a proxy chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Any.
    Random,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests.
    LeastLoaded,
    /// By the adapter's place on a ring (ketama): each adapter has its replica.
    ConsistentHash,
}

impl Policy {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Random, Self::RoundRobin, Self::LeastLoaded, Self::ConsistentHash];

    /// As tables have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round robin",
            Self::LeastLoaded => "least loaded",
            Self::ConsistentHash => "consistent hash",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    Outside(Outside),
    Done(u32, u32, Wish, Instant),
    Loaded(u32, u32),
}

#[derive(Debug, Default)]
struct Replica {
    loaded: Option<usize>,
    loading: bool,
    running: Vec<Wish>,
    queue: VecDeque<Wish>,
    dead: bool,
    /// What was begun in another life is void.
    life: u32,
}

/// The fleet.
pub(crate) struct Plain<'p> {
    plan: &'p Plan,
    wishes: &'p [Wish],
    policy: Policy,
    clock: Clock<What>,
    start: Instant,
    replicas: Vec<Replica>,
    ring: Vec<(u64, u32)>,
    random: Random,
    turn: usize,
    outcome: Outcome,
}

impl<'p> Plain<'p> {
    /// One that has served nothing yet.
    pub(crate) fn new(plan: &'p Plan, wishes: &'p [Wish], policy: Policy) -> Self {
        let mut random = Random::new(plan.seed ^ 0x9ad);
        // As many points a replica as ketama has.
        let ring = (0..plan.replicas as u32 * 160).map(|point| ((random.share() * 2f64.powi(53)) as u64, point / 160));
        let mut ring: Vec<(u64, u32)> = ring.collect();
        ring.sort_unstable();
        Self {
            plan,
            wishes,
            policy,
            clock: Clock::default(),
            start: Instant::now(),
            replicas: (0..plan.replicas).map(|_| Replica::default()).collect(),
            ring,
            random,
            turn: 0,
            outcome: Outcome::new(plan),
        }
    }

    /// Serves all wishes.
    pub(crate) fn run(mut self) -> Outcome {
        self.clock.set(self.start, self.wishes, &self.plan.deaths, What::Outside);
        for _ in 0..self.plan.closed.map_or(0, |(clients, _)| clients) {
            self.again(self.start);
        }
        while let Some((now, what)) = self.clock.next() {
            match what {
                What::Outside(Outside::Asks(wish)) => self.send(self.wishes[wish], now),
                What::Done(at, life, wish, begun) if self.replicas[at as usize].life == life => {
                    let running = &mut self.replicas[at as usize].running;
                    running.iter().position(|other| *other == wish).map(|at| running.swap_remove(at));
                    let since = self.start + Duration::from_secs_f64(wish.at);
                    self.outcome.answered(wish, now.saturating_duration_since(since), now - begun);
                    self.go_on(at, now);
                    self.again(now);
                }
                What::Loaded(at, life) if self.replicas[at as usize].life == life => {
                    self.replicas[at as usize].loading = false;
                    self.go_on(at, now);
                }
                What::Outside(Outside::Dies(at)) => {
                    let dead = &mut self.replicas[at as usize];
                    let life = dead.life + 1;
                    let dead = std::mem::replace(dead, Replica { dead: true, life, ..Replica::default() });
                    // A proxy that sends again what was lost, and what had not begun.
                    for wish in dead.running.into_iter().chain(dead.queue) {
                        self.outcome.retried += 1;
                        self.send(wish, now);
                    }
                }
                What::Outside(Outside::Lives(at)) => self.replicas[at as usize].dead = false,
                What::Done(..) | What::Loaded(..) => {}
            }
        }
        self.outcome
    }

    /// A client of a closed loop asks for any adapter.
    fn again(&mut self, now: Instant) {
        let at = (now - self.start).as_secs_f64();
        if self.plan.closed.is_some_and(|(_, until)| at < until) {
            let adapter = self.random.one_of(self.plan.adapters);
            self.send(Wish { at, adapter, class: Priority::Normal }, now);
        }
    }

    fn send(&mut self, wish: Wish, now: Instant) {
        let alive: Vec<u32> = (0..self.plan.replicas as u32).filter(|at| !self.replicas[*at as usize].dead).collect();
        if alive.is_empty() {
            return self.outcome.refused(wish);
        }
        let load = |at: &u32| self.replicas[*at as usize].queue.len() + self.replicas[*at as usize].running.len();
        let at = match self.policy {
            Policy::Random => alive[self.random.one_of(alive.len())],
            Policy::RoundRobin => {
                self.turn += 1;
                alive[self.turn % alive.len()]
            }
            Policy::LeastLoaded => {
                self.turn += 1;
                let first = self.turn % alive.len();
                let (later, first) = alive.split_at(first);
                *first.iter().chain(later).min_by_key(|at| load(at)).unwrap_or(&alive[0])
            }
            Policy::ConsistentHash => {
                let point = (Random::new(wish.adapter as u64 + 1).share() * 2f64.powi(53)) as u64;
                let first = self.ring.partition_point(|(at, _)| *at < point);
                let (before, after) = self.ring.split_at(first);
                let mut points = after.iter().chain(before);
                points.find(|(_, at)| !self.replicas[*at as usize].dead).map_or(alive[0], |(_, at)| *at)
            }
        };
        self.replicas[at as usize].queue.push_back(wish);
        self.go_on(at, now);
    }

    /// A replica takes what is next, in order: one that wants another adapter waits until what runs has ended.
    fn go_on(&mut self, at: u32, now: Instant) {
        loop {
            let replica = &mut self.replicas[at as usize];
            if replica.loading || replica.running.len() >= usize::from(self.plan.slots) {
                return;
            }
            let Some(wish) = replica.queue.front().copied() else { return };
            // Who has waited as long as an answer is of use has gone.
            if now >= self.start + Duration::from_secs_f64(wish.at) + self.plan.slo.min(self.plan.wait) {
                replica.queue.pop_front();
                self.outcome.refused(wish);
                continue;
            }
            if replica.loaded == Some(wish.adapter) {
                replica.queue.pop_front();
                replica.running.push(wish);
                let service = self.outcome.service(self.plan, wish.class);
                self.clock.at(now + service, What::Done(at, replica.life, wish, now));
            } else if replica.running.is_empty() {
                (replica.loaded, replica.loading) = (Some(wish.adapter), true);
                self.outcome.loads += 1;
                self.outcome.busy += self.plan.load;
                self.clock.at(now + self.plan.load, What::Loaded(at, replica.life));
            } else {
                return;
            }
        }
    }
}
