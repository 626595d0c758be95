//! `cargo xtask`: everything a developer runs, on a machine that has only the toolchains.

mod bench;
mod cluster;
mod docs;
mod picture;
mod run;
mod test;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Runs, tests and measures tutti.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds tutti and a real Ollama with a tiny model, starts both, and prints a line to paste
    Up,
    /// Everything that must pass: format, lints, dependencies, tests on real servers
    Test(test::Test),
    /// Measures; the results go to bench/RESULTS.md
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Builds the servers that the tests run on, into a cache outside the checkout
    Rig,
    /// A real Kubernetes of one node with a real KEDA, in namespaces of its own; tutti is an image in it. Wants root
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Writes the pages that are generated from the code (the tests check that they are current)
    Docs,
    /// Draws the dashboard in docs/img, of what a real Prometheus answers to its queries
    Picture,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up => up::up(),
        Command::Test(test) => test.run(),
        Command::Bench(bench) => bench.run(),
        Command::Cluster(command) => command.run(),
        Command::Rig => tutti_rig::prepare(),
        Command::Docs => docs::write(),
        Command::Picture => picture::write(),
    }
}
