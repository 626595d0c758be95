//! `cargo xtask`: everything a developer runs, on a machine that has only the toolchains.

mod docs;
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
    Bench(Bench),
    /// Builds the servers that the tests run on, into a cache outside the checkout
    Rig,
    /// Writes the pages that are generated from the code (the tests check that they are current)
    Docs,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The gateway beside nginx and haproxy, in turn
    Gateway(tutti_bench::GatewayBench),
    /// How soon a replica learns that a client has gone
    Gone(tutti_bench::GoneBench),
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
        // Load and replica share the machine with what is measured: they must cost little too.
        Command::Bench(_) if cfg!(debug_assertions) => {
            let own = std::env::args().skip(1).collect::<Vec<_>>();
            let again = ["run", "--quiet", "--release", "--package", "xtask", "--"];
            run::cargo(&again.into_iter().chain(own.iter().map(String::as_str)).collect::<Vec<_>>())
        }
        Command::Bench(bench) => {
            run::debian_packages(&["nginx-light", "haproxy"], &["nginx", "haproxy"])?;
            run::cargo(&["build", "--release", "--package", "tutti"])?;
            match bench {
                Bench::Gateway(bench) => tutti_bench::gateway(bench),
                Bench::Gone(bench) => tutti_bench::gone(bench),
            }
        }
        Command::Rig => tutti_rig::prepare(),
        Command::Docs => docs::write(),
    }
}
