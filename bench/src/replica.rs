//! Replicas as processes, to have their own files, or to be killed: the program `tutti-bench-replica`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser};
use rustix::process::Signal;
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Model, Simulator};

use crate::contender::signal;
use crate::streams::{Slow, upstream};
use crate::{http, load};

/// A replica as a process; it ends with its standard input.
#[derive(Debug, Parser)]
pub enum Replica {
    /// A simulated Ollama
    Simulated(Simulated),
    /// Streams of few tokens a minute, by the thousand
    Slow(Slow),
}

/// A simulated Ollama with one model.
#[derive(Debug, Clone, Args)]
pub struct Simulated {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Requests at once.
    #[arg(long, default_value_t = 4096)]
    pub slots: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 16)]
    pub tokens: u32,
    /// Microseconds a token takes while nobody else is served.
    #[arg(long, default_value_t = 0)]
    pub token_micros: u64,
    /// Answer chats that are no streams with bytes made once.
    #[arg(long)]
    pub prerendered: bool,
}

impl Replica {
    /// Serves until standard input ends; says on standard output where.
    ///
    /// # Errors
    /// An address is taken.
    pub fn run(self) -> Result<()> {
        load::raise_file_limit();
        match self {
            Replica::Simulated(simulated) => {
                let running = Simulator::start(simulated.config())?;
                serving(&[running.addr()])?;
                running.stop();
            }
            Replica::Slow(slow) => {
                let addrs = upstream::start(&slow)?;
                serving(&addrs)?;
            }
        }
        Ok(())
    }
}

/// Says where, and waits for the end of standard input.
fn serving(addrs: &[SocketAddr]) -> io::Result<()> {
    let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    println!("{}", addrs.join(" "));
    io::stdout().flush()?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

impl Simulated {
    fn config(&self) -> Config {
        let machine =
            Machine { slots: self.slots, token_time: Duration::from_micros(self.token_micros), ..Machine::instant() };
        let quick = Config::quick(Model::chat(http::MODEL, 1));
        Config {
            listen: self.listen,
            machine,
            answer_tokens: self.tokens,
            records_max: 0,
            prerendered: self.prerendered,
            ..quick
        }
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        let Simulated { listen, slots, tokens, token_micros, prerendered } = self;
        let words =
            format!("simulated --listen {listen} --slots {slots} --tokens {tokens} --token-micros {token_micros}");
        let prerendered = prerendered.then_some("--prerendered");
        words.split(' ').chain(prerendered).map(str::to_owned).collect()
    }
}

/// A running one; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) addrs: Vec<SocketAddr>,
}

impl Process {
    /// Starts the program and waits until it listens.
    pub(crate) fn start(program: &Path, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("it has an output")?).read_line(&mut line)?;
        let addrs: Vec<SocketAddr> = line.split_whitespace().filter_map(|addr| addr.parse().ok()).collect();
        let process = Process { child, addrs };
        ensure!(!process.addrs.is_empty(), "a replica did not start: {arguments:?}");
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        signal(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}
