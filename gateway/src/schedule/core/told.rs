//! What is told of decisions: the last of them with their reasons, and how often which were made.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lines::Urgency;
use super::residency::Source;
use super::{GroupId, RunnerId, Scheduler};
use crate::errors::Code;

/// How many decisions are remembered.
const REMEMBERED: usize = 100;

/// The sizes up to which batches are counted together; larger ones are counted last.
pub(crate) const SIZES: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// The same, as they are printed.
pub(crate) static SIZES_SHOWN: [&str; 8] = ["1", "2", "4", "8", "16", "32", "64", "128"];

/// A decision.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// When.
    pub at: Instant,
    /// About which runner, if about one.
    pub runner: Option<RunnerId>,
    /// About which group.
    pub group: GroupId,
    /// What, and why.
    pub why: Why,
}

/// What was decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The group is loaded: so many wait for it, the first for so long.
    Load {
        /// How many wait.
        waiting: usize,
        /// How long the one has waited who waits longest.
        waited: Duration,
        /// Whether that is longer than `maxWait`.
        late: bool,
        /// Whose place it takes.
        instead: Option<GroupId>,
    },
    /// It is loaded.
    Loaded(Duration),
    /// It could not be loaded.
    Failed(Code),
    /// It gives way: its quantum is used up.
    UsedUp(GroupId),
    /// It gives way to a group that is late.
    Late(GroupId),
    /// It gives way to a higher class.
    Class(GroupId),
    /// It goes on: nobody else wants its runner any more.
    Resumes,
    /// The replica says that this group is what its runner has.
    Resident,
    /// A request had to wait for so long for its weights, which were taken to be there.
    Reloaded(Duration),
    /// A request was refused: it would have taken so long.
    Refused(Duration),
}

/// How often which decisions were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Groups that were late when they were loaded.
    pub late: u64,
    /// Requests that needed no load of their own, for one before them had brought their weights.
    pub avoided: u64,
    /// Requests that were refused because they would have come too late.
    pub refused: u64,
    /// How many requests a load has served, by [`SIZES`].
    pub batches: [u64; SIZES.len() + 1],
    /// How many in all.
    pub batched: u64,
}

/// What is told.
#[derive(Debug, Default)]
pub struct Told {
    decisions: VecDeque<Decision>,
    tally: Tally,
}

impl Told {
    pub(super) fn decided(&mut self, at: Instant, runner: RunnerId, group: GroupId, why: Why) {
        self.tally.late += u64::from(matches!(why, Why::Load { late: true, .. }));
        self.push(Decision { at, runner: Some(runner), group, why });
    }

    pub(super) fn refused(&mut self, group: GroupId, expected: Duration, at: Instant) {
        self.tally.refused += 1;
        self.push(Decision { at, runner: None, group, why: Why::Refused(expected) });
    }

    /// A load has served so many.
    pub(super) fn visited(&mut self, count: u32) {
        self.tally.avoided += u64::from(count.saturating_sub(1));
        self.tally.batched += u64::from(count);
        self.tally.batches[SIZES.partition_point(|size| *size < count)] += 1;
    }

    fn push(&mut self, decision: Decision) {
        if self.decisions.len() == REMEMBERED {
            self.decisions.pop_front();
        }
        self.decisions.push_back(decision);
    }
}

/// How a group stands.
#[derive(Clone, Debug)]
pub struct GroupTold {
    /// Which.
    pub group: GroupId,
    /// How many wait for it.
    pub waiting: usize,
    /// How long the one has waited who waits longest.
    pub oldest: Duration,
    /// Whether it waits for a runner, and not for its slots alone.
    pub wants: bool,
    /// The runners that serve it.
    pub serving: Vec<RunnerId>,
    /// Those that load it.
    pub loading: Vec<RunnerId>,
    /// What a request takes, where it was measured.
    pub service: Option<Duration>,
    /// Requests in a second, lately.
    pub rate: f64,
}

/// How a runner stands.
#[derive(Clone, Copy, Debug)]
pub struct RunnerTold {
    /// Which.
    pub runner: RunnerId,
    /// Whose weights it has, as far as is known.
    pub loaded: Option<GroupId>,
    /// By whose word; `None`: it is not known.
    pub source: Option<Source>,
    /// Whose it loads, and for how long already.
    pub loading: Option<(GroupId, Duration)>,
    /// Whether its group is about to give way.
    pub stopping: bool,
}

impl Scheduler {
    /// The last decisions, the oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.told.decisions.iter()
    }

    /// How often which decisions were made.
    pub fn tally(&self) -> &Tally {
        &self.told.tally
    }

    /// The groups that somebody waits for, or that have a runner; those first that have waited longest.
    pub fn groups_told(&self, now: Instant) -> Vec<GroupTold> {
        let told = |(id, group): (&GroupId, &super::Group)| {
            let lines = || group.lines.iter().filter_map(|line| self.lines.get(line));
            let oldest = lines().filter_map(super::Line::oldest).min();
            let since = oldest.and_then(|waiter| self.waiting.get(&waiter)).map(|waiting| waiting.since);
            GroupTold {
                group: *id,
                waiting: lines().map(super::Line::len).sum(),
                oldest: since.map(|since| now.saturating_duration_since(since)).unwrap_or_default(),
                wants: group.wants.is_some(),
                serving: group.serving.to_vec(),
                loading: group.loading.to_vec(),
                service: group.service(),
                rate: group.rate(Urgency::Bulk, now),
            }
        };
        let mut groups: Vec<GroupTold> = self.groups.iter().map(told).collect();
        groups.retain(|group| group.waiting > 0 || !group.serving.is_empty() || !group.loading.is_empty());
        groups.sort_by_key(|group| (std::cmp::Reverse(group.oldest), group.group));
        groups
    }

    /// The runners that several groups share.
    pub fn runners_told(&self, now: Instant) -> Vec<RunnerTold> {
        let told = |(id, runner): (&RunnerId, &super::Runner)| RunnerTold {
            runner: *id,
            loaded: runner.loaded,
            source: runner.source,
            loading: runner.loading.map(|(group, since)| (group, now.saturating_duration_since(since))),
            stopping: runner.stopping,
        };
        let mut runners: Vec<RunnerTold> = self.runners.iter().map(told).collect();
        runners.sort_by_key(|runner| runner.runner);
        runners
    }
}
