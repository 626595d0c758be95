//! Which runner has which group's weights: groups that want one, runners that could go, and how the two meet.

use std::time::{Duration, Instant};

use tutti_api::Priority;

use super::family::{Among, Family, Group, Heat, Want};
use super::lines::{Line, Urgency};
use super::told::Why;
use super::{Action, Code, Dirty, FamilyId, GroupId, LineId, Route, RunnerId, Scheduler, SlotId, WaiterId};

/// A group has another runner loaded for it where those that serve it would take as many loads longer for all who wait.
const WORTH: u32 = 2;
/// The share of its runners' time that a group may use before one less would be too few.
const FULL: f64 = 1.0;
/// As many times as a load must be asked for in the time that a load takes, a group is used without pause. Both as simulated
/// (docs/decisions/turns-on-several-replicas.md).
const HOT: f64 = 1.5;
/// So many runners are looked at for one that a group can go to.
const CHOICE: usize = 16;

impl Scheduler {
    /// Whether it is the weights alone that are missing: nobody waits for a runner.
    pub(super) fn is_uncontested(&self, route: &Route) -> bool {
        let has_runner = |group: &Group| !group.serving.is_empty() || !group.loading.is_empty();
        let family = self.family_of(route).and_then(|id| self.families.get(&id));
        let is_free = family.is_some_and(|family| family.wanting.is_empty());
        is_free && route.fixed.is_empty() && !self.groups.get(&route.group).is_some_and(has_runner)
    }

    pub(super) fn family_of(&self, route: &Route) -> Option<FamilyId> {
        route.turning.iter().find_map(|runner| self.runners.get(runner)).map(|runner| runner.family)
    }

    /// Finds out whether a group wants a runner, and looks for one.
    pub(super) fn seek(&mut self, id: GroupId, now: Instant, actions: &mut Vec<Action>) {
        self.weigh(id, now);
        while let Some(want) = self.want(id, now, actions) {
            if !self.is_of_use(id, want.family, now, actions) {
                continue; // nobody waits for it any more
            }
            let Some(runner) = self.ready_for(id, want, now) else {
                self.alarm_late(id, want, now);
                self.make_way(id, want, now, actions);
                return self.watch_next(want.family, now, actions);
            };
            self.begin(runner, id, want, now, actions);
        }
    }

    /// Whether a load would come in time for those who wait; else they are refused, for it would only take others' time.
    fn is_of_use(&mut self, id: GroupId, family: FamilyId, now: Instant, actions: &mut Vec<Action>) -> bool {
        let load = self.load(family);
        let Some(group) = self.groups.get(&id) else { return true };
        let lines = group.lines.clone();
        let has_fixed = |line: &LineId| self.lines.get(line).is_some_and(|line| !line.route.fixed.is_empty());
        if !group.serving.is_empty() || !group.loading.is_empty() || lines.iter().any(has_fixed) {
            return true;
        }
        let lines = || lines.iter().filter_map(|line| self.lines.get(line));
        let is_in_time = |waiter: &WaiterId| {
            self.waiting.get(waiter).is_none_or(|waiting| waiting.last.is_none_or(|last| last >= now + load))
        };
        if lines().filter_map(Line::newest).any(|waiter| is_in_time(&waiter)) {
            return true;
        }
        if lines().flat_map(Line::waiters).any(|rank| is_in_time(&rank.2)) {
            return true;
        }
        let late: Vec<WaiterId> = lines().flat_map(Line::waiters).map(|rank| rank.2).collect();
        for waiter in late {
            self.give_up(waiter, actions);
            self.told.refused(id, load, now);
            actions.push(Action::Reject(waiter, Code::TooLate, Some(load)));
        }
        false
    }

