//! How the groups that share a runner take turns.

use std::time::{Duration, Instant};

use tutti_api::Priority;

use super::runner::{Next, Runner};
use super::{Action, Code, Line, LineId, RunnerId, Scheduler, SlotId, WaiterId};

/// How often in a row a group's load may fail before those who wait for it are refused.
const LOADS: u32 = 2;

/// How long a replica is left alone before a load that failed is tried again: it may be about to start.
const REST: Duration = Duration::from_millis(250);

impl Scheduler {
    /// Whether requests may be dispatched to these slots now: no other group has their runner.
    pub(super) fn serves(&self, slot: SlotId) -> bool {
        let runner = self.shares.get(&slot).and_then(|runner| self.runners.get(runner));
        runner.is_none_or(|runner| runner.serves(slot))
    }

    /// Whether it is the weights alone that are missing: nobody waits for the runner of these slots.
    pub(super) fn is_uncontested(&self, slot: SlotId) -> bool {
        let runner = self.shares.get(&slot).and_then(|runner| self.runners.get(runner));
        let is_away = |runner: &Runner| runner.loaded != Some(slot) && runner.loading.is_none();
        runner.is_some_and(|runner| is_away(runner) && runner.lines.is_empty())
    }

    /// Takes note of which slots share runners now. What was alone with its runner has it still.
    pub(super) fn share(&mut self, shared: Vec<(RunnerId, Vec<SlotId>)>, now: Instant, actions: &mut Vec<Action>) {
        let mut former = std::mem::take(&mut self.runners);
        let before = std::mem::take(&mut self.shares);
        for (id, slots) in shared {
            let mut runner = former.remove(&id).unwrap_or_else(|| Runner::new(Vec::new(), None));
            for slot in &slots {
                self.shares.insert(*slot, id);
                if before.get(slot) != Some(&id) {
                    actions.push(Action::Home(*slot, false));
                }
            }
            runner.slots = slots;
            let is_there = |slot: &SlotId| runner.slots.contains(slot);
            runner.loaded = runner.loaded.filter(is_there);
            runner.loading = runner.loading.filter(is_there);
            self.runners.insert(id, runner);
        }
        let left: Vec<SlotId> = before.into_keys().filter(|slot| !self.shares.contains_key(slot)).collect();
        actions.extend(left.iter().map(|slot| Action::Home(*slot, true)));
        self.alarms.retain(|(_, id)| self.runners.contains_key(id));
        self.hold_anew(actions);
        let ids: Vec<RunnerId> = self.runners.keys().copied().collect();
        for id in ids {
            self.take_turns(id, now, actions);
        }
        for slot in left {
            self.serve(slot, now, actions);
        }
    }

    /// Finds out anew who waits for which runner, and which gates are closed for that.
    fn hold_anew(&mut self, actions: &mut Vec<Action>) {
        let held: Vec<SlotId> = self.slots.iter().filter(|(_, known)| known.held).map(|(slot, _)| *slot).collect();
        for slot in &held {
            if let Some(known) = self.slots.get_mut(slot) {
                known.held = false;
            }
        }
        let mut loaded = Vec::new();
        for runner in self.runners.values_mut() {
            let waiting = runner.slots.iter().filter_map(|slot| Some((slot, &self.slots.get(slot)?.lines)));
            runner.lines = waiting.flat_map(|(slot, lines)| lines.iter().map(|line| (*line, *slot))).collect();
            if runner.lines.is_empty() {
                (runner.since, runner.stopping) = (None, false);
            } else {
                loaded.extend(runner.loaded.map(|slot| (slot, held.contains(&slot))));
            }
        }
        for (slot, was_held) in loaded {
            if was_held {
                self.slots.entry(slot).or_default().held = true;
            } else {
                self.hold(slot, actions);
            }
        }
        for slot in held {
            self.open(slot, actions);
        }
    }

    /// A line begins to wait for these slots: their runner's own group must not be used past it.
    pub(super) fn concern(&mut self, slot: SlotId, line: LineId, actions: &mut Vec<Action>) {
        let Some(runner) = self.shares.get(&slot).and_then(|runner| self.runners.get_mut(runner)) else { return };
        runner.lines.push((line, slot));
        if let Some(loaded) = runner.loaded {
            self.hold(loaded, actions);
        }
    }

    /// It does not wait for them any more.
    pub(super) fn unconcern(&mut self, slot: SlotId, line: LineId, actions: &mut Vec<Action>) {
        let Some(runner) = self.shares.get(&slot).and_then(|runner| self.runners.get_mut(runner)) else { return };
        runner.lines.retain(|(other, _)| *other != line);
        if runner.lines.is_empty() {
            (runner.since, runner.stopping) = (None, false);
            if let Some(loaded) = runner.loaded {
                self.release(loaded, actions);
            }
        }
    }

    fn hold(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        self.close(slot, actions);
        if let Some(known) = self.slots.get_mut(&slot) {
            known.held = true;
        }
    }

