//! `cargo xtask bench fleet`: fleets in virtual time, policies side by side on the same requests. The gateway's policy is its
//! very own scheduler; what serves it is played.

mod bound;
mod classes;
mod clock;
mod costs;
mod curve;
mod demand;
mod ours;
mod outcome;
mod plain;
mod plan;
mod real;
mod scenario;
mod table;

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::bound::{Window, capacity};
use self::classes::Classes;
use self::costs::Costs;
use self::demand::{Shape, zipf};
use self::plan::Plan;
use self::real::Pair;
use self::scenario::Scenario;
use crate::batching::BatchingResults;
use crate::options::Kept;
use crate::report::Origin;
use crate::results::keep;

pub(crate) use table::PICTURE;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct FleetBench {
    /// Seeds, each with every policy on the same requests.
    #[arg(long, default_value_t = 10)]
    pub seeds: u64,
    /// Seconds of the fleet's time that requests come for.
    #[arg(long, default_value_t = 3600.0)]
    pub seconds: f64,
    /// Replicas of the largest fleet.
    #[arg(long, default_value_t = 1000)]
    pub largest: usize,
    /// Where its figures are kept. What `bench batching` has left there is simulated too.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FleetResults {
    origin: Origin,
    seeds: u64,
    /// What a load and a request take, and how long a request may take in all. Unit: seconds.
    load: f64,
    service: f64,
    slo: f64,
    /// The bound on the usual fleet's capacity where a load serves a whole run, and where it serves what one SLO brings.
    /// Unit: requests a second.
    capacity: (f64, f64),
    /// The usual fleet by how much it is asked for.
    loads: Vec<Scenario>,
    /// Other shapes, deaths, sizes.
    others: Vec<Scenario>,
    costs: Costs,
    classes: Vec<Classes>,
    /// Beside the real thing, where that was measured.
    real: Vec<Pair>,
}

/// What is asked for, of the bound: the one at which fleets are compared, and others.
const SHARE: f64 = 0.7;
const SHARES: [f64; 9] = [0.2, 0.3, 0.4, 0.5, 0.6, SHARE, 0.8, 0.9, 1.0];
/// What is asked for in the mean where that changes, or replicas die.
const UNEVEN: f64 = 0.4;

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// Results cannot be read or written.
pub fn fleet(options: FleetBench) -> anyhow::Result<()> {
    let FleetBench { seeds, seconds, largest, kept } = options;
    let plan = Plan::usual();
    let shares = zipf(plan.adapters, 1.0);
    // Fewer seeds will do beside the load that counts.
    let few = seeds.div_ceil(3);
    let loads = SHARES.map(|share| {
        let seeds = if share == SHARE { seeds } else { few };
        Scenario::run("Poisson", &plan, Shape::Poisson, share, seconds, seeds)
    });
    let mut others = vec![
        Scenario::run("by day and night", &plan, Shape::Diurnal(seconds / 2.0), UNEVEN, seconds, few),
        Scenario::run("bursts", &plan, Shape::Bursty, UNEVEN, seconds, few),
        Scenario::run("replicas die in turn", &dying(&plan, seconds), Shape::Poisson, UNEVEN, seconds, few),
    ];
    let (mut replicas, shorter) = (5 * plan.replicas, seconds / 12.0);
    while replicas <= largest {
        let plan = Plan { replicas, adapters: 10 * replicas, ..plan.clone() };
        for share in [UNEVEN, SHARE] {
            others.push(Scenario::run("larger", &plan, Shape::Poisson, share, shorter, 1));
        }
        replicas *= 10;
    }
    let real = fs::read(kept.out.join("results/batching.json")).ok();
    let real = real.map(|json| serde_json::from_slice::<BatchingResults>(&json)).transpose()?;
    let results = FleetResults {
        origin: Origin::here("cargo xtask bench fleet".into(), Vec::new()),
        seeds,
        load: plan.load.as_secs_f64(),
        service: plan.service.as_secs_f64(),
        slo: plan.slo.as_secs_f64(),
        capacity: (capacity(&plan, &shares, Window::Run(seconds)), capacity(&plan, &shares, Window::Slo)),
        loads: loads.to_vec(),
        others,
        costs: Costs::measure(largest),
        classes: classes(seconds / 6.0),
        real: real.map(|real| real::pairs(&real)).unwrap_or_default(),
    };
    println!("{}", results.markdown());
    keep(&kept.out, "fleet", &results)
}

/// Every half minute the next replica dies, for twenty seconds.
fn dying(plan: &Plan, seconds: f64) -> Plan {
    let (every, lasts) = (30.0, 20.0);
    let deaths = (1..(seconds / every) as u32).map(|at| (f64::from(at) * every, at % plan.replicas as u32, lasts));
    Plan { deaths: deaths.collect(), ..plan.clone() }
}

