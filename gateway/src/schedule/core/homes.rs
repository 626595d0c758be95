//! Where whose weights are: what is done about it, and what becomes known of it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::family::{Among, Family, Heat, Runner, Want};
use super::lines::{Line, Urgency};
use super::residency::Source;
use super::told::Why;
use super::{Action, Code, Dirty, FamilyId, GroupId, LineId, Route, RunnerId, Scheduler, SlotId, WaiterId};

/// How often in a row a group's load may fail before those who wait for it are refused.
const LOADS: u32 = 2;
/// How long a replica is left alone before a load that failed is tried again there: it may be about to start. Doubled for
/// each that has failed since one went well.
const REST: Duration = Duration::from_millis(250);
/// The longest such rest.
const REST_MOST: Duration = Duration::from_secs(30);

impl Scheduler {
    /// Takes note of which runners are shared now. Afterwards the owner tells of each slot that is suspect, or in use.
    pub(super) fn share(&mut self, turning: &[(RunnerId, FamilyId)], now: Instant, actions: &mut Vec<Action>) {
        self.start.get_or_insert(now);
        let stays: HashMap<RunnerId, FamilyId> = turning.iter().copied().collect();
        let left: Vec<RunnerId> = self.runners.keys().filter(|id| !stays.contains_key(id)).copied().collect();
        for id in left {
            self.vacate(id, actions);
            self.put(id, None);
            let loading = self.runners.remove(&id).and_then(|runner| runner.loading);
            if let Some(group) = loading.and_then(|(group, _)| self.groups.get_mut(&group)) {
                group.loading.retain(|other| *other != id);
            }
        }
        for family in self.families.values_mut() {
            family.runners = 0;
        }
        for (id, family) in turning {
            let before = self.runners.entry(*id).or_insert_with(|| Runner::new(*family)).family;
            if before != *family {
                self.move_to(*family, *id, before, actions);
            }
            self.families.entry(*family).or_default().runners += 1;
            self.dirty.push_back(Dirty::Runner(*id));
        }
        self.families.retain(|_, family| family.runners > 0);
        self.keep_what_stays(actions);
        let known: HashSet<GroupId> = self.live.values().map(|route| route.group).collect();
        self.groups.retain(|id, group| known.contains(id) || !group.is_idle());
        self.dirty.extend(self.groups.keys().map(|id| Dirty::Group(*id)));
    }

    /// A runner is of another family from now on, which knows at least what that one knew of loads.
    fn move_to(&mut self, family: FamilyId, id: RunnerId, before: FamilyId, actions: &mut Vec<Action>) {
        self.put(id, None);
        self.unhold(id, actions);
        let Some(runner) = self.runners.get_mut(&id) else { return };
        runner.family = family;
        let was_stopping = usize::from(runner.stopping);
        let Some(old) = self.families.get_mut(&before) else { return };
        old.held.remove(&id);
        old.stopping = old.stopping.saturating_sub(was_stopping);
        let like = old.like();
        self.families.entry(family).or_insert(like).stopping += was_stopping;
    }

    /// What a runner has stays where a target of it leads there. Its words may be new.
    fn keep_what_stays(&mut self, actions: &mut Vec<Action>) {
        let mut routes: HashMap<GroupId, Vec<&Route>> = HashMap::new();
        let mut runners: HashSet<RunnerId> = HashSet::new();
        for route in self.live.values() {
            routes.entry(route.group).or_default().push(route);
            runners.extend(&route.fixed);
        }
        let leads = |group: GroupId, id: RunnerId| {
            routes.get(&group).is_some_and(|routes| routes.iter().any(|route| route.turning.binary_search(&id).is_ok()))
        };
        let loaded = self.runners.iter().filter_map(|(id, runner)| Some((*id, runner.loaded?)));
        let (stays, goes): (Vec<_>, Vec<_>) = loaded.partition(|(id, group)| leads(*group, *id));
        self.troubled.retain(|slot| self.runners.contains_key(&slot.runner) || runners.contains(&slot.runner));
        for (id, _) in goes {
            self.vacate(id, actions);
        }
        actions.extend(stays.into_iter().map(|(runner, group)| Action::Home(SlotId { runner, group }, true)));
    }

