//! Slices of ten seconds. Pure: what was counted so far, and how long the gateway has run, are handed in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tutti_api::demand::{Name, SLICE_MS, SLICES, Sketch};

/// All that was counted of a revision since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) queued: u64,
    pub(super) in_flight: u64,
    pub(super) arrivals: u64,
    pub(super) ended: u64,
    pub(super) errors: u64,
    pub(super) input: u64,
    pub(super) output: u64,
    /// In the order of [`super::Cells::values`]: a count for each bin, or nothing at all, and how many are 0.
    pub(super) values: [(Vec<u32>, u64); 4],
}

/// What was measured of a revision in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) ended: u64,
    pub(super) errors: u64,
    pub(super) values: [Sketch; 4],
}

/// A slice that does not change any more.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) number: u64,
    pub(super) end_ms: u64,
    pub(super) length_ms: u64,
    pub(super) parts: BTreeMap<Name, Part>,
}

/// The last slices.
#[derive(Debug, Default)]
pub(super) struct Ring {
    closed: VecDeque<Arc<Closed>>,
    /// The number of the open slice, when it began, and what had been counted by then.
    number: u64,
    begun_ms: u64,
    before: BTreeMap<Name, Total>,
}

/// More than before, or, of what was forgotten and has begun anew, all of it.
fn since<T: Copy + PartialOrd + std::ops::Sub<Output = T>>(now: T, before: T) -> T {
    if now < before { now } else { now - before }
}

fn part(now: &Total, before: Option<&Total>) -> Option<Part> {
    let nothing = Total::default();
    let before = before.unwrap_or(&nothing);
    let values = std::array::from_fn(|of| {
        let (now, zeros) = &now.values[of];
        let (before, zeros_before) = &before.values[of];
        let counts = now.iter().enumerate().map(|(bin, count)| {
            let before = before.get(bin).copied().unwrap_or(0);
            (bin, u64::from(since(*count, before)))
        });
        Sketch::of(counts, since(*zeros, *zeros_before))
    });
    let part = Part { ended: since(now.ended, before.ended), errors: since(now.errors, before.errors), values };
    (part.ended > 0).then_some(part)
}

fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

impl Ring {
    /// Closes the open slice if its time is over. What was counted after its end and before this is in it: none is lost,
    /// and none is in two.
    pub(super) fn advance(&mut self, uptime: Duration, totals: &BTreeMap<Name, Total>) {
        let now = millis(uptime);
        let number = now / SLICE_MS;
        if number <= self.number {
            return;
        }
        let closed =
            Closed { number: self.number, end_ms: now, length_ms: now - self.begun_ms, parts: self.parts(totals) };
        self.closed.push_back(Arc::new(closed));
        let keep = number.saturating_sub(SLICES as u64);
        self.closed.retain(|slice| slice.number >= keep);
        (self.number, self.begun_ms, self.before) = (number, now, totals.clone());
    }

    /// Of the open slice.
    pub(super) fn parts(&self, totals: &BTreeMap<Name, Total>) -> BTreeMap<Name, Part> {
        let parts = totals.iter().filter_map(|(name, now)| Some((name.clone(), part(now, self.before.get(name))?)));
        parts.collect()
    }

    /// The closed slices, but for those up to this number; and the number of the open one, and when it began.
    pub(super) fn slices(&self, since: Option<u64>) -> (Vec<Arc<Closed>>, u64, u64) {
        let wanted = self.closed.iter().filter(|slice| since.is_none_or(|since| slice.number > since));
        (wanted.cloned().collect(), self.number, self.begun_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tutti_api::demand::{BINS, Gathered, bin};

    fn name(of: u8) -> Name {
        Name { model: of.to_string(), ..Name::default() }
    }

    fn observe(total: &mut Total, value: u64) {
        total.ended += 1;
        for (counts, zeros) in &mut total.values {
            counts.resize(BINS, 0);
            match bin(value) {
                Some(bin) => counts[bin] += 1,
                None => *zeros += 1,
            }
        }
    }

    proptest! {
        /// Whoever asks at whichever times, each request is in exactly one slice, and a slice is the same each time.
        #[test]
        fn slices_hold_each_request_once_and_never_change(
            steps in prop::collection::vec((0..15_000u64, 0..3u8, 0..1_000_000u64), 1..60),
        ) {
            let (mut ring, mut totals, mut now) = (Ring::default(), BTreeMap::<Name, Total>::new(), 0);
            let (mut seen, mut all): (BTreeMap<u64, String>, _) = (BTreeMap::new(), Gathered::default());
            let (mut last, mut told) = (None, Gathered::default());
            for (wait, of, value) in steps {
                now += wait;
                ring.advance(Duration::from_millis(now), &totals);
                let (closed, open, _) = ring.slices(None);
                prop_assert!(closed.len() <= SLICES && closed.iter().all(|slice| slice.number < open));
                for slice in closed {
                    let printed = format!("{slice:?}");
                    let before = seen.entry(slice.number).or_insert_with(|| printed.clone());
                    prop_assert_eq!(before, &printed);
                    prop_assert!(slice.end_ms <= now && slice.end_ms >= slice.length_ms);
                }
                for slice in ring.slices(last).0 {
                    last = Some(slice.number);
                    slice.parts.values().for_each(|part| told.add(&part.values[0]));
                }
                observe(totals.entry(name(of)).or_default(), value);
                all.observe(value);
            }
            ring.parts(&totals).values().for_each(|part| told.add(&part.values[0]));
            prop_assert_eq!(told.sketch(), all.sketch());
        }
    }

    #[test]
    fn what_was_forgotten_and_comes_back_is_counted_from_its_beginning() {
        let (mut ring, mut totals) = (Ring::default(), BTreeMap::new());
        (0..5).for_each(|_| observe(totals.entry(name(0)).or_default(), 7));
        ring.advance(Duration::from_secs(11), &totals);
        totals.clear();
        observe(totals.entry(name(0)).or_default(), 7);
        assert_eq!(ring.parts(&totals)[&name(0)].ended, 1);
        assert_eq!(ring.slices(None).0[0].parts[&name(0)].ended, 5);
        assert!(ring.slices(Some(0)).0.is_empty());
    }
}
