//! `cargo xtask bench rounds`: gateways that take each other's place, and gateways that are restarted, fifty times each
//! under load. The work is that of the tests of `take_over`, in more rounds; here its figures are kept.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::options::Kept;
use crate::report::{Bar, Origin, heading};
use crate::results::keep;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct RoundsBench {
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RoundsResults {
    origin: Origin,
    take_over: Rounds,
    sigterm: Rounds,
}

/// What came of so many rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Rounds {
    rounds: u64,
    requests: u64,
    failed: u64,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The tests cannot be built or say nothing, or a request failed.
pub fn rounds(options: RoundsBench) -> anyhow::Result<()> {
    let tests = ["test", "--quiet", "--package", "tutti-tests", "--test", "take_over"];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(tests).args(["--", "--ignored", "--nocapture", "--test-threads", "1"]).stderr(Stdio::inherit());
    let said = String::from_utf8_lossy(&cargo.output().context("cargo test cannot be run")?.stdout).into_owned();
    let of = |what: &str| told(&said, what).with_context(|| format!("no figures of {what} in:\n{said}"));
    let results = RoundsResults {
        origin: Origin::here("cargo xtask bench rounds".into(), vec![]),
        take_over: of("take-over")?,
        sigterm: of("SIGTERM")?,
    };
    println!("{}", results.markdown());
    keep(&options.kept.out, "rounds", &results)?;
    ensure!(results.take_over.failed + results.sigterm.failed == 0, "requests failed");
    Ok(())
}

/// The figures in a line such as `take-over: 50 rounds, 14304 requests, 0 failed`.
fn told(said: &str, what: &str) -> Option<Rounds> {
    let line = said.lines().find_map(|line| line.split_once(&format!("{what}: ")).map(|(_, figures)| figures))?;
    let mut figures = line.split(", ").map(|figure| figure.split(' ').next()?.parse::<u64>().ok());
    Some(Rounds { rounds: figures.next()??, requests: figures.next()??, failed: figures.next()?? })
}

impl RoundsResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Another gateway in its place", &self.origin);
        text += "A gateway that serves 8 clients, half of them streams, each of which asks again as soon as it has its answer, \
                 on a connection that it keeps. Take-over: a new process with `--take-over`, and the old one ends. SIGTERM: \
                 two gateways, restarted in turn; clients connect to those whose `/readyz` says 200, looked at every 50 ms, \
                 with a `shutdownDelay` of 500 ms.\n\n";
        for (what, rounds) in [("take-overs", self.take_over), ("restarts by SIGTERM", self.sigterm)] {
            let what = format!("failed of {} requests, {} {what}", rounds.requests, rounds.rounds);
            text += &Bar::new(&what, Some(rounds.failed as f64), 0.0).line();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_wherever_the_harness_prints_them() {
        let said = "\nrunning 2 tests\ntake-over: 50 rounds, 14304 requests, 0 failed\n.test SIGTERM: 50 rounds, 9 requests, 2 failed\n.";
        assert_eq!(told(said, "take-over"), Some(Rounds { rounds: 50, requests: 14304, failed: 0 }));
        assert_eq!(told(said, "SIGTERM"), Some(Rounds { rounds: 50, requests: 9, failed: 2 }));
        assert_eq!(told(said, "else"), None);
    }
}
