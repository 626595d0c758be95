//! Numbers that one core writes and any may read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tutti_api::Priority;

use super::ends::ENDS;

/// OpenTelemetry's advised buckets for `gen_ai.server.request.duration`.
static DURATION: Bounds<14> =
    bounds!(1e6; 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92);
/// OpenTelemetry's advised buckets for `gen_ai.server.time_to_first_token`; also used for waiting.
static FIRST_TOKEN: Bounds<16> =
    bounds!(1e6; 0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0);
/// OpenTelemetry's advised buckets for `gen_ai.server.time_per_output_token`.
static PER_TOKEN: Bounds<13> = bounds!(1e6; 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5);
/// OpenTelemetry's advised buckets for `gen_ai.client.token.usage`.
static TOKENS: Bounds<14> = bounds!(1.0; 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0);

/// A number that one core writes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed); // one writer: no locked instruction
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The upper bounds of a histogram's buckets.
#[derive(Debug)]
pub(crate) struct Bounds<const N: usize> {
    /// As they are printed: in the metric's unit.
    pub(crate) text: [&'static str; N],
    /// As they are compared: whole, in parts of it.
    pub(crate) upper: [u64; N],
    /// How many parts a unit has.
    pub(crate) parts: f64,
}

/// Bounds in a metric's unit, of which values are so many parts.
macro_rules! bounds {
    ($parts:literal; $($bound:literal),*) => {
        $crate::metrics::Bounds {
            text: [$(stringify!($bound)),*],
            upper: [$(($bound * $parts + 0.5) as u64),*],
            parts: $parts,
        }
    };
}
pub(crate) use bounds;

/// Values by size.
#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    bounds: &'static Bounds<N>,
    counts: [Cell; N],
    beyond: Cell,
    sum: Cell,
}

impl<const N: usize> Histogram<N> {
    pub(crate) fn new(bounds: &'static Bounds<N>) -> Self {
        Self { bounds, counts: std::array::from_fn(|_| Cell::default()), beyond: Cell::default(), sum: Cell::default() }
    }

    pub(crate) fn observe(&self, value: u64) {
        let at = self.bounds.upper.partition_point(|bound| *bound < value);
        self.counts.get(at).unwrap_or(&self.beyond).add(1);
        self.sum.add(value);
    }
}

/// What histograms of all cores have together.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    bounds: &'static [&'static str],
    counts: Vec<u64>,
    parts: f64,
    sum: u64,
}

impl Sums {
    pub(crate) fn of<'h, const N: usize>(histograms: impl IntoIterator<Item = &'h Histogram<N>>) -> Self {
        let mut all = Self { counts: vec![0; N + 1], ..Self::default() };
        for histogram in histograms {
            all.bounds = &histogram.bounds.text;
            all.parts = histogram.bounds.parts;
            all.sum = all.sum.wrapping_add(histogram.sum.get());
            for (sum, cell) in all.counts.iter_mut().zip(histogram.counts.iter().chain([&histogram.beyond])) {
                *sum += cell.get();
            }
        }
        all
    }

    /// Of counts that somebody else keeps: by upper bound, and beyond the last.
    pub(crate) fn counted(bounds: &'static [&'static str], counts: &[u64], sum: u64) -> Self {
        Self { bounds, counts: counts.to_vec(), parts: 1.0, sum }
    }

    /// Whether nothing was observed.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Upper bounds, and how many values are between each and the one before.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.bounds.iter().copied().chain(["+Inf"]).zip(self.counts.iter().copied())
    }

    /// In the metric's unit.
    pub(crate) fn sum(&self) -> f64 {
        self.sum as f64 / self.parts
    }
}

/// What one core has counted of a model revision, an API and a tenant.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) ends: [Cell; ENDS],
    pub(super) cancelled: [Cell; 4],
    pub(super) retries: Cell,
    pub(super) input: Cell,
    pub(super) cached: Cell,
    pub(super) output: Cell,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            ends: std::array::from_fn(|_| Cell::default()),
            cancelled: Default::default(),
            retries: Cell::default(),
            input: Cell::default(),
            cached: Cell::default(),
            output: Cell::default(),
        }
    }
}

/// What one core has measured of a model revision and an operation.
#[derive(Debug)]
pub(super) struct Shape {
    /// By how requests ended; most ends never come.
    duration: [OnceLock<Box<Histogram<14>>>; ENDS],
    pub(super) first_token: Histogram<16>,
    pub(super) per_token: Histogram<13>,
    /// By class.
    pub(super) queued: [Histogram<16>; Priority::ALL.len()],
    pub(super) input: Histogram<14>,
    pub(super) output: Histogram<14>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            duration: std::array::from_fn(|_| OnceLock::new()),
            first_token: Histogram::new(&FIRST_TOKEN),
            per_token: Histogram::new(&PER_TOKEN),
            queued: Priority::ALL.map(|_| Histogram::new(&FIRST_TOKEN)),
            input: Histogram::new(&TOKENS),
            output: Histogram::new(&TOKENS),
        }
    }
}

impl Shape {
    pub(super) fn lasted(&self, end: usize, micros: u64) {
        self.duration[end].get_or_init(|| Box::new(Histogram::new(&DURATION))).observe(micros);
    }

    pub(super) fn duration(&self, end: usize) -> Option<&Histogram<14>> {
        self.duration[end].get().map(|histogram| &**histogram)
    }
}
