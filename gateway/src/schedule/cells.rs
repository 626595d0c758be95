//! Which words stand for what the core knows by number: slots of a group on a runner.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use smallvec::SmallVec;

use super::core::{FamilyId, GroupId, Keys, Route, RunnerId, Served, SlotId, TargetId};
use super::share::Sharing;
use super::slots::{Slots, SlotsId, Target};
use super::word::View;
use crate::rendezvous;

/// The words of a group on a runner: one for each name of its weights.
#[derive(Debug, Default)]
struct Cell {
    slots: SmallVec<[Arc<Slots>; 1]>,
    closed: bool,
    home: bool,
}

impl Cell {
    /// A word comes to stand as the others do.
    fn take(&mut self, slots: &Arc<Slots>) {
        slots.word.set_home(self.home);
        if self.closed {
            slots.word.close();
        }
        self.slots.push(slots.clone());
    }

    /// A word stands for itself again.
    fn free(slots: &Slots) {
        slots.word.set_home(true);
        slots.word.open();
    }
}

/// A runner, as it is known outside: a base of a replica, or slots that share with nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Where {
    Base(u64, Box<str>),
    Alone(SlotsId),
}

/// Numbers for what has names; never the same again for others.
#[derive(Debug)]
struct Numbers<K> {
    known: HashMap<K, u32>,
    next: u32,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), next: 0 }
    }
}

impl<K: Hash + Eq> Numbers<K> {
    fn of(&mut self, key: K) -> u32 {
        match self.known.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.next += 1;
                *new.insert(self.next)
            }
        }
    }
}

/// Bases whose runners the same groups share, each by the first of them: those of a name that has one base here and another
/// there are of one family, so that whoever wants the name finds all of its runners.
fn families<'a>(
    targets: &[Arc<Target>],
    members: &HashMap<SlotsId, (&'a Sharing, &'a str)>,
) -> HashMap<&'a str, &'a str> {
    let mut first: HashMap<&str, &str> = members.values().map(|(of, _)| (&*of.base, &*of.base)).collect();
    for target in targets {
        let bases = target.slots().iter().filter_map(|slots| Some(&*members.get(&slots.id())?.0.base));
        let known: BTreeSet<&str> = bases.map(|base| first[base]).collect();
        let Some(one) = known.first().filter(|_| known.len() > 1) else { continue };
        first.values_mut().filter(|first| known.contains(*first)).for_each(|first| *first = one);
    }
    first
}

/// The words of a pool.
#[derive(Debug, Default)]
pub(super) struct Cells {
    cells: HashMap<SlotId, Cell>,
    of: HashMap<SlotsId, SlotId>,
    runners: Numbers<Where>,
    groups: Numbers<Box<str>>,
    families: Numbers<Box<str>>,
}

/// What a table says, in numbers.
pub(super) struct Numbered {
    pub(super) live: HashMap<TargetId, Arc<Route>>,
    pub(super) turning: Vec<(RunnerId, FamilyId)>,
    pub(super) keys: Arc<Keys>,
    /// What no table knows any more, once the core has heard.
    left: Vec<SlotId>,
}

impl Cells {
    /// Takes note of a table's targets, and of who shares runners. What is there no more stays until [`Self::forget`].
    pub(super) fn number(&mut self, targets: &[Arc<Target>], shared: &[Sharing]) -> Numbered {
        let members =
            shared.iter().flat_map(|of| of.slots.iter().map(move |(slots, group)| (slots.id(), (of, &**group))));
        let members: HashMap<SlotsId, (&Sharing, &str)> = members.collect();
        // Names are of one group where they are of one on every replica.
        let mut groups: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for slots in targets.iter().flat_map(|target| target.slots()) {
            let group = members.get(&slots.id()).map(|(_, group)| *group);
            groups.entry(&slots.name).or_default().extend(group);
        }
        let mut numbers: HashMap<&str, GroupId> = HashMap::new();
        let mut keys = Keys::default();
        for (name, of) in &groups {
            let all = if of.is_empty() { format!("={name}") } else { of.iter().copied().collect::<Vec<_>>().join("|") };
            let key = rendezvous::key(&all);
            let number = self.groups.of(all.into());
            numbers.insert(name, number);
            keys.groups.insert(number, key);
        }
        let families = families(targets, &members);
        let mut turning: HashMap<RunnerId, FamilyId> = HashMap::new();
        let mut live = HashMap::new();
        let mut stands: HashSet<SlotId> = HashSet::new();
        for target in targets {
            let group = target.name().and_then(|name| numbers.get(name)).copied().unwrap_or_default();
            let (mut fixed, mut loads) = (Vec::new(), Vec::new());
            for slots in target.slots() {
                let of = members.get(&slots.id()).map(|(of, _)| *of);
                let place = of.map_or(Where::Alone(slots.id()), |of| Where::Base(of.replica, of.base.clone()));
                let runner = self.runners.of(place);
                keys.runners.insert(runner, slots.replica.key);
                match of {
                    Some(of) => {
                        turning.insert(runner, self.families.of(families[&*of.base].into()));
                        loads.push(runner);
                    }
                    None => fixed.push(runner),
                }
                let slot = SlotId { runner, group };
                stands.insert(slot);
                self.set(slots, slot, of.is_none());
            }
            for runners in [&mut fixed, &mut loads] {
                runners.sort_unstable();
                runners.dedup();
            }
            live.insert(target.id(), Arc::new(Route { group, fixed: fixed.into(), turning: loads.into() }));
        }
        let left = self.cells.keys().filter(|slot| !stands.contains(slot)).copied().collect();
        Numbered { live, turning: turning.into_iter().collect(), keys: Arc::new(keys), left }
    }

