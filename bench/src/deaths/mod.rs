//! `cargo xtask bench deaths`: one replica of four is killed every second under load; who notices, and what is said.

mod blame;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::contender::signal;
use crate::load;
use crate::mix::{self, Kind, Mix};
use crate::options::{Kept, ReplicaProgram, TuttiProgram};
use crate::own::Own;
use crate::replica::{Process, Simulated};
use crate::report::{Bar, Origin, heading};
use crate::results::keep;
use crate::told::End;
use blame::{Death, Failed, explained, replicas};

/// Replicas of the pool.
const REPLICAS: usize = 4;
/// Requests at once on each.
const SLOTS: usize = 64;
/// Tokens of an answer.
const TOKENS: u32 = 40;
/// Microseconds of a token, of one request alone on its replica; with 16 it takes 16 times as long.
const TOKEN_MICROS: u64 = 1500;
/// How long the gateway may take to write the last lines of its log.
const LOG_WITHIN: Duration = Duration::from_secs(5);

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct DeathsBench {
    /// Seconds under load.
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Seconds between two kills.
    #[arg(long, default_value_t = 1.0)]
    pub every: f64,
    /// Seconds that a killed replica is away.
    #[arg(long, default_value_t = 0.3)]
    pub away: f64,
    /// Clients at once.
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Its replica.
    #[command(flatten)]
    pub replica: ReplicaProgram,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeathsResults {
    origin: Origin,
    seconds: f64,
    every: f64,
    away: f64,
    clients: usize,
    /// Replicas that were killed.
    deaths: usize,
    /// How requests ended, what they were, and how many did so.
    ends: Vec<(Kind, End, u64)>,
    /// Failures of requests that were not on a replica that was away.
    unexplained: u64,
    /// The first of them, in words.
    examples: Vec<String>,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The gateway or a replica cannot be built or started, or a request failed that had nothing to do with a death, or was
/// lied to.
pub fn deaths(options: DeathsBench) -> anyhow::Result<()> {
    let results = measure(&options)?;
    println!("{}", results.markdown());
    keep(&options.kept.out, "deaths", &results)?;
    ensure!(results.unexplained == 0 && results.dishonest() == 0, "more failed than had to, or not honestly");
    Ok(())
}

fn measure(options: &DeathsBench) -> anyhow::Result<DeathsResults> {
    load::raise_file_limit();
    let (program, replica) = (options.tutti.get()?, options.replica.get()?);
    let started: anyhow::Result<Vec<Process>> = (0..REPLICAS).map(|_| start(&replica, None)).collect();
    let replicas_running = started?;
    let addrs: Vec<SocketAddr> = replicas_running.iter().flat_map(|replica| replica.addrs.clone()).collect();
    let own = Own { replicas: &addrs, slots: SLOTS as u16, ..Own::before(&program, &addrs[0]) };
    let tutti = own.start()?;
    let clock = Instant::now();
    let mix = Mix {
        addr: tutti.addr,
        connections: options.clients,
        kinds: vec![(Kind::Stream, 3), (Kind::Chat, 1)],
        tokens: TOKENS,
        requests: u64::MAX,
        until: Some(clock + Duration::from_secs_f64(options.seconds)),
    };
    let (stop, stopped) = channel::<()>();
    let pace = (Duration::from_secs_f64(options.every), Duration::from_secs_f64(options.away));
    let killer = std::thread::spawn(move || kill(replicas_running, &replica, pace, clock, &stopped));
    let (mut ends, mut failed) = (BTreeMap::<_, u64>::new(), Vec::new());
    mix::run(
        mix,
        |asked| {
            let end = asked.end.unwrap_or(End::Cut);
            if end != End::Whole {
                let since = |at: Instant| at.saturating_duration_since(clock);
                let times = Failed { number: asked.number, began: since(asked.began), ended: since(asked.ended) };
                failed.push((times, asked.kind, end.clone()));
            }
            *ends.entry((asked.kind, end)).or_default() += 1;
        },
        |_| (),
    )?;
    drop(stop);
    let deaths = killer.join().map_err(|_| anyhow::anyhow!("the killer panicked"))??;
    let on = logged(&tutti.file("stdout.log"), failed.iter().map(|(failed, ..)| failed.number).max())?;
    let unexplained: Vec<_> = failed.iter().filter(|(failed, ..)| !explained(failed, &on, &deaths)).collect();
    let example = |(failed, kind, end): &&(Failed, Kind, End)| {
        let place = on.get(&failed.number).map_or("no replica".to_owned(), |replica| format!("{replica}"));
        format!("one of the {} from {:.1?} to {:.1?} on {place}: {end}", kind.name(), failed.began, failed.ended)
    };
    Ok(DeathsResults {
        origin: Origin::here("cargo xtask bench deaths".into(), vec![tutti.version.clone()]),
        seconds: options.seconds,
        every: options.every,
        away: options.away,
        clients: options.clients,
        deaths: deaths.len(),
        ends: ends.into_iter().map(|((kind, end), count)| (kind, end, count)).collect(),
        unexplained: unexplained.len() as u64,
        examples: unexplained.iter().take(5).map(example).collect(),
    })
}

/// Starts a replica, at this address if one is given.
fn start(program: &Path, listen: Option<SocketAddr>) -> anyhow::Result<Process> {
    let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let simulated = Simulated { listen, slots: SLOTS, tokens: TOKENS, token_micros: TOKEN_MICROS, prerendered: false };
    Process::start(program, &simulated.arguments())
}

/// Kills one replica after the other, each when its time has come, and starts it again, until told to stop.
fn kill(
    mut replicas: Vec<Process>,
    program: &Path,
    (every, away): (Duration, Duration),
    clock: Instant,
    stop: &Receiver<()>,
) -> anyhow::Result<Vec<Death>> {
    let mut deaths = Vec::new();
    let until = |at: Instant| stop.recv_timeout(at.saturating_duration_since(Instant::now()));
    for number in 0.. {
        let due = clock + every * (number + 1);
        if until(due) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        let turn = number as usize % replicas.len();
        let replica = replicas[turn].addrs[0];
        let killed = clock.elapsed();
        signal(replicas[turn].pid(), Signal::KILL);
        let _ = until(Instant::now() + away);
        replicas[turn] = again(program, replica)?;
        deaths.push(Death { replica, killed, back: clock.elapsed() });
    }
    Ok(deaths)
}

/// Its port may be in use for a moment by a connection that begins on it.
fn again(program: &Path, listen: SocketAddr) -> anyhow::Result<Process> {
    let mut last = start(program, Some(listen));
    for _ in 0..50 {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        last = start(program, Some(listen));
    }
    last.with_context(|| format!("the replica at {listen} does not come back"))
}

/// Reads the log once it tells of the last request that failed.
fn logged(file: &Path, last: Option<u64>) -> anyhow::Result<std::collections::HashMap<u64, SocketAddr>> {
    let until = Instant::now() + LOG_WITHIN;
    loop {
        let log = std::fs::read_to_string(file)?;
        let told = last.is_none_or(|last| log.contains(&format!("\"bench-{last}\"")));
        if told || Instant::now() > until {
            return Ok(replicas(&log));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl DeathsResults {
    fn count(&self, wanted: impl Fn(&End) -> bool) -> u64 {
        self.ends.iter().filter(|(_, end, _)| wanted(end)).map(|(.., count)| count).sum()
    }

    /// Those that were cut without a word or ended like a success.
    fn dishonest(&self) -> u64 {
        self.count(|end| matches!(end, End::Cut | End::Lie(_)))
    }

    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("A replica dies every second", &self.origin);
        let _ = write!(
            text,
            "{REPLICAS} simulated replicas, each a process with {SLOTS} slots; every {} s the next one is killed (SIGKILL) and is \
             back on its port {} s later; {} deaths in {} s. {} clients back to back, three of four read a stream of {TOKENS} \
             tokens, the others one document. Which replica a request was on is read from the gateway's log.\n\n",
            self.every, self.away, self.deaths, self.seconds, self.clients
        );
        let whole = self.count(|end| *end == End::Whole);
        let failed = self.count(|end| *end != End::Whole);
        text += &Bar::new("failed and not on a replica that was away", Some(self.unexplained as f64), 0.0).line();
        text += &Bar::new("failed without an honest error", Some(self.dishonest() as f64), 0.0).line();
        let _ = write!(
            text,
            "\n{whole} requests arrived whole, {failed} failed.\n\n| | ended | requests |\n|---|---|---|\n"
        );
        for (kind, end, count) in &self.ends {
            let _ = writeln!(text, "| {} | {end} | {count} |", kind.name());
        }
        for example in &self.examples {
            let _ = writeln!(text, "\nNot explained by a death: {example}.");
        }
        text
    }
}
