//! What no scheduler can do better: a linear program.
//!
//! Of each adapter `a`, asked for `λₐ` times a second, `xₐ` requests a second are served by `yₐ` loads a second. A request
//! takes a slot for `s`, so a replica with `k` slots works `s/k` for it; a load takes a replica for `S`; of those that a load
//! can serve there are at most `nₐ`. With `R` replicas:
//!
//! ```text
//! maximise  Σ xₐ
//! where     Σ (xₐ·s/k + yₐ·S) ≤ R
//!           xₐ ≤ nₐ·yₐ
//!           0 ≤ xₐ ≤ λₐ
//! ```
//!
//! Of an optimum `yₐ = xₐ/nₐ`, so a request of `a` costs `s/k + S/nₐ` seconds of a replica, whoever else is served: the
//! program is a knapsack of things that can be cut, and serving the cheapest first solves it. The capacity is the largest
//! rate of which it serves all.

use std::time::Duration;

use super::plan::Plan;

/// What one load can serve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Window {
    /// All that come in a run of so many seconds, as far as a replica can serve them: each adapter that is asked for at all
    /// is loaded once by each replica that holds it.
    Run(f64),
    /// What comes early enough before the load and while it is of use that all are answered in time. A replica that is done
    /// goes to another adapter; one that waits for more to come costs more a request than it saves (as long as what may
    /// gather is worth more than the load, `SLO − 2s ≥ S`). In the mean, and for a scheduler that serves whoever has come: one
    /// that let lone requests fall to serve those that come together could get a little more.
    Slo,
}

impl Window {
    /// `nₐ`, where `rate` come in a second.
    fn most(self, plan: &Plan, rate: f64) -> f64 {
        let service = plan.service.as_secs_f64() / f64::from(plan.slots);
        match self {
            // Of the runs in which it is asked for at all: so many.
            Self::Run(seconds) => {
                let come = rate * seconds;
                let served = (seconds - plan.load.as_secs_f64()) / service;
                (come / -(-come).exp_m1()).min(served.max(1.0))
            }
            // The first is answered `slo` after it came at the latest, when the load has ended `s` ago; others come until the
            // last begins: n = 1 + λ·(slo − 2s + n·s/k).
            Self::Slo => {
                let before = plan.slo.saturating_sub(2 * plan.service).as_secs_f64();
                let free = 1.0 - rate * service;
                if free > 0.0 { (1.0 + rate * before) / free } else { f64::INFINITY }
            }
        }
    }
}

/// The most requests of a second that can be served of these shares of a rate.
pub(crate) fn most(plan: &Plan, shares: &[f64], rate: f64, window: Window) -> f64 {
    let work = |of: Duration| of.as_secs_f64();
    let each = shares.iter().map(|share| {
        let rate = share * rate;
        (work(plan.service) / f64::from(plan.slots) + work(plan.load) / window.most(plan, rate), rate)
    });
    let mut each: Vec<(f64, f64)> = each.collect();
    each.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut left, mut served) = (plan.replicas as f64, 0.0);
    for (cost, rate) in each {
        let of = rate.min(left / cost);
        served += of;
        left -= of * cost;
    }
    served
}

/// The largest rate of which all can be served. Unit: requests a second.
pub(crate) fn capacity(plan: &Plan, shares: &[f64], window: Window) -> f64 {
    // A second of all replicas serves no more than that without any load.
    let (mut low, mut high) = (0.0, plan.replicas as f64 * f64::from(plan.slots) / plan.service.as_secs_f64());
    for _ in 0..60 {
        let rate = (low + high) / 2.0;
        let all = most(plan, shares, rate, window) > rate * (1.0 - 1e-9);
        *if all { &mut low } else { &mut high } = rate;
    }
    low
}

#[cfg(test)]
mod tests {
    use super::super::demand::zipf;
    use super::super::plan::Plan;
    use super::*;

    #[test]
    fn each_adapter_is_loaded_once_in_a_run() {
        let plan = Plan::usual();
        let capacity = capacity(&plan, &zipf(200, 1.0), Window::Run(3600.0));
        // 20 · 3600 s of replicas, 200 loads of 5 s, 2 s a request; a load more for each replica that holds the hottest ones.
        let simple = (20.0 * 3600.0 - 200.0 * 5.0) / 2.0 / 3600.0;
        assert!(capacity < simple && capacity > 0.999 * simple, "{capacity} of {simple}");
    }

    #[test]
    fn what_is_alone_in_its_window_costs_a_load_each() {
        let plan = Plan { replicas: 1, ..Plan::usual() };
        let shares = vec![1e-4; 10_000];
        let most = most(&plan, &shares, 1.0, Window::Slo);
        assert!((most - 1.0 / 7.0).abs() < 1e-3, "a load and a request: {most}");
        let one = capacity(&plan, &[1.0], Window::Slo);
        assert!((one - 0.5).abs() < 1e-3, "one adapter alone is loaded once: {one}");
    }

    #[test]
    fn the_cheapest_are_served_first() {
        let plan = Plan { replicas: 2, ..Plan::usual() };
        // The hot one uses a replica; what is left serves of the cold ones a load and a request each.
        let shares: Vec<f64> = std::iter::once(0.5).chain(vec![0.5 / 100_000.0; 100_000]).collect();
        let most = most(&plan, &shares, 1.0, Window::Slo);
        assert!((most - (0.5 + 1.0 / 7.0)).abs() < 0.01, "{most}");
    }
}
