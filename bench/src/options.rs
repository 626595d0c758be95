//! Options that several benchmarks have.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Where figures are kept.
#[derive(Debug, Clone, clap::Args)]
pub struct Kept {
    /// The folder for RESULTS.md and results/.
    #[arg(long, default_value = "bench")]
    pub out: PathBuf,
}

/// The gateway that is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TuttiProgram {
    /// A tutti binary built in release mode; built first if absent.
    #[arg(long)]
    pub tutti: Option<PathBuf>,
}

/// The program of [`crate::Replica`].
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ReplicaProgram {
    /// The program tutti-bench-replica; built first if absent.
    #[arg(long)]
    pub replica: Option<PathBuf>,
}

impl TuttiProgram {
    /// The one that is given, or one that is built now.
    pub(crate) fn get(&self) -> anyhow::Result<PathBuf> {
        self.tutti.clone().map_or_else(|| build("tutti", "tutti"), Ok)
    }
}

impl ReplicaProgram {
    /// The one that is given, or one that is built now.
    pub(crate) fn get(&self) -> anyhow::Result<PathBuf> {
        self.replica.clone().map_or_else(|| build("tutti-bench", "tutti-bench-replica"), Ok)
    }
}

fn build(package: &str, program: &str) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", package, "--bin", program])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo build --release --bin {program} failed");
    let messages =
        output.stdout.split(|&b| b == b'\n').filter_map(|l| serde_json::from_slice::<serde_json::Value>(l).ok());
    let mut programs = messages.filter_map(|m| m.get("executable")?.as_str().map(PathBuf::from));
    programs.next_back().context("cargo named no executable")
}
