//! `cargo xtask bench batching`: several adapters on one base of one real Ollama, of which it holds one at a time; clients
//! that ask for any of them. nginx sends each request on as it comes; the gateway has those for one adapter go together.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};

use crate::contender::Contender;
use crate::http::{Connection, post};
use crate::own::{self, Own};
use crate::proxies;
use crate::report::{Origin, heading, median, short};
use crate::results::keep;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct BatchingBench {
    /// Clients at once, a run each.
    #[arg(long, value_delimiter = ',', default_value = "16,64")]
    pub clients: Vec<usize>,
    /// Seconds of each run.
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,
    /// Runs of each; the middle one counts.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// A tutti binary built in release mode; built first if absent.
    #[arg(long)]
    pub tutti: Option<PathBuf>,
    /// The folder for RESULTS.md and results/.
    #[arg(long, default_value = "bench")]
    pub out: PathBuf,
}

/// An Ollama with adapters on one base.
#[derive(Debug, Clone)]
pub struct Adapters {
    /// Where it is.
    pub addr: SocketAddr,
    /// Names of the adapters' models.
    pub names: Vec<String>,
    /// What it says its version is.
    pub version: String,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BatchingResults {
    origin: Origin,
    adapters: usize,
    seconds: f64,
    /// What an adapter's load takes, and what a request takes whose adapter is there. Unit: seconds.
    load: f64,
    service: f64,
    runs: Vec<Run>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Run {
    through: String,
    clients: usize,
    /// Answers a second.
    rate: f64,
    /// From a request to its answer. Unit: seconds.
    p50: f64,
    longest: f64,
    failed: u64,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The gateway or nginx cannot be started, or requests fail.
pub fn batching(options: BatchingBench, ollama: &Adapters) -> anyhow::Result<()> {
    let results = measure(&options, ollama)?;
    println!("{}", results.markdown());
    keep(&options.out, "batching", &results)?;
    ensure!(results.runs.iter().all(|run| run.failed == 0), "requests failed");
    Ok(())
}

fn measure(options: &BatchingBench, ollama: &Adapters) -> anyhow::Result<BatchingResults> {
    let program = own::binary(options.tutti.as_deref())?;
    let nginx = match proxies::nginx(ollama.addr, 2)? {
        Contender::Ready(nginx) => nginx,
        Contender::Absent(why) => bail!(why),
    };
    let pool = "    expose: all\n    batching: { maxWait: 1s }\n";
    let tutti = Own { pool, slots: 1, ..Own::before(&program, &ollama.addr) }.start()?;
    let (load, service) = alone(ollama)?;
    let mut runs = Vec::new();
    for &clients in &options.clients {
        for (through, addr) in [("nginx", nginx.addr), ("tutti", tutti.addr)] {
            let rounds = (0..options.rounds).map(|round| {
                let run = closed(addr, ollama, clients, Duration::from_secs_f64(options.seconds), round as u64)?;
                eprintln!(
                    "{through}, {clients} clients: {:.1}/s, longest {:.2} s, {} failed",
                    run.rate, run.longest, run.failed
                );
                Ok(Run { through: through.to_owned(), ..run })
            });
            let mut rounds = rounds.collect::<anyhow::Result<Vec<Run>>>()?;
            rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
            let longest = rounds.iter().map(|run| run.longest).fold(0.0, f64::max);
            let failed = rounds.iter().map(|run| run.failed).sum();
            let middle = rounds.swap_remove((rounds.len() - 1) / 2);
            runs.push(Run { longest, failed, ..middle });
        }
    }
    Ok(BatchingResults {
        origin: Origin::here(
            "cargo xtask bench batching".into(),
            vec![ollama.version.clone(), nginx.version.clone(), tutti.version.clone()],
        ),
        adapters: ollama.names.len(),
        seconds: options.seconds,
        load,
        service,
        runs,
    })
}

fn request(addr: SocketAddr, model: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"积分怎么兑换，谢谢"}}],"stream":false}}"#
    );
    post(&addr.to_string(), "/api/chat", &body, None)
}

