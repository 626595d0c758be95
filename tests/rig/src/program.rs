//! The binary as the image has it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The static binary `tutti`, as the image has it but for its optimisation: built by the same flags.
///
/// # Errors
/// It cannot be built.
pub fn static_binary() -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().context("cannot run rustc")?;
    let host = String::from_utf8_lossy(&host.stdout).trim().to_owned();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    // Beside the other builds: with other flags each would make the other start anew.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from(root).join("target"), PathBuf::from);
    let folder = target.join("static");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--config", "deploy/image/cargo.toml", "--quiet", "--locked", "--package", "tutti"]);
    cargo.args(["--target", &host, "--target-dir"]).arg(&folder).env_remove("RUSTFLAGS").current_dir(root);
    ensure!(cargo.status().context("cannot run cargo")?.success(), "{cargo:?} failed");
    Ok(BUILT.get_or_init(|| folder.join(host).join("debug/tutti")).clone())
}
