//! Running other programs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The checkout.
pub(crate) fn root() -> PathBuf {
    let xtask = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Where cargo builds to.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs cargo in the checkout.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo set for this task would make every build of the other profile start anew.
    cargo.args(arguments).current_dir(root());
    command(cargo)
}

/// Runs a command and says it.
pub(crate) fn command(mut command: Command) -> Result<()> {
    eprintln!("$ {command:?}");
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Installs Debian packages where one of their programs is missing and we may; elsewhere whoever needs them says so.
pub(crate) fn debian_packages(packages: &[&str], programs: &[&str]) -> Result<()> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&places).chain(["/usr/sbin".into()]).collect();
    let has = |program: &&str| places.iter().any(|place| place.join(program).is_file());
    let may = has(&"apt-get") && rustix::process::geteuid().is_root();
    if programs.iter().all(has) || !may {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.arg("-qq").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command(apt)
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}
