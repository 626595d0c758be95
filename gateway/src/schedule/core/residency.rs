//! What is known of whose weights a runner has, by whose word, and when that is doubted.

use std::time::{Duration, Instant};

use super::family::{LOAD_UNMEASURED, Runner};
use super::told::Why;
use super::{Action, Dirty, GroupId, RunnerId, Scheduler, SlotId};

/// By whose word it is known what a runner has, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The replica's, when it was asked.
    Replica(Instant),
    /// Nobody's: our own load brought it.
    Load(Instant),
    /// Nobody's: a request of ours brought it.
    Request(Instant),
}

/// What an answer says of its weights.
#[derive(Clone, Debug)]
pub struct Waited {
    /// Where it was given.
    pub slot: SlotId,
    /// The runners of that replica: it loads one at a time, and who wants another waits.
    pub beside: Box<[RunnerId]>,
    /// How long its request had waited there for a runner with its weights.
    pub told: Duration,
    /// When that was sent.
    pub sent: Instant,
}

impl Scheduler {
    /// A replica says whose weights a runner has. What it said before the last load is old.
    pub(super) fn resident(
        &mut self,
        id: RunnerId,
        groups: &[GroupId],
        asked: Instant,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let is_news = |runner: &&mut Runner| runner.loading.is_none() && runner.changed.is_none_or(|at| at < asked);
        let Some(runner) = self.runners.get_mut(&id).filter(is_news) else { return };
        let before = runner.loaded;
        let group = groups.first().copied();
        if before.is_some_and(|loaded| groups.contains(&loaded)) || before == group {
            runner.source = Some(Source::Replica(asked));
            return;
        }
        self.vacate(id, actions);
        if let Some(group) = group {
            self.told.decided(now, id, group, Why::Resident);
            self.settle(SlotId { runner: id, group }, Source::Replica(asked), now, actions);
        } else if let Some(runner) = self.runners.get_mut(&id) {
            runner.source = Some(Source::Replica(asked));
        }
        self.dirty.push_back(Dirty::Runner(id));
    }

    /// Slots of a runner of which nothing is known are in use: what runs there has brought its weights.
    pub(super) fn infer(&mut self, slot: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let is_unknown = |runner: &Runner| runner.loading.is_none() && runner.loaded.is_none();
        if self.runners.get(&slot.runner).is_some_and(is_unknown) {
            self.settle(slot, Source::Request(now), now, actions);
        }
    }

    /// An answer says that its request had to wait for its weights, which were taken to be there. Where no load of ours
    /// explains it the replica is asked what it has: somebody uses it beside us, or it has let go of them. It changes nothing
    /// by itself, so that a wrong doubt costs a question.
    pub(super) fn waited(&mut self, waited: &Waited, now: Instant, actions: &mut Vec<Action>) {
        let Waited { slot, beside, told, sent } = waited;
        let loads = |runner: &Runner| runner.loading.is_some() || runner.changed.is_some_and(|at| at > *sent);
        let ours = beside.iter().chain([&slot.runner]).filter_map(|id| self.runners.get(id)).any(loads);
        let family = self.runners.get(&slot.runner).and_then(|runner| self.families.get(&runner.family));
        // All who waited for the same load tell of it.
        let is_known = self.doubted.get(&slot.runner).is_some_and(|at| at >= sent);
        if ours || is_known || *told < family.map_or(LOAD_UNMEASURED, super::Family::load_least) {
            return;
        }
        self.doubted.insert(slot.runner, now);
        self.told.decided(now, slot.runner, slot.group, Why::Reloaded(*told));
        if let Some(runner) = self.runners.get_mut(&slot.runner).filter(|runner| runner.loaded == Some(slot.group)) {
            runner.source = Some(Source::Request(now));
        }
        actions.push(Action::Ask(*slot, *told));
    }

    /// Whose weights a runner has, as far as is known.
    pub(crate) fn loaded_by(&self, runner: RunnerId) -> Option<GroupId> {
        self.runners.get(&runner)?.loaded
    }
}