/// Interactive requests beside bulk.
fn classes(seconds: f64) -> Vec<Classes> {
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let plan = Plan {
        replicas: 4,
        slots: 4,
        adapters: 1,
        fixed: true,
        service: second,
        varies: true,
        wait: hour,
        deadlines: false,
        ..Plan::usual()
    };
    let sharing = |adapters| Plan { adapters, fixed: false, ..plan.clone() };
    vec![
        Classes::measure("one model", &plan, seconds),
        Classes::measure("one model, a queue that bulk fills", &Plan { queue: 256, ..plan.clone() }, seconds),
        Classes::measure("one model, bulk that takes four times as long", &Plan { bulk: 4.0, ..plan.clone() }, seconds),
        Classes::measure("4 adapters that take turns", &sharing(4), seconds),
        Classes::measure("8 adapters that take turns", &sharing(8), seconds),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::demand::{Shape, wishes, zipf};
    use super::ours::Ours;
    use super::plain::{Plain, Policy};
    use super::plan::Plan;

    #[test]
    fn a_closed_loop_comes_near_the_ceiling() {
        for (replicas, clients, ceiling) in [(1, 16, 31.0), (1, 64, 71.0), (2, 64, 2.0 * 71.0), (4, 64, 4.0 * 125.0)] {
            let (load, service) = (Duration::from_millis(260), Duration::from_millis(8));
            let closed = Some((clients, 100.0));
            let plan = Plan { replicas, adapters: 4, load, service, deadlines: false, closed, ..Plan::usual() };
            let out = Ours::new(&plan, &[], None).run();
            let rate = out.times.len() as f64 / 100.0;
            let longest = out.times.iter().map(|(time, _)| *time).fold(0.0, f64::max);
            println!("{replicas} replicas, {clients} clients: {rate:.1}/s of {ceiling}, longest {longest:.2} s");
            assert!(rate > 0.92 * ceiling && longest < 2.5);
        }
    }

    #[test]
    fn more_is_of_use_than_by_any_plain_policy() {
        let plan = Plan::usual();
        for (rate, least) in [(2.0, 0.99), (4.0, 0.98), (6.9, 0.65)] {
            let wishes = wishes(&zipf(plan.adapters, 1.0), Shape::Poisson, rate, 600.0, 1);
            let others = Policy::ALL.map(|policy| Plain::new(&plan, &wishes, policy).run().goodput());
            let out = Ours::new(&plan, &wishes, None).run();
            println!("{rate}/s: {:.3} against {others:.3?}", out.goodput());
            assert!(out.goodput() > least && others.iter().all(|other| *other < out.goodput() + 0.01));
            assert_eq!((out.offered(), out.waiting), (wishes.len(), 0), "nobody is lost");
        }
    }

    #[test]
    fn bulk_takes_what_is_left_and_delays_nobody_who_waits() {
        for of in super::classes(300.0) {
            let times = of.with / of.without;
            println!("{}: {times:.2} of the p99 without, {:.2} used, {} refused", of.of, of.used, of.refused);
            assert_eq!(of.refused, 0, "{}", of.of);
            assert!(!of.plain || times <= 1.5 && of.used >= 0.85, "{}: {times} {}", of.of, of.used);
        }
        let plain = super::classes(30.0).into_iter().filter(|of| of.plain).map(|of| of.of);
        assert_eq!(plain.collect::<Vec<_>>(), ["one model", "one model, a queue that bulk fills"]);
    }

    #[test]
    fn replicas_that_die_take_nobody_with_them() {
        let deaths = (0..60).map(|at| (f64::from(at) * 10.0, at as u32 % 20, 7.0)).collect();
        let plan = Plan { deaths, ..Plan::usual() };
        let wishes = wishes(&zipf(plan.adapters, 1.0), Shape::Poisson, 3.0, 600.0, 1);
        let out = Ours::new(&plan, &wishes, None).run();
        println!("{:.3} of use, {} sent again", out.goodput(), out.retried);
        assert_eq!((out.offered(), out.waiting), (wishes.len(), 0), "nobody is lost");
        assert!(out.goodput() > 0.95 && out.retried > 0);
    }

    #[test]
    fn a_decision_is_quick_in_a_large_fleet() {
        let (deadlines, queue, wait) = (false, 1 << 20, Duration::from_secs(3600));
        let plan = Plan { replicas: 100, adapters: 1000, deadlines, queue, wait, ..Plan::usual() };
        let wishes = wishes(&zipf(plan.adapters, 1.0), Shape::Poisson, 10_000.0, 1.0, 1);
        let out = Ours::new(&plan, &wishes, Some(0)).run_for(20.0);
        let mut costs: Vec<u32> = out.costs.iter().map(|(_, cost)| *cost).collect();
        costs.sort_unstable();
        println!("{} wait, {} ns in the middle", out.waiting, costs[costs.len() / 2]);
        assert!(out.waiting > 9000);
    }
}
