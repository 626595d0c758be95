//! `cargo xtask bench gateway`: what a request costs through nginx, haproxy and tutti, and what they add to it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use tutti_simulator::{Config, Model, Simulator};

use crate::cpu::OneCore;
use crate::load::{self, Pace, Plan};
use crate::proxies::{self, Contender, Proxy};
use crate::report::{Origin, heading, median, short, spread};
use crate::results::keep;
use crate::{cpu, http};

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
    /// A tutti binary built in release mode; built first if absent.
    #[arg(long)]
    pub tutti: Option<PathBuf>,
    /// Measure the peers alone.
    #[arg(long)]
    pub without_tutti: bool,
    /// The folder for RESULTS.md and results/.
    #[arg(long, default_value = "bench")]
    pub out: PathBuf,
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
    /// Resident bytes after its start, all its processes together; 0 for none.
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

/// Where a load goes, and whose CPU it costs.
struct Target {
    row: Row,
    addr: SocketAddr,
    proxy: Option<Proxy>,
}

/// Runs the benchmark, prints its table and, unless it was a quick one, keeps it.
///
/// # Errors
/// tutti cannot be built, a contender does not start, or requests fail.
pub fn gateway(options: GatewayBench) -> anyhow::Result<()> {
    load::raise_file_limit();
    let (rounds, seconds) = if options.quick { (2, 1.0) } else { (options.rounds, options.seconds) };
    let replica = Simulator::start(Config::instant(Model::chat("m", 1)))?;
    let (mut targets, absent) = contenders(&options, replica.addr())?;
    let count = targets.len();
    for round in 0..rounds as usize {
        for turn in 0..count {
            // Another one begins in each round, so that none always follows the same.
            let target = &mut targets[(round + turn) % count];
            let busy = busy(target, seconds)?;
            let open = open(target, options.rate, seconds / 2.0)?;
            let free = single(target, seconds / 2.0)?;
            let held = OneCore::hold(std::process::id());
            let single = single(target, seconds / 2.0)?;
            drop(held);
            eprintln!(
                "round {} {:8} {:>6.1} µs CPU, {:>6.0}/s; one connection {single:.0} and {free:.0} µs",
                round + 1,
                target.row.name,
                busy.cpu_micros,
                busy.rate
            );
            if let Some(proxy) = &target.proxy {
                proxy.empty_logs()?;
            }
            target.row.busy.push(busy);
            target.row.open.push(open);
            target.row.single_p50.push(single);
            target.row.single_free_p50.push(free);
        }
    }
    let versions = targets.iter().filter_map(|t| Some(t.proxy.as_ref()?.version.clone())).collect();
    let results = GatewayResults {
        origin: Origin::here("cargo xtask bench gateway".into(), versions),
        cores: options.cores,
        rate: options.rate,
        rows: targets.into_iter().map(|t| t.row).collect(),
        absent,
    };
    println!("{}", results.markdown());
    if options.quick { Ok(()) } else { keep(&options.out, "gateway", &results) }
}

fn contenders(options: &GatewayBench, replica: SocketAddr) -> anyhow::Result<(Vec<Target>, Vec<String>)> {
    let mut targets = vec![Target::new("direct", replica, None)];
    let mut absent = Vec::new();
    for contender in [proxies::nginx(replica, options.cores)?, proxies::haproxy(replica, options.cores)?] {
        match contender {
            Contender::Ready(proxy) => targets.push(Target::new(proxy.name, proxy.addr, Some(proxy))),
            Contender::Absent(why) => {
                eprintln!("{why}");
                absent.push(why);
            }
        }
    }
    if !options.without_tutti {
        let program = options.tutti.clone().map_or_else(proxies::build_tutti, Ok)?;
        let proxy = proxies::tutti(&program, replica, &["--cores", &options.cores.to_string()])?;
        targets.push(Target::new(proxy.name, proxy.addr, Some(proxy)));
    }
    Ok((targets, absent))
}

impl Target {
    fn new(name: &str, addr: SocketAddr, proxy: Option<Proxy>) -> Self {
        let memory_bytes = proxy.as_ref().map_or(0, |p| cpu::tree_memory(p.pid()));
        let row = Row {
            name: name.to_owned(),
            memory_bytes,
            busy: Vec::new(),
            single_p50: Vec::new(),
            single_free_p50: Vec::new(),
            open: Vec::new(),
        };
        Target { row, addr, proxy }
    }

    fn plan(&self, connections: usize, seconds: f64) -> Plan {
        let host = self.addr.to_string();
        Plan {
            addr: self.addr,
            request: http::post(&host, "/v1/chat/completions", &http::chat_body("m", BODY_BYTES)),
            connections,
            pace: Pace::Closed,
            warm_up: Duration::from_millis(300),
            duration: Duration::from_secs_f64(seconds),
        }
    }
}

fn busy(target: &Target, seconds: f64) -> anyhow::Result<Busy> {
    let cpu = || target.proxy.as_ref().map_or(Duration::ZERO, |p| cpu::tree_time(p.pid()));
    let report = load::run(&target.plan(CONNECTIONS, seconds), cpu)?;
    ensure!(report.errors == 0, "{}: {} of {} requests failed", target.row.name, report.errors, report.requests);
    let cpu_micros = (report.after - report.before).as_secs_f64() * 1e6 / report.requests.max(1) as f64;
    Ok(Busy { cpu_micros, rate: report.rate(), p50: report.micros(0.5), p99: report.micros(0.99) })
}

/// The open loop, with connections enough that none is waited for.
fn open(target: &Target, rate: f64, seconds: f64) -> anyhow::Result<Open> {
    let plan = Plan { pace: Pace::Poisson(rate), ..target.plan(2 * CONNECTIONS, seconds) };
    let report = load::run(&plan, || ())?;
    let failed = report.errors + report.unanswered;
    ensure!(failed == 0, "{}: {failed} of {} requests failed", target.row.name, report.requests);
    Ok(Open { p50: report.micros(0.5), p99: report.micros(0.99) })
}

fn single(target: &Target, seconds: f64) -> anyhow::Result<f64> {
    let report = load::run(&target.plan(1, seconds), || ())?;
    ensure!(report.errors == 0, "{}: {} of {} requests failed", target.row.name, report.errors, report.requests);
    Ok(report.micros(0.5))
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
