//! Who waits for which slots, and the slots that are watched: the half that hands them out.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use tutti_api::Priority;

use super::fair::{Fair, Tag};
use super::{Action, Dirty, LineId, Rank, Route, RunnerId, Scheduler, Served, SlotId, View, WaiterId, Waiting};

/// So many are counted who go before one.
const COUNTED: usize = 4096;

/// Whether one waits for his answer, or for what is left when all those have theirs: bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    Awaited,
    Bulk,
}

impl Urgency {
    pub(super) const ALL: [Self; 2] = [Self::Awaited, Self::Bulk];

    pub(super) fn of(rank: Rank) -> Self {
        Self::of_class(rank.0)
    }

    pub(super) fn of_class(class: Priority) -> Self {
        if class == Priority::Bulk { Self::Bulk } else { Self::Awaited }
    }
}

/// Those who wait for the same slots, in order.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) route: Arc<Route>,
    pub(super) exclude: Option<RunnerId>,
    waiters: BTreeSet<Rank>,
    /// The same by [`Urgency`] and age: numbers rise with the order of arrival.
    ages: [BTreeSet<WaiterId>; 2],
    /// The same by their turns in the pool.
    turns: BTreeSet<Rank>,
    /// The watched slots that it may have now, but whose words have not been read yet.
    unread: usize,
    /// Those with room, in order.
    free: SmallVec<[SlotId; 4]>,
}

impl Line {
    /// Whether its waiters may go to this runner.
    pub(super) fn allows(&self, runner: RunnerId) -> bool {
        self.exclude != Some(runner) && self.route.allows(runner)
    }