    /// How many runners a group keeps to itself: those that it uses without pause.
    fn weigh(&mut self, id: GroupId, now: Instant) {
        let Some(group) = self.groups.get(&id) else { return };
        let Some(family) = self.family_by_runner(group).or(group.hot.0) else { return };
        let load = self.load(family);
        let rate = group.rate(Urgency::Awaited, now);
        let is_hot = rate * load.as_secs_f64() > HOT;
        let busy = rate * self.service(group, load).as_secs_f64() / f64::from(group.limit.max(1)) / FULL;
        let most = group.serving.len() + group.loading.len();
        let hot = if is_hot { (busy.ceil() as usize).clamp(1, most.max(1)).min(most) } else { 0 };
        let (of, before) = std::mem::replace(&mut self.groups.entry(id).or_default().hot, (Some(family), hot));
        if let Some(of) = of.and_then(|of| self.families.get_mut(&of)) {
            of.hot = of.hot.saturating_sub(before);
        }
        if let Some(family) = self.families.get_mut(&family) {
            family.hot += hot;
        }
    }

    fn family_by_runner(&self, group: &Group) -> Option<FamilyId> {
        let runner = group.serving.first().or(group.loading.first())?;
        self.runners.get(runner).map(|runner| runner.family)
    }

    fn service(&self, group: &Group, load: Duration) -> Duration {
        group.service().unwrap_or(load / 4)
    }

    /// Notes whether a group wants a runner. The last that wanted one lets go of those that are watched.
    fn want(&mut self, id: GroupId, now: Instant, actions: &mut Vec<Action>) -> Option<Want> {
        let new = self.wants(id, now);
        let before = std::mem::replace(&mut self.groups.get_mut(&id)?.wants, new);
        if before != new {
            if let Some(family) = before.and_then(|want| self.families.get_mut(&want.family)) {
                let want = before?;
                family.wanting.remove(&(want.first, id));
                family.ages.remove(&(want.urgency(), want.oldest, id));
                family.awaited -= usize::from(want.urgency() == Urgency::Awaited);
            }
            if let Some((want, family)) = new.and_then(|want| Some((want, self.families.get_mut(&want.family)?))) {
                family.wanting.insert((want.first, id));
                family.ages.insert((want.urgency(), want.oldest, id));
                family.awaited += usize::from(want.urgency() == Urgency::Awaited);
            }
            let family = before.or(new)?.family;
            if self.families.get(&family).is_some_and(|family| family.wanting.is_empty()) {
                self.release(family, actions);
            }
        }
        new
    }

    fn wants(&self, id: GroupId, now: Instant) -> Option<Want> {
        let group = self.groups.get(&id)?;
        let lines = || group.lines.iter().filter_map(|line| self.lines.get(line));
        let id_of = lines().find_map(|line| self.family_of(&line.route))?;
        let family = self.families.get(&id_of)?;
        // What is waited for in earnest has enough runners where bulk alone makes the line long.
        let short = |urgency| lines().any(|line| self.is_short((id, group), line, urgency, family, now));
        let urgency = Urgency::ALL.into_iter().find(|urgency| short(*urgency))?;
        let first = lines().filter_map(|line| line.first_of(urgency)).min()?;
        let oldest = lines().filter_map(|line| line.oldest_of(urgency)).min()?;
        Some(Want { family: id_of, first, oldest })
    }

    /// Whether those of a line who are as urgent have no runner that serves them or is about to, or too few.
    fn is_short(
        &self,
        (id, group): (GroupId, &Group),
        line: &Line,
        urgency: Urgency,
        family: &Family,
        now: Instant,
    ) -> bool {
        if line.first_of(urgency).is_none() {
            return false;
        }
        let sound = |runner: &&RunnerId| {
            line.allows(**runner) && !self.troubled.contains(&SlotId { runner: **runner, group: id })
        };
        let hangs = |runner: &RunnerId| {
            let loading = self.runners.get(runner).and_then(|runner| runner.loading);
            loading.is_none_or(|(_, begun)| family.hangs_at(begun) <= now)
        };
        let fixed = line.route.fixed.iter().filter(sound).count();
        let serving = fixed + group.serving.iter().filter(sound).count();
        let having = serving + group.loading.iter().filter(sound).filter(|runner| !hangs(runner)).count();
        if having == 0 {
            let any = group.serving.iter().chain(&line.route.fixed).any(|runner| line.allows(*runner));
            let begun = group.loading.iter().any(|runner| line.allows(*runner) && !hangs(runner));
            return !((any || begun) && self.is_all_troubled(line));
        }
        let waiting = u32::try_from(line.len_of(urgency)).unwrap_or(u32::MAX);
        let at_once = u32::try_from(having).unwrap_or(u32::MAX) * u32::from(group.limit.max(1));
        self.service(group, family.load()).saturating_mul(waiting) > WORTH * family.load() * at_once
    }

