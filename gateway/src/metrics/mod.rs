//! What is counted, and how it is shown.
//!
//! Each core counts in cells of its own, which nobody else writes; a scrape adds them up. A label is only ever a
//! configured or discovered name, an API or a code: never what a client wrote.

mod cells;
mod ends;
mod family;
mod page;
mod process;
mod reference;
mod releases;
mod sets;
mod text;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub(crate) use self::cells::{Bounds, Cell, Histogram, Sums, bounds};
pub use self::family::{ALL, Kind, Metric};
pub use self::page::page;
pub use self::reference::reference_markdown;
pub(crate) use self::releases::page as releases_page;
pub use self::sets::Metrics;
pub use self::text::Format;

use self::cells::{Counts, Shape};
use self::sets::{Place, Who};
use crate::classify::Api;
use crate::demand;
use crate::record::{Outcome, Phase, Record};

/// Places a core knows before it looks for those that are of no use any more.
const TIDY_FROM: usize = 64;

/// The number of a [`Served`](crate::registry::Served) (0: none was chosen), that of an API (0: none), and where a
/// tenant's name is.
type Key = [u64; 3];

/// Hashes keys that nobody outside can choose: the last step of Murmur3's, for each of their numbers.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_ne_bytes(number));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0.rotate_left(5) ^ number).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 = mixed ^ (mixed >> 33);
    }
}

/// What a core counts in.
struct Own {
    metrics: Arc<Metrics>,
    core: usize,
    places: HashMap<Key, Place, BuildHasherDefault<Mixed>>,
    /// How many places there may be before the next look.
    tidy_at: usize,
    /// That of the last look.
    epoch: u64,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// From now on what this thread settles is counted here.
pub fn enter(metrics: Arc<Metrics>) {
    let (core, epoch) = (metrics.cores.fetch_add(1, Relaxed), metrics.epoch.load(Relaxed));
    OWN.set(Some(Own { metrics, core, places: HashMap::default(), tidy_at: TIDY_FROM, epoch }));
}

/// Counts a request that is over.
pub(crate) fn count(record: &Record, took: Duration) {
    OWN.with_borrow_mut(|own| {
        let Some(own) = own else { return };
        let tenant = record.caller.as_ref().map(|key| &key.tenant);
        let who = Who { served: record.served.as_ref(), api: record.api, tenant };
        let Place { counts, shape, demand, .. } = own.place(&who);
        let end = ends::end_of(record);
        counted(counts, record, end);
        if record.api.is_some() {
            measured(shape, record, end, took);
            demand.count(&over(record, took));
        }
    });
}

/// Where a request that has been routed is counted while it is there.
pub(crate) fn stands(record: &Record) -> Option<Arc<demand::Cells>> {
    OWN.with_borrow_mut(|own| {
        let tenant = record.caller.as_ref().map(|key| &key.tenant);
        let who = Who { served: record.served.as_ref(), api: record.api, tenant };
        Some(own.as_mut()?.place(&who).demand.clone())
    })
}

/// Drops what is of no use any more, and looks for room again where there was none. Called now and then on each core.
pub(crate) fn tidy() {
    OWN.with_borrow_mut(|own| {
        let Some(own) = own else { return };
        let epoch = own.metrics.epoch.load(Relaxed);
        if epoch != own.epoch {
            own.epoch = epoch;
            own.places.retain(|_, place| place.is_used() && !place.folded);
        }
    });
}

impl Own {
    fn place(&mut self, who: &Who<'_>) -> &Place {
        let served = who.served.map_or(0, |served| served.number);
        // A place holds the name weakly: no other can be where it was.
        let tenant = who.tenant.map_or(0, |tenant| Arc::as_ptr(tenant).cast::<u8>() as u64);
        let key = [served, who.api.map_or(0, |api| api as u64 + 1), tenant];
        if !self.places.contains_key(&key) {
            if self.places.len() >= self.tidy_at {
                self.places.retain(|_, place| place.is_used());
                self.tidy_at = TIDY_FROM.max(self.places.len() * 2);
            }
            let place = self.metrics.place(who, self.core, Instant::now());
            self.places.insert(key, place);
        }
        &self.places[&key]
    }
}

fn counted(counts: &Counts, record: &Record, end: usize) {
    counts.ends[end].add(1);
    if record.outcome() == Outcome::Cancelled {
        counts.cancelled[match record.phase {
            Phase::Reading => 0,
            Phase::Queued => 1,
            Phase::Waiting => 2,
            Phase::Answering | Phase::Finished => 3,
        }]
        .add(1);
    }
    counts.retries.add(u64::from(record.retries));
    counts.input.add(record.usage.input);
    counts.cached.add(record.usage.cached);
    counts.output.add(record.usage.output);
}

fn measured(shape: &Shape, record: &Record, end: usize, took: Duration) {
    shape.lasted(end, micros(took));
    shape.queued[record.class as usize].observe(micros(record.queued));
    // Only a stream has a first token: else the whole answer comes with the first byte.
    let Some(first) = record.first_byte.filter(|_| is_answered(record)) else { return };
    if record.streamed {
        shape.first_token.observe(micros(first));
    }
    let usage = record.usage;
    if usage.input > 0 {
        shape.input.observe(usage.input);
    }
    if usage.output > 0 {
        shape.output.observe(usage.output);
    }
    if let Some(last) = record.last_byte.filter(|_| usage.output > 1 && record.outcome() == Outcome::Ok) {
        shape.per_token.observe(micros(last.saturating_sub(first)) / (usage.output - 1));
    }
}

/// Whether it says something of the engine. Only what a replica began to answer does, for refusals are quick; and not what it
/// tells of a model.
fn is_answered(record: &Record) -> bool {
    record.replica.is_some() && record.status < 400 && record.api != Some(Api::OllamaShow)
}

fn over(record: &Record, took: Duration) -> demand::Over {
    let is_error = match record.outcome() {
        Outcome::Failed(code) => code.row().status >= 500,
        Outcome::ReplicaError => record.status >= 500,
        Outcome::Ok | Outcome::Cancelled => false,
    };
    let is_answered = is_answered(record) && record.first_byte.is_some();
    let first_token = record.first_byte.filter(|_| is_answered && record.streamed);
    demand::Over { is_error, is_answered, took, queued: record.queued, first_token, usage: record.usage }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
