//! What was measured in the last minute, over all gateways.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tutti_api::demand::{Gathered, Name, SLICE_MS, SLICES, Sketch, SliceRow};

/// What was measured of a revision.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Requests that came to their end.
    pub ended: u64,
    /// Those of them that failed by no fault of their clients.
    pub errors: u64,
    /// From the head of a request to its end. Unit of this and what follows: microseconds.
    pub latency: Gathered,
    /// To the first byte of a stream.
    pub ttft: Gathered,
    /// In the queue.
    pub queue: Gathered,
    /// The latency without it.
    pub engine: Gathered,
}

impl Measured {
    /// Adds what one gateway measured in one slice.
    pub fn add(&mut self, row: &SliceRow) {
        self.ended = self.ended.saturating_add(row.ended);
        self.errors = self.errors.saturating_add(row.errors);
        let pairs = [
            (&mut self.latency, &row.latency),
            (&mut self.ttft, &row.ttft),
            (&mut self.queue, &row.queue),
            (&mut self.engine, &row.engine),
        ];
        for (all, sketch) in pairs {
            sketch.iter().for_each(|sketch: &Sketch| all.add(sketch));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.ended = self.ended.saturating_add(other.ended);
        self.errors = self.errors.saturating_add(other.errors);
        self.latency.merge(&other.latency);
        self.ttft.merge(&other.ttft);
        self.queue.merge(&other.queue);
        self.engine.merge(&other.engine);
    }
}

/// Closed slices, by when they ended on this process's clock: gateways say how long ago that was.
#[derive(Debug)]
pub(super) struct Window {
    started: Instant,
    slots: VecDeque<(u64, BTreeMap<Name, Measured>)>,
}

/// How far back before its start a scaler is told of.
const BEFORE: Duration = Duration::from_secs(120);

impl Window {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, slots: VecDeque::new() }
    }

    /// The slot of this moment.
    fn slot(&self, at: Instant) -> u64 {
        let since = (at + BEFORE).saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX) / SLICE_MS
    }

    /// Adds a row of a slice that ended then.
    pub(super) fn add(&mut self, name: &Name, row: &SliceRow, ended: Instant, now: Instant) {
        let (slot, oldest) = (self.slot(ended), self.oldest(now));
        if slot < oldest {
            return;
        }
        self.slots.retain(|(slot, _)| *slot >= oldest);
        let at = self.slots.partition_point(|(other, _)| *other < slot);
        if self.slots.get(at).is_none_or(|(other, _)| *other != slot) {
            self.slots.insert(at, (slot, BTreeMap::new()));
        }
        let rows = &mut self.slots[at].1;
        match rows.get_mut(name) {
            Some(measured) => measured.add(row),
            None => rows.entry(name.clone()).or_default().add(row),
        }
    }

    fn oldest(&self, now: Instant) -> u64 {
        self.slot(now).saturating_sub(SLICES as u64 - 1)
    }

    /// What there is of the last minute, of the names that are wanted.
    pub(super) fn read(&self, now: Instant, wanted: impl Fn(&Name) -> bool) -> BTreeMap<Name, Measured> {
        let mut all: BTreeMap<Name, Measured> = BTreeMap::new();
        let oldest = self.oldest(now);
        for (_, rows) in self.slots.iter().filter(|(slot, _)| *slot >= oldest) {
            for (name, measured) in rows.iter().filter(|(name, _)| wanted(name)) {
                all.entry(name.clone()).or_default().merge(measured);
            }
        }
        all
    }
}
