//! `cargo xtask bench field`: the gateway beside what else people put before language models, the same work in one run.

mod table;

use std::net::SocketAddr;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tutti_simulator::{Config, Model, Simulator};

use crate::contender::Contender;
use crate::cpu::OneCore;
use crate::http;
use crate::load::{self, Pace};
use crate::options::{Kept, TuttiProgram};
use crate::own::Own;
use crate::peers::{self, Install, Peer};
use crate::proxies;
use crate::report::Origin;
use crate::results::keep;
use crate::target::{Load, Target, targets, versions};

pub(crate) use table::PICTURE;

/// Bytes of a short chat.
const SHORT: usize = 1 << 10;
/// Bytes of a long one: a document, or a conversation with its history.
const LONG: usize = 220_000;
/// Connections of the load by short chats.
const CONNECTIONS: usize = 32;
/// Connections of the load by long ones.
const LONG_CONNECTIONS: usize = 20;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct FieldBench {
    /// A short run that shows the shape, and keeps nothing.
    #[arg(long)]
    pub quick: bool,
    /// Rounds, each with every contender in turn.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds that each contender is measured under each of the two loads in a round; half of it with one connection.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Workers of nginx and litellm, threads of the others.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(2, usize::from))]
    pub cores: usize,
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Measure nginx, haproxy and tutti alone.
    #[arg(long)]
    pub without_peers: bool,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FieldResults {
    pub(crate) origin: Origin,
    /// Workers a contender.
    pub(crate) cores: usize,
    /// One for each contender; the first goes to the replica without one.
    pub(crate) rows: Vec<Row>,
    /// Contenders that did not run, and why.
    pub(crate) absent: Vec<String>,
}

/// A contender's figures; lists hold one for each round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Bytes after its start; 0 for the replica itself.
    pub(crate) memory_bytes: u64,
    /// Bytes at the end of the load by long chats, while it is on.
    pub(crate) loaded_bytes: Vec<u64>,
    /// CPU microseconds a request, under the load by short chats.
    pub(crate) cpu_micros: Vec<f64>,
    /// Requests a second, then too.
    pub(crate) rate: Vec<f64>,
    /// Microseconds, then too.
    pub(crate) p50: Vec<f64>,
    pub(crate) p99: Vec<f64>,
    /// Microseconds, one connection, everything on one core.
    pub(crate) single_p50: Vec<f64>,
    /// Microseconds, one connection, threads where the scheduler puts them.
    pub(crate) free_p50: Vec<f64>,
    /// Microseconds, under the load by long chats.
    pub(crate) long_p50: Vec<f64>,
    pub(crate) long_p99: Vec<f64>,
}

/// Runs the benchmark, prints its tables and, unless it was a quick one, keeps them.
///
/// # Errors
/// tutti cannot be built, nginx, haproxy or tutti are there and do not start, or requests fail. A peer that does not run
/// on this machine is said in the results.
pub fn field(options: FieldBench, install: Install) -> anyhow::Result<()> {
    load::raise_file_limit();
    let (rounds, seconds) = if options.quick { (1, 0.5) } else { (options.rounds, options.seconds) };
    let replica = Simulator::start(Config { health: true, ..Config::instant(Model::chat(http::MODEL, 1)) })?;
    let (targets, absent) = targets(replica.addr(), contenders(&options, replica.addr(), install)?);
    let mut rows: Vec<Row> = targets.iter().map(Row::new).collect();
    let count = targets.len();
    for round in 0..rounds as usize {
        for turn in 0..count {
            // Another one begins in each round, so that none always follows the same.
            let at = (round + turn) % count;
            measure(&targets[at], &mut rows[at], seconds).with_context(|| targets[at].name)?;
            eprintln!("round {} of {rounds}: {}", round + 1, rows[at].last());
        }
    }
    let origin = Origin::here("cargo xtask bench field".into(), versions(&targets));
    let results = FieldResults { origin, cores: options.cores, rows, absent };
    println!("{}", results.markdown());
    if options.quick { Ok(()) } else { keep(&options.kept.out, "field", &results) }
}

fn contenders(options: &FieldBench, replica: SocketAddr, install: Install) -> anyhow::Result<Vec<Contender>> {
    let program = options.tutti.get()?;
    let own = Own { cores: Some(options.cores), ..Own::before(&program, &replica) };
    let mut contenders = vec![
        proxies::nginx(replica, options.cores)?,
        proxies::haproxy(replica, options.cores)?,
        Contender::Ready(own.start()?),
        own.start_keyed()?,
    ];
    for peer in Peer::ALL.into_iter().filter(|_| !options.without_peers) {
        eprintln!("starting {}", peer.version());
        contenders.push(peers::start(peer, install, replica, options.cores));
    }
    Ok(contenders)
}

/// One round of one contender.
fn measure(target: &Target, row: &mut Row, seconds: f64) -> anyhow::Result<()> {
    let load = |connections, body_bytes, seconds| {
        target.measure(Load { connections, body_bytes, pace: Pace::Closed, seconds })
    };
    let short = load(CONNECTIONS, SHORT, seconds)?;
    let long = load(LONG_CONNECTIONS, LONG, seconds)?;
    let free = load(1, SHORT, seconds / 2.0)?;
    let held = OneCore::hold(std::process::id());
    let single = load(1, SHORT, seconds / 2.0)?;
    drop(held);
    target.tidy()?;
    row.cpu_micros.push(short.cpu_micros);
    row.rate.push(short.rate);
    row.p50.push(short.p50);
    row.p99.push(short.p99);
    row.long_p50.push(long.p50);
    row.long_p99.push(long.p99);
    row.loaded_bytes.push(long.memory_bytes);
    row.free_p50.push(free.p50);
    row.single_p50.push(single.p50);
    Ok(())
}

impl Row {
    fn new(target: &Target) -> Self {
        Row {
            name: target.name.to_owned(),
            memory_bytes: target.memory_bytes,
            loaded_bytes: Vec::new(),
            cpu_micros: Vec::new(),
            rate: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
            single_p50: Vec::new(),
            free_p50: Vec::new(),
            long_p50: Vec::new(),
            long_p99: Vec::new(),
        }
    }

    /// The last round as a line.
    fn last(&self) -> String {
        let last = |of: &[f64]| of.last().copied().unwrap_or(f64::NAN);
        format!(
            "{:24} {:>7.1} µs CPU, {:>6.0}/s; one connection {:.0} and {:.0} µs; long {:.1} ms",
            self.name,
            last(&self.cpu_micros),
            last(&self.rate),
            last(&self.single_p50),
            last(&self.free_p50),
            last(&self.long_p50) / 1e3
        )
    }
}
