//! Runners that several groups share, of which each has the weights of one at a time: which one is next, and when.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tutti_api::Priority;

use super::{LineId, SlotId, WaiterId};

/// A runner, by number.
pub type RunnerId = u64;

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
const LOAD_LEAST: Duration = Duration::from_millis(20);
/// The shortest quantum: somebody shall be served between two loads.
const QUANTUM_LEAST: Duration = Duration::from_millis(100);
/// The shortest that `maxWait: auto` becomes.
const MAX_WAIT_LEAST: Duration = Duration::from_secs(1);

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

/// One that several groups share.
#[derive(Debug)]
pub(super) struct Runner {
    /// The groups' slots.
    pub(super) slots: Vec<SlotId>,
    /// Whose weights it has, as far as is known.
    pub(super) loaded: Option<SlotId>,
    /// Whose are being loaded.
    pub(super) loading: Option<SlotId>,
    /// When a load of its began or ended the last time.
    pub(super) changed: Option<Instant>,
    /// Its group was late when it was loaded.
    pub(super) was_late: bool,
    /// Its group gives way to another: nobody is dispatched to it any more.
    pub(super) stopping: bool,
    /// Since when its group serves while others wait.
    pub(super) since: Option<Instant>,
    /// Those who wait for one of its groups.
    pub(super) lines: Vec<(LineId, SlotId)>,
    /// When it last was given work.
    pub(super) used: Option<Instant>,
    /// When it is to be looked at again.
    pub(super) alarm: Option<Instant>,
    /// How often in a row loads of its groups have failed.
    pub(super) failures: HashMap<SlotId, u32>,
    /// Until when nothing is loaded, after a load that failed.
    pub(super) rests: Option<Instant>,
    /// What its loads take: a moving average. `None` before the first.
    pub(super) load: Option<Duration>,
    /// Since when it has its group, and how many it was given since.
    pub(super) visit: Option<(Instant, u32)>,
    /// What a request takes of it: a moving average over visits.
    pub(super) service: Option<Duration>,
}

/// A group that waits for a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) slot: SlotId,
    /// Who is the first of it.
    pub(super) first: WaiterId,
    /// Its best class, and since when its oldest waits.
    pub(super) class: Priority,
    pub(super) oldest: Instant,
    pub(super) late: bool,
}

impl Next {
    /// Lower goes first: late ones, the oldest first; then by class, then by age.
    pub(super) fn rank(&self) -> (bool, Option<Priority>, Instant) {
        (!self.late, (!self.late).then_some(self.class), self.oldest)
    }
}

impl Runner {
    pub(super) fn new(slots: Vec<SlotId>, loaded: Option<SlotId>) -> Self {
        Self {
            slots,
            loaded,
            loading: None,
            changed: None,
            was_late: false,
            stopping: false,
            since: None,
            lines: Vec::new(),
            used: None,
            alarm: None,
            failures: HashMap::new(),
            rests: None,
            load: None,
            visit: None,
            service: None,
        }
    }

    /// Whether requests may be dispatched to these slots of its.
    pub(super) fn serves(&self, slot: SlotId) -> bool {
        self.loaded == Some(slot) && self.loading.is_none() && !self.stopping
    }

    /// Lower gives its place to another group sooner: the one that has nothing, then the one used the longest time ago.
    pub(super) fn preference(&self) -> (bool, Option<Instant>, Option<&SlotId>) {
        (self.loaded.is_some(), self.used, self.slots.first())
    }

    /// What a load takes.
    pub(super) fn load(&self) -> Duration {
        self.load.unwrap_or(UNMEASURED)
    }

    /// What a request takes, if nothing was measured a quarter of a load.
    pub(super) fn service(&self) -> Duration {
        self.service.unwrap_or_else(|| self.load() / 4)
    }

    /// When the group that it has gives way to `next`, if it has work until then.
    pub(super) fn gives_way(&self, next: &Next, batching: Batching) -> Option<Instant> {
        let since = self.since?;
        let used_up = since + batching.quantum(self.load());
        // It has cost a load, and shall have served as long before it costs another.
        let late = (next.oldest + batching.max_wait(self.load())).max(since + self.load());
        Some(if self.was_late { used_up } else { used_up.min(late) })
    }

    /// Begins to load a group.
    pub(super) fn begins(&mut self, next: &Next, now: Instant) {
        self.ends_visit(now);
        (self.loaded, self.loading, self.stopping) = (None, Some(next.slot), false);
        (self.was_late, self.since, self.changed) = (next.late, None, Some(now));
    }

    /// A load has ended; `None`: it failed.
    pub(super) fn ended(&mut self, slot: SlotId, took: Option<Duration>, now: Instant) {
        (self.loading, self.changed) = (None, Some(now));
        if let Some(took) = took {
            if took >= LOAD_LEAST {
                self.load = Some(averaged(self.load, took));
            }
            self.loaded = Some(slot);
            self.visit = Some((now, 0));
            self.since = Some(now);
        }
    }

    /// It was given a request.
    pub(super) fn given(&mut self, now: Instant) {
        self.used = Some(now);
        if let Some((_, count)) = &mut self.visit {
            *count += 1;
        }
    }

    fn ends_visit(&mut self, now: Instant) {
        let Some((since, count)) = self.visit.take().filter(|(_, count)| *count > 0) else { return };
        let until = self.used.unwrap_or(now).max(since);
        let each = now.min(until + self.load()).saturating_duration_since(since) / count;
        self.service = Some(averaged(self.service, each));
    }
}

/// A moving average: a quarter of the newest.
fn averaged(before: Option<Duration>, newest: Duration) -> Duration {
    before.map_or(newest, |before| (3 * before + newest) / 4)
}
