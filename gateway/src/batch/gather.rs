//! Who leaves with whom. Pure: no clock, no channel; who waits is whatever the caller makes of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tutti_api::Priority;

use super::pace::Most;
use crate::classify::Api;
use crate::schedule::core::{Fair, Tag};

/// What requests have in common that may leave in one call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) class: Priority,
    /// The API that the replica is asked by.
    pub(crate) api: Api,
    /// The model, as the clients name it.
    pub(crate) model: Box<str>,
    /// Its revision, and whether no other will do.
    pub(crate) revision: (Box<str>, bool),
    /// All other fields but the texts, in JSON.
    pub(crate) fields: Box<str>,
}

/// Where one waits: by turn, and of the same turn by arrival.
pub(super) type Spot = (Tag, u64);

/// Who asks, by number, and for how many tokens of its share.
pub(super) type Charge = (u64, u32);

/// Who waits.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    charge: Charge,
    texts: usize,
    weight: usize,
    pub(super) who: T,
}

#[derive(Debug)]
struct Group<T> {
    /// Calls under way.
    calls: usize,
    /// How many there may be before others wait: one a replica.
    width: usize,
    /// The most callers that any of its calls had.
    together: usize,
    /// Tenants in turn; of a tenant in the order in which they came.
    waiting: BTreeMap<Spot, Waiter<T>>,
    fair: Fair,
}

/// What becomes of who comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Goes at once, and counts as a call until it has [`Gather::ended`].
    Alone,
    /// Waits there.
    Waits(Spot),
    /// As many wait as may.
    Full,
}

/// Everybody in a pool who waits to leave with others.
#[derive(Debug)]
pub(super) struct Gather<T> {
    groups: HashMap<Arc<Key>, Group<T>>,
    last: u64,
    /// By class.
    waiting: [usize; Priority::ALL.len()],
}

impl<T> Default for Gather<T> {
    fn default() -> Self {
        Self { groups: HashMap::new(), last: 0, waiting: [0; Priority::ALL.len()] }
    }
}