    /// Its waiters in order.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &Rank> {
        self.waiters.iter()
    }

    pub(super) fn first(&self) -> Option<Rank> {
        self.waiters.first().copied()
    }

    /// How many go before one who comes now with this class and turn; of very many, about.
    pub(super) fn before(&self, (class, tag): (Priority, Tag)) -> u32 {
        let rank = (class, tag, WaiterId::MAX);
        let count = match self.waiters.last() {
            Some(last) if *last > rank => self.waiters.range(..rank).take(COUNTED).count(),
            _ => self.waiters.len(),
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The first of those as urgent, by their turns in the pool.
    pub(super) fn first_of(&self, urgency: Urgency) -> Option<Rank> {
        match urgency {
            Urgency::Awaited => self.turns.first().copied().filter(|first| Urgency::of(*first) == urgency),
            Urgency::Bulk => self.turns.range((Priority::Bulk, 0, 0)..).next().copied(),
        }
    }

    /// Who waits longest.
    pub(super) fn oldest(&self) -> Option<WaiterId> {
        Urgency::ALL.into_iter().filter_map(|urgency| self.oldest_of(urgency)).min()
    }

    /// Who waits longest of those as urgent.
    pub(super) fn oldest_of(&self, urgency: Urgency) -> Option<WaiterId> {
        self.ages[urgency as usize].first().copied()
    }

    /// Who waits shortest.
    pub(super) fn newest(&self) -> Option<WaiterId> {
        self.ages.iter().filter_map(|ages| ages.last().copied()).max()
    }

    /// How many are as urgent, or more.
    pub(super) fn len_of(&self, urgency: Urgency) -> usize {
        self.ages[..=urgency as usize].iter().map(BTreeSet::len).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    fn offer(&mut self, slot: SlotId, has_room: bool) {
        match (self.free.binary_search(&slot), has_room) {
            (Err(at), true) => self.free.insert(at, slot),
            (Ok(at), false) => {
                self.free.remove(at);
            }
            _ => {}
        }
    }
}

/// A slot with a closed gate; `view` is missing until the owner has read it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) view: Option<View>,
    /// Those who may have it now.
    pub(super) lines: SmallVec<[LineId; 1]>,
    /// Its runner is watched, for another group waits for one.
    pub(super) held: bool,
}

impl Scheduler {
    /// A waiter joins a line; the first of it has the gates closed.
    pub(super) fn join(&mut self, id: LineId, route: &Arc<Route>, [rank, turn]: [Rank; 2], actions: &mut Vec<Action>) {
        let line = match self.lines.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let route = route.clone();
                let (waiters, turns, ages) = (BTreeSet::new(), BTreeSet::new(), Default::default());
                new.insert(Line { route, exclude: id.1, waiters, turns, ages, unread: 0, free: SmallVec::new() })
            }
        };
        line.waiters.insert(rank);
        line.turns.insert(turn);
        line.ages[Urgency::of(rank) as usize].insert(rank.2);
        if line.len() > 1 {
            return; // the gates are closed, and the others have not been served either
        }
        let group = self.groups.entry(route.group).or_default();
        group.lines.push(id);
        let homes = group.serving.clone();
        let slots = route.fixed.iter().chain(&homes).filter(|runner| self.lines[&id].allows(**runner));
        let slots: SmallVec<[SlotId; 8]> = slots.map(|runner| SlotId { runner: *runner, group: route.group }).collect();
        for slot in &slots {
            self.attach(*slot, id, actions);
        }
        if let Some(slot) = slots.first() {
            self.dirty.push_back(Dirty::Slot(*slot));
        }
    }

    /// From now on a line may have these slots.
    pub(super) fn attach(&mut self, slot: SlotId, id: LineId, actions: &mut Vec<Action>) {
        self.watch(slot, actions);
        let (Some(known), Some(line)) = (self.slots.get_mut(&slot), self.lines.get_mut(&id)) else { return };
        if known.lines.contains(&id) {
            return;
        }
        known.lines.push(id);
        match known.view {
            Some(view) => line.offer(slot, view.free() > 0),
            None => line.unread += 1,
        }
    }

    /// No line may have these slots any more.
    pub(super) fn detach(&mut self, slot: SlotId) {
        let Some(known) = self.slots.get_mut(&slot) else { return };
        for id in std::mem::take(&mut known.lines) {
            let Some(line) = self.lines.get_mut(&id) else { continue };
            line.offer(slot, false);
            line.unread -= usize::from(known.view.is_none());
            // It may have waited for this word only.
            self.dirty.extend(line.free.first().map(|other| Dirty::Slot(*other)));
        }
    }

    /// Closes a gate that is open.
    pub(super) fn watch(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        if let Entry::Vacant(new) = self.slots.entry(slot) {
            new.insert(Slot::default());
            actions.push(Action::CloseGate(slot));
        }
    }

    /// Opens a gate behind which nobody waits for anything.
    pub(super) fn unwatch(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        if self.slots.get(&slot).is_some_and(|known| known.lines.is_empty() && !known.held) {
            self.slots.remove(&slot);
            self.troubled.remove(&slot); // nobody says so any more; it is read when it is watched again
            actions.push(Action::OpenGate(slot));
            self.dirty.push_back(Dirty::Runner(slot.runner));
        }
    }

    /// A slot's word was read.
    pub(super) fn see(&mut self, slot: SlotId, view: View, served: Served, now: Instant) {
        if let Some(group) = self.groups.get_mut(&slot.group) {
            group.limit = if view.limit > 0 { view.limit } else { group.limit };
            if served.count > 0 {
                group.served(served, now);
            }
        }
        let is_troubled = view.suspect || view.limit == 0;
        let has_changed = if is_troubled { self.troubled.insert(slot) } else { self.troubled.remove(&slot) };
        if has_changed {
            // Others may have to do now, or need not any more.
            self.dirty.push_back(Dirty::Group(slot.group));
        }
        if let Some(known) = self.slots.get_mut(&slot) {
            let is_new = known.view.replace(view).is_none();
            for id in &known.lines {
                let Some(line) = self.lines.get_mut(id) else { continue };
                line.unread -= usize::from(is_new);
                line.offer(slot, view.free() > 0);
                if has_changed {
                    self.dirty.extend(line.free.first().map(|other| Dirty::Slot(*other)));
                }
            }
            self.dirty.push_back(Dirty::Slot(slot));
        }
        self.dirty.push_back(Dirty::Runner(slot.runner));
    }

    /// Whether every runner that a line may go to is suspect there, or has no slots to use: then a suspect one is better
    /// than none.
    pub(super) fn is_all_troubled(&self, line: &Line) -> bool {
        let mut runners = line.route.runners().filter(|runner| line.exclude != Some(*runner));
        runners.all(|runner| self.troubled.contains(&SlotId { runner, group: line.route.group }))
    }

    /// Hands out what is free, to the highest class and in it by turn, among the lines that the slot concerns.
    pub(super) fn serve(&mut self, slot: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let Some(lines) = self.slots.get(&slot).map(|slot| slot.lines.clone()) else { return };
        loop {
            let next = lines.iter().filter_map(|id| {
                let line = self.lines.get(id)?;
                let first = line.first()?;
                Some((first, self.best(line, first.2)?))
            });
            let Some((rank, slot)) = next.min() else { return };
            self.dispatch(rank, slot, now, actions);
        }
    }

    fn dispatch(&mut self, rank: Rank, slot: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let Some(known) = self.slots.get_mut(&slot) else { return };
        if let Some(view) = &mut known.view {
            view.in_flight += 1;
            for line in known.lines.iter().filter(|_| view.free() == 0) {
                if let Some(line) = self.lines.get_mut(line) {
                    line.offer(slot, false);
                }
            }
        }
        if let Some(runner) = self.runners.get_mut(&slot.runner) {
            runner.given(now);
        }
        self.turn = self.turn.wrapping_add(1);
        actions.push(Action::Dispatch(rank.2, slot));
        self.leave(rank.2, true, actions);
        self.dirty.push_back(Dirty::Runner(slot.runner));
    }

    /// The best of the slots with room: equal ones in turn, or the same for who has something in common. `None` also while
    /// not all words have been read: a better slot may be among the missing.
    fn best(&self, line: &Line, waiter: WaiterId) -> Option<SlotId> {
        if line.unread > 0 || line.free.is_empty() {
            return None;
        }
        let view = |slot: &SlotId| self.slots.get(slot)?.view;
        let is_all_suspect =
            line.free.iter().any(|slot| view(slot).is_some_and(|view| view.suspect)) && self.is_all_troubled(line);
        let session = self.waiting.get(&waiter).and_then(|waiting| waiting.session);
        let (later, first) = line.free.split_at(self.turn % line.free.len());
        let ranked = first.iter().chain(later).enumerate().filter_map(|(at, slot)| {
            let rank = view(slot)?.rank(at == 0, is_all_suspect)?;
            Some(((rank, session.map_or(at as u64, |session| u64::MAX - self.keys.of(session, slot.runner))), *slot))
        });
        ranked.min().map(|(_, slot)| slot)
    }

    /// Takes a waiter out, who was given a slot or gets nothing; the last of its line opens the gates that no other line needs.
    pub(super) fn leave(&mut self, waiter: WaiterId, given: bool, actions: &mut Vec<Action>) {
        let Some(waiting) = self.waiting.remove(&waiter) else { return };
        let Waiting { class, tenant, cost, turn, .. } = waiting;
        self.deadlines.remove(&(waiting.until, waiter));
        self.crowd.leave(class, tenant, waiter);
        self.fair.end(class, tenant, cost, turn.pool, given);
        if let Some(group) = self.groups.get_mut(&turn.group.0) {
            group.fair.end(class, tenant, cost, turn.group.1, given);
        }
        let Some(line) = self.lines.get_mut(&waiting.line) else { return };
        let [rank, turn] = waiting.ranks(waiter);
        line.waiters.remove(&rank);
        line.turns.remove(&turn);
        line.ages[Urgency::of(rank) as usize].remove(&waiter);
        let group = line.route.group;
        self.dirty.push_back(Dirty::Group(group));
        if !line.waiters.is_empty() {
            return;
        }
        let route = line.route.clone();
        self.lines.remove(&waiting.line);
        let mut turning = SmallVec::<[RunnerId; 2]>::new();
        if let Some(group) = self.groups.get_mut(&group) {
            group.lines.retain(|line| *line != waiting.line);
            if group.lines.is_empty() {
                group.fair = Fair::default(); // who comes next has kept nobody waiting
            }
            turning.extend_from_slice(&group.serving);
        }
        for runner in route.fixed.iter().chain(&turning) {
            let slot = SlotId { runner: *runner, group };
            if let Some(slot) = self.slots.get_mut(&slot) {
                slot.lines.retain(|line| *line != waiting.line);
            }
            self.unwatch(slot, actions);
        }
    }
}
