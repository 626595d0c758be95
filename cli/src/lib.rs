//! The binary `tutti`: its commands, and the page that describes them.

// They panic where nobody can hear: `print::say!` and `print::page` do not.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod adapter;
mod admin;
mod beside;
mod config;
mod connect;
mod drain;
mod drive;
mod follow;
mod gateway;
mod key;
mod level;
mod loader;
mod local;
mod logging;
mod print;
mod reference;
mod scaler;
mod status;
mod traffic;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use print::say;

pub use reference::markdown as reference_markdown;

/// One fast, safe inference service out of a set of Ollama replicas.
///
/// Start with `tutti up`: it finds the Ollama on this machine, or starts it, and serves its models. A configuration
/// file (`tutti.yaml`) says more: `tutti schema` and `tutti check` help to write it.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One machine: finds or starts Ollama, and puts the gateway before it
    Up(up::Up),
    /// The gateway alone, by a configuration
    Gateway(gateway::Serve),
    /// Beside an engine: brings it the adapters that models refer to, verified and proven, from an object store or a folder
    AdapterLoader(loader::AdapterLoader),
    /// Asks all gateways what work there is, and tells KEDA and Prometheus how many replicas that wants
    ScalerMetrics(scaler::ScalerMetrics),
    /// Says everything that is wrong with a configuration, and where
    ///
    /// The exit code is 0 where it is right, 2 where it is wrong, 3 where it is right and `--connect` has found what will not
    /// work, and 1 where there is none or it cannot be read.
    Check(connect::Check),
    /// Prints the JSON schema of the configuration, for editors
    Schema,
    /// Shows what a running gateway does: its pools, replicas, queues and models
    Status(status::Ask),
    /// Takes a replica out of service: it gets nothing new, and what is in flight there goes on to its end
    ///
    /// Waits until nothing is in flight there. It holds through changes of the configuration and a take-over, until
    /// `tutti undrain`, until nobody has named the replica for five minutes, or until the gateway ends. The exit code is 1 where there is no such replica, where it is the last that serves a
    /// model (see --force), and where the wait was too long.
    Drain(drain::Drain),
    /// Takes a replica that was drained back into service
    Undrain(drain::Undrain),
    /// Shows which revisions of a model serve, and changes that
    ///
    /// Returns once every queue goes by it, with exit code 0. Without --to and the like it only shows. A change at run time
    /// holds, also through restarts, until the model's own part of the configuration changes.
    Traffic(traffic::Traffic),
    /// Has a model's former revision serve all again, at once; or ends the change that is under way
    Rollback(traffic::Rollback),
    /// Makes, shows and revokes the keys that clients ask with
    Key(key::Key),
    /// Puts adapters into an object store, fetches, shows and checks them
    Adapter(adapter::Adapter),
    /// Shows and changes how much a running gateway says of itself
    LogLevel(level::Level),
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Source {
    /// The configuration file; else `TUTTI_CONFIG`, `./tutti.yaml`, `tutti/tutti.yaml` in the user's configuration folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Does what this process was started with, and yields its exit code.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(up) => up.run(),
        Command::Gateway(serve) => serve.run(),
        Command::AdapterLoader(loader) => loader.run(),
        Command::ScalerMetrics(scaler) => scaler.run(),
        Command::Check(check) => check.run(),
        Command::Schema => config::schema(),
        Command::Status(ask) => ask.run(),
        Command::Drain(drain) => drain.run(),
        Command::Undrain(undrain) => undrain.run(),
        Command::Traffic(traffic) => traffic.run(),
        Command::Rollback(rollback) => rollback.run(),
        Command::Key(key) => key.run(),
        Command::Adapter(adapter) => adapter.run(),
        Command::LogLevel(level) => level.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if error.is::<config::Wrong>() => {
            say!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            say!("tutti: {error:#}");
            ExitCode::FAILURE
        }
    }
}
