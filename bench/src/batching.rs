//! `cargo xtask bench batching`: several adapters on one base of one real Ollama, of which it holds one at a time; clients
//! that ask for any of them. nginx sends each request on as it comes; the gateway has those for one adapter go together.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tutti_gateway::schedule::core::Batching;

use crate::contender::Contender;
use crate::http::{Connection, post};
use crate::options::{Kept, TuttiProgram};
use crate::own::Own;
use crate::proxies;
use crate::report::{Bar, Origin, heading, median, short};
use crate::results::keep;

/// The `maxWait` of these runs.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(1);
/// Of so many clients the throughput is to be so many times nginx's.
const TIMES: [(usize, f64); 2] = [(16, 4.5), (64, 10.0)];
/// The share of the ceiling that is aimed at.
const AIM: f64 = 0.9;

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
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
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
    pub(crate) adapters: usize,
    pub(crate) seconds: f64,
    /// What an adapter's load takes, and what a request takes whose adapter is there. Unit: seconds.
    pub(crate) load: f64,
    pub(crate) service: f64,
    pub(crate) runs: Vec<Run>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) through: String,
    pub(crate) clients: usize,
    /// Answers a second.
    pub(crate) rate: f64,
    /// From a request to its answer. Unit: seconds.
    pub(crate) p50: f64,
    pub(crate) longest: f64,
    pub(crate) failed: u64,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The gateway or nginx cannot be started, or requests fail.
pub fn batching(options: BatchingBench, ollama: &Adapters) -> anyhow::Result<()> {
    let results = measure(&options, ollama)?;
    println!("{}", results.markdown());
    keep(&options.kept.out, "batching", &results)?;
    ensure!(results.runs.iter().all(|run| run.failed == 0), "requests failed");
    Ok(())
}

