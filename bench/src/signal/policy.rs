//! What a pool may be scaled by.

use std::time::{Duration, Instant};

use tutti_api::demand::{FORMAT, Gathered, Name, Pool, RELATIVE_ERROR, Row, SLICE_MS, Slice, SliceRow, Snapshot};
use tutti_scaler_metrics::fleet::{Answer, Fleet};

use super::hpa::Metric;
use super::world::{SERVICE, SLO, SLOTS, World};

/// The share of slots that shall be in use, where the policy knows slots.
const TARGET: f64 = 0.8;
/// The last minute, for those who look at one. Unit: seconds.
const MINUTE: f64 = 60.0;

/// A policy's name, and how one begins.
type Named = (&'static str, fn() -> Policy);

/// What a pool is scaled by.
pub(super) enum Policy {
    /// The share of the time that replicas are busy, at 70 %: as a processor's or a GPU's utilisation.
    Cpu,
    /// Requests a second, so many a replica as it can do at 80 % of its slots.
    Rate(Vec<(f64, u64)>),
    /// The P99 of the time to the first token, at the SLO.
    P99(Vec<(f64, f64)>),
    /// Those who wait, one a slot of a replica.
    Queue,
    /// What `tutti scaler-metrics` says.
    Ours(Box<Ours>),
}

impl Policy {
    /// All of them.
    pub(super) fn all() -> [Named; 5] {
        [
            ("CPU", || Self::Cpu),
            ("requests/s", || Self::Rate(Vec::new())),
            ("P99 alone", || Self::P99(Vec::new())),
            ("queue alone", || Self::Queue),
            ("ours", || Self::Ours(Box::new(Ours::new()))),
        ]
    }

    /// Sees the pool, once a second.
    pub(super) fn see(&mut self, world: &mut World) {
        let first = std::mem::take(&mut world.first);
        match self {
            Self::Cpu | Self::Queue => {}
            Self::Rate(seen) => {
                seen.push((world.now, world.arrived));
                seen.retain(|(at, _)| *at > world.now - MINUTE);
            }
            Self::P99(seen) => {
                seen.extend(first.iter().map(|first| (world.now, *first)));
                seen.retain(|(at, _)| *at > world.now - MINUTE);
            }
            Self::Ours(ours) => ours.see(world, &first),
        }
    }

    /// What the autoscaler is told.
    pub(super) fn metric(&self, world: &World) -> Option<Metric> {
        match self {
            Self::Cpu => {
                let slots = f64::from(world.ready() * SLOTS);
                let used = if slots > 0.0 { f64::from(world.in_flight()) / slots } else { 0.0 };
                Some(Metric::Value { value: used.min(1.0), target: 0.7 })
            }
            Self::Rate(seen) => {
                let (first, last) = (seen.first()?, seen.last()?);
                let rate = (last.1 - first.1) as f64 / (last.0 - first.0).max(1.0);
                Some(Metric::AverageValue { value: rate, target: f64::from(SLOTS) * TARGET / SERVICE })
            }
            Self::P99(seen) => {
                let mut values: Vec<f64> = seen.iter().map(|(_, first)| *first).collect();
                values.sort_by(f64::total_cmp);
                let p99 = values.get((values.len() * 99).div_ceil(100).checked_sub(1)?)?;
                Some(Metric::Value { value: *p99, target: SLO })
            }
            Self::Queue => Some(Metric::AverageValue { value: world.queue.len() as f64, target: f64::from(SLOTS) }),
            Self::Ours(ours) => ours.metric(world),
        }
    }
}

/// A scaler of ours before one gateway.
pub(super) struct Ours {
    start: Instant,
    fleet: Fleet,
    slice: Gathered,
    ended: u64,
    closed: Vec<Slice>,
}

impl Ours {
    fn new() -> Self {
        let start = Instant::now();
        let mut fleet = Fleet::new(start);
        fleet.discovered(&std::iter::once("gateway".to_owned()).collect(), start);
        Self { start, fleet, slice: Gathered::default(), ended: 0, closed: Vec::new() }
    }

    fn at(&self, world: &World) -> Instant {
        self.start + Duration::from_secs_f64(world.now)
    }

    fn see(&mut self, world: &World, first: &[f64]) {
        let uptime_ms = (world.now * 1e3) as u64;
        first.iter().for_each(|first| self.slice.observe((first * 1e6) as u64));
        self.ended += first.len() as u64;
        let number = self.closed.last().map_or(0, |slice| slice.number + 1);
        if uptime_ms >= (number + 1) * SLICE_MS {
            let slice = std::mem::take(&mut self.slice);
            let row = SliceRow { ended: slice.count(), ttft: Some(slice.sketch()), ..SliceRow::default() };
            self.closed.push(Slice { number, end_ms: uptime_ms, length_ms: SLICE_MS.min(uptime_ms), rows: vec![row] });
            self.closed.drain(..self.closed.len().saturating_sub(6));
        }
        let row = Row {
            queued: world.queue.len() as u64,
            in_flight: world.in_flight().into(),
            arrivals: world.arrived,
            ended: self.ended,
            slo_ttft_ms: (SLO * 1e3) as u64,
            ..Row::default()
        };
        let pool = Pool {
            name: "p".to_owned(),
            slots_each: SLOTS,
            replicas: world.ready(),
            ready: world.ready(),
            queued: row.queued,
            in_flight: row.in_flight,
            oldest_ms: (world.oldest() * 1e3) as u64,
            target: TARGET,
            ..Pool::default()
        };
        let snapshot = Snapshot {
            format: FORMAT,
            instance: "g".to_owned(),
            uptime_ms,
            relative_error: RELATIVE_ERROR,
            names: vec![Name { model: "m".to_owned(), revision: "v1".to_owned(), pool: "p".to_owned() }],
            rows: vec![row],
            pools: vec![pool],
            closed: self.closed.clone(),
            open: None,
        };
        let now = self.at(world);
        self.fleet.take("gateway", snapshot, now);
    }

    fn metric(&self, world: &World) -> Option<Metric> {
        match self.fleet.answer("p", self.at(world)) {
            Answer::Known { wanted, .. } => Some(Metric::AverageValue { value: wanted, target: 1.0 }),
            _ => None,
        }
    }
}
