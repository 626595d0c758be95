//! `cargo xtask test`

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::run::{cargo, command, debian_packages, root};

/// The version of cargo-deny that checks licences, sources and bans.
const CARGO_DENY: &str = "0.19.0";

/// How many test programs may fail and be run again: more is no accident of a busy machine.
const DOUBTED: usize = 5;
/// How often each of them is run again, by itself.
const AGAIN: usize = 2;

#[derive(Args, Debug)]
pub(crate) struct Test {
    /// Only the tests whose name holds this
    filter: Option<String>,
    /// Fail where a test fails, rather than run its program again by itself
    #[arg(long)]
    strict: bool,
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
        debian_packages(&["prometheus", "curl"], &["prometheus", "promtool", "curl"])?;
        debian_packages(&tutti_rig::PACKAGES, &tutti_rig::PROGRAMS)?;
        tutti_rig::prepare()?;
        cargo(&["build", "--package", "tutti", "--package", "tutti-rig"])?;
        let flaky = self.whole()?;
        cargo(&["test", "--package", "tutti-api", "--features", "kube"])?;
        for program in flaky {
            eprintln!(
                "FLAKY: {program} failed among the others and passed by itself: what it said then is above. It is a defect"
            );
        }
        Ok(())
    }

    /// Runs every test. A program of tests that fails is run again, alone: real servers on a busy machine fail one run of many
    /// by their own races. Yields those that passed then, as arguments of cargo.
    fn whole(&self) -> Result<Vec<String>> {
        let failed = failed_programs(&["test", "--workspace", "--no-fail-fast"])?;
        ensure!(failed.is_empty() || !self.strict, "failed: {}", failed.join(", "));
        ensure!(failed.len() <= DOUBTED, "failed: {}: too many to be run again", failed.join(", "));
        let mut left = failed.clone();
        for _ in 0..AGAIN {
            left.retain(|program| cargo(&again(program)).inspect_err(|error| eprintln!("{error:#}")).is_err());
        }
        ensure!(left.is_empty(), "failed {} times: {}", AGAIN + 1, left.join(", "));
        Ok(failed)
    }
}

/// Runs cargo's tests and passes on what it says; yields the programs that failed, as cargo names them to run them again
/// (`-p tutti-tests --test faults`).
fn failed_programs(arguments: &[&str]) -> Result<Vec<String>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(root()).env("CARGO_TERM_COLOR", "never").stderr(Stdio::piped());
    eprintln!("$ {cargo:?}");
    let mut child = cargo.spawn().with_context(|| format!("cannot run {cargo:?}"))?;
    let mut failed = Vec::new();
    for line in child.stderr.take().into_iter().flat_map(|said| BufReader::new(said).split(b'\n')) {
        let line = String::from_utf8_lossy(&line?).into_owned();
        eprintln!("{line}");
        failed.extend(named(&line).map(str::to_owned));
    }
    let status = child.wait()?;
    if !status.success() && failed.is_empty() {
        bail!("{cargo:?} failed: {status}");
    }
    Ok(failed)
}

/// What cargo is asked to run that program again. One of `tests/e2e` as part of the workspace: asked for its package alone, cargo
/// would build every dependency anew, with fewer features.
fn again(program: &str) -> Vec<&str> {
    match program.split_once(" --test ") {
        Some((_, name)) => vec!["test", "--workspace", "--test", name],
        None => ["test"].into_iter().chain(program.split_whitespace()).collect(),
    }
}

/// The program that a line of cargo's last words names: ``    `-p tutti-tests --test faults` ``.
fn named(line: &str) -> Option<&str> {
    line.strip_prefix("    `")?.strip_suffix('`').filter(|program| program.starts_with("-p "))
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

#[cfg(test)]
mod tests {
    use super::{again, named};

    #[test]
    fn cargos_last_words_name_what_failed() {
        let said =
            "error: 2 targets failed:\n    `-p tutti-tests --test base_from`\n    `-p tutti-gateway --lib`\n\n    `x`";
        let failed: Vec<&str> = said.lines().filter_map(named).collect();
        assert_eq!(failed, ["-p tutti-tests --test base_from", "-p tutti-gateway --lib"]);
        assert_eq!(again(failed[0]), ["test", "--workspace", "--test", "base_from"]);
        assert_eq!(again(failed[1]), ["test", "-p", "tutti-gateway", "--lib"]);
    }
}