    /// Where a family finds a runner; `None`: nowhere, for it loads, ends what runs, or its word has not been read yet.
    fn standing(&self, id: RunnerId) -> Option<Among> {
        let runner = self.runners.get(&id).filter(|runner| runner.loading.is_none())?;
        let Some(group) = runner.loaded else { return Some(Among::Ready(Heat::EMPTY)) };
        let heat =
            || self.groups.get(&group).zip(self.start).map(|(known, start)| known.heat(start)).unwrap_or_default();
        let slot = SlotId { runner: id, group };
        let Some(known) = self.slots.get(&slot).filter(|known| known.held || runner.stopping) else {
            return Some(Among::Unheld(heat()));
        };
        let view = known.view?;
        let is_in_need = |line: &LineId| self.lines.get(line).is_some_and(|line| self.is_all_troubled(line));
        let is_dry = match self.troubled.contains(&slot) {
            true => !known.lines.iter().any(is_in_need),
            false => known.lines.is_empty(),
        };
        let is_dry = runner.stopping || is_dry;
        match view.in_flight {
            0 if is_dry => Some(Among::Ready(heat())),
            _ if runner.stopping => None,
            _ => runner.since.map(Among::Busy),
        }
    }

    /// Has its family find a runner where it stands now.
    pub(super) fn place(&mut self, id: RunnerId) -> Option<Among> {
        let among = self.standing(id);
        self.put(id, among);
        among
    }

    fn put(&mut self, id: RunnerId, among: Option<Among>) {
        let Some(runner) = self.runners.get_mut(&id).filter(|runner| runner.among != among) else { return };
        let before = std::mem::replace(&mut runner.among, among);
        let Some(family) = self.families.get_mut(&runner.family) else { return };
        match before {
            Some(Among::Ready(heat)) => family.ready.remove(&(heat, id)),
            Some(Among::Busy(since)) => family.busy.remove(&(since, id)),
            Some(Among::Unheld(heat)) => family.unheld.remove(&(heat, id)),
            None => false,
        };
        match among {
            Some(Among::Ready(heat)) => family.ready.insert((heat, id)),
            Some(Among::Busy(since)) => family.busy.insert((since, id)),
            Some(Among::Unheld(heat)) => family.unheld.insert((heat, id)),
            None => false,
        };
    }

    /// Has a runner watched: its word is read, and its group serves for so long only as it may while others wait.
    pub(super) fn hold(&mut self, id: RunnerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        let Some(group) = runner.loaded else { return };
        let (family, since) = (runner.family, *runner.since.get_or_insert(now));
        let slot = SlotId { runner: id, group };
        self.watch(slot, actions);
        if let Some(known) = self.slots.get_mut(&slot) {
            known.held = true;
        }
        let Some(family) = self.families.get_mut(&family) else { return };
        family.held.insert(id);
        let load = family.load();
        for after in [load, self.batching.quantum(load)] {
            self.alarms.insert((since + after, Dirty::Runner(id)));
        }
        self.place(id);
        // Else its word is being read, and it is looked at when that is done.
        if self.slots.get(&slot).is_some_and(|known| known.view.is_some()) {
            self.dirty.push_back(Dirty::Runner(id));
        }
    }

    /// Nobody wants a runner of these any more.
    pub(super) fn release(&mut self, family: FamilyId, actions: &mut Vec<Action>) {
        let Some(known) = self.families.get_mut(&family) else { return };
        for id in std::mem::take(&mut known.held) {
            self.unhold(id, actions);
        }
    }

    /// A runner is not watched any more.
    fn unhold(&mut self, id: RunnerId, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        let Some(group) = runner.loaded else { return };
        runner.since = None;
        self.dirty.push_back(Dirty::Runner(id));
        let slot = SlotId { runner: id, group };
        if let Some(known) = self.slots.get_mut(&slot) {
            known.held = false;
        }
        if !runner.stopping {
            self.unwatch(slot, actions);
        }
    }

    /// A runner's group gives way: what runs ends.
    pub(super) fn stop(&mut self, id: RunnerId, why: Why, now: Instant, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        let Some(group) = runner.loaded else { return };
        runner.stopping = true;
        self.told.decided(now, id, group, why);
        if let Some(family) = self.families.get_mut(&runner.family) {
            family.stopping += 1;
        }
        self.leave_group(id, group);
        if self.place(id).is_some() {
            self.turn(id, now, actions);
        }
    }

    /// It need not.
    pub(super) fn resume(&mut self, id: RunnerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get_mut(&id).filter(|runner| runner.stopping) else { return };
        let Some(group) = runner.loaded else { return };
        (runner.stopping, runner.since) = (false, None);
        self.told.decided(now, id, group, Why::Resumes);
        if let Some(family) = self.families.get_mut(&runner.family) {
            family.stopping = family.stopping.saturating_sub(1);
        }
        self.serve_group(SlotId { runner: id, group }, now, actions);
    }

