//! `cargo xtask test`

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::run::{cargo, command, debian_packages, root};

/// The version of cargo-deny that checks licences, sources and bans.
const CARGO_DENY: &str = "0.19.0";

#[derive(Args, Debug)]
pub(crate) struct Test {
    /// Only the tests whose name holds this
    filter: Option<String>,
}

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(filter) = &self.filter {
            return cargo(&["test", "--workspace", "--", filter]);
        }
        cargo(&["fmt", "--all", "--check"])?;
        cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
        let mut deny = Command::new(cargo_deny()?);
        deny.args(["--log-level", "warn", "check", "bans", "licenses", "sources"]).current_dir(root());
        command(deny)?;
        debian_packages(&["systemd"], &["systemd-analyze"])?;
        tutti_rig::prepare()?;
        cargo(&["build", "--package", "tutti", "--package", "tutti-rig"])?;
        cargo(&["test", "--workspace", "--no-fail-fast"])?;
        cargo(&["test", "--package", "tutti-api", "--features", "kube"])
    }
}

/// The pinned cargo-deny, built once into the cache.
fn cargo_deny() -> Result<PathBuf> {
    let home = tutti_rig::cache_dir()?.join(format!("cargo-deny-{CARGO_DENY}"));
    let binary = home.join("bin/cargo-deny");
    if !binary.exists() {
        eprintln!("building cargo-deny {CARGO_DENY}, once: about 5 minutes");
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install.args(["install", "--locked", "cargo-deny", "--version", CARGO_DENY, "--root"]).arg(&home);
        command(install)?;
    }
    Ok(binary)
}
