//! A pool of replicas in virtual time, and what comes to it.

use std::collections::{BTreeMap, VecDeque};

/// Requests that a replica works on at once.
pub(super) const SLOTS: u32 = 4;
/// What a request takes of a slot, in the mean. Unit: seconds.
pub(super) const SERVICE: f64 = 4.0;
/// From its slot to its first token. Unit: seconds.
const PREFILL: f64 = 0.3;
/// The longest time to the first token that is good. Unit: seconds.
pub(super) const SLO: f64 = 5.0;
/// The step. Unit: seconds.
pub(super) const STEP: f64 = 0.25;

/// Numbers that look random and are the same each time: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    /// From 0 to 1, without either.
    pub(super) fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).max(1e-12).ln()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.share().ln()).sqrt() * (std::f64::consts::TAU * self.share()).cos()
    }

    /// How long an answer takes: log-normal, so that some are ten times as long as most.
    pub(super) fn service(&mut self) -> f64 {
        let sigma = 0.8_f64;
        SERVICE * (sigma * self.normal() - sigma * sigma / 2.0).exp()
    }
}

/// Requests a second at a time: a day of `length` seconds with a morning that comes at once, and bursts.
pub(super) fn rate(at: f64, length: f64) -> f64 {
    let day = at / length;
    let slow = 4.0 + 4.0 * (std::f64::consts::TAU * (day - 0.25)).sin();
    let morning = if (0.3..0.6).contains(&day) { 8.0 } else { 0.0 };
    let burst = if (at % 1_800.0) < 120.0 { 6.0 } else { 0.0 };
    slow + morning + burst
}

/// When requests come, and how long each takes of a slot.
pub(super) fn requests(seed: u64, length: f64) -> Vec<(f64, f64)> {
    let mut random = Random::new(seed);
    let (most, mut at, mut all) = (22.0, 0.0, Vec::new());
    loop {
        at += random.exponential(1.0 / most);
        if at >= length {
            return all;
        }
        if random.share() < rate(at, length) / most {
            all.push((at, random.service()));
        }
    }
}

/// A pool.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: f64,
    /// Unit: seconds from when a replica is wanted to when it works.
    delay: f64,
    /// When each replica that there is works, or worked.
    replicas: Vec<f64>,
    pub(super) queue: VecDeque<(f64, f64)>,
    /// When those that are worked on will be done, as the order of their bits has it.
    busy: BTreeMap<(u64, u64), f64>,
    number: u64,
    /// Times to first tokens since this was asked before. Unit: seconds.
    pub(super) first: Vec<f64>,
    pub(super) arrived: u64,
    pub(super) good: u64,
    pub(super) served: u64,
    /// Unit: replica-seconds.
    pub(super) paid: f64,
    /// Replicas that came and went.
    pub(super) changes: u64,
    /// How often it went up after it had gone down, or the other way round.
    pub(super) turns: u64,
    direction: i32,
}

impl World {
    pub(super) fn new(delay: f64, replicas: u32) -> Self {
        Self {
            now: 0.0,
            delay,
            replicas: vec![0.0; replicas as usize],
            queue: VecDeque::new(),
            busy: BTreeMap::new(),
            number: 0,
            first: Vec::new(),
            arrived: 0,
            good: 0,
            served: 0,
            paid: 0.0,
            changes: 0,
            turns: 0,
            direction: 0,
        }
    }

    pub(super) fn replicas(&self) -> u32 {
        u32::try_from(self.replicas.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn ready(&self) -> u32 {
        u32::try_from(self.replicas.iter().filter(|works| **works <= self.now).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn in_flight(&self) -> u32 {
        u32::try_from(self.busy.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn oldest(&self) -> f64 {
        self.queue.front().map_or(0.0, |(at, _)| self.now - at)
    }

    /// So many there shall be. Those that do not work yet go first; what is worked on goes on to its end.
    pub(super) fn scale(&mut self, wanted: u32) {
        let before = self.replicas();
        let direction = i32::from(wanted > before) - i32::from(wanted < before);
        self.changes += u64::from(wanted.abs_diff(before));
        if direction != 0 {
            self.turns += u64::from(self.direction == -direction);
            self.direction = direction;
        }
        self.replicas.sort_by(f64::total_cmp);
        self.replicas.resize(wanted as usize, self.now + self.delay);
    }

    /// A step goes by, in which these come.
    pub(super) fn step(&mut self, coming: &[(f64, f64)]) {
        self.now += STEP;
        self.paid += f64::from(self.replicas()) * STEP;
        self.arrived += coming.len() as u64;
        self.queue.extend(coming);
        let done = self.busy.split_off(&(self.now.to_bits(), 0)); // times are positive: their bits are in their order
        self.served += self.busy.len() as u64;
        self.busy = done;
        let slots = self.ready() * SLOTS;
        while self.in_flight() < slots {
            let Some((at, service)) = self.queue.pop_front() else { break };
            let first = self.now.max(at) - at + PREFILL;
            self.first.push(first);
            self.good += u64::from(first <= SLO);
            self.number += 1;
            self.busy.insert(((self.now + service).to_bits(), self.number), first);
        }
    }
}
