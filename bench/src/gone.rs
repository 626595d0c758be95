//! `cargo xtask bench gone`: how soon a replica learns that a client has gone, by the phase it went in.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Phase, Running, Scope, Seen, Simulator};

use crate::contender::{Contender, Proxy, get};
use crate::options::{Kept, TuttiProgram};
use crate::own::Own;
use crate::peers::{self, Install, Peer};
use crate::report::{Origin, heading, short};
use crate::results::keep;
use crate::target::{Target, targets, versions};
use crate::{http, load, proxies};

/// Longest wait for what must happen; who waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for a replica to be told that a client has gone; then the work is taken to run on.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// After so many that ran on, no further ones are tried.
const RAN_ON_MAX: usize = 3;
/// Clients that go through a peer in each phase.
const PEER_CLIENTS: usize = 50;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct GoneBench {
    /// Clients that go in each phase.
    #[arg(long, default_value_t = 200)]
    pub clients: usize,
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
    /// Contenders that did not run, and why.
    #[serde(default)]
    absent: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    name: String,
    when: When,
    /// From the client's close to the replica's knowledge, in microseconds; sorted.
    micros: Vec<f64>,
    /// Clients of whom the replica had not heard after two seconds.
    #[serde(default)]
    ran_on: usize,
}

/// What came of clients that went.
#[derive(Debug, Default)]
struct Noticed {
    micros: Vec<f64>,
    ran_on: usize,
}

/// Runs the benchmark, prints its table and keeps it.
///
/// # Errors
/// tutti cannot be built, a contender does not start, or somebody who queues and has gone is never noticed.
pub fn gone(options: GoneBench, install: Install) -> anyhow::Result<()> {
    load::raise_file_limit();
    let machine = Machine { token_time: Duration::from_millis(2), ..Machine::instant() };
    let quick = Config { health: true, ..Config::quick(Model::chat(http::MODEL, 1)) };
    let replica = Simulator::start(Config { machine, answer_tokens: 1_000_000, records_max: 1_000_000, ..quick })?;
    let (targets, absent) = targets(replica.addr(), contenders(&options, replica.addr(), install)?);
    let mut rows = Vec::new();
    for when in PHASES {
        for target in &targets {
            let is_peer = Peer::ALL.iter().any(|peer| peer.name() == target.name);
            let clients = if is_peer { options.clients.min(PEER_CLIENTS) } else { options.clients };
            let measured = match (when, &target.proxy) {
                (When::Queued, Some(proxy)) if target.name == "tutti" => queued(&replica, proxy, clients)?,
                (When::Queued, _) => continue, // nobody else has a queue to leave
                _ => noticed(&replica, target, when, clients).with_context(|| format!("{}, {when:?}", target.name))?,
            };
            let row = Row { name: target.name.into(), when, micros: measured.micros, ran_on: measured.ran_on };
            eprintln!("{:14} {:24} p50 {} µs, {} ran on", row.name, when.name(), row.at(0.5), row.ran_on);
            rows.push(row);
        }
    }
    let origin = Origin::here("cargo xtask bench gone".into(), versions(&targets));
    let results = GoneResults { origin, clients: options.clients, rows, absent };
    println!("{}", results.markdown());
    keep(&options.kept.out, "gone", &results)
}

fn contenders(options: &GoneBench, replica: SocketAddr, install: Install) -> anyhow::Result<Vec<Contender>> {
    let program = options.tutti.get()?;
    let mut contenders = vec![proxies::nginx(replica, 2)?, proxies::haproxy(replica, 2)?];
    contenders.push(Contender::Ready(Own { slots: 1, ..Own::before(&program, &replica) }.start()?));
    for peer in Peer::ALL.into_iter().filter(|_| !options.without_peers) {
        eprintln!("starting {}", peer.version());
        contenders.push(peers::start(peer, install, replica, 2));
    }
    Ok(contenders)
}

/// Clients that go one after the other; from each one's close to the replica's knowledge.
fn noticed(replica: &Running, target: &Target, when: When, clients: usize) -> anyhow::Result<Noticed> {
    replica.set_fault(when.fault().map(|fault| (fault, Scope::Inference)));
    let mut noticed = Noticed::default();
    for _ in 0..clients {
        let number = replica.requests();
        let client = send(target.addr, !matches!(when, When::Whole), target.key())?;
        let reached = if when.fault() == Some(Fault::Silent) { Phase::Waiting } else { Phase::Answering };
        wait(replica, number, PATIENCE, |seen| (seen.phase >= reached).then_some(()))?;
        if reached == Phase::Answering {
            read_some(&client)?;
        }
        let left = Instant::now();
        client.shutdown(Shutdown::Both)?;
        drop(client);
        match wait(replica, number, TOLD_WITHIN, |seen| seen.ended_early) {
            Ok(ended) => noticed.micros.push(ended.saturating_duration_since(left).as_secs_f64() * 1e6),
            Err(_) => noticed.ran_on += 1,
        }
        if noticed.ran_on >= RAN_ON_MAX {
            break;
        }
    }
    replica.set_fault(None);
    noticed.micros.sort_by(f64::total_cmp);
    Ok(noticed)
}

