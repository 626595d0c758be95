//! `cargo xtask bench`: what is measured, and on what.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use tutti_bench::Peer;

use crate::run;

/// Adapters on one base that take turns.
const ADAPTERS: u8 = 4;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The gateway beside nginx and haproxy, in turn
    Gateway(tutti_bench::GatewayBench),
    /// The gateway beside other gateways for language models, nginx and haproxy, in turn
    Field(tutti_bench::FieldBench),
    /// How soon a replica learns that a client has gone
    Gone(tutti_bench::GoneBench),
    /// Thousands of slow streams at once: whether each arrives whole, and what one takes of memory
    Streams(tutti_bench::StreamsBench),
    /// Millions of requests of every kind: whether memory stays, files come back, counters add up
    Soak(tutti_bench::SoakBench),
    /// One replica of four killed every second: whose requests fail, and what is said to them
    Deaths(tutti_bench::DeathsBench),
    /// Gateways that take each other's place and that are restarted, fifty times each under load
    Rounds(tutti_bench::RoundsBench),
    /// Adapters that take turns on a real Ollama, through the gateway and through nginx
    Batching(tutti_bench::BatchingBench),
    /// Prints RESULTS.md again from the figures that are kept
    Print {
        /// The folder for RESULTS.md and results/.
        #[arg(long, default_value = "bench")]
        out: PathBuf,
    },
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        // Load and replica share the machine with what is measured: they must cost little too.
        if cfg!(debug_assertions) {
            let own = std::env::args().skip(1).collect::<Vec<_>>();
            let again = ["run", "--quiet", "--release", "--package", "xtask", "--"];
            return run::cargo(&again.into_iter().chain(own.iter().map(String::as_str)).collect::<Vec<_>>());
        }
        match self {
            Bench::Gateway(bench) => {
                others()?;
                tutti_bench::gateway(bench)
            }
            Bench::Field(bench) => {
                others()?;
                tutti_bench::field(bench, &peer)
            }
            Bench::Gone(bench) => {
                others()?;
                tutti_bench::gone(bench, &peer)
            }
            Bench::Streams(bench) => tutti_bench::streams(bench),
            Bench::Soak(bench) => tutti_bench::soak(bench),
            Bench::Deaths(bench) => tutti_bench::deaths(bench),
            Bench::Rounds(bench) => tutti_bench::rounds(bench),
            Bench::Batching(bench) => {
                others()?;
                let (ollama, names) = tutti_rig::ollama_with_adapters(ADAPTERS)?;
                let addr = format!("127.0.0.1:{}", ollama.port()).parse()?;
                let version = format!("Ollama {}", ollama.get("/api/version")?["version"]);
                tutti_bench::batching(bench, &tutti_bench::Adapters { addr, names, version })
            }
            Bench::Print { out } => tutti_bench::print(&out),
        }
    }
}

/// Installs nginx and haproxy where they are missing and we may.
fn others() -> Result<()> {
    run::debian_packages(&["nginx-light", "haproxy"], &["nginx", "haproxy"])
}

/// Installs a peer into the rig's cache.
fn peer(peer: Peer) -> Result<PathBuf> {
    tutti_rig::python_packages(peer.name(), peer.requirements(), "10 to 40 seconds")
}
