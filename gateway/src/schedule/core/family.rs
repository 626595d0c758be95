//! What is known of runners that several groups share, of the groups, and of how long things take.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::fair::Fair;
use super::lines::Urgency;
use super::residency::Source;
use super::{FamilyId, GroupId, LineId, Rank, RunnerId, Served, WaiterId};

/// How groups take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// How long a group may wait before it is late; `None`: by what loads take.
    pub max_wait: Option<Duration>,
    /// How long a group serves while others wait; `None`: by what loads take.
    pub quantum: Option<Duration>,
    /// How long a request may wait whose weights are being loaded, in all.
    pub cold_wait: Duration,
}

/// What a load is taken to last before one was measured.
const UNMEASURED: Duration = Duration::from_secs(1);
/// What was loaded in less was there: an Ollama says so in 2 ms, and starts a runner in 250 (seen on 0.11.4).
pub const LOAD_LEAST: Duration = Duration::from_millis(20);
/// The shortest quantum: somebody shall be served between two loads.
const QUANTUM_LEAST: Duration = Duration::from_millis(100);
/// The shortest that `maxWait: auto` becomes.
const MAX_WAIT_LEAST: Duration = Duration::from_secs(1);
/// The time in which what is known of a group's demand fades to 1/e: groups move on sustained demand.
const FADES: Duration = Duration::from_secs(30);
/// One that takes as many times longer than others do counts as that: a single long answer says little of the next ones.
const OUTLIER: u32 = 4;
/// As many requests are measured before what they take is believed.
const BELIEVED: u32 = 3;
/// A load that lasts as many times longer than others do is not counted on.
const HUNG: u32 = 4;
/// But no sooner than after this.
const HUNG_LEAST: Duration = Duration::from_secs(10);
/// A load that lasts as many times longer than others do is given up: it holds its runner.
const GIVEN_UP: u32 = 20;
/// But no sooner than after this: what the disk has not in its cache may take many times longer. As long as an Ollama lets a
/// load go on that comes no further (OLLAMA_LOAD_TIMEOUT).
const GIVEN_UP_LEAST: Duration = Duration::from_secs(300);
/// While no load was measured, who waited for less has not had his weights loaded: it includes the engine's own queue.
pub(super) const LOAD_UNMEASURED: Duration = Duration::from_millis(250);

impl Batching {
    /// How long a group serves while others wait, where a load takes `load`: twice as long, so that loads take no more than
    /// a third of the time however many wait.
    pub fn quantum(self, load: Duration) -> Duration {
        self.quantum.unwrap_or(2 * load).max(QUANTUM_LEAST)
    }

    /// How long a group may wait before it is late: four loads, and no less than a second.
    pub fn max_wait(self, load: Duration) -> Duration {
        self.max_wait.unwrap_or((4 * load).max(MAX_WAIT_LEAST))
    }
}

/// Runners that the same groups share.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) runners: usize,
    /// The groups that want a runner, by their first waiter: which is next.
    pub(super) wanting: BTreeSet<(Rank, GroupId)>,
    /// The same by their oldest, bulk last: which is late.
    pub(super) ages: BTreeSet<(Urgency, WaiterId, GroupId)>,
    /// How many of them are awaited.
    pub(super) awaited: usize,
    /// The runners that could go to another group at once, the coldest first.
    pub(super) ready: BTreeSet<(Heat, RunnerId)>,
    /// Those that serve a group while they are watched, and since when.
    pub(super) busy: BTreeSet<(Instant, RunnerId)>,
    /// Those that serve one behind an open gate: of them it is not known whether they are idle.
    pub(super) unheld: BTreeSet<(Heat, RunnerId)>,
    /// Those that are watched.
    pub(super) held: BTreeSet<RunnerId>,
    /// How many are about to go to another group, and end what runs.
    pub(super) stopping: usize,
    /// How many are given to groups that use them without pause.
    pub(super) hot: usize,
    /// What loads take: a moving average.
    load: Option<Duration>,
    /// What a group takes that comes for a few requests, with its load: a moving average.
    visit: Option<Duration>,
}

impl Family {
    /// A new one of which is known what is known of this one's loads.
    pub(super) fn like(&self) -> Self {
        Self { load: self.load, visit: self.visit, ..Self::default() }
    }

    /// What a load takes.
    pub(super) fn load(&self) -> Duration {
        self.load.unwrap_or(UNMEASURED)
    }

    /// The same, where one was measured.
    pub(super) fn measured_load(&self) -> Option<Duration> {
        self.load
    }

    /// A load took so long.
    pub(super) fn loaded(&mut self, took: Duration) {
        if took >= LOAD_LEAST {
            self.load = Some(averaged(self.load, took));
        }
    }

    /// When a load that has begun is not counted on any more.
    pub(super) fn hangs_at(&self, begun: Instant) -> Instant {
        begun + (HUNG * self.load()).max(HUNG_LEAST)
    }

