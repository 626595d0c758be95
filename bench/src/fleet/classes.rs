//! Interactive requests while bulk takes all that it can get.

use serde::{Deserialize, Serialize};
use tutti_api::Priority;

use super::demand::{Shape, Wish, wishes, zipf};
use super::ours::Ours;
use super::outcome::quantile;
use super::plan::Plan;

/// What became of both.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Classes {
    /// What serves them.
    pub(crate) of: String,
    /// Whether no weights have to be loaded for it and all requests are alike: the bar is held against that.
    #[serde(default)]
    pub(crate) plain: bool,
    /// Longest that one of a hundred interactive requests takes. Unit: seconds.
    pub(crate) without: f64,
    pub(crate) with: f64,
    /// Of the time of slots that interactive requests leave, the share that bulk used for its work.
    pub(crate) used: f64,
    /// Interactive requests that were refused.
    pub(crate) refused: usize,
}

/// The share of the slots' time that interactive requests ask for.
const INTERACTIVE: f64 = 0.3;
/// How many times as much bulk is asked for as could be served.
const BULK: f64 = 1.5;

impl Classes {
    /// Measures for so many seconds.
    pub(crate) fn measure(of: &str, plan: &Plan, seconds: f64) -> Self {
        let shares = zipf(plan.adapters, 1.0);
        let capacity = plan.replicas as f64 * f64::from(plan.slots) / plan.service.as_secs_f64();
        let of_class = |class, rate, seed| -> Vec<Wish> {
            let wishes = wishes(&shares, Shape::Poisson, rate, seconds, seed);
            wishes.into_iter().map(|wish| Wish { class, ..wish }).collect()
        };
        let interactive = of_class(Priority::Interactive, INTERACTIVE * capacity, plan.seed);
        let mut both = interactive.clone();
        both.extend(of_class(Priority::Bulk, BULK * capacity / plan.bulk, plan.seed + 1));
        both.sort_by(|a, b| a.at.total_cmp(&b.at));
        let alone = Ours::new(plan, &interactive, None).run_for(seconds);
        let beside = Ours::new(plan, &both, None).run_for(seconds);
        let p99 = |times: &[(f64, Priority)]| {
            let of = times.iter().filter(|(_, class)| *class == Priority::Interactive);
            quantile(of.map(|(time, _)| *time), 0.99)
        };
        let count = |class| beside.times.iter().filter(|(_, of)| *of == class).count() as f64;
        let left = capacity * seconds - count(Priority::Interactive);
        let used = plan.bulk * count(Priority::Bulk) / left;
        Self {
            of: of.to_owned(),
            plain: plan.fixed && plan.bulk == 1.0,
            without: p99(&alone.times),
            with: p99(&beside.times),
            used,
            refused: beside.refused[Priority::Interactive as usize],
        }
    }
}
