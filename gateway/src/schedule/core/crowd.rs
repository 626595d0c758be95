//! Who waits, by class and tenant: who gives way where there is no room for another.

use std::collections::{BTreeSet, HashMap};

use tutti_api::Priority;

use super::WaiterId;

#[derive(Debug, Default)]
pub(super) struct Crowd {
    classes: [Class; Priority::ALL.len()],
}

#[derive(Debug, Default)]
struct Class {
    waiters: BTreeSet<WaiterId>,
    tenants: HashMap<u64, BTreeSet<WaiterId>>,
    /// How many each tenant has, and which.
    sizes: BTreeSet<(usize, u64)>,
}

impl Class {
    fn change(&mut self, tenant: u64, change: impl FnOnce(&mut BTreeSet<WaiterId>)) {
        let own = self.tenants.entry(tenant).or_default();
        self.sizes.remove(&(own.len(), tenant));
        change(own);
        if own.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.sizes.insert((own.len(), tenant));
        }
    }
}

impl Crowd {
    pub(super) fn join(&mut self, class: Priority, tenant: u64, waiter: WaiterId) {
        let of = &mut self.classes[class as usize];
        of.waiters.insert(waiter);
        of.change(tenant, |own| {
            own.insert(waiter);
        });
    }

    pub(super) fn leave(&mut self, class: Priority, tenant: u64, waiter: WaiterId) {
        let of = &mut self.classes[class as usize];
        of.waiters.remove(&waiter);
        of.change(tenant, |own| {
            own.remove(&waiter);
        });
    }

    /// Who gives way to one of this class and tenant: who came last of the lowest class that is lower; else, of the tenant who
    /// has most waiting in this class, who came last, if he has more than this tenant would have then.
    pub(super) fn gives_way(&self, class: Priority, tenant: u64) -> Option<WaiterId> {
        let lower = Priority::ALL.into_iter().rev().take_while(|lower| *lower > class);
        if let Some(last) = lower.into_iter().find_map(|lower| self.classes[lower as usize].waiters.last()) {
            return Some(*last);
        }
        let of = &self.classes[class as usize];
        let own = of.tenants.get(&tenant).map_or(0, BTreeSet::len);
        let (most, whose) = of.sizes.last()?;
        (*most > own + 1).then(|| of.tenants.get(whose)?.last().copied()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_gives_way_and_a_lower_class_before_him() {
        let mut crowd = Crowd::default();
        for waiter in 0..6 {
            crowd.join(Priority::Normal, 1, waiter);
        }
        assert_eq!(crowd.gives_way(Priority::Normal, 1), None, "he has what there is");
        for (waiter, gone) in [(6, 5), (7, 4)] {
            assert_eq!(crowd.gives_way(Priority::Normal, 2), Some(gone), "his newest");
            crowd.leave(Priority::Normal, 1, gone);
            crowd.join(Priority::Normal, 2, waiter);
        }
        crowd.leave(Priority::Normal, 1, 3);
        assert_eq!(crowd.gives_way(Priority::Normal, 2), None, "three and two: then he would have more");
        assert_eq!(crowd.gives_way(Priority::Bulk, 3), None, "a higher class gives way to nobody");
        crowd.join(Priority::Bulk, 3, 8);
        assert_eq!(crowd.gives_way(Priority::Normal, 2), Some(8));
        assert_eq!(crowd.gives_way(Priority::Normal, 1), Some(8));
        crowd.leave(Priority::Bulk, 3, 8);
        for waiter in [0, 1, 2] {
            crowd.leave(Priority::Normal, 1, waiter);
        }
        for waiter in [6, 7] {
            crowd.leave(Priority::Normal, 2, waiter);
        }
        assert!(crowd.classes.iter().all(|of| of.waiters.is_empty() && of.tenants.is_empty() && of.sizes.is_empty()));
    }
}