    /// A word stands for this from now on.
    fn set(&mut self, slots: &Arc<Slots>, slot: SlotId, is_fixed: bool) {
        let before = self.of.insert(slots.id(), slot);
        if before == Some(slot) {
            return;
        }
        if let Some(cell) = before.and_then(|before| self.cells.get_mut(&before)) {
            cell.slots.retain(|other| other.id() != slots.id());
            Cell::free(slots);
        }
        let new = || Cell { home: is_fixed, ..Cell::default() };
        self.cells.entry(slot).or_insert_with(new).take(slots);
    }

    /// The core has heard of the table.
    pub(super) fn forget(&mut self, table: Numbered) {
        for slot in &table.left {
            for slots in self.cells.remove(slot).map(|cell| cell.slots).unwrap_or_default() {
                Cell::free(&slots);
                self.of.remove(&slots.id());
            }
        }
        let runners: HashSet<RunnerId> = self.cells.keys().map(|slot| slot.runner).collect();
        let groups: HashSet<GroupId> = self.cells.keys().map(|slot| slot.group).collect();
        self.runners.known.retain(|_, number| runners.contains(number));
        self.groups.known.retain(|_, number| groups.contains(number));
        self.families.known.retain(|_, number| table.turning.iter().any(|(_, family)| family == number));
    }

    /// What a word stands for.
    pub(super) fn of(&self, slots: SlotsId) -> Option<SlotId> {
        self.of.get(&slots).copied()
    }

    /// The replica of a group's slots.
    pub(super) fn replica(&self, slot: SlotId) -> Option<u64> {
        self.cells.get(&slot)?.slots.first().map(|slots| slots.replica.id)
    }

    /// Every word, and what it stands for.
    pub(super) fn words(&self) -> impl Iterator<Item = (SlotId, &Arc<Slots>)> {
        self.cells.iter().flat_map(|(slot, cell)| cell.slots.iter().map(move |slots| (*slot, slots)))
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<SlotId> {
        self.cells.keys().copied().collect()
    }

    /// How the slots of a group on a runner stand, and what was served in them since that was asked before. Of what is there
    /// no more there is nothing to be had.
    pub(super) fn read(&self, slot: SlotId) -> (View, Served) {
        let mut all = self.cells.get(&slot).into_iter().flat_map(|cell| &cell.slots);
        let served = |slots: &Slots| slots.take_served();
        let Some(first) = all.next() else { return (View::NONE, Served::default()) };
        let (mut view, mut sum) = (first.view(), served(first));
        for slots in all {
            let (other, more) = (slots.view(), served(slots));
            view = view.with(other);
            sum = Served {
                count: sum.count + more.count,
                awaited: sum.awaited + more.awaited,
                time: sum.time + more.time,
            };
        }
        (view, sum)
    }

    /// Closes or opens the gates of a group on a runner.
    pub(super) fn set_closed(&mut self, slot: SlotId, closed: bool) {
        let Some(cell) = self.cells.get_mut(&slot) else { return };
        cell.closed = closed;
        for slots in &cell.slots {
            if closed { slots.word.close() } else { slots.word.open() }
        }
    }

    /// A group's weights are, or are not, where it has these slots.
    pub(super) fn set_home(&mut self, slot: SlotId, home: bool) {
        let Some(cell) = self.cells.get_mut(&slot) else { return };
        cell.home = home;
        cell.slots.iter().for_each(|slots| slots.word.set_home(home));
    }

    /// The word for who waits for this target.
    pub(super) fn slots(&self, slot: SlotId, target: &Target) -> Option<&Arc<Slots>> {
        let name = target.name()?;
        self.cells.get(&slot)?.slots.iter().find(|slots| *slots.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use tutti_api::PoolSpec;

    use super::*;
    use crate::replica::Replica;

    #[test]
    fn what_is_placed_is_placed_by_urls_and_digests() {
        let slots = |port: u16, name: &str| {
            let url = format!("http://127.0.0.1:{port}").parse().unwrap();
            Slots::new(Replica::new(&PoolSpec::default(), &url, None).unwrap(), name, 1, 2)
        };
        let keys_of = |ports: [u16; 2]| {
            let all = ports.map(|port| slots(port, "risk"));
            let shared =
                all.clone().map(|slots| Sharing::new(slots.replica.id, "base", vec![(slots, "sha256-1".into())]));
            let mut cells = Cells::default();
            let keys = cells.number(&[Target::new(all.to_vec())], &shared).keys;
            let slot = all.map(|slots| cells.of(slots.id()).unwrap());
            (slot.map(|slot| keys.runners[&slot.runner]), keys.groups[&slot[0].group])
        };
        let (runners, group) = keys_of([1, 2]);
        assert_eq!(runners, [1, 2].map(|port| rendezvous::key(&format!("http://127.0.0.1:{port}"))));
        assert_eq!(group, rendezvous::key("sha256-1"));
        let (others, other) = keys_of([2, 1]);
        assert_eq!(([others[1], others[0]], other), (runners, group), "in whatever order they come");
    }
}
