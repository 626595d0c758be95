//! Since when evidence of a change counts, and how it stood at the last looks at it.

use std::collections::{BTreeMap, VecDeque};

use crate::analysis::WINDOWS;
use crate::evidence::{Evidence, Heard, Recent, Seen};
use crate::release::Release;

/// What counts for a change from when its weights last changed. It lives as long as its driver: who starts anew begins anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mark {
    /// Of the weights that it counts for.
    generation: u64,
    /// What there was before, by who has seen it: of the current revision, and of the candidate.
    before: BTreeMap<String, (Seen, Seen)>,
    /// What there was since, of both, at each of the last looks, the last last; no more than the longest of [`WINDOWS`].
    looked: VecDeque<(Seen, Seen)>,
}

impl Mark {
    /// From now on, by what each gateway tells.
    pub(crate) fn new(release: &Release, heard: &BTreeMap<String, Heard>) -> Self {
        let before = heard.iter().map(|(gateway, heard)| (gateway.clone(), copied(both(release, heard)))).collect();
        Self { generation: release.generation, before, looked: VecDeque::new() }
    }

    /// Whether it is of these weights.
    pub(crate) fn is_of(&self, release: &Release) -> bool {
        self.generation == release.generation
    }

    /// What a gateway had seen of both before; nothing of one that has come since.
    pub(crate) fn before(&self, gateway: &str) -> Option<&(Seen, Seen)> {
        self.before.get(gateway)
    }

    /// A gateway is there that was not: what it saw before says nothing of the change.
    pub(crate) fn comes(&mut self, gateway: &str, release: &Release, heard: &Heard) {
        self.before.insert(gateway.to_owned(), copied(both(release, heard)));
    }

    /// A gateway is gone, with all that it told.
    pub(crate) fn goes(&mut self, gateway: &str) {
        self.before.remove(gateway);
        self.looked.clear(); // in what is left there is less than there was
    }

    /// A gateway tells something else than before. Where its count began anew, no window reaches back beyond that.
    pub(crate) fn tells(&mut self, release: &Release, before: &Heard, now: &Heard) {
        let ((current, candidate), (next_current, next_candidate)) = (both(release, before), both(release, now));
        let counts = |of: Option<&Seen>| of.map_or((0, 0), |seen| (seen.requests, seen.errors));
        let fell = |before: Option<&Seen>, now: Option<&Seen>| {
            let (before, now) = (counts(before), counts(now));
            now.0 < before.0 || now.1 < before.1
        };
        if fell(current, next_current) || fell(candidate, next_candidate) {
            self.looked.clear();
        }
    }

    /// There was a look at this.
    pub(crate) fn looked(&mut self, evidence: &Evidence) {
        if self.looked.len() >= WINDOWS.into_iter().max().unwrap_or_default() {
            self.looked.pop_front();
        }
        self.looked.push_back((evidence.current.clone(), evidence.candidate.clone()));
    }

    /// The end of what was seen, by windows: those that end now, and began at a look.
    pub(crate) fn recent(&self, evidence: &Evidence) -> Vec<Recent> {
        let window = |intervals: usize| {
            let (current, candidate) = self.looked.get(self.looked.len().checked_sub(intervals)?)?;
            let (current, candidate) = (evidence.current.since(current), evidence.candidate.since(candidate));
            Some(Recent { intervals, current, candidate })
        };
        WINDOWS.into_iter().filter_map(window).collect()
    }
}

/// What a gateway tells of a release's current revision, and of its candidate, if anything.
fn both<'h>(release: &Release, heard: &'h Heard) -> (Option<&'h Seen>, Option<&'h Seen>) {
    let of = |revision: &str| heard.get(&release.model)?.get(revision).map(|heard| &heard.seen);
    (of(&release.current), release.candidate.as_ref().and_then(|candidate| of(&candidate.revision)))
}

fn copied((current, candidate): (Option<&Seen>, Option<&Seen>)) -> (Seen, Seen) {
    (current.cloned().unwrap_or_default(), candidate.cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(requests: u64) -> Seen {
        let mut seen = Seen::default();
        (0..requests).for_each(|_| seen.bad());
        seen
    }

    fn evidence(requests: u64) -> Evidence {
        Evidence { current: seen(2 * requests), candidate: seen(requests), ..Evidence::default() }
    }

    #[test]
    fn a_window_is_what_came_since_a_look_so_many_ago() {
        let mut mark = Mark::default();
        let counts = |mark: &Mark, requests| -> Vec<(usize, u64, u64)> {
            let recent = mark.recent(&evidence(requests));
            recent.iter().map(|of| (of.intervals, of.current.requests, of.candidate.requests)).collect()
        };
        for look in 1..=3 {
            mark.looked(&evidence(look * 10));
            assert_eq!(counts(&mark, 100), [], "there is no more than the whole");
        }
        mark.looked(&evidence(40));
        assert_eq!(counts(&mark, 100), [(4, 180, 90)]);
        (5..=100).for_each(|look| mark.looked(&evidence(look * 10)));
        assert_eq!(counts(&mark, 1_010), [(4, 80, 40), (16, 320, 160)]);
        mark.goes("a gateway");
        assert_eq!(counts(&mark, 500), [], "in what is left there is less than there was");
    }
}