    fn release(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        if let Some(known) = self.slots.get_mut(&slot) {
            known.held = false;
        }
        self.open(slot, actions);
    }

    /// Serves the group that a runner has, and goes to the next where it is time.
    pub(super) fn take_turns(&mut self, id: RunnerId, now: Instant, actions: &mut Vec<Action>) {
        let is_free = |runner: &&Runner| runner.loading.is_none() && runner.rests.is_none_or(|until| until <= now);
        let Some(runner) = self.runners.get(&id).filter(is_free) else { return };
        let (loaded, next) = (runner.loaded, self.next(runner, now));
        let batching = self.batching;
        let Some(runner) = self.runners.get_mut(&id) else { return };
        runner.since = next.and(runner.since.or(Some(now)));
        let until = next.as_ref().and_then(|next| runner.gives_way(next, batching));
        runner.stopping = until.is_some_and(|until| until <= now);
        let alarm = until.filter(|until| *until > now);
        self.alarm(id, alarm);
        if let Some(loaded) = loaded {
            self.serve(loaded, now, actions);
        }
        // Serving may have emptied a line; and this group may have got what it waited for on another runner.
        let Some(runner) = self.runners.get(&id) else { return };
        let Some(next) = self.next(runner, now) else { return };
        if runner.stopping || self.is_dry(runner) {
            self.load(id, &next, now, actions);
        }
    }

