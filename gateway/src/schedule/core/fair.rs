//! Tenants in turn: start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996), by tokens.
//!
//! Each group has one, by which its slots are given; for its theorem holds where whoever's turn it is can be served, and groups
//! are served as fast as they can. The pool has another, by which groups have their turns.

use std::collections::HashMap;

use tutti_api::Priority;

use super::GroupId;

/// A turn: what its tenant had asked for when it came, in tokens since the beginning. Lower goes first.
pub type Tag = u64;

/// A request's turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// In the pool: its group has its own by that.
    pub(super) pool: Tag,
    /// In this group.
    pub(super) group: (GroupId, Tag),
}

/// How many tenants are remembered before those are forgotten whose share is used up by nobody.
const REMEMBERED: usize = 1024;

/// Whose turn it is. While a tenant has requests waiting in a class, and none of them leaves, no other is given more than it
/// by more than the largest request of each (theorem 1 of the paper, for which it does not matter how fast slots become free).
#[derive(Debug, Default)]
pub(crate) struct Fair {
    /// The turn of what was given last, by class.
    now: [Tag; Priority::ALL.len()],
    tenants: HashMap<(Priority, u64), Tenant>,
    /// As many there are when those are looked for next that may be forgotten.
    swept_at: usize,
}

/// What a tenant has asked for in a class.
#[derive(Debug, Default)]
struct Tenant {
    /// When its next turn is.
    next: Tag,
    /// The same, if nothing of its waited.
    given: Tag,
    waiting: usize,
}

impl Fair {
    /// The turn that a request would have that comes now, or comes again with a turn that it had.
    pub(crate) fn peek(&self, class: Priority, tenant: u64, had: Option<Tag>) -> Tag {
        let next = self.tenants.get(&(class, tenant)).map_or(0, |of| of.next);
        had.unwrap_or_else(|| next.max(self.now[class as usize]))
    }

    /// The turn of a request that comes now, or comes again with a turn that it had.
    pub(crate) fn take(&mut self, class: Priority, tenant: u64, cost: u32, had: Option<Tag>) -> Tag {
        if self.tenants.len() > self.swept_at.max(REMEMBERED) {
            let now = self.now;
            self.tenants.retain(|(class, _), of| of.waiting > 0 || of.next > now[*class as usize]);
            self.swept_at = 2 * self.tenants.len();
        }
        let tag = self.peek(class, tenant, had);
        let of = self.tenants.entry((class, tenant)).or_default();
        of.next = of.next.max(tag + u64::from(cost.max(1)));
        of.waiting += 1;
        tag
    }

