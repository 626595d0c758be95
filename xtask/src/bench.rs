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
    /// Revisions switched back and forth under load, by one gateway and by three
    Release(tutti_bench::ReleaseBench),
    /// Adapters that take turns on a real Ollama, through the gateway and through nginx
    Batching(tutti_bench::BatchingBench),
    /// One, two and three gateways before real Ollamas with adapters that take turns
    Gateways(tutti_bench::GatewaysBench),
    /// Embeddings: many clients' texts on an engine that takes arrays, and one array on several Ollamas
    Embeddings(tutti_bench::EmbeddingsBench),
    /// Fleets in virtual time: the gateway's own scheduler beside plain policies
    Fleet(tutti_bench::FleetBench),
    /// A pool scaled by the real signal and by others, in virtual time; and what merging a large fleet costs
    Signal(tutti_bench::SignalBench),
    /// How fast adapters come from an object store, beside the tools that people fetch them with
    Loader(tutti_bench::LoaderBench),
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
            Bench::Release(bench) => tutti_bench::release(bench),
            Bench::Batching(bench) => {
                others()?;
                let (ollama, names) = tutti_rig::ollama_with_adapters(ADAPTERS)?;
                let addr = format!("127.0.0.1:{}", ollama.port()).parse()?;
                let version = format!("Ollama {}", ollama.get("/api/version")?["version"]);
                tutti_bench::batching(bench, &tutti_bench::Adapters { addr, names, version })
            }
            Bench::Gateways(bench) => {
                let start = |_| tutti_rig::ollama_with_adapters(ADAPTERS);
                let ollamas = (0..bench.replicas).map(start).collect::<Result<Vec<_>>>()?;
                let known = |(ollama, names): &(tutti_rig::Ollama, Vec<String>)| {
                    let addr = format!("127.0.0.1:{}", ollama.port()).parse()?;
                    let version = format!("Ollama {}", ollama.get("/api/version")?["version"]);
                    Ok(tutti_bench::Adapters { addr, names: names.clone(), version })
                };
                tutti_bench::gateways(bench, &ollamas.iter().map(known).collect::<Result<Vec<_>>>()?)
            }
            Bench::Embeddings(bench) => {
                others()?;
                let (llama, ollamas) = tutti_rig::embedding_engines()?;
                let addr = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
                let engines = tutti_bench::Engines {
                    batching: addr(llama.port()),
                    ollamas: ollamas.iter().map(|ollama| addr(ollama.port())).collect(),
                    model: tutti_rig::EMBEDDING.to_owned(),
                    versions: vec![
                        format!("llama-cpp-python {}", tutti_rig::Llama::version()),
                        format!("Ollama {}", ollamas[0].get("/api/version")?["version"]),
                    ],
                };
                tutti_bench::embeddings(bench, &engines)
            }
            Bench::Fleet(bench) => tutti_bench::fleet(bench),
            Bench::Signal(bench) => tutti_bench::signal(bench),
            Bench::Loader(bench) => loader(&bench),
            Bench::Print { out } => tutti_bench::print(&out),
        }
    }
}

fn loader(bench: &tutti_bench::LoaderBench) -> Result<()> {
    run::debian_packages(&["rclone", "s3cmd"], &["rclone", "s3cmd"])?;
    let awscli = tutti_rig::python_packages("awscli", tutti_bench::AWSCLI, "20 seconds")?;
    let (minio, name) = (tutti_rig::Minio::start()?, "bench".to_owned());
    minio.make_bucket(&name)?;
    let (key, secret) = minio.credentials();
    let (key, secret, version) = (key.to_owned(), secret.to_owned(), format!("MinIO {}", tutti_rig::Minio::version()));
    let bucket = tutti_bench::Bucket { url: minio.url(), name, key, secret, version, awscli: Some(awscli) };
    let ollama = |processor| {
        let options = tutti_rig::OllamaOptions { processor: Some(processor), ..Default::default() };
        tutti_rig::Ollama::start(&options)
    };
    let ollamas = [ollama(0)?, ollama(1)?];
    let engines = tutti_bench::LoaderEngines {
        urls: ollamas.each_ref().map(|ollama| std::net::SocketAddr::from(([127, 0, 0, 1], ollama.port()))),
        adapter: tutti_rig::model_file("risk-v1"),
        base: tutti_rig::model_file("tutti-story.gguf"),
        version: format!("Ollama {}", ollamas[0].get("/api/version")?["version"]),
    };
    tutti_bench::loader(bench, &bucket, &engines)
}

/// Installs nginx and haproxy where they are missing and we may.
fn others() -> Result<()> {
    run::debian_packages(&["nginx-light", "haproxy"], &["nginx", "haproxy"])
}

/// Installs a peer into the rig's cache.
fn peer(peer: Peer) -> Result<PathBuf> {
    tutti_rig::python_packages(peer.name(), peer.requirements(), "10 to 40 seconds")
}