fn measure(options: &BatchingBench, ollama: &Adapters) -> anyhow::Result<BatchingResults> {
    let program = options.tutti.get()?;
    let nginx = match proxies::nginx(ollama.addr, 2)? {
        Contender::Ready(nginx) => nginx,
        Contender::Absent(why) => bail!(why),
    };
    let pool = &format!("    expose: all\n    batching: {{ maxWait: {}s }}\n", MAX_WAIT.as_secs());
    let tutti = Own { pool, slots: 1, ..Own::before(&program, &ollama.addr) }.start()?;
    let (load, service) = alone(ollama)?;
    let mut runs = Vec::new();
    for &clients in &options.clients {
        for (through, addr) in [("nginx", nginx.addr), ("tutti", tutti.addr)] {
            let rounds = (0..options.rounds).map(|round| {
                let run =
                    closed(&[addr], &ollama.names, clients, Duration::from_secs_f64(options.seconds), round as u64)?;
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

/// Clients, in turn at these addresses, that each ask for an adapter at random as soon as they have their answer.
pub(crate) fn closed(
    to: &[SocketAddr],
    names: &[String],
    clients: usize,
    time: Duration,
    seed: u64,
) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let times = Rc::new(RefCell::new(Vec::<f64>::new()));
    let failed = Rc::new(Cell::new(0));
    let requests: Rc<Vec<Vec<u8>>> = Rc::new(names.iter().map(|name| request(to[0], name)).collect());
    let begun = Instant::now();
    LocalSet::new().block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let (times, failed, requests) = (times.clone(), failed.clone(), requests.clone());
            let addr = to[client % to.len()];
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

    /// How the gateway takes turns in these runs.
    pub(crate) fn terms() -> Batching {
        Batching { max_wait: Some(MAX_WAIT), ..Batching::default() }
    }

    /// The longest that a request may take, as docs/batching.md has it: `maxWait`; then, for the group that has the replica
    /// and each late one before its own, what runs there, a load and a quantum; a load of its own; the same once more, for
    /// all groups, for each quantum of its own group ahead of it; and the request itself. One slot, by the measured times of
    /// a load and a request and the quantum that they make. Unit: seconds.
    fn bound(&self, clients: usize) -> f64 {
        let quantum = Self::terms().quantum(Duration::from_secs_f64(self.load)).as_secs_f64();
        let turn = self.service + self.load + quantum;
        let others = self.adapters as f64 - 1.0;
        // All others may wait for the same adapter.
        let further = ((clients as f64 - 1.0) * self.service / quantum).floor();
        MAX_WAIT.as_secs_f64() + others * turn + further * (others + 1.0) * turn + self.load + self.service
    }

    fn run(&self, through: &str, clients: usize) -> Option<&Run> {
        self.runs.iter().find(|run| run.clients == clients && run.through == through)
    }

    /// What the runs are held against.
    fn bars(&self) -> String {
        let mut text = String::new();
        for run in self.runs.iter().filter(|run| run.through == "tutti") {
            let clients = run.clients;
            let nginx = self.run("nginx", clients);
            let times = nginx.map(|nginx| run.rate / nginx.rate);
            let what = format!("{clients} clients, × nginx");
            let bar = TIMES.iter().find(|(of, _)| *of == clients).map(|(_, least)| *least);
            text +=
                &bar.map_or_else(|| Bar::figure(&what, times), |least| Bar::new(&what, times, least)).at_least().line();
            let share = Some(run.rate / self.ceiling(clients));
            text += &Bar::figure(&format!("{clients} clients, of the ceiling"), share).at_least().aim(AIM).line();
            let longest = |of: &str| format!("{clients} clients, longest s, within {of}");
            text += &Bar::new(&longest("the stated bound"), Some(run.longest), self.bound(clients)).line();
            if let Some(nginx) = nginx {
                text += &Bar::new(&longest("nginx's"), Some(run.longest), nginx.longest).line();
            }
        }
        text
    }

    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Adapters that take turns", &self.origin);
        let _ = write!(
            text,
            "{} adapters on one base of one real Ollama, which holds one of them at a time: a load takes {} ms, a request {} \
             ms. Each client asks for one at random as soon as it has its answer, {:.0} s a run; the middle run, and the longest \
             time from a request to its answer in any. The ceiling: every adapter serves all who wait for it, n = 2M/(K − 1) a \
             visit, n/(S + n·s). `slots: 1`, `batching: {{ maxWait: 1s }}`. The bound on the longest is that of \
             [docs/batching.md](../docs/batching.md), by these times and a quantum of {} ms: `maxWait`, a turn (what runs, a load, a \
             quantum) of each other adapter, its own load and request; once more, for all, where more than a quantum's work \
             may be ahead of it.\n\n",
            self.adapters,
            short(self.load * 1e3),
            short(self.service * 1e3),
            self.seconds,
            short(Self::terms().quantum(Duration::from_secs_f64(self.load)).as_secs_f64() * 1e3),
        );
        text += &self.bars();
        text += "\n";
        text += "| clients | through | answers/s | × nginx | of the ceiling | p50 s | longest s | failed |\n|---|---|---|---|---|---|---|---|\n";
        for run in &self.runs {
            let nginx = self.run("nginx", run.clients);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(through: &str, clients: usize, rate: f64, longest: f64) -> Run {
        Run { through: through.to_owned(), clients, rate, p50: 0.5, longest, failed: 0 }
    }

    fn results(runs: Vec<Run>) -> BatchingResults {
        let origin =
            Origin { date: String::new(), machine: String::new(), command: String::new(), versions: Vec::new() };
        BatchingResults { origin, adapters: 4, seconds: 25.0, load: 0.25, service: 0.01, runs }
    }

    #[test]
    fn what_was_to_be_reached_is_held_against_what_was_measured() {
        // The ceiling: n = 2·16/3 = 10.67, 10.67/(0.25 + 0.1067) = 29.9; of 64: 42.67/(0.25 + 0.4267) = 63.1.
        // The bound: 1 + 3·(0.01 + 0.25 + 0.5) + 0.25 + 0.01 = 3.54; of 64 clients 63·0.01 s may be ahead, more than a quantum: and
        // 4·0.76 = 6.58.
        let text = results(vec![
            run("nginx", 16, 5.0, 4.0),
            run("tutti", 16, 22.5, 3.5),
            run("nginx", 64, 5.0, 6.0),
            run("tutti", 64, 49.0, 6.6),
        ])
        .markdown();
        for line in [
            "- 16 clients, × nginx: **4.50**, at least 4.50: met.",
            "- 16 clients, of the ceiling: **0.75**; aim 0.90: not met.",
            "- 16 clients, longest s, within the stated bound: **3.50**, at most 3.54: met.",
            "- 16 clients, longest s, within nginx's: **3.50**, at most 4.00: met.",
            "- 64 clients, × nginx: **9.80**, at least 10.0: **not met**.",
            "- 64 clients, of the ceiling: **0.78**; aim 0.90: not met.",
            "- 64 clients, longest s, within the stated bound: **6.60**, at most 6.58: **not met**.",
            "- 64 clients, longest s, within nginx's: **6.60**, at most 6.00: **not met**.",
            "a quantum of 500 ms",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_nothing_was_set_for_is_told_all_the_same() {
        let text = results(vec![run("nginx", 8, 5.0, 4.0), run("tutti", 8, 20.0, 1.0)]).markdown();
        assert!(text.contains("- 8 clients, × nginx: **4.00**.\n"), "{text}");
    }
}