/// What a load takes and what a request takes, by one client past any gateway.
fn alone(ollama: &Adapters) -> anyhow::Result<(f64, f64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = Connection::open(ollama.addr).await?;
        let (mut loads, mut services) = (Vec::new(), Vec::new());
        for round in 0..20 {
            let request = request(ollama.addr, &ollama.names[round % ollama.names.len()]);
            for times in [&mut loads, &mut services] {
                let asked = Instant::now();
                ensure!(connection.exchange(&request).await? == 200, "the Ollama does not answer");
                times.push(asked.elapsed().as_secs_f64());
            }
        }
        let service = median(services);
        Ok((median(loads) - service, service))
    })
}

/// Clients that each ask for an adapter at random as soon as they have their answer.
fn closed(addr: SocketAddr, ollama: &Adapters, clients: usize, time: Duration, seed: u64) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let times = Rc::new(RefCell::new(Vec::<f64>::new()));
    let failed = Rc::new(Cell::new(0));
    let requests: Rc<Vec<Vec<u8>>> = Rc::new(ollama.names.iter().map(|name| request(addr, name)).collect());
    let begun = Instant::now();
    LocalSet::new().block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let (times, failed, requests) = (times.clone(), failed.clone(), requests.clone());
            tasks.spawn_local(async move {
                let mut random = (seed << 32 | client as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut connection = Connection::open(addr).await?;
                while begun.elapsed() < time {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let asked = Instant::now();
                    let status = connection.exchange(&requests[(random >> 33) as usize % requests.len()]).await;
                    if status.is_ok_and(|status| status == 200) {
                        times.borrow_mut().push(asked.elapsed().as_secs_f64());
                    } else {
                        failed.set(failed.get() + 1);
                        connection = Connection::open(addr).await?;
                    }
                }
                Ok::<_, io::Error>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a client panicked")?.context("a client lost its way")?;
        }
        anyhow::Ok(())
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    let times = times.take();
    Ok(Run {
        through: String::new(),
        clients,
        rate: times.len() as f64 / elapsed,
        longest: times.iter().copied().fold(0.0, f64::max),
        p50: median(times),
        failed: failed.get(),
    })
}

impl BatchingResults {
    /// Answers a second of a closed loop in which each visit of an adapter serves all who wait for it.
    fn ceiling(&self, clients: usize) -> f64 {
        let visit = 2.0 * clients as f64 / (self.adapters as f64 - 1.0);
        visit / (self.load + visit * self.service)
    }

    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Adapters that take turns", &self.origin);
        let _ = write!(
            text,
            "{} adapters on one base of one real Ollama, which holds one of them at a time: a load takes {} ms, a request {} \
             ms. Each client asks for one at random as soon as it has its answer, {:.0} s a run; the middle run, and the longest \
             time from a request to its answer in any. The ceiling: every adapter serves all who wait for it, n = 2M/(K − 1) a \
             visit, n/(S + n·s). `slots: 1`, `batching: {{ maxWait: 1s }}`.\n\n",
            self.adapters,
            short(self.load * 1e3),
            short(self.service * 1e3),
            self.seconds,
        );
        text += "| clients | through | answers/s | × nginx | of the ceiling | p50 s | longest s | failed |\n|---|---|---|---|---|---|---|---|\n";
        for run in &self.runs {
            let nginx = self.runs.iter().find(|other| other.clients == run.clients && other.through == "nginx");
            let times = nginx.map_or("–".to_owned(), |nginx| short(run.rate / nginx.rate));
            let share = short(run.rate / self.ceiling(run.clients));
            let Run { clients, through, rate, p50, longest, failed } = run;
            let _ = writeln!(
                text,
                "| {clients} | {through} | {} | {times} | {share} | {} | {} | {failed} |",
                short(*rate),
                short(*p50),
                short(*longest)
            );
        }
        text
    }
}
