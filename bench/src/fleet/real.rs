//! The simulation beside the real thing: the closed loops of `cargo xtask bench batching`, run again in virtual time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ours::Ours;
use super::plain::{Plain, Policy};
use super::plan::Plan;
use crate::batching::BatchingResults;

/// A closed loop, real and simulated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) through: String,
    pub(crate) clients: usize,
    /// Answers a second: real, simulated.
    pub(crate) rate: (f64, f64),
    /// The longest time from a request to its answer: real, simulated. Unit: seconds.
    pub(crate) longest: (f64, f64),
}

/// How often each is simulated: the middle rate counts and the longest time of any, as there.
const ROUNDS: u64 = 3;

/// Runs what was measured again, with the times of a load and a request that were measured there.
pub(crate) fn pairs(real: &BatchingResults) -> Vec<Pair> {
    let hour = Duration::from_secs(3600);
    let runs = real.runs.iter().map(|run| {
        let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
            .map(|seed| {
                let plan = Plan {
                    replicas: 1,
                    adapters: real.adapters,
                    load: Duration::from_secs_f64(real.load),
                    service: Duration::from_secs_f64(real.service),
                    slo: hour,
                    wait: hour,
                    deadlines: false,
                    batching: BatchingResults::terms(),
                    closed: Some((run.clients, real.seconds)),
                    seed: seed + 1,
                    ..Plan::usual()
                };
                let out = match run.through.as_str() {
                    "tutti" => Ours::new(&plan, &[], None).run(),
                    // One replica has one queue, whatever the policy.
                    _ => Plain::new(&plan, &[], Policy::Random).run(),
                };
                let longest = out.times.iter().map(|(time, _)| *time).fold(0.0, f64::max);
                (out.times.len() as f64 / out.lasted, longest)
            })
            .collect();
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let longest = rounds.iter().map(|(_, longest)| *longest).fold(0.0, f64::max);
        Pair {
            through: run.through.clone(),
            clients: run.clients,
            rate: (run.rate, rounds[rounds.len() / 2].0),
            longest: (run.longest, longest),
        }
    });
    runs.collect()
}
