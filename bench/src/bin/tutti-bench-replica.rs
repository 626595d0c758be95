//! A replica as a process of its own; see [`tutti_bench::Replica`].

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match tutti_bench::Replica::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