    /// Whether a runner may load a group for somebody who waits for it.
    fn can(&self, id: RunnerId, group: GroupId, now: Instant) -> bool {
        let Some(runner) = self.runners.get(&id).filter(|runner| runner.loading.is_none()) else { return false };
        if runner.loaded == Some(group) || runner.bars(group, now) {
            return false;
        }
        let lines = self.groups.get(&group).map(|group| &group.lines);
        let mut lines = lines.into_iter().flatten().filter_map(|line| self.lines.get(line));
        let is_sound = !self.troubled.contains(&SlotId { runner: id, group });
        lines.any(|line| line.allows(id) && (is_sound || self.is_all_troubled(line)))
    }

    /// What a load takes of a family's runners.
    pub(super) fn load(&self, family: FamilyId) -> Duration {
        self.families.get(&family).map(Family::load).unwrap_or_default()
    }

    fn max_wait(&self, family: FamilyId) -> Duration {
        self.batching.max_wait(self.load(family))
    }

    /// When a group is late.
    fn late_at(&self, want: Want) -> Option<Instant> {
        Some(self.waiting.get(&want.oldest)?.since + self.max_wait(want.family))
    }

    pub(super) fn is_late(&self, want: Want, now: Instant) -> bool {
        self.late_at(want).is_some_and(|at| at <= now)
    }