    /// No waiter may go to a group's slots there any more.
    fn leave_group(&mut self, id: RunnerId, group: GroupId) {
        self.detach(SlotId { runner: id, group });
        if let Some(known) = self.groups.get_mut(&group) {
            known.serving.retain(|other| *other != id);
        }
        self.dirty.push_back(Dirty::Group(group));
    }

    /// Who waits for a group may have these slots of its, where its weights are.
    fn serve_group(&mut self, slot: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let known = self.groups.entry(slot.group).or_default();
        known.serving.push(slot.runner);
        for id in known.lines.clone() {
            if self.lines.get(&id).is_some_and(|line| line.allows(slot.runner)) {
                self.attach(slot, id, actions);
            }
        }
        let family = self.runners.get(&slot.runner).and_then(|runner| self.families.get(&runner.family));
        if family.is_some_and(|family| !family.wanting.is_empty()) {
            self.hold(slot.runner, now, actions);
        } else {
            if let Some(known) = self.slots.get_mut(&slot) {
                known.held = false;
            }
            self.unwatch(slot, actions);
        }
        self.dirty.extend([Dirty::Group(slot.group), Dirty::Runner(slot.runner), Dirty::Slot(slot)]);
    }

    /// A runner has not what it had.
    pub(super) fn vacate(&mut self, id: RunnerId, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        let Some(group) = runner.loaded else { return };
        let (was_stopping, family) = (runner.stopping, runner.family);
        let visit = runner.ends();
        let is_hot = self.groups.get(&group).is_some_and(|group| group.hot.1 > 0);
        if let Some(family) = self.families.get_mut(&family) {
            family.stopping = family.stopping.saturating_sub(usize::from(was_stopping));
            family.held.remove(&id);
            // What it had beyond a quantum it had because nobody else wanted it.
            let quantum = self.batching.quantum(family.load());
            if let Some((lasted, _)) = visit.filter(|_| !is_hot) {
                family.visited(lasted.min(quantum));
            }
        }
        if let Some((_, count)) = visit {
            self.told.visited(count);
        }
        self.leave_group(id, group);
        let slot = SlotId { runner: id, group };
        actions.push(Action::Home(slot, false));
        if self.slots.remove(&slot).is_some() {
            actions.push(Action::OpenGate(slot));
        }
        self.put(id, None);
    }

    /// A runner that is idle goes to another group.
    pub(super) fn begin(&mut self, id: RunnerId, group: GroupId, want: Want, now: Instant, actions: &mut Vec<Action>) {
        let late = want.urgency() == Urgency::Awaited && self.is_late(want, now);
        let instead = self.runners.get(&id).and_then(|runner| runner.loaded);
        self.vacate(id, actions);
        let lines = self.groups.get(&group).into_iter().flat_map(|group| &group.lines);
        let lines = || lines.clone().filter_map(|line| self.lines.get(line));
        let first = lines().filter(|line| line.allows(id)).filter_map(Line::first).min();
        let Some((_, _, waiter)) = first else { return };
        let waited = self.waiting.get(&want.oldest).map(|waiting| now.saturating_duration_since(waiting.since));
        let (waiting, waited) = (lines().map(Line::len).sum(), waited.unwrap_or_default());
        self.told.decided(now, id, group, Why::Load { waiting, waited, late, instead });
        if let Some(runner) = self.runners.get_mut(&id) {
            (runner.loading, runner.source) = (Some((group, now)), None);
            (runner.was_late, runner.changed) = (late, Some(now));
        }
        self.put(id, None);
        if let Some(family) = self.families.get(&want.family) {
            self.alarms.insert((family.hangs_at(now), Dirty::Runner(id)));
        }
        let known = self.groups.entry(group).or_default();
        known.loading.push(id);
        let plainly = known.failures > 0;
        self.dirty.push_back(Dirty::Group(group));
        let within = self.families.get(&want.family).map(Family::patience).unwrap_or_default();
        actions.push(Action::Load { slot: SlotId { runner: id, group }, waiter, plainly, within });
    }

