//! `cargo xtask bench gateway`: what a request costs through nginx, haproxy and tutti, and what they add to it.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tutti_simulator::{Config, Model, Simulator};

use crate::contender::Contender;
use crate::cpu::OneCore;
use crate::http;
use crate::load::{self, Pace};
use crate::options::{Kept, TuttiProgram};
use crate::own::Own;
use crate::proxies;
use crate::report::{Origin, heading, median, short, spread};
use crate::results::keep;
use crate::target::{Load, Target, targets, versions};

/// Bytes of the chat request's body.
const BODY_BYTES: usize = 1024;
/// Connections of the busy load.
const CONNECTIONS: usize = 32;

/// Options of the gateway benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewayBench {
    /// A short run that shows the shape, and keeps nothing.
    #[arg(long)]
    pub quick: bool,
    /// Rounds, each with every contender in turn.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds that each contender is measured under load in a round, and half of it by each of the other loads.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Requests a second of the open loop.
    #[arg(long, default_value_t = 5000.0)]
    pub rate: f64,
    /// Workers of nginx, threads of haproxy, cores of tutti.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(2, usize::from))]
    pub cores: usize,
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Measure the peers alone.
    #[arg(long)]
    pub without_tutti: bool,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the gateway benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GatewayResults {
    /// Where it was taken.
    pub origin: Origin,
    /// Workers a contender.
    pub cores: usize,
    /// Requests a second of the open loop.
    pub rate: f64,
    /// One for each contender; the first goes to the replica without one.
    pub rows: Vec<Row>,
    /// Contenders that are not installed.
    pub absent: Vec<String>,
}

/// A contender's figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Bytes after its start, all its processes together; 0 for none.
    pub memory_bytes: u64,
    /// Under load, one for each round.
    pub busy: Vec<Busy>,
    /// p50 in microseconds with one connection, everything on one core, one for each round.
    pub single_p50: Vec<f64>,
    /// The same with every thread where the scheduler puts it.
    pub single_free_p50: Vec<f64>,
    /// At a given rate, counted from when each request was due, one for each round.
    pub open: Vec<Open>,
}

/// One round of the open loop.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Open {
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
}

/// One round under load.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Busy {
    /// CPU microseconds a request, user and system, of the contender's processes.
    pub cpu_micros: f64,
    /// Requests a second.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
}

/// Runs the benchmark, prints its table and, unless it was a quick one, keeps it.
///
/// # Errors
/// tutti cannot be built, a contender does not start, or requests fail.
pub fn gateway(options: GatewayBench) -> anyhow::Result<()> {
    load::raise_file_limit();
    let (rounds, seconds) = if options.quick { (2, 1.0) } else { (options.rounds, options.seconds) };
    let replica = Simulator::start(Config::instant(Model::chat(http::MODEL, 1)))?;
    let (targets, absent) = targets(replica.addr(), contenders(&options, replica.addr())?);
    let mut rows: Vec<Row> = targets.iter().map(Row::new).collect();
    let count = targets.len();
    for round in 0..rounds as usize {
        for turn in 0..count {
            // Another one begins in each round, so that none always follows the same.
            let at = (round + turn) % count;
            measure(&targets[at], &mut rows[at], options.rate, seconds)?;
            eprintln!("round {} {}", round + 1, rows[at].last());
        }
    }
    let results = GatewayResults {
        origin: Origin::here("cargo xtask bench gateway".into(), versions(&targets)),
        cores: options.cores,
        rate: options.rate,
        rows,
        absent,
    };
    println!("{}", results.markdown());
    if options.quick { Ok(()) } else { keep(&options.kept.out, "gateway", &results) }
}

fn contenders(options: &GatewayBench, replica: SocketAddr) -> anyhow::Result<Vec<Contender>> {
    let mut contenders = vec![proxies::nginx(replica, options.cores)?, proxies::haproxy(replica, options.cores)?];
    if !options.without_tutti {
        let program = options.tutti.get()?;
        let own = Own { cores: Some(options.cores), ..Own::before(&program, &replica) };
        contenders.push(Contender::Ready(own.start()?));
    }
    Ok(contenders)
}

