//! What one core counts of a revision.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tutti_api::demand::{BINS, bin};

use crate::dialect::Usage;
use crate::metrics::Cell;

/// Bins that come into being together.
const BLOCK: usize = 64;

/// Values of any size, within the relative error of [`tutti_api::demand`]. One core writes, any may read.
#[derive(Debug)]
pub(crate) struct Values {
    blocks: [OnceLock<Box<[AtomicU32; BLOCK]>>; BINS / BLOCK],
    zeros: Cell,
}

impl Default for Values {
    fn default() -> Self {
        Self { blocks: std::array::from_fn(|_| OnceLock::new()), zeros: Cell::default() }
    }
}

impl Values {
    fn observe(&self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let Some(bin) = bin(micros) else { return self.zeros.add(1) };
        let block = self.blocks[bin / BLOCK].get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU32::new(0))));
        let cell = &block[bin % BLOCK];
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed); // one writer: no locked instruction
    }

    /// Adds what it holds to a total.
    pub(super) fn add_to(&self, total: &mut Vec<u32>, zeros: &mut u64) {
        *zeros += self.zeros.get();
        for (at, block) in self.blocks.iter().enumerate() {
            let Some(block) = block.get() else { continue };
            total.resize(BINS, 0);
            for (sum, cell) in total[at * BLOCK..].iter_mut().zip(block.iter()) {
                *sum = sum.wrapping_add(cell.load(Relaxed));
            }
        }
    }
}

/// What one core has counted of a revision on a pool since it began.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    /// Requests that came to wait for a slot, and those that do not any more.
    pub(super) queued: Span,
    /// Requests that came to a replica, and those that it is done with.
    pub(super) in_flight: Span,
    pub(super) arrivals: Cell,
    pub(super) ended: Cell,
    pub(super) errors: Cell,
    pub(super) input: Cell,
    pub(super) output: Cell,
    /// Latency, time to the first token, time in the queue, the engine's time.
    pub(super) values: [Values; 4],
}

/// How many came, and how many left.
#[derive(Debug, Default)]
pub(super) struct Span {
    pub(super) came: Cell,
    pub(super) left: Cell,
}

/// What is told of a request that is over.
pub(crate) struct Over {
    /// It failed, and its client is not to blame.
    pub(crate) is_error: bool,
    /// A replica answered it well.
    pub(crate) is_answered: bool,
    pub(crate) took: Duration,
    pub(crate) queued: Duration,
    /// Of a stream that a replica answered well.
    pub(crate) first_token: Option<Duration>,
    pub(crate) usage: Usage,
}

impl Cells {
    pub(crate) fn count(&self, over: &Over) {
        self.ended.add(1);
        self.errors.add(u64::from(over.is_error));
        self.input.add(over.usage.input);
        self.output.add(over.usage.output);
        let [latency, ttft, queue, engine] = &self.values;
        queue.observe(over.queued);
        if over.is_answered {
            latency.observe(over.took);
            engine.observe(over.took.saturating_sub(over.queued));
        }
        if let Some(first) = over.first_token {
            ttft.observe(first);
        }
    }
}
