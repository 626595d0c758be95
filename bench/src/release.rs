//! `cargo xtask bench release`: revisions switched back and forth under load, by a lone gateway and by three with their
//! driver. The work is that of the tests of `switches`; here its figures are kept.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::options::Kept;
use crate::report::{Bar, Origin, heading};
use crate::results::keep;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct ReleaseBench {
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReleaseResults {
    origin: Origin,
    one: Switches,
    three: Switches,
    /// Absent in runs that did not look at it.
    #[serde(default)]
    weights: Option<Weights>,
    /// Absent in runs that did not look at it.
    #[serde(default)]
    judged: Option<Judged>,
}

/// What became of candidates that a driver judged by itself, in virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Judged {
    /// Releases of a candidate that is as its current revision; how many of them were rolled back.
    equal: (u64, u64),
    /// Releases of one that fails one request of twenty; how many were rolled back in two intervals.
    failing: (u64, u64),
    /// Releases of one that takes twice as long; how many were rolled back in two intervals.
    slow: (u64, u64),
}

/// How well requests were shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Weights {
    requests: u64,
    /// How far a revision's share was from its weight. Unit: millionths.
    off: u64,
}

/// What came of so many switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Switches {
    switches: u64,
    requests: u64,
    failed: u64,
    /// Answered by the other revision, though they began after the command had returned.
    wrong: u64,
    /// From a command to the last request that reached the revision which it ended. Unit: microseconds.
    last_micros: u64,
    /// The same of half of the switches. Absent in runs that did not look at it.
    #[serde(default)]
    half_micros: Option<u64>,
    /// Requests a second.
    rate: u64,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The tests cannot be built or say nothing, or a request failed.
pub fn release(options: ReleaseBench) -> anyhow::Result<()> {
    let said = tested("tutti-tests", "switches", &["--ignored"])? + &tested("tutti-control-plane", "simulation", &[])?;
    let of = |what: &str| told(&said, what).with_context(|| format!("no figures of {what} in:\n{said}"));
    let results = ReleaseResults {
        origin: Origin::here("cargo xtask bench release".into(), vec![]),
        one: of("one gateway")?,
        three: of("three gateways")?,
        weights: Some(shared(&said).with_context(|| format!("no figures of weights in:\n{said}"))?),
        judged: Some(judged(&said).with_context(|| format!("no figures of candidates in:\n{said}"))?),
    };
    println!("{}", results.markdown());
    keep(&options.kept.out, "release", &results)?;
    let bad = |of: Switches| of.failed + of.wrong;
    ensure!(bad(results.one) + bad(results.three) == 0, "requests failed, or went wrong");
    Ok(())
}

/// What tests say of what they have seen.
fn tested(package: &str, test: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--quiet", "--release", "--package", package, "--test", test, "--"]).args(arguments);
    cargo.args(["--nocapture", "--test-threads", "1"]).stdout(Stdio::inherit());
    let said = cargo.output().context("cargo test cannot be run")?.stderr;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The figures in a line such as `one gateway: 100 switches, 14304 requests, 0 failed, 0 wrong, 8000 us to the last, 900 us in half, 2000 a second`.
fn told(said: &str, what: &str) -> Option<Switches> {
    let mut figures = figures(said, what)?;
    Some(Switches {
        switches: figures.next()??,
        requests: figures.next()??,
        failed: figures.next()??,
        wrong: figures.next()??,
        last_micros: figures.next()??,
        half_micros: Some(figures.next()??),
        rate: figures.next()??,
    })
}

/// The figures in a line such as `weights: 10000 requests, 37 millionths off`.
fn shared(said: &str) -> Option<Weights> {
    let mut figures = figures(said, "weights")?;
    Some(Weights { requests: figures.next()??, off: figures.next()?? })
}

/// The figures in lines such as `5 % errors: 200 releases, 199 rolled back in two intervals`.
fn judged(said: &str) -> Option<Judged> {
    let of = |what: &str| {
        let mut figures = figures(said, what)?;
        Some((figures.next()??, figures.next()??))
    };
    Some(Judged { equal: of("an equal candidate")?, failing: of("5 % errors")?, slow: of("twice as slow")? })
}

/// The numbers of the line of this name.
fn figures<'s>(said: &'s str, what: &str) -> Option<impl Iterator<Item = Option<u64>> + 's> {
    let line = said.lines().find_map(|line| line.split_once(&format!("{what}: ")).map(|(_, figures)| figures))?;
    Some(line.split(", ").map(|figure| figure.split(' ').next()?.parse::<u64>().ok()))
}