    /// It was given a slot, or got nothing. What a tenant did not get it need not wait for.
    pub(crate) fn end(&mut self, class: Priority, tenant: u64, cost: u32, tag: Tag, given: bool) {
        let end = tag + u64::from(cost.max(1));
        if given {
            let now = &mut self.now[class as usize];
            *now = tag.max(*now);
        }
        let Some(of) = self.tenants.get_mut(&(class, tenant)) else { return };
        of.waiting = of.waiting.saturating_sub(1);
        if given {
            of.given = of.given.max(end);
        }
        if of.waiting == 0 {
            of.next = of.given;
        } else if !given && of.next == end {
            of.next = tag;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLASS: Priority = Priority::Normal;

    #[test]
    fn tenants_have_turns_by_what_they_ask_for() {
        let mut fair = Fair::default();
        let mut flood: Vec<(Tag, u64)> = (0..100).map(|_| (fair.take(CLASS, 1, 10, None), 1)).collect();
        flood.extend((0..10).map(|_| (fair.take(CLASS, 2, 20, None), 2)));
        flood.sort_by_key(|(tag, _)| *tag);
        let of_two = flood.iter().take(30).filter(|(_, tenant)| *tenant == 2).count();
        assert_eq!(of_two, 10, "half of the tokens: a third of the requests");
        let last = flood[29].0;
        fair.end(CLASS, 1, 10, last, true);
        assert!(fair.take(CLASS, 3, 1, None) <= last, "who comes anew goes before those who had much");
        assert!(fair.take(CLASS, 1, 1, None) > last);
    }

    #[test]
    fn what_a_tenant_did_not_get_costs_it_no_turn() {
        let mut fair = Fair::default();
        let tags: Vec<Tag> = (0..10_000).map(|_| fair.take(CLASS, 1, 10, None)).collect();
        fair.end(CLASS, 1, 10, tags[0], true);
        for tag in &tags[1..] {
            fair.end(CLASS, 1, 10, *tag, false);
        }
        assert_eq!(fair.take(CLASS, 1, 10, None), 10);
    }

    #[test]
    fn who_left_costs_nothing_once_the_rest_were_given() {
        let mut fair = Fair::default();
        let [first, second, third] = [10, 100, 1].map(|cost| fair.take(CLASS, 1, cost, None));
        fair.end(CLASS, 1, 100, second, false);
        fair.end(CLASS, 1, 1, third, false);
        fair.end(CLASS, 1, 10, first, true);
        assert_eq!(fair.take(CLASS, 1, 1, None), 10);
    }

    #[test]
    fn who_comes_later_is_never_before_one_of_the_same_tenant() {
        let mut fair = Fair::default();
        let first = fair.take(CLASS, 1, 100, None);
        let second = fair.take(CLASS, 1, 1, None);
        fair.end(CLASS, 1, 100, first, false);
        assert!(fair.take(CLASS, 1, 1, None) > second);
    }

    const TENANTS: usize = 4;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// This tenant asks for so much.
        Comes(usize, u32),
        /// A slot is given.
        Given,
        /// One who waits leaves.
        Leaves(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..TENANTS, 1..100u32).prop_map(|(tenant, cost)| Step::Comes(tenant, cost)),
            3 => Just(Step::Given),
            1 => any::<usize>().prop_map(Step::Leaves),
        ]
    }

    /// What a tenant and the others were given since it has requests waiting, and whether one of its has left since.
    #[derive(Clone, Copy, Debug, Default)]
    struct Spell {
        given: [u64; TENANTS],
        left: bool,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]
        #[test]
        fn nobody_who_waits_is_given_less_than_another_by_more_than_a_request_of_each(
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let mut fair = Fair::default();
            let mut queue: Vec<(Tag, usize, u32)> = Vec::new();
            let mut spells = [Spell::default(); TENANTS];
            let mut most = [0; TENANTS];
            for step in steps {
                match step {
                    Step::Comes(tenant, cost) => {
                        if queue.iter().all(|(_, of, _)| *of != tenant) {
                            spells[tenant] = Spell::default();
                        }
                        most[tenant] = u64::from(cost).max(most[tenant]);
                        queue.push((fair.take(CLASS, tenant as u64, cost, None), tenant, cost));
                    }
                    Step::Given => {
                        let Some(first) = (0..queue.len()).min_by_key(|at| queue[*at].0) else { continue };
                        let (tag, tenant, cost) = queue.remove(first);
                        fair.end(CLASS, tenant as u64, cost, tag, true);
                        spells.iter_mut().for_each(|spell| spell.given[tenant] += u64::from(cost));
                    }
                    Step::Leaves(pick) if !queue.is_empty() => {
                        let (tag, tenant, cost) = queue.remove(pick % queue.len());
                        fair.end(CLASS, tenant as u64, cost, tag, false);
                        spells[tenant].left = true;
                    }
                    Step::Leaves(_) => {}
                }
                for (me, spell) in spells.iter().enumerate() {
                    if spell.left || queue.iter().all(|(_, of, _)| *of != me) {
                        continue;
                    }
                    for other in 0..TENANTS {
                        let bound = spell.given[me] + most[me] + most[other];
                        prop_assert!(spell.given[other] <= bound, "{me} beside {other}: {spell:?}, {most:?}");
                    }
                }
            }
        }
    }
}