    /// A load has ended.
    pub(super) fn loaded(
        &mut self,
        slot: SlotId,
        ended: Result<Duration, Code>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let is_it = |runner: &&mut Runner| runner.loading.is_some_and(|(group, _)| group == slot.group);
        let Some(runner) = self.runners.get_mut(&slot.runner).filter(is_it) else { return };
        (runner.loading, runner.changed) = (None, Some(now));
        let group = self.groups.entry(slot.group).or_default();
        group.loading.retain(|other| *other != slot.runner);
        self.dirty.extend([Dirty::Group(slot.group), Dirty::Runner(slot.runner)]);
        match ended {
            Ok(took) => {
                (group.failures, group.unreached) = (0, 0);
                runner.barred.retain(|(barred, _)| *barred != slot.group);
                if let Some(family) = self.families.get_mut(&runner.family) {
                    family.loaded(took);
                }
                self.told.decided(now, slot.runner, slot.group, Why::Loaded(took));
                self.settle(slot, Source::Load(now), now, actions);
            }
            Err(code) => {
                let rest = (REST * 2u32.saturating_pow(group.failures)).min(REST_MOST);
                runner.barred.retain(|(barred, until)| *barred != slot.group && *until > now);
                runner.barred.push((slot.group, now + rest));
                self.alarms.insert((now + rest, Dirty::Group(slot.group)));
                self.told.decided(now, slot.runner, slot.group, Why::Failed(code));
                group.unreached = if code == Code::NoReplica { group.unreached + 1 } else { 0 };
                let unreached = group.unreached;
                // A replica that cannot be reached says nothing of the weights, while there are others to try.
                if unreached == 0 || !self.has_another(slot.group, unreached, now) {
                    let group = self.groups.entry(slot.group).or_default();
                    group.failures += 1;
                    if group.failures >= LOADS {
                        self.refuse(slot.group, code, actions);
                    }
                }
            }
        }
    }

    /// Whether somebody who waits for a group may go to a runner that is sound and has not just failed it, after so many in a
    /// row could not be reached.
    fn has_another(&self, group: GroupId, unreached: usize, now: Instant) -> bool {
        let lines = self.groups.get(&group).map(|group| &group.lines).into_iter().flatten();
        let mut lines = lines.filter_map(|line| self.lines.get(line));
        lines.any(|line| {
            let mut runners = line.route.turning.iter().filter(|runner| line.allows(**runner));
            let untried = runners.clone().nth(unreached).is_some();
            untried
                && runners.any(|id| {
                    let is_barred = self.runners.get(id).is_none_or(|runner| runner.bars(group, now));
                    !is_barred && !self.troubled.contains(&SlotId { runner: *id, group })
                })
        })
    }

    /// A runner has a group's weights from now on.
    pub(super) fn settle(&mut self, slot: SlotId, source: Source, now: Instant, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get_mut(&slot.runner) else { return };
        runner.begins(slot.group, source, now);
        self.groups.entry(slot.group).or_default().begins(now);
        let waits = self.groups.get(&slot.group).is_some_and(|group| !group.lines.is_empty());
        if waits {
            self.watch(slot, actions); // nobody passes them
        }
        actions.push(Action::Home(slot, true));
        self.serve_group(slot, now, actions);
    }

    /// For how long a group that could not be loaded is not tried again anywhere, where nothing has it.
    pub(super) fn barred_for(&self, route: &Route, now: Instant) -> Option<Duration> {
        let group = self.groups.get(&route.group)?;
        let has_none = group.serving.is_empty() && group.loading.is_empty() && route.fixed.is_empty();
        if group.failures < LOADS || !has_none {
            return None;
        }
        let bar = |id: &RunnerId| {
            let barred = &self.runners.get(id)?.barred;
            barred.iter().find(|(barred, until)| *barred == route.group && *until > now).map(|(_, until)| *until - now)
        };
        route.turning.iter().map(bar).collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// A group cannot be loaded: refuses those whom nothing serves that has it already.
    fn refuse(&mut self, group: GroupId, code: Code, actions: &mut Vec<Action>) {
        let Some(known) = self.groups.get(&group) else { return };
        let helped = |line: &Line| {
            let mut having = known.serving.iter().chain(&known.loading).chain(&line.route.fixed);
            having.any(|runner| line.allows(*runner))
        };
        let lines = known.lines.iter().filter_map(|line| self.lines.get(line)).filter(|line| !helped(line));
        let waiters: Vec<WaiterId> = lines.flat_map(|line| line.waiters().map(|rank| rank.2)).collect();
        for waiter in waiters {
            self.give_up(waiter, actions);
            actions.push(Action::Reject(waiter, code, None));
        }
    }
}
