//! What a starting replica waits for.

use std::time::{Duration, Instant};

use tutti_api::AdapterPath;

/// How far an adapter is, as far as a starting replica cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its files lie on the disk.
    pub(crate) on_disk: bool,
    /// It serves.
    pub(crate) ready: bool,
    /// It does not serve, and will not as it is.
    pub(crate) quarantined: bool,
    /// All that it lacks is an answer of the object store.
    pub(crate) waits_for_source: bool,
}

/// Whether the replica may start, and whether it may serve. What is true once stays true: what comes later takes nobody
/// out of service.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// What was wanted first, and is not settled.
    first: Vec<AdapterPath>,
    until: Instant,
    started: bool,
    ready: bool,
}

impl Readiness {
    /// Of a loader that starts now.
    pub(crate) fn new(first: Vec<AdapterPath>, now: Instant, budget: Duration) -> Self {
        Self { first, until: now + budget, started: false, ready: false }
    }

    /// Hears how those stand that are still wanted; `None` of one that is not.
    pub(crate) fn look(&mut self, now: Instant, standing: impl Fn(&AdapterPath) -> Option<Standing>) {
        let over = now >= self.until;
        let all = |holds: &dyn Fn(Standing) -> bool| self.first.iter().all(|path| standing(path).is_none_or(holds));
        self.started |= over || all(&|one| one.on_disk || one.ready || one.quarantined);
        let settled = |one: Standing| one.ready || one.quarantined || (over && one.waits_for_source && !one.on_disk);
        self.ready |= all(&settled);
        self.first.retain(|path| standing(path).is_some());
    }

    /// Whether the engine may start: what was wanted first is on the disk or quarantined, or the budget is used up.
    pub(crate) fn is_started(&self) -> bool {
        self.started
    }

    /// Whether each that was wanted first was Ready or Quarantined at once; once the budget is used up, those that wait
    /// for an object store that does not answer count as such.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// When the budget is used up, where that is still waited for.
    pub(crate) fn next(&self) -> Option<Instant> {
        (!self.started || !self.ready).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Standing = Standing { on_disk: true, ready: false, quarantined: false, waits_for_source: false };
    const READY: Standing = Standing { on_disk: true, ready: true, quarantined: false, waits_for_source: false };
    const BAD: Standing = Standing { on_disk: false, ready: false, quarantined: true, waits_for_source: false };
    const WAITS: Standing = Standing { on_disk: false, ready: false, quarantined: false, waits_for_source: true };

    /// What a loader that wants `a/1` and `b/1` says when they stand so, before and after the budget.
    fn after(steps: &[(u64, Option<Standing>, Option<Standing>)]) -> (bool, bool) {
        let begun = Instant::now();
        let paths: Vec<AdapterPath> = ["a/1", "b/1"].map(|path| path.parse().unwrap()).into();
        let mut readiness = Readiness::new(paths.clone(), begun, Duration::from_secs(10));
        for (at, a, b) in steps {
            let of = |path: &AdapterPath| if *path == paths[0] { *a } else { *b };
            readiness.look(begun + Duration::from_secs(*at), of);
        }
        (readiness.is_started(), readiness.is_ready())
    }

    #[test]
    fn files_on_the_disk_start_the_engine_and_answers_make_it_ready() {
        let none = Some(Standing::default());
        assert_eq!(after(&[(1, none, Some(DISK))]), (false, false));
        assert_eq!(after(&[(1, Some(DISK), Some(BAD))]), (true, false));
        assert_eq!(after(&[(1, Some(READY), Some(BAD))]), (true, true));
        assert_eq!(after(&[(1, Some(READY), None)]), (true, true), "one that nobody wants any more");
        assert_eq!(after(&[(1, Some(READY), Some(READY)), (2, Some(READY), none)]), (true, true), "never taken back");
        assert_eq!(after(&[(1, Some(READY), None), (2, Some(READY), none)]), (true, true), "a later arrival");
    }

    #[test]
    fn an_object_store_that_is_gone_holds_up_nobody_for_ever() {
        assert_eq!(after(&[(9, Some(READY), Some(WAITS))]), (false, false));
        assert_eq!(after(&[(10, Some(READY), Some(WAITS))]), (true, true));
        // What is on the disk has to be proven first.
        assert_eq!(after(&[(10, Some(DISK), Some(WAITS))]), (true, false));
        assert_eq!(after(&[(10, Some(DISK), Some(WAITS)), (11, Some(READY), Some(WAITS))]), (true, true));
    }
}
