//! How long one waits, and whether it is for weights.

use std::time::{Duration, Instant};

use tutti_api::Priority;

use super::fair::Tag;
use super::family::Runner;
use super::lines::Urgency;
use super::{GroupId, LineId, Route, RunnerId, Scheduler, TargetId, WaiterId};

impl Scheduler {
    /// Whether the weights that a waiter waits for are being loaded, and that may go on for longer than he may wait else.
    pub(super) fn is_loading_for(&self, waiter: WaiterId, now: Instant) -> bool {
        let Some(waiting) = self.waiting.get(&waiter) else { return false };
        let Some(line) = self.lines.get(&waiting.line) else { return false };
        self.is_cold(line.route.group, |id| line.allows(id), (waiting.since, waiting.wait), now)
    }

    /// The same of who waits elsewhere for others who want this target: since then, and he may wait so long else.
    pub fn is_loading(&self, target: TargetId, waits: (Instant, Duration), now: Instant) -> bool {
        let Some(route) = self.live.get(&target) else { return false };
        self.is_cold(route.group, |id| route.allows(id), waits, now)
    }

    fn is_cold(
        &self,
        group: GroupId,
        allows: impl Fn(RunnerId) -> bool,
        (since, wait): (Instant, Duration),
        now: Instant,
    ) -> bool {
        let Some(group) = self.groups.get(&group) else { return false };
        // They are there: from then on he may wait as long as others.
        let had_no_time = |id: RunnerId| {
            let begun = self.runners.get(&id).and_then(Runner::begun);
            begun.is_some_and(|begun| begun > since && now < begun + wait)
        };
        let is_cold = group.loading.iter().any(|id| allows(*id))
            || group.serving.iter().any(|id| allows(*id) && had_no_time(*id));
        since + self.batching.cold_wait > now && is_cold
    }

    /// How long it will take until one who comes now with this class and turn has a slot; `None`: that is not known.
    pub(super) fn expected(
        &self,
        route: &Route,
        line: LineId,
        turn: (Priority, Tag),
        now: Instant,
    ) -> Option<Expected> {
        let group = self.groups.get(&route.group)?;
        let line = self.lines.get(&line);
        let ahead = line.map_or(0, |line| line.before(turn));
        let limit = u32::from(group.limit);
        let at_once = u32::try_from(group.serving.len() + route.fixed.len()).ok()?.saturating_mul(limit);
        if !(group.serving.is_empty() && route.fixed.is_empty()) {
            line?; // where nobody waits a slot may be free
            let turn = group.service()?.saturating_mul(ahead + 1).checked_div(at_once)?;
            return Some(Expected { turn, load: Duration::ZERO });
        }
        let family = self.family_of(route).and_then(|id| self.families.get(&id))?;
        let load = family.measured_load()?;
        if let Some((_, begun)) =
            group.loading.iter().find_map(|runner| self.runners.get(runner)).and_then(|runner| runner.loading)
        {
            let turn = match ahead {
                0 => Duration::ZERO,
                ahead => group.service()?.saturating_mul(ahead).checked_div(limit)?,
            };
            return Some(Expected { turn, load: (begun + load).saturating_duration_since(now) });
        }
        if family.wanting.is_empty() || !family.ready.is_empty() {
            return Some(Expected { turn: Duration::ZERO, load });
        }
        // Where others wait for the group already, it is not known how soon its turn is; a load it takes in any case.
        let until = || family.until_turn(family.before(Urgency::of_class(turn.0)));
        let turn = if line.is_none() { until()? } else { Duration::ZERO };
        Some(Expected { turn, load })
    }
}

/// How long it takes until one has a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Until it is its turn.
    pub(super) turn: Duration,
    /// Until its weights are there.
    pub(super) load: Duration,
}

impl Expected {
    /// Both.
    pub(super) fn whole(self) -> Duration {
        self.turn + self.load
    }
}
