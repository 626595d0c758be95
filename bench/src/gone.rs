//! `cargo xtask bench gone`: how soon a replica learns that a client has gone, by the phase it went in.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Phase, Running, Scope, Seen, Simulator};

use crate::proxies::{self, Contender, Proxy};
use crate::report::{Origin, heading, short};
use crate::results::keep;
use crate::{http, load};

/// Longest wait for anything; who waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct GoneBench {
    /// Clients that go in each phase.
    #[arg(long, default_value_t = 200)]
    pub clients: usize,
    /// A tutti binary built in release mode; built first if absent.
    #[arg(long)]
    pub tutti: Option<PathBuf>,
    /// The folder for RESULTS.md and results/.
    #[arg(long, default_value = "bench")]
    pub out: PathBuf,
}

/// When a client goes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum When {
    NoHeader,
    AfterHeader,
    Streaming,
    Whole,
    Queued,
}

const PHASES: [When; 5] = [When::NoHeader, When::AfterHeader, When::Streaming, When::Whole, When::Queued];

impl When {
    fn name(self) -> &'static str {
        match self {
            When::NoHeader => "no header yet",
            When::AfterHeader => "after the header",
            When::Streaming => "streaming",
            When::Whole => "not streaming",
            When::Queued => "queued: out of the count",
        }
    }

    fn fault(self) -> Option<Fault> {
        match self {
            When::NoHeader | When::Whole | When::Queued => Some(Fault::Silent),
            When::AfterHeader => Some(Fault::Stall),
            When::Streaming => None,
        }
    }
}

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GoneResults {
    /// Where it was taken.
    pub origin: Origin,
    /// Clients a phase.
    pub clients: usize,
    /// One for each contender and phase.
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    name: String,
    when: When,
    /// From the client's close to the replica's knowledge, in microseconds; sorted.
    micros: Vec<f64>,
}

/// Runs the benchmark, prints its table and keeps it.
///
/// # Errors
/// tutti cannot be built, a contender does not start, or somebody who has gone is never noticed.
pub fn gone(options: GoneBench) -> anyhow::Result<()> {
    load::raise_file_limit();
    let machine = Machine { token_time: Duration::from_millis(2), ..Machine::instant() };
    let quick = Config::quick(Model::chat("m", 1));
    let replica = Simulator::start(Config { machine, answer_tokens: 1_000_000, records_max: 1_000_000, ..quick })?;
    let program = options.tutti.clone().map_or_else(proxies::build_tutti, Ok)?;
    let tutti = proxies::tutti_with(&program, replica.addr(), &[], 1)?;
    let mut contenders = vec![("direct", replica.addr(), None)];
    for contender in [proxies::nginx(replica.addr(), 2)?, proxies::haproxy(replica.addr(), 2)?] {
        match contender {
            Contender::Ready(proxy) => contenders.push((proxy.name, proxy.addr, Some(proxy))),
            Contender::Absent(why) => eprintln!("{why}"),
        }
    }
    contenders.push(("tutti", tutti.addr, Some(tutti)));
    let mut rows = Vec::new();
    for when in PHASES {
        for (name, addr, proxy) in &contenders {
            let measured = match (when, proxy) {
                (When::Queued, Some(proxy)) if *name == "tutti" => queued(&replica, proxy, options.clients)?,
                (When::Queued, _) => continue, // nobody else has a queue to leave
                _ => noticed(&replica, *addr, when, options.clients).with_context(|| format!("{name}, {when:?}"))?,
            };
            eprintln!("{name:8} {:24} p50 {:.0} µs", when.name(), measured[measured.len() / 2]);
            rows.push(Row { name: (*name).to_owned(), when, micros: measured });
        }
    }
    let versions = contenders.iter().filter_map(|(_, _, proxy)| Some(proxy.as_ref()?.version.clone())).collect();
    let origin = Origin::here("cargo xtask bench gone".into(), versions);
    let results = GoneResults { origin, clients: options.clients, rows };
    println!("{}", results.markdown());
    keep(&options.out, "gone", &results)
}