    /// Has a runner load the next group, if nothing runs there any more.
    fn load(&mut self, id: RunnerId, next: &Next, now: Instant, actions: &mut Vec<Action>) {
        let Some(runner) = self.runners.get(&id) else { return };
        let loaded = runner.loaded;
        let is_idle = |slot| self.slots.get(&slot).and_then(|slot| slot.view).is_some_and(|view| view.in_flight == 0);
        if !loaded.is_none_or(is_idle) {
            return; // what comes back is told
        }
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.begins(next, now);
        }
        self.alarm(id, None);
        if let Some(loaded) = loaded {
            actions.push(Action::Home(loaded, false));
            self.release(loaded, actions);
        }
        let plainly = self.runners.get(&id).is_some_and(|runner| runner.failures.contains_key(&next.slot));
        actions.push(Action::Load { slot: next.slot, waiter: next.first, plainly });
    }

    /// A load has ended.
    pub(super) fn loaded(
        &mut self,
        slot: SlotId,
        ended: Result<Duration, Code>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let found = self.runners.iter().find(|(_, runner)| runner.loading == Some(slot)).map(|(id, _)| *id);
        let Some((id, runner)) = found.and_then(|id| Some((id, self.runners.get_mut(&id)?))) else { return };
        runner.ended(slot, ended.ok(), now);
        match ended {
            Ok(_) => {
                runner.failures.remove(&slot);
                actions.push(Action::Home(slot, true));
                if !runner.lines.is_empty() {
                    self.hold(slot, actions);
                }
            }
            Err(code) => {
                let failures = runner.failures.entry(slot).or_default();
                *failures += 1;
                if *failures >= LOADS {
                    runner.failures.remove(&slot);
                    self.refuse(slot, code, actions);
                } else {
                    runner.rests = Some(now + REST);
                    self.alarm(id, Some(now + REST));
                    return;
                }
            }
        }
        self.take_turns(id, now, actions);
    }

    /// A group cannot be loaded: refuses those who could only have had it here.
    fn refuse(&mut self, slot: SlotId, code: Code, actions: &mut Vec<Action>) {
        let lines = self.slots.get(&slot).map(|slot| slot.lines.clone()).unwrap_or_default();
        let only = lines.iter().filter_map(|id| self.lines.get(id)).filter(|line| *line.slots == [slot]);
        let waiters: Vec<WaiterId> = only.flat_map(|line| line.waiters.iter().map(|(_, waiter)| *waiter)).collect();
        for waiter in waiters {
            self.leave(waiter, actions);
            actions.push(Action::Reject(waiter, code));
        }
    }

    /// Whether the weights that a waiter waits for are being loaded, and that may go on for longer than he may wait else.
    pub(super) fn is_loading_for(&self, waiter: WaiterId, now: Instant) -> bool {
        let Some(waiting) = self.waiting.get(&waiter) else { return false };
        let is_loading = |slot: &SlotId| {
            let runner = self.shares.get(slot).and_then(|id| self.runners.get(id));
            runner.is_some_and(|runner| runner.loading == Some(*slot))
        };
        let line = self.lines.get(&waiting.line);
        waiting.since + self.batching.cold_wait > now && line.is_some_and(|line| line.slots.iter().any(is_loading))
    }

    /// A replica says whose weights a runner has. What it said before the last load is old.
    pub(super) fn resident(
        &mut self,
        id: RunnerId,
        slots: &[SlotId],
        asked: Instant,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let is_news = |runner: &&mut Runner| runner.loading.is_none() && runner.changed.is_none_or(|at| at < asked);
        let Some(runner) = self.runners.get_mut(&id).filter(is_news) else { return };
        let before = runner.loaded;
        // Two names may stand for the same weights.
        if before.is_some_and(|loaded| slots.contains(&loaded)) {
            return;
        }
        let slot = slots.iter().copied().find(|slot| runner.slots.contains(slot));
        if before == slot {
            return;
        }
        (runner.loaded, runner.stopping, runner.visit, runner.since) = (slot, false, None, None);
        let waits = !runner.lines.is_empty();
        if let Some(before) = before {
            actions.push(Action::Home(before, false));
            self.release(before, actions);
        }
        if let Some(slot) = slot {
            actions.push(Action::Home(slot, true));
            if waits {
                self.hold(slot, actions);
            }
        }
        self.take_turns(id, now, actions);
    }

    /// Looks whether one of the runners that a line may have should go to it.
    pub(super) fn spread(&mut self, slots: &[SlotId], now: Instant, actions: &mut Vec<Action>) {
        let runners: Vec<RunnerId> = slots.iter().filter_map(|slot| self.shares.get(slot)).copied().collect();
        for id in runners {
            self.take_turns(id, now, actions);
        }
    }

    fn alarm(&mut self, id: RunnerId, at: Option<Instant>) {
        let Some(runner) = self.runners.get_mut(&id).filter(|runner| runner.alarm != at) else { return };
        if let Some(before) = std::mem::replace(&mut runner.alarm, at) {
            self.alarms.remove(&(before, id));
        }
        self.alarms.extend(at.map(|at| (at, id)));
    }

    /// Whether nobody waits for the group that a runner has.
    fn is_dry(&self, runner: &Runner) -> bool {
        let lines = runner.loaded.and_then(|loaded| self.slots.get(&loaded)).map(|slot| &slot.lines);
        lines.is_none_or(|lines| lines.is_empty())
    }

    /// Whether nothing keeps a runner from going to another group at once.
    fn is_idle(&self, runner: &Runner) -> bool {
        let view = runner.loaded.map(|loaded| self.slots.get(&loaded).and_then(|slot| slot.view));
        let is_empty = view.is_none_or(|view| view.is_some_and(|view| view.in_flight == 0));
        runner.loading.is_none() && is_empty && self.is_dry(runner)
    }

    /// Whether those who wait in a line would have this runner go to their group: none has it, and none is better to be
    /// had; or those that have it would take longer than two loads for all who wait.
    fn is_wanted(&self, line: &Line, runner: &Runner) -> bool {
        let mut having = 0;
        for slot in line.slots.iter() {
            let Some(other) = self.shares.get(slot).and_then(|id| self.runners.get(id)) else {
                having += 1;
                continue;
            };
            if other.loading == Some(*slot) || other.serves(*slot) {
                having += 1;
            } else if other.preference() < runner.preference() && self.is_idle(other) {
                return false;
            }
        }
        let limit = |slot: &SlotId| self.slots.get(slot).and_then(|slot| slot.view).map_or(1, |view| view.limit.max(1));
        let at_once = having * u32::from(line.slots.first().map_or(1, limit));
        let waiting = u32::try_from(line.waiters.len()).unwrap_or(u32::MAX);
        having == 0 || runner.service() * waiting > 2 * runner.load() * at_once
    }

    /// Whether a line has slots that are not suspect; else a suspect one is better than to wait.
    fn has_better(&self, line: &Line) -> bool {
        let view = |slot: &SlotId| self.slots.get(slot)?.view;
        line.slots.iter().filter_map(view).any(|view| !view.suspect && view.limit > 0)
    }

    /// Since when the oldest in a line waits.
    fn oldest(&self, line: &Line) -> Option<Instant> {
        let first = |class| line.waiters.range((class, 0)..=(class, WaiterId::MAX)).next();
        let firsts = Priority::ALL.into_iter().filter_map(first);
        firsts.filter_map(|(_, waiter)| self.waiting.get(waiter)).map(|waiting| waiting.since).min()
    }

    /// The group that a runner would go to.
    fn next(&self, runner: &Runner, now: Instant) -> Option<Next> {
        let max_wait = self.batching.max_wait(runner.load());
        let waits = |(id, slot): &(LineId, SlotId)| {
            let line = self.lines.get(id)?;
            let view = self.slots.get(slot)?.view?;
            if runner.loaded == Some(*slot) || view.limit == 0 || (view.suspect && self.has_better(line)) {
                return None;
            }
            let (class, first) = *line.waiters.first()?;
            let oldest = self.oldest(line)?;
            Some((Next { slot: *slot, first, class, oldest, late: oldest + max_wait <= now }, line))
        };
        let mut all: Vec<(Next, &Line)> = runner.lines.iter().filter_map(waits).collect();
        all.sort_by_key(|(next, _)| next.rank());
        all.into_iter().find(|(_, line)| self.is_wanted(line, runner)).map(|(next, _)| next)
    }
}