    fn alarm_late(&mut self, id: GroupId, want: Want, now: Instant) {
        let Some(at) = self.late_at(want).filter(|at| *at > now) else { return };
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.alarm != Some(at)) else { return };
        if let Some(before) = group.alarm.replace(at) {
            self.alarms.remove(&(before, Dirty::Group(id)));
        }
        self.alarms.insert((at, Dirty::Group(id)));
    }

    /// Whether no runner serves a group or is about to. One that has some takes none from others that serve theirs.
    fn has_nothing(&self, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|group| group.serving.is_empty() && group.loading.is_empty())
    }

    /// Whether a group may have a runner that another uses without pause: it is late, or would be before its turn came.
    fn has_rights(&self, id: GroupId, want: Want, now: Instant) -> bool {
        let Some(family) = self.families.get(&want.family).filter(|_| self.has_nothing(id)) else { return false };
        let until = || family.until_turn(family.before(want.urgency()).saturating_sub(1));
        self.is_late(want, now) || until().is_none_or(|until| until > self.max_wait(want.family))
    }

    /// Whether a group may have a runner that has another's weights, as far as that one uses it. What is awaited without
    /// pause, or waits, goes on before bulk.
    fn may_have(&self, id: RunnerId, group: GroupId, want: Want, now: Instant) -> bool {
        let awaits = |line: &LineId| self.lines.get(line).is_some_and(|line| line.first_of(Urgency::Awaited).is_some());
        let is_awaited = || {
            let loaded = self.runners.get(&id).and_then(|runner| runner.loaded);
            let slot = loaded.and_then(|group| self.slots.get(&SlotId { runner: id, group }));
            slot.is_some_and(|slot| slot.lines.iter().any(awaits)) || self.is_kept(id, Urgency::Awaited, now)
        };
        match want.urgency() {
            Urgency::Bulk if is_awaited() => false,
            urgency => !self.is_kept(id, urgency, now) || self.has_rights(group, want, now),
        }
    }

    /// Whether the group that a runner has will ask for it again sooner than it could be brought back, or could not do with
    /// one runner less: to wait for it costs less than to go. Bulk keeps it from bulk alone.
    fn is_kept(&self, id: RunnerId, against: Urgency, now: Instant) -> bool {
        let Some(runner) = self.runners.get(&id) else { return false };
        let Some(group) = runner.loaded.and_then(|group| self.groups.get(&group)) else {
            return false;
        };
        let load = self.load(runner.family);
        let rate = group.rate(against, now);
        match group.serving.len() {
            0 | 1 => rate * load.as_secs_f64() > HOT,
            more => {
                let others = (more - 1) as f64 * f64::from(group.limit.max(1));
                rate * self.service(group, load).as_secs_f64() > FULL * others
            }
        }
    }

    /// A runner that could go to a group at once. Of those that have nothing the one that is meant for it, so that a group
    /// comes back to where its file was read, and groups are spread; else the coldest.
    fn ready_for(&self, group: GroupId, want: Want, now: Instant) -> Option<RunnerId> {
        let family = self.families.get(&want.family)?;
        let empty = || family.ready.range(..(Heat::default(), 0)).map(|(_, id)| *id);
        let meant = |id: &RunnerId| self.keys.of_group(group, *id);
        // Mostly the one that is meant for it can, and nothing else is asked of the others.
        let best = empty().max_by_key(meant).filter(|id| self.can(*id, group, now));
        let others = || empty().filter(|id| self.can(*id, group, now)).take(CHOICE).max_by_key(meant);
        if let Some(id) = best.or_else(others) {
            return Some(id);
        }
        let warm = family.ready.range((Heat::default(), 0)..).map(|(_, id)| *id);
        let mut warm = warm.filter(|id| self.can(*id, group, now)).take(CHOICE);
        warm.find(|id| self.may_have(*id, group, want, now))
    }

    /// Has a busy runner's group give way, if one has served long enough.
    fn make_way(&mut self, group: GroupId, want: Want, now: Instant, actions: &mut Vec<Action>) {
        let Some(family) = self.families.get(&want.family).filter(|family| family.stopping < family.wanting.len())
        else {
            return;
        };
        let least = family.load().min(self.batching.quantum(family.load()));
        let served = family.busy.iter().take_while(|(since, _)| *since + least <= now).map(|(_, id)| *id);
        let found = served
            .take(CHOICE)
            .filter(|id| self.can(*id, group, now))
            .find_map(|id| self.gives_way(id, group, want, now).map(|why| (id, why)));
        if let Some((id, why)) = found {
            self.stop(id, why, now, actions);
        }
    }

    /// Whether a busy runner's group gives way to another now, and why.
    fn gives_way(&self, id: RunnerId, group: GroupId, want: Want, now: Instant) -> Option<Why> {
        let runner = self.runners.get(&id)?;
        let since = runner.since?;
        let load = self.families.get(&want.family)?.load();
        let used_up = since + self.batching.quantum(load) <= now;
        if used_up && self.may_have(id, group, want, now) {
            return Some(Why::UsedUp(group));
        }
        // It has cost a load, and shall have served as long before it costs another.
        if since + load > now || !self.has_nothing(group) {
            return None;
        }
        // Bulk can wait for as long as what was loaded is of use.
        if !runner.was_late && self.is_late(want, now) && want.urgency() == Urgency::Awaited {
            return Some(Why::Late(group));
        }
        let own = self.slots.get(&SlotId { runner: id, group: runner.loaded? })?;
        let best = own.lines.iter().filter_map(|line| self.lines.get(line)?.first()).min();
        best.is_some_and(|best| want.first.0 < best.0).then_some(Why::Class(group))
    }

    /// Has the runner watched that is the coldest of those of which it is not known whether they are idle. One at a time:
    /// its word may be all that is needed.
    fn watch_next(&mut self, family: FamilyId, now: Instant, actions: &mut Vec<Action>) {
        let Some(known) = self.families.get(&family).filter(|family| !family.wanting.is_empty()) else { return };
        let Some((_, id)) = known.unheld.first().copied() else { return };
        self.hold(id, now, actions);
    }

    /// Looks at a runner: where its family finds it, and whether it goes to another group.
    pub(super) fn turn(&mut self, id: RunnerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get(&id) else { return };
        let (family, loaded, stopping) = (runner.family, runner.loaded, runner.stopping);
        if let Some((group, begun)) = runner.loading {
            // It may hang; what loads take may have become known since it began.
            if let Some(at) = self.families.get(&family).map(|family| family.hangs_at(begun)).filter(|at| *at > now) {
                self.alarms.insert((at, Dirty::Runner(id)));
            }
            return self.dirty.push_back(Dirty::Group(group));
        }
        let among = self.place(id);
        let Some(known) = self.families.get(&family) else { return };
        let is_wanted = known.wanting.iter().any(|(_, group)| Some(*group) != loaded);
        if stopping && !is_wanted {
            return self.resume(id, now, actions);
        }
        if !is_wanted {
            return;
        }
        match among {
            Some(Among::Ready(_)) => {
                while let Some((group, want)) = self.pick(id, now) {
                    if self.is_of_use(group, want.family, now, actions) {
                        return self.begin(id, group, want, now, actions);
                    }
                    self.want(group, now, actions);
                }
                if stopping {
                    self.resume(id, now, actions);
                } else {
                    self.watch_cooling(id, now);
                }
            }
            Some(Among::Busy(_)) if known.stopping < known.wanting.len() => {
                if let Some(why) = self.should_stop(id, now) {
                    return self.stop(id, why, now, actions);
                }
            }
            _ => {}
        }
        self.watch_next(family, now, actions);
    }

    /// Has an idle runner that is kept looked at when it is not any more: nobody may ask for it until then.
    fn watch_cooling(&mut self, id: RunnerId, now: Instant) {
        let Some(runner) = self.runners.get(&id).filter(|runner| runner.cools.is_none_or(|at| at <= now)) else {
            return;
        };
        let Some(group) = runner.loaded.and_then(|group| self.groups.get(&group)) else { return };
        let load = self.load(runner.family).as_secs_f64();
        let at = now + group.falls_to(HOT / load.max(1e-3), now) + Duration::from_millis(1);
        self.alarms.insert((at, Dirty::Runner(id)));
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.cools = Some(at);
        }
    }

    /// The groups that want a runner: late ones first, the oldest of them first; then by class and turn. Those that want
    /// it for bulk alone come after all others, in the same order.
    fn order(&self, family: FamilyId, now: Instant) -> impl Iterator<Item = (GroupId, Want)> {
        let want = |id: &GroupId| Some((*id, self.groups.get(id)?.wants?));
        let known = self.families.get(&family).into_iter();
        Urgency::ALL.into_iter().flat_map(move |urgency| {
            let ages = known.clone().flat_map(move |family| family.ages.range((urgency, 0, 0)..));
            let late = ages
                .filter_map(move |(_, _, id)| want(id))
                .take_while(move |(_, want)| want.urgency() == urgency && self.is_late(*want, now));
            let first = match urgency {
                Urgency::Awaited => Priority::Interactive,
                Urgency::Bulk => Priority::Bulk,
            };
            let turns = known.clone().flat_map(move |family| family.wanting.range(((first, 0, 0), 0)..));
            let rest = turns.filter_map(move |(_, id)| want(id)).take_while(move |(_, want)| want.urgency() == urgency);
            late.chain(rest)
        })
    }

    /// The first of them that a runner could go to.
    fn next(&self, id: RunnerId, family: FamilyId, now: Instant) -> Option<(GroupId, Want)> {
        self.order(family, now).find(|(group, _)| self.can(id, *group, now))
    }

    /// The group that a runner goes to now.
    fn pick(&self, id: RunnerId, now: Instant) -> Option<(GroupId, Want)> {
        let runner = self.runners.get(&id)?;
        let (group, want) = self.next(id, runner.family, now)?;
        let goes = runner.stopping || self.may_have(id, group, want, now);
        goes.then_some((group, want))
    }

    /// Whether a busy runner's group gives way.
    fn should_stop(&self, id: RunnerId, now: Instant) -> Option<Why> {
        let (group, want) = self.next(id, self.runners.get(&id)?.family, now)?;
        self.gives_way(id, group, want, now)
    }
}
