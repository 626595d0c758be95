//! `cargo xtask bench gateways`: the load of `bench batching` through one, two and three gateways, whose clients are spread
//! over them: what it costs that one schedules for all.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::batching::{Adapters, Run, closed};
use crate::contender::{Proxy, free_addr, get};
use crate::options::{Kept, TuttiProgram};
use crate::own::Own;
use crate::report::{Origin, heading, median, short};
use crate::results::keep;

/// How long gateways may take to agree on who schedules the pool.
const AGREE_MAX: Duration = Duration::from_secs(20);

/// What the project has set itself: of the throughput of one gateway at least so much, and an aim above it.
const LEAST: f64 = 0.8;
const AIM: f64 = 0.95;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewaysBench {
    /// Gateways, a run each; the first is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    pub gateways: Vec<usize>,
    /// Ollamas behind them.
    #[arg(long, default_value_t = 2)]
    pub replicas: usize,
    /// Clients at once.
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,
    /// Runs of each, in turn; the middle one counts.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GatewaysResults {
    origin: Origin,
    replicas: usize,
    adapters: usize,
    clients: usize,
    seconds: f64,
    rows: Vec<Row>,
}

/// So many gateways, and their runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    gateways: usize,
    runs: Vec<Run>,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// A gateway cannot be started, or requests fail.
pub fn gateways(options: GatewaysBench, ollamas: &[Adapters]) -> anyhow::Result<()> {
    let results = measure(&options, ollamas)?;
    println!("{}", results.markdown());
    keep(&options.kept.out, "gateways", &results)?;
    ensure!(results.rows.iter().flat_map(|row| &row.runs).all(|run| run.failed == 0), "requests failed");
    Ok(())
}

fn measure(options: &GatewaysBench, ollamas: &[Adapters]) -> anyhow::Result<GatewaysResults> {
    let program = options.tutti.get()?;
    let ollama = ollamas.first().context("no Ollama")?;
    let replicas: Vec<SocketAddr> = ollamas.iter().map(|ollama| ollama.addr).collect();
    let mut rows: Vec<Row> = options.gateways.iter().map(|count| Row { gateways: *count, runs: Vec::new() }).collect();
    let mut version = String::new();
    for round in 0..options.rounds {
        for row in &mut rows {
            let (_folder, fleet) = start(row.gateways, &program, &replicas)?;
            version.clone_from(&fleet[0].version);
            let doors: Vec<SocketAddr> = fleet.iter().map(|tutti| tutti.addr).collect();
            let time = Duration::from_secs_f64(options.seconds);
            let run = closed(&doors, &ollama.names, options.clients, time, round as u64)?;
            eprintln!(
                "{} gateways: {:.1}/s, longest {:.2} s, {} failed",
                row.gateways, run.rate, run.longest, run.failed
            );
            row.runs.push(run);
        }
    }
    Ok(GatewaysResults {
        origin: Origin::here("cargo xtask bench gateways".into(), vec![ollama.version.clone(), version]),
        replicas: ollamas.len(),
        adapters: ollama.names.len(),
        clients: options.clients,
        seconds: options.seconds,
        rows,
    })
}

/// Starts so many gateways, and waits until they agree on who schedules the pool. One alone knows no others. The folder
/// has the certificates that they go by.
fn start(count: usize, program: &Path, replicas: &[SocketAddr]) -> anyhow::Result<(TempDir, Vec<Proxy>)> {
    let folder = TempDir::with_prefix("tutti-bench-peers-")?;
    certificates(folder.path()).context("cannot make certificates")?;
    let addresses = (0..count).map(|_| free_addr()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let all: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let path = folder.path().display();
    let fleet = addresses.iter().map(|address| {
        let peer = format!(
            "  peer:\n    listen: {address}\n    addresses: [{}]\n    tls: {{ cert: {path}/peer.crt, key: {path}/peer.key, ca: {path}/ca.crt }}\n",
            all.join(", ")
        );
        let gateway = if count > 1 { &*peer } else { "" };
        let pool = "    expose: all\n    batching: { maxWait: 1s }\n";
        Own { gateway, pool, slots: 1, replicas, ..Own::before(program, &replicas[0]) }.start()
    });
    let fleet = fleet.collect::<anyhow::Result<Vec<Proxy>>>()?;
    let until = Instant::now() + AGREE_MAX;
    while count > 1 && !agree(&fleet) {
        ensure!(Instant::now() < until, "the gateways do not agree on who schedules the pool");
        sleep(Duration::from_millis(100));
    }
    Ok((folder, fleet))
}

/// Whether one schedules the pool, and each sees all others.
fn agree(fleet: &[Proxy]) -> bool {
    let pages: Vec<String> = fleet.iter().filter_map(|tutti| get(tutti.ops, "/metrics").ok()).collect();
    let says = |line: &str| pages.iter().filter(|page| page.lines().any(|other| other == line)).count();
    let others = format!("tutti_peers{{reach=\"direct\"}} {}", fleet.len() - 1);
    says("tutti_pool_owned{pool=\"p\"} 1") == 1
        && says("tutti_pool_owned{pool=\"p\"} 0") == fleet.len() - 1
        && says(&others) == fleet.len()
}

/// An authority, and a certificate that is every gateway's.
fn certificates(folder: &Path) -> anyhow::Result<()> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
    let issuer = rcgen::Issuer::from_params(&params, &key);
    let own = rcgen::KeyPair::generate()?;
    let cert = rcgen::CertificateParams::new(["peer".to_owned()])?.signed_by(&own, &issuer)?;
    fs::write(folder.join("peer.crt"), cert.pem())?;
    fs::write(folder.join("peer.key"), own.serialize_pem())?;
    Ok(())
}

impl Row {
    fn rate(&self) -> f64 {
        median(self.runs.iter().map(|run| run.rate))
    }
}

impl GatewaysResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Several gateways", &self.origin);
        let Self { replicas, adapters, clients, seconds, .. } = self;
        let _ = write!(
            text,
            "{adapters} adapters on one base, on {replicas} real Ollamas that hold one of them each; {clients} clients spread over \
             the gateways, each of which asks for an adapter at random as soon as it has its answer, {seconds:.0} s a run, the \
             runs in turn; the middle run, and the longest time in any. All share one machine. `slots: 1`, `batching: {{ maxWait: 1s }}`.\n\n\
             | gateways | answers/s | × one gateway | p50 s | longest s | failed |\n|---|---|---|---|---|---|\n",
        );
        let one = self.rows.first().map_or(f64::NAN, Row::rate);
        for row in &self.rows {
            let longest = row.runs.iter().map(|run| run.longest).fold(0.0, f64::max);
            let failed: u64 = row.runs.iter().map(|run| run.failed).sum();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {failed} |",
                row.gateways,
                short(row.rate()),
                short(row.rate() / one),
                short(median(row.runs.iter().map(|run| run.p50))),
                short(longest),
            );
        }
        text.push('\n');
        for row in self.rows.iter().skip(1) {
            let share = row.rate() / one;
            let met = if share >= LEAST { "met" } else { "**not met**" };
            let aim = if share >= AIM { "met" } else { "not met" };
            let (count, share) = (row.gateways, short(share));
            let _ =
                writeln!(text, "- {count} gateways, × one: **{share}**, at least {LEAST}: {met}; aim {AIM}: {aim}.");
        }
        text
    }
}