    /// After how long a load is given up.
    pub(super) fn patience(&self) -> Duration {
        (GIVEN_UP * self.load.unwrap_or_default()).max(GIVEN_UP_LEAST)
    }

    /// Who waited so long for weights has had them loaded. A loaded runner is had in milliseconds and a load takes about what
    /// others did, so that half of it lies far from both.
    pub(super) fn load_least(&self) -> Duration {
        self.load.map_or(LOAD_UNMEASURED, |load| (load / 2).max(LOAD_LEAST))
    }

    /// A group was served by a runner for so long.
    pub(super) fn visited(&mut self, lasted: Duration) {
        self.visit = Some(averaged(self.visit, lasted + self.load()));
    }

    /// How many of those that want a runner come before one as urgent, or are as urgent.
    pub(super) fn before(&self, urgency: Urgency) -> usize {
        if urgency == Urgency::Awaited { self.awaited } else { self.wanting.len() }
    }

    /// How long it takes until a group that comes now has its turn, if none is taken from those that use theirs without
    /// pause; `None`: it never has.
    pub(super) fn until_turn(&self, ahead: usize) -> Option<Duration> {
        let turning = u32::try_from(self.runners.saturating_sub(self.hot)).unwrap_or(u32::MAX);
        let visit = self.visit.unwrap_or(2 * self.load());
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        (turning > 0).then(|| visit.saturating_mul(2 * ahead + 1) / 2 / turning)
    }
}

/// How much a runner is used by the group that it has: the logarithm of what is known of its demand, in the time at which
/// that will have faded to 1 (forward decay, Cormode et al., ICDE 2009). What fades alike need not be sorted anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Heat(i64);

/// What is known of a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Who waits for it.
    pub(super) lines: SmallVec<[LineId; 1]>,
    /// The runners of its that serve it: they have its weights, and are not about to go to another.
    pub(super) serving: SmallVec<[RunnerId; 2]>,
    /// Those that load it.
    pub(super) loading: SmallVec<[RunnerId; 1]>,
    /// How many slots a runner has for it, as was last seen.
    pub(super) limit: u16,
    /// How it stands among those that want a runner.
    pub(super) wants: Option<Want>,
    /// When it is looked at because it will be late.
    pub(super) alarm: Option<Instant>,
    /// Whose turn it is in it, while anybody waits.
    pub(super) fair: Fair,
    /// How often in a row its load has failed.
    pub(super) failures: u32,
    /// How often in a row a replica that was to load it could not be reached.
    pub(super) unreached: usize,
    /// How many runners it uses without pause, and of which family.
    pub(super) hot: (Option<FamilyId>, usize),
    demand: Option<Demand>,
    /// What a request takes of a slot: a moving average, and of how many.
    service: Option<(Duration, u32)>,
}

/// How often a group was asked for, faded, and when that was so.
#[derive(Clone, Copy, Debug)]
struct Demand {
    all: f64,
    /// By those who await their answers.
    awaited: f64,
    at: Instant,
}

impl Demand {
    /// What is left of it.
    fn at(self, now: Instant) -> Self {
        let left = (-now.saturating_duration_since(self.at).as_secs_f64() / FADES.as_secs_f64()).exp();
        Self { all: self.all * left, awaited: self.awaited * left, at: now }
    }
}

/// How a group stands among those that want a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) family: FamilyId,
    /// The first who waits for one, and the oldest of those as urgent.
    pub(super) first: Rank,
    pub(super) oldest: WaiterId,
}

impl Want {
    pub(super) fn urgency(&self) -> Urgency {
        Urgency::of(self.first)
    }
}

impl Heat {
    /// Of a runner that has nothing.
    pub(super) const EMPTY: Self = Self(-1);
}

impl Group {
    /// Whether nobody waits for it, nothing has it, and nobody counts it.
    pub(super) fn is_idle(&self) -> bool {
        let has_none = self.serving.is_empty() && self.loading.is_empty();
        self.lines.is_empty() && has_none && self.wants.is_none() && self.hot.1 == 0
    }

    /// Requests of its ended.
    pub(super) fn served(&mut self, served: Served, now: Instant) {
        // They came since the last time that anybody looked, and some have faded since.
        let gone =
            self.demand.map_or(0.0, |of| now.saturating_duration_since(of.at).as_secs_f64() / FADES.as_secs_f64());
        let left = if gone > 1e-6 { -(-gone).exp_m1() / gone } else { 1.0 };
        let before = self.demand.map_or(Demand { all: 0.0, awaited: 0.0, at: now }, |demand| demand.at(now));
        let (all, awaited) = (f64::from(served.count), f64::from(served.awaited));
        self.demand = Some(Demand { all: before.all + left * all, awaited: before.awaited + left * awaited, at: now });
        let each = served.time / served.count;
        let (average, count) = self.service.unwrap_or((each, 0));
        let each = if count >= BELIEVED { each.min(OUTLIER * average) } else { each };
        self.service = Some((averaged(Some(average), each), count.saturating_add(served.count)));
    }