impl<T> Gather<T> {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.iter().sum()
    }

    /// How many calls those who wait will make together, going by the largest ones so far.
    pub(super) fn calls(&self) -> usize {
        self.groups.values().map(|group| group.waiting.len().div_ceil(group.together)).sum()
    }

    /// All who wait, in no order.
    pub(super) fn who(&self) -> impl Iterator<Item = &T> {
        self.groups.values().flat_map(|group| group.waiting.values().map(|waiter| &waiter.who))
    }

    /// Somebody comes, with so many texts of this weight. `gathers`: whether it is worth waiting for others.
    pub(super) fn arrive(
        &mut self,
        key: &Arc<Key>,
        ((texts, weight), charge): ((usize, usize), Charge),
        (width, bound): (usize, usize),
        gathers: impl FnOnce() -> bool,
        who: impl FnOnce() -> T,
    ) -> Arrival {
        let width = width.max(1);
        let new = || Group { calls: 0, width, together: 1, waiting: BTreeMap::new(), fair: Fair::default() };
        let group = self.groups.entry(key.clone()).or_insert_with(new);
        group.width = width;
        if group.waiting.is_empty() && (group.calls < width || !gathers()) {
            group.calls += 1;
            return Arrival::Alone;
        }
        // Those of a lower class take no room from one of a higher.
        if self.waiting[..=key.class as usize].iter().sum::<usize>() >= bound {
            return Arrival::Full;
        }
        self.last += 1;
        self.waiting[key.class as usize] += 1;
        let spot = (group.fair.take(key.class, charge.0, charge.1, None), self.last);
        group.waiting.insert(spot, Waiter { charge, texts, weight, who: who() });
        Arrival::Waits(spot)
    }

    /// Who waits there has left.
    pub(super) fn left(&mut self, key: &Arc<Key>, spot: Spot) {
        let Some(group) = self.groups.get_mut(key) else { return };
        if let Some(Waiter { charge: (tenant, cost), .. }) = group.waiting.remove(&spot) {
            group.fair.end(key.class, tenant, cost, spot.0, false);
            self.waiting[key.class as usize] -= 1;
        }
        self.tidy(key);
    }

    /// What those weigh who leave before who waits there, and how many calls may be under way at once.
    pub(super) fn before(&self, key: &Arc<Key>, spot: Spot) -> (usize, usize) {
        let Some(group) = self.groups.get(key) else { return (0, 1) };
        (group.waiting.range(..spot).map(|(_, waiter)| waiter.weight).sum(), group.width)
    }

    /// A call has ended; yields those who leave together now, which counts as a call. `most`: how much may, where the
    /// first weighs so much.
    pub(super) fn ended(&mut self, key: &Arc<Key>, most: impl FnOnce(usize) -> Most) -> Vec<Waiter<T>> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        group.calls -= 1;
        let mut leaving = Vec::new();
        if let Some((_, first)) = group.waiting.first_key_value().filter(|_| group.calls < group.width) {
            let most = most(first.weight);
            let (mut texts, mut weight) = (0, 0);
            while let Some(next) = group.waiting.first_entry() {
                (texts, weight) = (texts + next.get().texts, weight + next.get().weight);
                if !leaving.is_empty() && (most.alone || texts > most.texts || weight > most.weight) {
                    break;
                }
                let ((tag, _), next) = next.remove_entry();
                group.fair.end(key.class, next.charge.0, next.charge.1, tag, true);
                leaving.push(next);
            }
            group.calls += 1;
            group.together = group.together.max(leaving.len());
            self.waiting[key.class as usize] -= leaving.len();
        }
        self.tidy(key);
        leaving
    }

    fn tidy(&mut self, key: &Arc<Key>) {
        if self.groups.get(key).is_some_and(|group| group.calls == 0 && group.waiting.is_empty()) {
            self.groups.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(model: usize) -> Arc<Key> {
        let (class, api) = (Priority::default(), Api::OpenAiEmbeddings);
        Arc::new(Key {
            class,
            api,
            model: model.to_string().into(),
            revision: Default::default(),
            fields: Box::default(),
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arrive { model: usize, weight: usize, gathers: bool },
        End(prop::sample::Index),
        Leave(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3usize, 8..80usize, any::<bool>()).prop_map(|(model, weight, gathers)| Step::Arrive {
                model,
                weight,
                gathers
            }),
            any::<prop::sample::Index>().prop_map(Step::End),
            any::<prop::sample::Index>().prop_map(Step::Leave),
        ]
    }

    #[test]
    fn those_who_wait_want_as_many_calls_as_the_largest_so_far_tells() {
        let most = Most { weight: 200, texts: 4, alone: false };
        let mut gather = Gather::default();
        let come = |gather: &mut Gather<()>, count| {
            for _ in 0..count {
                gather.arrive(&key(0), ((1, 8), (0, 1)), (1, 100), || true, || ());
            }
        };
        come(&mut gather, 10); // the first goes at once
        assert_eq!((gather.calls(), gather.who().count()), (9, 9));
        assert_eq!(gather.ended(&key(0), |_| most).len(), 4);
        assert_eq!(gather.calls(), 2, "of five who wait");
        come(&mut gather, 4);
        assert_eq!((gather.calls(), gather.who().count()), (3, 9));
    }

    proptest! {
        /// Whoever comes when: each leaves once, with its own kind, in order, in a call that is not too large; nobody waits
        /// where nothing is under way; and who has left is not called.
        #[test]
        fn each_leaves_once_and_in_order(steps in prop::collection::vec(step(), 1..300), width in 1..4usize) {
            let most = Most { weight: 200, texts: 8, alone: false };
            let mut gather = Gather::default();
            let mut sizes = HashMap::new();
            // Models of the calls under way; who waits, by model and number.
            let (mut calls, mut waiting): (Vec<usize>, Vec<(usize, Spot)>) = Default::default();
            for step in steps {
                match step {
                    Step::Arrive { model, weight, gathers } => {
                        let who = (model, weight);
                        match gather.arrive(&key(model), ((1, weight), (0, 1)), (width, 20), || gathers, || who) {
                            Arrival::Alone => {
                                prop_assert!(!waiting.iter().any(|(other, _)| *other == model), "passed others");
                                calls.push(model);
                            }
                            Arrival::Waits(spot) => {
                                sizes.insert(spot.1, weight);
                                waiting.push((model, spot));
                            }
                            Arrival::Full => prop_assert_eq!(waiting.len(), 20),
                        }
                    }
                    Step::End(which) if !calls.is_empty() => {
                        let model = calls.swap_remove(which.index(calls.len()));
                        let leaving = gather.ended(&key(model), |_| most);
                        let of_model = waiting.iter().filter(|(other, _)| *other == model);
                        let expected: Vec<Spot> = of_model.map(|(_, spot)| *spot).take(leaving.len()).collect();
                        waiting.retain(|(_, spot)| !expected.contains(spot));
                        let who = expected.iter().map(|(_, number)| sizes[number]);
                        prop_assert!(leaving.iter().map(|waiter| waiter.who.1).eq(who));
                        prop_assert!(leaving.iter().all(|waiter| waiter.who.0 == model));
                        let weight: usize = leaving.iter().map(|waiter| waiter.who.1).sum();
                        prop_assert!(leaving.len() == 1 || (weight <= 200 && leaving.len() <= 8));
                        if !leaving.is_empty() {
                            calls.push(model);
                        }
                    }
                    Step::Leave(which) if !waiting.is_empty() => {
                        let (model, id) = waiting.remove(which.index(waiting.len()));
                        gather.left(&key(model), id);
                        gather.left(&key(model), id); // twice is as once
                    }
                    _ => {}
                }
                prop_assert_eq!(gather.waiting(), waiting.len());
                prop_assert!(waiting.iter().all(|(model, _)| calls.contains(model)), "somebody waits for nothing");
                prop_assert!(gather.groups.len() <= 3);
            }
            for model in calls {
                let leaving = gather.ended(&key(model), |_| most);
                let mut left = leaving.len();
                while left > 0 {
                    left = gather.ended(&key(model), |_| most).len();
                }
            }
            prop_assert!(gather.groups.is_empty() && gather.waiting() == 0);
        }
    }

    #[test]
    fn a_lower_class_takes_no_room_from_a_higher() {
        let mut gather = Gather::default();
        let mut arrive = |class| {
            let key = Arc::new(Key { class, ..(*key(1)).clone() });
            gather.arrive(&key, ((1, 10), (0, 1)), (1, 2), || true, || ())
        };
        let mut outcomes = |class| [(); 4].map(|()| matches!(arrive(class), Arrival::Full));
        assert_eq!(outcomes(Priority::Bulk), [false, false, false, true], "one is asked for, and two wait");
        assert_eq!(outcomes(Priority::Interactive), [false, false, false, true]);
        assert!(outcomes(Priority::Normal)[1], "those of a higher class count");
    }

    #[test]
    fn a_flood_of_one_tenant_delays_no_other() {
        let (key, mut gather) = (key(1), Gather::default());
        let mut arrive = |tenant: u64| gather.arrive(&key, ((1, 10), (tenant, 100)), (1, 1_000), || true, || tenant);
        assert_eq!(arrive(1), Arrival::Alone);
        (0..500).for_each(|_| _ = arrive(1));
        (0..3).for_each(|_| _ = arrive(2));
        let Arrival::Waits(last) = arrive(2) else { panic!("it waits") };
        assert_eq!(gather.before(&key, last), (70, 1), "three of its own, and four of the other's");
        let leaving = gather.ended(&key, |_| Most { weight: 80, texts: 8, alone: false });
        assert_eq!(leaving.iter().filter(|waiter| waiter.who == 2).count(), 4);
    }
}
