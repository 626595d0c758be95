//! `cargo xtask bench accept`: how sockets reach cores, by SO_REUSEPORT on each core or handed over by one acceptor.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use tutti_simulator::{Config, Model, Running, Simulator};

use crate::load::{self, Pace, Plan};
use crate::report::{Origin, heading, short, spread};
use crate::results::keep;
use crate::{cpu, http, proxies};

/// The values of tutti's hidden `--accept`.
const SHAPES: [&str; 2] = ["reuseport", "handoff"];
/// Connections of the loads.
const CONNECTIONS: [usize; 3] = [4, 32, 1000];

/// Options of the accept benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct AcceptBench {
    /// A short run that shows the shape, and keeps nothing.
    #[arg(long)]
    pub quick: bool,
    /// Rounds, each with a new process for every shape and number of connections.
    #[arg(long, default_value_t = 7)]
    pub rounds: u32,
    /// Seconds that are measured each time.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// A tutti binary built in release mode; built first if absent.
    #[arg(long)]
    pub tutti: Option<PathBuf>,
    /// The folder for RESULTS.md and results/.
    #[arg(long, default_value = "bench")]
    pub out: PathBuf,
}

/// A run of the accept benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcceptResults {
    /// Where it was taken.
    pub origin: Origin,
    /// One for each shape and number of connections.
    pub rows: Vec<Row>,
}

/// A shape's figures at a number of connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The value of `--accept`.
    pub shape: String,
    /// Connections open at once.
    pub connections: usize,
    /// One for each round.
    pub rounds: Vec<Round>,
}

/// One round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Round {
    /// Requests a second.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
    /// CPU microseconds a request.
    pub cpu_micros: f64,
    /// CPU of the busiest core's thread over the mean of all cores' threads: 1 is even, the number of cores is one alone.
    pub imbalance: f64,
}

/// Runs the benchmark, prints its table and, unless it was a quick one, keeps it.
///
/// # Errors
/// tutti cannot be built or does not start, or requests fail.
pub fn accept(options: AcceptBench) -> anyhow::Result<()> {
    load::raise_file_limit();
    let (rounds, seconds) = if options.quick { (2, 0.5) } else { (options.rounds, options.seconds) };
    let program = options.tutti.clone().map_or_else(proxies::build_tutti, Ok)?;
    let replica = Simulator::start(Config::instant(Model::chat("m", 1)))?;
    let mut rows: Vec<Row> = Vec::new();
    for connections in CONNECTIONS {
        rows.extend(SHAPES.map(|shape| Row { shape: shape.into(), connections, rounds: Vec::new() }));
    }
    let mut version = String::new();
    for _ in 0..rounds {
        for row in &mut rows {
            let (round, said) = measure(&program, &replica, row, seconds)?;
            eprintln!("{:4} {:9} {:>6.0}/s, imbalance {:.2}", row.connections, row.shape, round.rate, round.imbalance);
            row.rounds.push(round);
            version = said;
        }
    }
    let origin = Origin::here("cargo xtask bench accept".into(), vec![version]);
    let results = AcceptResults { origin, rows };
    println!("{}", results.markdown());
    if options.quick { Ok(()) } else { keep(&options.out, "accept", &results) }
}

/// A process of its own for each measurement: where its connections land is drawn anew.
fn measure(program: &Path, replica: &Running, row: &Row, seconds: f64) -> anyhow::Result<(Round, String)> {
    let proxy = proxies::tutti(program, replica.addr(), &["--accept", &row.shape])?;
    let plan = Plan {
        addr: proxy.addr,
        request: http::post(&proxy.addr.to_string(), "/v1/chat/completions", &http::chat_body("m", 1024)),
        connections: row.connections,
        pace: Pace::Closed,
        warm_up: Duration::from_millis(300),
        duration: Duration::from_secs_f64(seconds),
    };
    let report = load::run(&plan, || cpu::thread_times(proxy.pid()))?;
    ensure!(report.errors == 0, "{} of {} requests failed", report.errors, report.requests);
    let spent = |(tid, after): (&u32, &Duration)| {
        after.saturating_sub(report.before.get(tid).copied().unwrap_or_default()).as_secs_f64()
    };
    let mut threads: Vec<f64> = report.after.iter().map(spent).collect();
    let total: f64 = threads.iter().sum();
    // The cores' threads are the busiest ones; the others only wait.
    threads.sort_by(|a, b| b.total_cmp(a));
    threads.truncate(std::thread::available_parallelism()?.get());
    let mean = threads.iter().sum::<f64>() / threads.len() as f64;
    let round = Round {
        rate: report.rate(),
        p50: report.micros(0.5),
        p99: report.micros(0.99),
        cpu_micros: total * 1e6 / report.requests.max(1) as f64,
        imbalance: threads[0] / mean.max(f64::MIN_POSITIVE),
    };
    Ok((round, proxy.version.clone()))
}

impl AcceptResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("How sockets reach cores", &self.origin);
        let _ = write!(
            text,
            "The same load, closed loop, with `--accept reuseport` (each core accepts for itself) and `--accept handoff` \
             (one acceptor gives each socket to the least loaded core); a new process each time; the median of {} rounds \
             (least–greatest). Imbalance: CPU of the busiest core's thread over their mean, 1 is even.\n\n",
            self.rows.first().map_or(0, |r| r.rounds.len())
        );
        text += "| connections | accept | requests/s | p50 µs | p99 µs | CPU µs a request | imbalance |\n";
        text += "|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let figures = |of: fn(&Round) -> f64| spread(row.rounds.iter().map(of));
            let worst = row.rounds.iter().map(|r| r.imbalance).fold(0.0, f64::max);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {}, worst {} |",
                row.connections,
                row.shape,
                figures(|r| r.rate),
                figures(|r| r.p50),
                figures(|r| r.p99),
                figures(|r| r.cpu_micros),
                short(crate::report::median(row.rounds.iter().map(|r| r.imbalance))),
                short(worst),
            );
        }
        text
    }
}
