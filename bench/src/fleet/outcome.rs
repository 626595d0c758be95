//! What became of the requests.

use std::time::Duration;

use tutti_api::Priority;

use super::demand::{Random, Wish};
use super::plan::Plan;

/// What became of them.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Answers in time.
    pub(crate) good: usize,
    /// From the request to its answer, of each that was answered, and its class. Unit: seconds.
    pub(crate) times: Vec<(f64, Priority)>,
    /// Refused, or given up; by class.
    pub(crate) refused: [usize; Priority::ALL.len()],
    /// Left while they waited.
    pub(crate) left: usize,
    /// Sent again after a replica died.
    pub(crate) retried: usize,
    /// When the last answer was there. Unit: seconds from the beginning.
    pub(crate) lasted: f64,
    /// Who waits at the end.
    pub(crate) waiting: usize,
    /// Loads.
    pub(crate) loads: usize,
    /// How long replicas worked, loads included.
    pub(crate) busy: Duration,
    /// By adapter: asked for and answered in time.
    pub(crate) by_adapter: Vec<(usize, usize)>,
    /// Nanoseconds of the scheduler for each event.
    pub(crate) costs: Vec<(&'static str, u32)>,
    slo: Duration,
    random: Random,
}

impl Outcome {
    /// None yet.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            good: 0,
            times: Vec::new(),
            refused: [0; Priority::ALL.len()],
            left: 0,
            retried: 0,
            lasted: 0.0,
            waiting: 0,
            loads: 0,
            busy: Duration::ZERO,
            by_adapter: vec![(0, 0); plan.adapters],
            costs: Vec::new(),
            slo: plan.slo,
            random: Random::new(plan.seed ^ 0x5eed),
        }
    }

    /// What the next request takes, which is of this class.
    pub(crate) fn service(&mut self, plan: &Plan, class: Priority) -> Duration {
        let times = if class == Priority::Bulk { plan.bulk } else { 1.0 };
        let varied = if plan.varies { 0.5 + self.random.share() } else { 1.0 };
        plan.service.mul_f64(times * varied)
    }

    /// One was answered after so long, of which it was worked on for so long.
    pub(crate) fn answered(&mut self, wish: Wish, after: Duration, work: Duration) {
        self.busy += work;
        self.lasted = self.lasted.max(wish.at + after.as_secs_f64());
        self.times.push((after.as_secs_f64(), wish.class));
        let of = &mut self.by_adapter[wish.adapter];
        of.0 += 1;
        if after <= self.slo {
            self.good += 1;
            of.1 += 1;
        }
    }

    /// One was not.
    pub(crate) fn refused(&mut self, wish: Wish) {
        self.refused[wish.class as usize] += 1;
        self.by_adapter[wish.adapter].0 += 1;
    }

    /// One went before it was served.
    pub(crate) fn left(&mut self, wish: Wish) {
        self.left += 1;
        self.by_adapter[wish.adapter].0 += 1;
    }

    /// Of how many.
    pub(crate) fn offered(&self) -> usize {
        self.times.len() + self.refused.iter().sum::<usize>() + self.left + self.waiting
    }

    /// The share that was answered in time.
    pub(crate) fn goodput(&self) -> f64 {
        self.good as f64 / self.offered().max(1) as f64
    }
}

/// The value that a share of them does not exceed; of none not a number.
pub(super) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