/// One client holds the only slot; others come to wait behind it and go. Until the gateway's own count says so, which
/// includes asking for it; and none of them ever reaches the replica.
fn queued(replica: &Running, tutti: &Proxy, clients: usize) -> anyhow::Result<Noticed> {
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let number = replica.requests();
    let holds = send(tutti.addr, true, None)?;
    wait(replica, number, PATIENCE, |seen| (seen.phase >= Phase::Waiting).then_some(()))?;
    let before = replica.requests();
    let mut micros = Vec::with_capacity(clients);
    for _ in 0..clients {
        let client = send(tutti.addr, true, None)?;
        until_queued(tutti, 1)?;
        let left = Instant::now();
        drop(client);
        until_queued(tutti, 0)?;
        micros.push(left.elapsed().as_secs_f64() * 1e6);
    }
    drop(holds);
    wait(replica, number, PATIENCE, |seen| seen.ended_early)?;
    ensure!(replica.requests() == before, "a request whose client had gone was dispatched");
    replica.set_fault(None);
    micros.sort_by(f64::total_cmp);
    Ok(Noticed { micros, ran_on: 0 })
}

fn until_queued(tutti: &Proxy, wanted: u64) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let page = get(tutti.ops, "/metrics").context("no metrics")?;
        let mut lines = page.lines().filter(|line| line.starts_with("tutti_requests_queued{"));
        if lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()) == Some(wanted) {
            return Ok(());
        }
    }
    anyhow::bail!("not {wanted} in the queue within {PATIENCE:?}")
}

fn send(addr: SocketAddr, stream: bool, key: Option<&str>) -> anyhow::Result<TcpStream> {
    let mut client = TcpStream::connect(addr)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let body =
        format!(r#"{{"model":"{}","stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#, http::MODEL);
    client.write_all(&http::post(&addr.to_string(), "/v1/chat/completions", &body, key))?;
    Ok(client)
}

fn read_some(mut client: &TcpStream) -> anyhow::Result<()> {
    let read = client.read(&mut [0; 4096])?;
    ensure!(read > 0, "the stream ended before its client did");
    Ok(())
}

fn wait<T>(
    replica: &Running,
    number: u64,
    within: Duration,
    mut found: impl FnMut(&Seen) -> Option<T>,
) -> anyhow::Result<T> {
    // Requests that a contender sends beside these (the gateway asks what there is) come with GET.
    let waited = replica.wait(within, |seen| {
        seen.iter()
            .rev()
            .take_while(|seen| seen.number >= number)
            .find(|seen| seen.method == "POST")
            .and_then(&mut found)
    });
    waited.with_context(|| format!("nothing within {within:?}"))
}

impl Row {
    fn at(&self, share: f64) -> String {
        if self.micros.is_empty() {
            return "–".to_owned();
        }
        short(self.micros[((self.micros.len() - 1) as f64 * share).round() as usize])
    }
}

impl GoneResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("A client that goes", &self.origin);
        let _ = write!(
            text,
            "From a client's close to the replica's knowledge of it; {} clients in each phase, one after the other",
            self.clients
        );
        let through_peers = self.rows.iter().any(|row| Peer::ALL.iter().any(|peer| peer.name() == row.name));
        if through_peers {
            let _ = write!(text, " ({} through each of the peers)", self.clients.min(PEER_CLIENTS));
        }
        text += ". Queued: to the gateway's own count of its queue, asking for it included; none of these requests reached \
                 the replica.\n\n| went | through | p50 µs | p99 µs | longest µs |\n|---|---|---|---|---|\n";
        for row in &self.rows {
            let (when, name) = (row.when.name(), &row.name);
            let _ = match row.ran_on {
                0 => writeln!(text, "| {when} | {name} | {} | {} | {} |", row.at(0.5), row.at(0.99), row.at(1.0)),
                ran_on => writeln!(
                    text,
                    "| {when} | {name} | {} | **runs on**: {ran_on} of {} for {} s and more | |",
                    row.at(0.5),
                    ran_on + row.micros.len(),
                    TOLD_WITHIN.as_secs()
                ),
            };
        }
        for why in &self.absent {
            let _ = writeln!(text, "\nNot measured: {why}.");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replica_hears_of_every_client_that_goes() {
        let machine = Machine { token_time: Duration::from_millis(2), ..Machine::instant() };
        let quick = Config::quick(Model::chat(http::MODEL, 1));
        let replica = Simulator::start(Config { machine, answer_tokens: 1_000_000, ..quick }).unwrap();
        let direct = Target::direct(replica.addr());
        for when in [When::NoHeader, When::AfterHeader, When::Streaming, When::Whole] {
            let noticed = noticed(&replica, &direct, when, 2).unwrap();
            assert_eq!((noticed.micros.len(), noticed.ran_on), (2, 0), "{when:?}");
        }
    }

    #[test]
    fn what_runs_on_is_said() {
        let row =
            |micros: &[f64], ran_on| Row { name: "smg".into(), when: When::Whole, micros: micros.to_vec(), ran_on };
        let origin = Origin::here("a test".into(), Vec::new());
        let rows = vec![row(&[1.0, 2.0], 3), row(&[], 3), row(&[1.0, 2.0, 9.0], 0)];
        let text = GoneResults { origin, clients: 200, rows, absent: Vec::new() }.markdown();
        assert!(text.contains("| not streaming | smg | 2.00 | **runs on**: 3 of 5 for 2 s and more | |"), "{text}");
        assert!(text.contains("| not streaming | smg | – | **runs on**: 3 of 3 for 2 s and more | |"), "{text}");
        assert!(text.contains("| not streaming | smg | 2.00 | 9.00 | 9.00 |"), "{text}");
        assert!(
            text.contains("200 clients in each phase, one after the other (50 through each of the peers)"),
            "{text}"
        );
    }
}
