//! `cargo xtask bench signal`: a pool that is scaled in virtual time, by the real signal and by others, through the
//! arithmetic of Kubernetes' autoscaler; and what merging a large fleet costs.

mod hpa;
mod merge;
mod policy;
mod world;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use self::hpa::{Hpa, SYNC};
use self::merge::{Merged, merge};
use self::policy::Policy;
use self::world::{SERVICE, SLO, SLOTS, STEP, World, requests};
use crate::options::Kept;
use crate::plot::{Dot, Panel, Plot};
use crate::report::{Bar, Origin, heading, median, short, spread};
use crate::results::keep;

/// The picture's file.
pub(crate) const PICTURE: &str = "results/signal.svg";
/// How long replicas take to work. Unit: seconds.
const DELAYS: [f64; 4] = [20.0, 60.0, 180.0, 420.0];
/// Replicas at least, and at most.
const REPLICAS: (u32, u32) = (1, 60);

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct SignalBench {
    /// Seeds, each with every policy on the same requests.
    #[arg(long, default_value_t = 5)]
    pub seeds: u64,
    /// Seconds of the pool's day.
    #[arg(long, default_value_t = 14_400.0)]
    pub seconds: f64,
    /// Gateways of the fleet that is merged.
    #[arg(long, default_value_t = 200)]
    pub gateways: usize,
    /// Its busy revisions.
    #[arg(long, default_value_t = 200)]
    pub revisions: usize,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A day under one policy.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Day {
    /// The share of requests whose first token came within the SLO.
    good: f64,
    /// Replica-hours.
    hours: f64,
    /// How often it went up after down, or down after up.
    turns: u64,
    /// Replicas that came and went.
    changes: u64,
}

/// The days of one policy, one a seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Days {
    policy: String,
    delay: f64,
    days: Vec<Day>,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SignalResults {
    origin: Origin,
    seeds: u64,
    seconds: f64,
    rows: Vec<Days>,
    merged: Merged,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// Results cannot be read or written.
pub fn signal(options: SignalBench) -> anyhow::Result<()> {
    let SignalBench { seeds, seconds, gateways, revisions, kept } = options;
    let mut rows = Vec::new();
    for delay in DELAYS {
        for (name, policy) in Policy::all() {
            let days = (0..seeds).map(|seed| day(policy(), delay, seconds, seed)).collect();
            rows.push(Days { policy: name.to_owned(), delay, days });
        }
    }
    let origin = Origin::here("cargo xtask bench signal".into(), Vec::new());
    let results = SignalResults { origin, seeds, seconds, rows, merged: merge(gateways, revisions) };
    println!("{}", results.markdown());
    keep(&kept.out, "signal", &results)
}

fn day(mut policy: Policy, delay: f64, seconds: f64, seed: u64) -> Day {
    let all = requests(seed, seconds);
    let (mut world, mut hpa) = (World::new(delay, 2), Hpa::new(REPLICAS.0, REPLICAS.1));
    let (mut next, mut sees, mut syncs) = (0, 0.0, SYNC);
    while world.now < seconds {
        let first = next;
        while all.get(next).is_some_and(|(at, _)| *at < world.now + STEP) {
            next += 1;
        }
        world.step(&all[first..next]);
        if world.now >= sees {
            policy.see(&mut world);
            sees += 1.0;
        }
        if world.now >= syncs {
            let wanted = hpa.decide(world.now, world.replicas(), policy.metric(&world));
            world.scale(wanted);
            syncs += SYNC;
        }
    }
    Day {
        good: world.good as f64 / world.arrived.max(1) as f64,
        hours: world.paid / 3_600.0,
        turns: world.turns,
        changes: world.changes,
    }
}

impl SignalResults {
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Autoscaling signal", &self.origin);
        let _ = write!(
            text,
            "A pool of replicas with {SLOTS} slots each, requests that take {SERVICE} s of one (log-normal, σ 0.8), a day of {} h \
             with a slow wave, a morning that comes at once and bursts of two minutes; {} seeds, every policy on the same \
             requests, in virtual time. The autoscaler is Kubernetes' arithmetic (every {SYNC} s, tolerance 10 %, down by the \
             highest of five minutes), 1 to {} replicas. Good is a first token within {SLO} s. `ours` is what `tutti \
             scaler-metrics` answers KEDA. CPU is the share of busy slots at 70 %; requests/s knows what a replica can do at \
             80 % of its slots; P99 alone is that of the time to the first token, as a `Value`; queue alone wants one waiting \
             request a slot.\n\n",
            short(self.seconds / 3_600.0),
            self.seeds,
            REPLICAS.1,
        );
        text += "| start-up | policy | good, % | replica-hours | turns | replicas that came or went |\n|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let of = |pick: fn(&Day) -> f64| spread(row.days.iter().map(pick));
            let _ = writeln!(
                text,
                "| {} s | {} | {} | {} | {} | {} |",
                row.delay,
                row.policy,
                of(|day| day.good * 100.0),
                of(|day| day.hours),
                of(|day| day.turns as f64),
                of(|day| day.changes as f64),
            );
        }
        let Merged { gateways, revisions, core, answer_ms, quantiles_ms, peak, snapshot } = &self.merged;
        let _ = write!(
            text,
            "\n![Share of good first tokens and replica-hours by policy]({PICTURE})\n\nMerging {gateways} gateways with \
             {revisions} busy revisions each, heard once a second ({} KiB a word in the mean): {} % of a core; an answer for a \
             pool {} ms, all quantiles for Prometheus {} ms.\n\n",
            snapshot / 1024,
            short(core * 100.0),
            short(*answer_ms),
            short(*quantiles_ms),
        );
        text += &Bar::new("merging, % of a core", Some(core * 100.0), 50.0).aim(15.0).line();
        text += &Bar::new("peak memory, MB, the play included", Some(*peak as f64 / 1e6), 500.0).line();
        for delay in DELAYS {
            let of = |policy: &str, pick: fn(&Day) -> f64| {
                let row = self.rows.iter().find(|row| row.delay == delay && row.policy == policy);
                row.map_or(f64::NAN, |row| median(row.days.iter().map(pick)))
            };
            for other in ["queue alone", "P99 alone"] {
                let gain = (of("ours", |day| day.good) - of(other, |day| day.good)) * 100.0;
                let cost = of("ours", |day| day.hours) / of(other, |day| day.hours);
                let _ = writeln!(
                    text,
                    "- start-up {delay} s, against {other}: {} points more good, {} × its replica-hours.",
                    short(gain),
                    short(cost)
                );
            }
        }
        text
    }

    pub(crate) fn picture(&self) -> String {
        let panels = DELAYS.iter().flat_map(|delay| {
            let panel = |title: String, pick: fn(&Day) -> f64| {
                let of = self.rows.iter().filter(|row| row.delay == *delay);
                let dots = of.map(|row| Dot {
                    name: row.policy.clone(),
                    own: row.policy == "ours",
                    values: row.days.iter().map(pick).collect(),
                });
                Panel { title, dots: dots.collect() }
            };
            [
                panel(format!("Start-up {delay} s: first tokens that came too late, %"), |day| {
                    (1.0 - day.good) * 100.0
                }),
                panel(format!("Start-up {delay} s: replica-hours"), |day| day.hours),
            ]
        });
        Plot { title: "A pool's day by what scales it; less is better".to_owned(), panels: panels.collect() }.svg()
    }
}
