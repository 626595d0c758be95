//! `cargo xtask bench embeddings`: single texts of many clients on an engine that takes an array in one pass, through the
//! gateway and through nginx; and one large array on real Ollamas, of which each has one processor.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::contender::Contender;
use crate::http::{Connection, post};
use crate::options::{Kept, TuttiProgram};
use crate::own::Own;
use crate::proxies;
use crate::report::{Bar, Origin, heading, median, short};
use crate::results::keep;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct EmbeddingsBench {
    /// Clients at once that ask for single texts.
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Texts of the array.
    #[arg(long, default_value_t = 256)]
    pub array: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Runs of each, in turn; the middle one counts.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// The engines, and what they serve.
#[derive(Debug, Clone)]
pub struct Engines {
    /// One that takes an array in one pass, and speaks OpenAI's API.
    pub batching: SocketAddr,
    /// Ollamas, each on a processor of its own.
    pub ollamas: Vec<SocketAddr>,
    /// The model that all of them have.
    pub model: String,
    /// What they are.
    pub versions: Vec<String>,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EmbeddingsResults {
    origin: Origin,
    clients: usize,
    array: usize,
    seconds: f64,
    /// Texts a second of the engine itself, one client, by the size of its arrays.
    alone: Vec<(usize, f64)>,
    singles: Vec<Run>,
    arrays: Vec<Run>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Run {
    through: String,
    /// Texts a second, in the middle run, and in each.
    rate: f64,
    all: Vec<f64>,
    /// From a request to its answer. Unit: seconds.
    p50: f64,
    p99: f64,
    failed: u64,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The gateway or nginx cannot be started, or requests fail.
pub fn embeddings(options: EmbeddingsBench, engines: &Engines) -> anyhow::Result<()> {
    let results = measure(&options, engines)?;
    println!("{}", results.markdown());
    keep(&options.kept.out, "embeddings", &results)?;
    ensure!(results.singles.iter().chain(&results.arrays).all(|run| run.failed == 0), "requests failed");
    Ok(())
}

fn measure(options: &EmbeddingsBench, engines: &Engines) -> anyhow::Result<EmbeddingsResults> {
    let program = options.tutti.get()?;
    let nginx = match proxies::nginx(engines.batching, 2)? {
        Contender::Ready(nginx) => nginx,
        Contender::Absent(why) => bail!(why),
    };
    let openai = "    expose: all\n";
    let before = Own { engine: "openai", pool: openai, ..Own::before(&program, &engines.batching) };
    let batching = before.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let alone = [1, 2, 4, 8, 16, 32, 64, 128].map(|size| (size, rate_alone(&runtime, engines, size)));
    let alone = alone.into_iter().map(|(size, rate)| Ok((size, rate?))).collect::<anyhow::Result<Vec<_>>>()?;
    let time = Duration::from_secs_f64(options.seconds);
    let load = |addr, clients, array, path: &'static str| {
        runtime.block_on(closed(addr, clients, array, time, (path, engines.model.clone())))
    };
    let ways = [("the engine itself", engines.batching), ("nginx", nginx.addr), ("tutti", batching.addr)];
    let singles = in_turn(options.rounds, &ways, |addr| load(addr, options.clients, 1, "/v1/embeddings"))?;
    drop((batching, nginx));

    let ollama = |replicas| Own { replicas, slots: 2, pool: openai, ..Own::before(&program, &engines.ollamas[0]) };
    let (one, all) = (ollama(&engines.ollamas[..1]).start()?, ollama(&engines.ollamas).start()?);
    let several = format!("tutti, {} replicas", engines.ollamas.len());
    let ways = [("one replica itself", engines.ollamas[0]), ("tutti, 1 replica", one.addr), (&*several, all.addr)];
    let mut arrays = in_turn(options.rounds, &ways, |addr| load(addr, 1, options.array, "/api/embed"))?;
    let apart = |_| {
        let half = options.array / engines.ollamas.len();
        let each =
            engines.ollamas.iter().map(|addr| closed(*addr, 1, half, time, ("/api/embed", engines.model.clone())));
        runtime.block_on(at_once(each))
    };
    arrays.extend(in_turn(options.rounds, &[(APART, engines.ollamas[0])], apart)?);
    let mut versions = engines.versions.clone();
    versions.push(one.version.clone());
    Ok(EmbeddingsResults {
        origin: Origin::here("cargo xtask bench embeddings".into(), versions),
        clients: options.clients,
        array: options.array,
        seconds: options.seconds,
        alone,
        singles,
        arrays,
    })
}

/// What can be had on this machine: each Ollama has a client of its own, which asks for a part of the array.
const APART: &str = "each replica itself, a part each";

/// All of them at the same time; what they bring together.
async fn at_once(runs: impl Iterator<Item = impl Future<Output = anyhow::Result<Run>>>) -> anyhow::Result<Run> {
    let mut sum = Run { through: String::new(), rate: 0.0, all: Vec::new(), p50: 0.0, p99: 0.0, failed: 0 };
    let mut runs: Vec<_> = runs.map(Box::pin).collect();
    let mut ended = Vec::new();
    std::future::poll_fn(|cx| {
        runs.retain_mut(|run| match run.as_mut().poll(cx) {
            Poll::Ready(run) => {
                ended.push(run);
                false
            }
            Poll::Pending => true,
        });
        if runs.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    for run in ended {
        let run = run?;
        (sum.rate, sum.failed) = (sum.rate + run.rate, sum.failed + run.failed);
        (sum.p50, sum.p99) = (sum.p50.max(run.p50), sum.p99.max(run.p99));
    }
    Ok(sum)
}

/// Texts a second of the engine itself in arrays of this size.
fn rate_alone(runtime: &tokio::runtime::Runtime, engines: &Engines, size: usize) -> anyhow::Result<f64> {
    let what = ("/v1/embeddings", engines.model.clone());
    Ok(runtime.block_on(closed(engines.batching, 1, size, Duration::from_secs(2), what))?.rate)
}

/// Each way once in a round; of each the run in the middle.
fn in_turn(
    rounds: usize,
    ways: &[(&str, SocketAddr)],
    run: impl Fn(SocketAddr) -> anyhow::Result<Run>,
) -> anyhow::Result<Vec<Run>> {
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for ((through, addr), runs) in ways.iter().zip(&mut runs) {
            let run = run(*addr).with_context(|| (*through).to_owned())?;
            eprintln!("{through}: {:.0} texts/s, p50 {:.1} ms, {} failed", run.rate, run.p50 * 1e3, run.failed);
            runs.push(Run { through: (*through).to_owned(), ..run });
        }
    }
    let middle = runs.into_iter().map(|mut runs| {
        runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let all = runs.iter().map(|run| run.rate).collect();
        let failed = runs.iter().map(|run| run.failed).sum();
        let middle = runs.swap_remove((runs.len() - 1) / 2);
        Run { all, failed, ..middle }
    });
    Ok(middle.collect())
}

/// A request for texts of which no two are equal.
fn request(addr: SocketAddr, (path, model): (&str, &str), size: usize, first: usize) -> Vec<u8> {
    let text = |number: usize| format!("\"query {}\"", number % 1_000_000);
    let texts: Vec<String> = (first..first + size).map(text).collect();
    let input = if size == 1 { texts.concat() } else { format!("[{}]", texts.join(",")) };
    post(&addr.to_string(), path, &format!(r#"{{"model":"{model}","input":{input}}}"#), None)
}

/// Clients that each ask again as soon as they have their answer.
async fn closed(
    addr: SocketAddr,
    clients: usize,
    size: usize,
    time: Duration,
    (path, model): (&'static str, String),
) -> anyhow::Result<Run> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let model = model.clone();
        tasks.spawn(async move {
            let (mut times, mut failed) = (Vec::new(), 0);
            let mut connection = Connection::open(addr).await?;
            while begun.elapsed() < time {
                let first = client * 100_003 + times.len() * size;
                let request = request(addr, (path, &model), size, first);
                let asked = Instant::now();
                if connection.exchange(&request).await.is_ok_and(|status| status == 200) {
                    times.push(asked.elapsed().as_secs_f64());
                } else {
                    failed += 1;
                    connection = Connection::open(addr).await?;
                }
            }
            Ok::<_, std::io::Error>((times, failed))
        });
    }
    let (mut times, mut failed) = (Vec::new(), 0);
    while let Some(ended) = tasks.join_next().await {
        let (own, lost) = ended.context("a client panicked")?.context("a client lost its way")?;
        times.extend(own);
        failed += lost;
    }
    let rate = (times.len() * size) as f64 / begun.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    Ok(Run { through: String::new(), rate, all: Vec::new(), p50: median(times), p99, failed })
}

impl EmbeddingsResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Embeddings", &self.origin);
        let best = self.alone.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let _ = write!(
            text,
            "{} clients that each ask for one text as soon as they have the last one's vector, {:.0} s a run, in turn; of {} runs \
             the middle one. The engine takes one call at a time, an array in one pass. Alone, with one client, it makes of arrays \
             of ",
            self.clients,
            self.seconds,
            self.singles.first().map_or(0, |run| run.all.len()),
        );
        let sizes: Vec<String> = self.alone.iter().map(|(size, rate)| format!("{size}: {}", short(*rate))).collect();
        let _ = writeln!(text, "{} texts a second.\n", sizes.join(", "));
        text += &table(&self.singles, "nginx");
        let rate = |runs: &[Run], at: usize| runs.get(at).map(|run| run.rate);
        let (nginx, tutti) = (self.singles.get(1), self.singles.get(2));
        let times = nginx.zip(tutti).map(|(nginx, tutti)| tutti.rate / nginx.rate);
        text += &Bar::new("times nginx", times, 2.0).at_least().line();
        let slower = nginx.zip(tutti).map(|(nginx, tutti)| tutti.p50 / nginx.p50);
        text += &Bar::new("p50, times nginx's", slower, 1.0).line();
        let share = rate(&self.singles, 2).map(|rate| rate / best);
        text += &Bar::new("of the engine's best array rate", share, 0.9).at_least().line();
        let _ = writeln!(
            text,
            "\nOne client that asks for an array of {} as soon as it has the last one. Each Ollama is held to a processor \
             of its own, and works on one text after the other; `slots: 2`, so that the next piece is there when one is done.\n",
            self.array
        );
        text += &table(&self.arrays, "one replica itself");
        let times = rate(&self.arrays, 2).zip(rate(&self.arrays, 0)).map(|(all, one)| all / one);
        text += &Bar::new("times one replica", times, 1.8).at_least().aim(1.95).line();
        let most = rate(&self.arrays, 3).zip(rate(&self.arrays, 0)).map(|(apart, one)| apart / one);
        let share = rate(&self.arrays, 2).zip(rate(&self.arrays, 3)).map(|(all, apart)| all / apart);
        if let Some((most, share)) = most.zip(share) {
            let (most, share) = (short(most), short(share));
            let _ = writeln!(
                text,
                "\nLoad and gateway use the two processors that the replicas are held to: with nothing between, a client for each \
                 of them gets {most} times one replica, of which the gateway has {share}."
            );
        }
        text
    }
}

fn table(runs: &[Run], against: &str) -> String {
    let mut text = format!(
        "| through | texts/s | × {against} | p50 ms | p99 ms | failed | all runs |\n|---|---|---|---|---|---|---|\n"
    );
    let base = runs.iter().find(|run| run.through == against).map_or(f64::NAN, |run| run.rate);
    for Run { through, rate, all, p50, p99, failed } in runs {
        let all: Vec<String> = all.iter().map(|rate| short(*rate)).collect();
        let (times, p50, p99) = (short(rate / base), short(p50 * 1e3), short(p99 * 1e3));
        let _ =
            writeln!(text, "| {through} | {} | {times} | {p50} | {p99} | {failed} | {} |", short(*rate), all.join(" "));
    }
    text + "\n"
}