/// One round of one contender.
fn measure(target: &Target, row: &mut Row, rate: f64, seconds: f64) -> anyhow::Result<()> {
    let load = |connections, pace, seconds| target.measure(Load { connections, body_bytes: BODY_BYTES, pace, seconds });
    let busy = load(CONNECTIONS, Pace::Closed, seconds)?;
    // Connections enough that none is waited for.
    let open = load(2 * CONNECTIONS, Pace::Poisson(rate), seconds / 2.0)?;
    let free = load(1, Pace::Closed, seconds / 2.0)?;
    let held = OneCore::hold(std::process::id());
    let single = load(1, Pace::Closed, seconds / 2.0)?;
    drop(held);
    target.tidy()?;
    row.busy.push(Busy { cpu_micros: busy.cpu_micros, rate: busy.rate, p50: busy.p50, p99: busy.p99 });
    row.open.push(Open { p50: open.p50, p99: open.p99 });
    row.single_free_p50.push(free.p50);
    row.single_p50.push(single.p50);
    Ok(())
}

impl Row {
    fn new(target: &Target) -> Self {
        Row {
            name: target.name.to_owned(),
            memory_bytes: target.memory_bytes,
            busy: Vec::new(),
            single_p50: Vec::new(),
            single_free_p50: Vec::new(),
            open: Vec::new(),
        }
    }

    /// The last round as a line.
    fn last(&self) -> String {
        let busy = self.busy.last().map_or((f64::NAN, f64::NAN), |b| (b.cpu_micros, b.rate));
        let last = |of: &[f64]| of.last().copied().unwrap_or(f64::NAN);
        format!(
            "{:8} {:>6.1} µs CPU, {:>6.0}/s; one connection {:.0} and {:.0} µs",
            self.name,
            busy.0,
            busy.1,
            last(&self.single_p50),
            last(&self.single_free_p50)
        )
    }
}

impl GatewayResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Gateway: what a request costs", &self.origin);
        let _ = write!(
            text,
            "A {BODY_BYTES}-byte chat body, an answer of about 300 bytes that costs the replica nothing; contenders in \
             turn; the median of {} rounds (least–greatest). {} workers or threads each; connections to the replica kept \
             alive; bodies held in memory; a JSON access log line a request in a file (nginx in 64 KiB or 100 ms, haproxy \
             line by line, as it has no buffer for it). nginx and haproxy forward without looking at the body; tutti \
             parses it, routes by its model and counts.\n\n",
            self.rows.first().map_or(0, |r| r.busy.len()),
            self.cores
        );
        text += "| | CPU µs a request, 32 connections | × nginx | requests/s | p50 µs | p99 µs | memory at rest |\n";
        text += "|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let figures = |of: fn(&Busy) -> f64| spread(row.busy.iter().map(of));
            let is_direct = row.memory_bytes == 0;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                if is_direct { "–".to_owned() } else { figures(|b| b.cpu_micros) },
                self.ratio_to_nginx(row).map_or("–".to_owned(), short),
                figures(|b| b.rate),
                figures(|b| b.p50),
                figures(|b| b.p99),
                if is_direct { "–".to_owned() } else { format!("{} MB", short(row.memory_bytes as f64 / 1e6)) },
            );
        }
        text += &self.latencies();
        for why in &self.absent {
            let _ = writeln!(text, "\nNot measured: {why}.");
        }
        text
    }

    /// The loads that do not fill the machine.
    fn latencies(&self) -> String {
        let mut text = format!(
            "\nOne connection, as p50 added to the direct way's: with load, replica and contender on one core, where a \
             request costs its work and its switches and nothing depends on where threads wake up; and as the scheduler \
             places them. Open loop: {} requests a second at random (Poisson) times, latency from when each was due.\n\n\
             | | one core: added µs | free: added µs | open loop: p50 µs | p99 µs |\n|---|---|---|---|---|\n",
            short(self.rate)
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.name,
                self.added(row, |r| &r.single_p50),
                self.added(row, |r| &r.single_free_p50),
                spread(row.open.iter().map(|o| o.p50)),
                spread(row.open.iter().map(|o| o.p99)),
            );
        }
        text
    }

    /// The median of the rounds' ratios.
    fn ratio_to_nginx(&self, row: &Row) -> Option<f64> {
        let nginx = self.rows.iter().find(|r| r.name == "nginx").filter(|_| row.memory_bytes > 0)?;
        Some(median(row.busy.iter().zip(&nginx.busy).map(|(own, base)| own.cpu_micros / base.cpu_micros)))
    }

    /// What it adds to the direct way's p50, round by round; for the direct way, that itself.
    fn added(&self, row: &Row, of: fn(&Row) -> &[f64]) -> String {
        match self.rows.first() {
            Some(direct) if direct.name != row.name => {
                spread(of(row).iter().zip(of(direct)).map(|(own, base)| own - base))
            }
            _ => format!("({} in all)", spread(of(row).iter().copied())),
        }
    }
}