    /// It is looked at from now on.
    pub(super) fn begins(&mut self, now: Instant) {
        self.demand.get_or_insert(Demand { all: 0.0, awaited: 0.0, at: now });
    }

    /// How many it is asked for in a second by those who are in the way of somebody as urgent.
    pub(super) fn rate(&self, against: Urgency, now: Instant) -> f64 {
        let faded = self.demand.map(|demand| demand.at(now));
        let of = faded.map_or(0.0, |faded| if against == Urgency::Bulk { faded.all } else { faded.awaited });
        of / FADES.as_secs_f64()
    }

    /// How long it takes until nobody asks so often any more, if nobody asks.
    pub(super) fn falls_to(&self, rate: f64, now: Instant) -> Duration {
        FADES.mul_f64((self.rate(Urgency::Bulk, now) / rate).ln().clamp(0.0, 100.0))
    }

    /// What a request takes of a slot, where it was measured.
    pub(super) fn service(&self) -> Option<Duration> {
        self.service.filter(|(_, count)| *count >= BELIEVED).map(|(average, _)| average)
    }

    /// How much each of its runners is used. `start` is any fixed time.
    pub(super) fn heat(&self, start: Instant) -> Heat {
        let Some(demand) = self.demand.filter(|demand| demand.all > 0.0) else { return Heat::default() };
        let shared = demand.all / self.serving.len().max(1) as f64;
        let heat = shared.ln() + demand.at.saturating_duration_since(start).as_secs_f64() / FADES.as_secs_f64();
        Heat(1 + ((heat + 1e3).max(0.0) * 1e6) as i64)
    }
}

/// One that several groups share.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) family: FamilyId,
    /// Whose weights it has, as far as is known.
    pub(super) loaded: Option<GroupId>,
    /// By whose word; `None`: nobody's, and it is not known what it has.
    pub(super) source: Option<Source>,
    /// Whose are being loaded, and since when.
    pub(super) loading: Option<(GroupId, Instant)>,
    /// When a load of its began or ended the last time.
    pub(super) changed: Option<Instant>,
    /// Its group was late when it was loaded.
    pub(super) was_late: bool,
    /// Its group gives way to another: nobody is dispatched to it any more.
    pub(super) stopping: bool,
    /// Since when its group serves while others wait.
    pub(super) since: Option<Instant>,
    /// When it is looked at because its group will use it less.
    pub(super) cools: Option<Instant>,
    /// Where its family finds it.
    pub(super) among: Option<Among>,
    /// The groups that it could not load, and until when that is not tried again.
    pub(super) barred: SmallVec<[(GroupId, Instant); 1]>,
    /// Since when it has its group, when it was given a request last, and how many.
    visit: Option<(Instant, Instant, u32)>,
}

/// Where a family has a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    Ready(Heat),
    Busy(Instant),
    Unheld(Heat),
}

impl Runner {
    pub(super) fn new(family: FamilyId) -> Self {
        Self {
            family,
            loaded: None,
            source: None,
            loading: None,
            changed: None,
            was_late: false,
            stopping: false,
            since: None,
            cools: None,
            among: None,
            barred: SmallVec::new(),
            visit: None,
        }
    }

    /// Since when it has its group.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.visit.map(|(since, _, _)| since)
    }

    /// It was given a request.
    pub(super) fn given(&mut self, now: Instant) {
        if let Some((_, last, count)) = &mut self.visit {
            (*last, *count) = (now, count.saturating_add(1));
        }
    }

    /// It has a group from now on.
    pub(super) fn begins(&mut self, group: GroupId, source: Source, now: Instant) {
        (self.loaded, self.source, self.loading, self.stopping) = (Some(group), Some(source), None, false);
        (self.since, self.changed, self.visit) = (Some(now), Some(now), Some((now, now, 0)));
    }

    /// It has its group no more. How long that was of use, and for how many requests.
    pub(super) fn ends(&mut self) -> Option<(Duration, u32)> {
        (self.loaded, self.source, self.stopping, self.since) = (None, None, false, None);
        let (since, last, count) = self.visit.take()?;
        Some((last.saturating_duration_since(since), count))
    }

    /// Whether a group's load is not to be tried again yet.
    pub(super) fn bars(&self, group: GroupId, now: Instant) -> bool {
        self.barred.iter().any(|(barred, until)| *barred == group && *until > now)
    }
}

/// A moving average: a quarter of the newest.
fn averaged(before: Option<Duration>, newest: Duration) -> Duration {
    before.map_or(newest, |before| (3 * before + newest) / 4)
}