/// Clients that go one after the other; from each one's close to the replica's knowledge.
fn noticed(replica: &Running, addr: SocketAddr, when: When, clients: usize) -> anyhow::Result<Vec<f64>> {
    replica.set_fault(when.fault().map(|fault| (fault, Scope::Inference)));
    let mut micros = Vec::with_capacity(clients);
    for _ in 0..clients {
        let number = replica.requests();
        let client = send(addr, !matches!(when, When::Whole))?;
        let reached = if when.fault() == Some(Fault::Silent) { Phase::Waiting } else { Phase::Answering };
        wait(replica, number, |seen| (seen.phase >= reached).then_some(()))?;
        if reached == Phase::Answering {
            read_some(&client)?;
        }
        let left = Instant::now();
        client.shutdown(Shutdown::Both)?;
        drop(client);
        let ended = wait(replica, number, |seen| seen.ended_early)?;
        micros.push(ended.saturating_duration_since(left).as_secs_f64() * 1e6);
    }
    replica.set_fault(None);
    micros.sort_by(f64::total_cmp);
    Ok(micros)
}

/// One client holds the only slot; others come to wait behind it and go. Until the gateway's own count says so, which
/// includes asking for it; and none of them ever reaches the replica.
fn queued(replica: &Running, tutti: &Proxy, clients: usize) -> anyhow::Result<Vec<f64>> {
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let number = replica.requests();
    let holds = send(tutti.addr, true)?;
    wait(replica, number, |seen| (seen.phase >= Phase::Waiting).then_some(()))?;
    let before = replica.requests();
    let mut micros = Vec::with_capacity(clients);
    for _ in 0..clients {
        let client = send(tutti.addr, true)?;
        until_queued(tutti, 1)?;
        let left = Instant::now();
        drop(client);
        until_queued(tutti, 0)?;
        micros.push(left.elapsed().as_secs_f64() * 1e6);
    }
    drop(holds);
    wait(replica, number, |seen| seen.ended_early)?;
    ensure!(replica.requests() == before, "a request whose client had gone was dispatched");
    replica.set_fault(None);
    micros.sort_by(f64::total_cmp);
    Ok(micros)
}

fn until_queued(tutti: &Proxy, wanted: u64) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let page = proxies::get(tutti.ops, "/metrics").context("no metrics")?;
        let mut lines = page.lines().filter(|line| line.starts_with("tutti_requests_queued{"));
        if lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()) == Some(wanted) {
            return Ok(());
        }
    }
    anyhow::bail!("not {wanted} in the queue within {PATIENCE:?}")
}

fn send(addr: SocketAddr, stream: bool) -> anyhow::Result<TcpStream> {
    let mut client = TcpStream::connect(addr)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let body = format!(r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#);
    client.write_all(&http::post(&addr.to_string(), "/v1/chat/completions", &body))?;
    Ok(client)
}

fn read_some(mut client: &TcpStream) -> anyhow::Result<()> {
    let read = client.read(&mut [0; 4096])?;
    ensure!(read > 0, "the stream ended before its client did");
    Ok(())
}

fn wait<T>(replica: &Running, number: u64, mut found: impl FnMut(&Seen) -> Option<T>) -> anyhow::Result<T> {
    // Requests that a contender sends beside these (the gateway asks what there is) come with GET.
    let waited = replica.wait(PATIENCE, |seen| {
        seen.iter()
            .rev()
            .take_while(|seen| seen.number >= number)
            .find(|seen| seen.method == "POST")
            .and_then(&mut found)
    });
    waited.with_context(|| format!("nothing within {PATIENCE:?}"))
}

impl GoneResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("A client that goes", &self.origin);
        let _ = write!(
            text,
            "From a client's close to the replica's knowledge of it; {} clients in each phase, one after the other. \
             Queued: to the gateway's own count of its queue, asking for it included; none of these requests reached the \
             replica.\n\n| went | through | p50 µs | p99 µs | longest µs |\n|---|---|---|---|---|\n",
            self.clients
        );
        for row in &self.rows {
            let at = |share: f64| short(row.micros[((row.micros.len() - 1) as f64 * share).round() as usize]);
            let _ = writeln!(text, "| {} | {} | {} | {} | {} |", row.when.name(), row.name, at(0.5), at(0.99), at(1.0));
        }
        text
    }
}
