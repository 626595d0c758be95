//! What the scheduler itself costs, in a fleet that has more to do than it can.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::demand::{Shape, Wish, wishes, zipf};
use super::ours::Ours;
use super::outcome::quantile;
use super::plan::Plan;

/// Events of a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) event: String,
    pub(crate) count: usize,
    /// Microseconds.
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

/// A fleet, and how many wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Costs {
    pub(crate) replicas: usize,
    pub(crate) adapters: usize,
    pub(crate) waiting: usize,
    /// The first is of all events together.
    pub(crate) events: Vec<Cost>,
}

/// How long it is measured, in the fleet's time. Unit: seconds.
const MEASURED: f64 = 40.0;
/// Of so many clients one leaves while it waits.
const LEAVES: usize = 20;

impl Costs {
    /// Ten adapters a replica, and a hundred requests that wait.
    pub(crate) fn measure(replicas: usize) -> Self {
        let (adapters, waiting) = (10 * replicas, 100 * replicas);
        let hour = Duration::from_secs(3600);
        let leaves = Some((LEAVES, 30.0));
        let plan =
            Plan { replicas, adapters, queue: 10 * waiting, wait: hour, deadlines: false, leaves, ..Plan::usual() };
        let shares = zipf(adapters, 1.0);
        // So many that as many still wait when some have left; then as many as are served, and somewhat more.
        let mut asked: Vec<Wish> = wishes(&shares, Shape::Poisson, 1.1 * waiting as f64, 1.0, 1);
        let rate = 0.6 * replicas as f64 / plan.service.as_secs_f64();
        let later = wishes(&shares, Shape::Poisson, rate, MEASURED, 2);
        asked.extend(later.into_iter().map(|wish| Wish { at: wish.at + 1.0, ..wish }));
        let out = Ours::new(&plan, &asked, Some(waiting)).run_for(MEASURED + 1.0);
        let mut kinds = BTreeMap::<&str, Vec<f64>>::new();
        for (kind, nanos) in &out.costs {
            kinds.entry(kind).or_default().push(f64::from(*nanos) / 1e3);
        }
        let all = out.costs.iter().map(|(_, nanos)| f64::from(*nanos) / 1e3).collect();
        let events = std::iter::once(("all", all)).chain(kinds).map(|(event, costs)| Cost {
            event: event.to_owned(),
            count: costs.len(),
            median: quantile(costs.iter().copied(), 0.5),
            p99: quantile(costs, 0.99),
        });
        Self { replicas, adapters, waiting, events: events.collect() }
    }
}