impl ReleaseResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Revisions switched under load", &self.origin);
        text += "`tutti traffic risk --to REVISION` and `tutti rollback risk` in turn, of two revisions on pools of their own (simulated replicas), \
                 under clients that ask 2,000 times a second together, half of them for streams, as far as the machine lets them. Wrong: \
                 answered by the other revision, though asked after the command had returned. The time is that from the command's \
                 start, its process included, to the last request that reached the revision which it ended: the longest of all switches.\n\n";
        for (what, of) in [("one gateway", self.one), ("three gateways and their driver", self.three)] {
            text +=
                &Bar::new(&format!("failed of {} requests, {what}", of.requests), Some(of.failed as f64), 0.0).line();
            text += &Bar::new(
                &format!("on a wrong revision, {} switches, {what}", of.switches),
                Some(of.wrong as f64),
                0.0,
            )
            .line();
            let last = of.last_micros as f64 / 1e3;
            let name = format!("ms to the last dispatch, {what}, at {} a second", of.rate);
            text += &Bar::new(&name, Some(last), 1_000.0).aim(100.0).line();
            if let Some(half) = of.half_micros {
                let name = format!("the same of half of the switches, {what}");
                text += &Bar::new(&name, Some(half as f64 / 1e3), 1_000.0).aim(100.0).line();
            }
        }
        if let Some(Weights { requests, off }) = self.weights {
            let what = format!("% off its weight (13 %), over {requests} requests that are not sticky");
            text += &Bar::new(&what, Some(off as f64 / 1e4), 0.1).line();
        }
        if let Some(Judged { equal, failing, slow }) = self.judged {
            let percent = |(of, ended): (u64, u64)| 100.0 * ended as f64 / of.max(1) as f64;
            let what = format!("% of {} equal candidates rolled back, in simulation", equal.0);
            text += &Bar::new(&what, Some(percent(equal)), 1.0).line();
            for (what, of) in [("5 % errors", failing), ("twice the time", slow)] {
                let what =
                    format!("% of {} candidates with {what} that two intervals did not end, in simulation", of.0);
                text += &Bar::new(&what, Some(100.0 - percent(of)), 0.0).line();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_wherever_the_harness_prints_them() {
        let said = "\nrunning\none gateway: 100 switches, 14304 requests, 0 failed, 1 wrong, 8123 us to the last, 900 us in half, 1999 a second\n.";
        let (last_micros, half_micros) = (8123, Some(900));
        let figures =
            Switches { switches: 100, requests: 14304, failed: 0, wrong: 1, last_micros, half_micros, rate: 1999 };
        assert_eq!(told(said, "one gateway"), Some(figures));
        assert_eq!(told(said, "three gateways"), None);
        let weights = Weights { requests: 10_000, off: 37 };
        assert_eq!(shared("weights: 10000 requests, 37 millionths off\n"), Some(weights));
        let said = "an equal candidate: 9 releases, 1 rolled back, 8 promoted\n5 % errors: 5 releases, 4 rolled back\ntwice as slow: 3 releases, 2 rolled back";
        assert_eq!(judged(said), Some(Judged { equal: (9, 1), failing: (5, 4), slow: (3, 2) }));
    }
}
