//! A fleet and what it is asked for, under every policy and several seeds.

use serde::{Deserialize, Serialize};

use super::bound::{Window, capacity, most};
use super::demand::{Shape, wishes, zipf};
use super::ours::Ours;
use super::outcome::{Outcome, quantile};
use super::plain::{Plain, Policy};
use super::plan::Plan;
use crate::report::median;

/// The name of the gateway's own policy.
pub(crate) const OURS: &str = "tutti";

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// What is special.
    pub(crate) name: String,
    pub(crate) replicas: usize,
    pub(crate) adapters: usize,
    pub(crate) seconds: f64,
    /// Asked for, of the bound on capacity.
    pub(crate) share: f64,
    /// The same in requests a second.
    pub(crate) rate: f64,
    /// The largest share that can be of use where a load serves what one SLO brings.
    pub(crate) most: f64,
    pub(crate) rows: Vec<Row>,
}

/// What became of it under a policy: lists have one of each seed, the others are the middle of all seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) policy: String,
    /// The share that was answered in time.
    pub(crate) goodput: Vec<f64>,
    /// From a request to its answer, of those that were answered. Unit: seconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Loads for each answer in time.
    pub(crate) loads: f64,
    /// Seconds of a replica's work, loads included, for each answer in time.
    pub(crate) busy: f64,
    /// The share that was refused, or given up when the SLO was over.
    pub(crate) refused: f64,
    /// Jain's index of the adapters' shares that were answered in time: 1 where all are alike.
    pub(crate) jain: f64,
    /// The same of the tenants' shares.
    #[serde(default)]
    pub(crate) tenants: Option<f64>,
    /// The share that was answered in time of requests for the half of the adapters that is asked for least.
    pub(crate) coldest: f64,
}

impl Scenario {
    /// Runs it; `share` of the bound over the run's length is asked for.
    pub(crate) fn run(name: &str, plan: &Plan, shape: Shape, share: f64, seconds: f64, seeds: u64) -> Self {
        let shares = zipf(plan.adapters, 1.0);
        let rate = share * capacity(plan, &shares, Window::Run(seconds));
        let mut rows: Vec<(&str, Vec<Outcome>)> =
            Policy::ALL.iter().map(|policy| (policy.name(), Vec::new())).collect();
        rows.push((OURS, Vec::new()));
        for seed in 1..=seeds {
            let plan = Plan { seed, ..plan.clone() };
            let wishes = wishes(&shares, shape, rate, seconds, seed);
            for (policy, row) in Policy::ALL.into_iter().zip(&mut rows) {
                row.1.push(Plain::new(&plan, &wishes, policy).run());
            }
            rows[Policy::ALL.len()].1.push(Ours::new(&plan, &wishes, None).run());
        }
        let scenario = Self {
            name: name.to_owned(),
            replicas: plan.replicas,
            adapters: plan.adapters,
            seconds,
            share,
            rate,
            most: most(plan, &shares, rate, Window::Slo) / rate,
            rows: rows.into_iter().map(|(policy, outcomes)| Row::of(policy, plan, &outcomes)).collect(),
        };
        eprintln!("{}", scenario.told());
        scenario
    }

    fn told(&self) -> String {
        let goodput = |row: &Row| format!("{} {:.3}", row.policy, row.goodput());
        let rows: Vec<String> = self.rows.iter().map(goodput).collect();
        format!(
            "{}, {:.0} %, {:.2}/s: {} of {:.3}",
            self.name,
            100.0 * self.share,
            self.rate,
            rows.join(", "),
            self.most
        )
    }

    /// The gateway's own row.
    pub(crate) fn own(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.policy == OURS)
    }

    /// The best of the others.
    pub(crate) fn best_other(&self) -> f64 {
        self.rows.iter().filter(|row| row.policy != OURS).map(Row::goodput).fold(0.0, f64::max)
    }
}

impl Row {
    fn of(policy: &str, plan: &Plan, outcomes: &[Outcome]) -> Self {
        let middle = |of: &dyn Fn(&Outcome) -> f64| median(outcomes.iter().map(of));
        let per_good = |value: f64, of: &Outcome| value / of.good.max(1) as f64;
        let time = |share| move |of: &Outcome| quantile(of.times.iter().map(|(time, _)| *time), share);
        Self {
            policy: policy.to_owned(),
            goodput: outcomes.iter().map(Outcome::goodput).collect(),
            p50: middle(&time(0.5)),
            p99: middle(&time(0.99)),
            loads: middle(&|of| per_good(of.loads as f64, of)),
            busy: middle(&|of| per_good(of.busy.as_secs_f64(), of)),
            refused: middle(&|of| of.refused.iter().sum::<usize>() as f64 / of.offered().max(1) as f64),
            jain: middle(&|of| jain(&of.by_adapter)),
            tenants: Some(middle(&|of| jain(&by_tenant(plan, of)))),
            coldest: middle(&coldest),
        }
    }

    /// The share that was answered in time, of the middle seed.
    pub(crate) fn goodput(&self) -> f64 {
        median(self.goodput.iter().copied())
    }
}

/// Jain's index (Jain, Chiu, Hawe, 1984) of what each got of what it asked for.
fn jain(each: &[(usize, usize)]) -> f64 {
    let shares = each.iter().filter(|(asked, _)| *asked > 0).map(|(asked, good)| *good as f64 / *asked as f64);
    let (sum, squares, count) = shares
        .fold((0.0, 0.0, 0.0), |(sum, squares, count), share| (sum + share, squares + share * share, count + 1.0));
    if squares > 0.0 { sum * sum / (count * squares) } else { f64::NAN }
}

/// By tenant: asked for and answered in time.
fn by_tenant(plan: &Plan, of: &Outcome) -> Vec<(usize, usize)> {
    let mut tenants = vec![(0, 0); plan.tenants.max(1)];
    for (adapter, (asked, good)) in of.by_adapter.iter().enumerate() {
        let tenant = &mut tenants[plan.tenant(adapter)];
        *tenant = (tenant.0 + asked, tenant.1 + good);
    }
    tenants
}

fn coldest(of: &Outcome) -> f64 {
    let cold = &of.by_adapter[of.by_adapter.len() / 2..];
    let (asked, good) = cold.iter().fold((0, 0), |sum, adapter| (sum.0 + adapter.0, sum.1 + adapter.1));
    good as f64 / asked.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_where_all_get_alike() {
        let plan = Plan { adapters: 4, tenants: 2, ..Plan::usual() };
        let mut out = Outcome::new(&plan);
        out.by_adapter = vec![(10, 5), (100, 50), (2, 1), (0, 0)];
        assert!((jain(&out.by_adapter) - 1.0).abs() < 1e-9 && (coldest(&out) - 0.5).abs() < 1e-9);
        out.by_adapter = vec![(10, 10), (10, 0), (10, 0), (10, 0)];
        assert!((jain(&out.by_adapter) - 0.25).abs() < 1e-9 && coldest(&out) == 0.0);
        assert_eq!(by_tenant(&plan, &out), [(20, 10), (20, 0)], "adapters are the tenants' in turn");
        out.by_adapter = vec![(10, 10), (10, 0), (10, 0), (10, 10)];
        assert!((jain(&by_tenant(&plan, &out)) - 1.0).abs() < 1e-9, "one adapter for another is no tenant's loss");
    }
}
