//! Packages from the registries of Python and Node, pinned: the clients that tests drive the gateway with
//! (`tests/clients/`), the peers that it is measured beside (`bench/peers/`).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache;

const REQUIREMENTS: &str = include_str!("../../clients/requirements.txt");
const PACKAGE: &str = include_str!("../../clients/package.json");
const LOCK: &str = include_str!("../../clients/package-lock.json");
const GGUF: &str = include_str!("../gguf/requirements.txt");

const NEEDS_PYTHON: &str = "the rig needs `python3`, 3.11 or later, with pip";
const NEEDS_NODE: &str = "the rig needs `node`, 20 or later, with npm";

/// A folder with the packages of `tests/clients/requirements.txt`, for `PYTHONPATH`.
///
/// # Errors
/// `python3` or its pip is missing, or they cannot be installed.
pub fn python() -> Result<PathBuf> {
    python_packages("python", REQUIREMENTS, "about 30 seconds")
}

/// A folder with the packages of `tests/rig/gguf/requirements.txt`, `gguf` and NumPy, for `PYTHONPATH`.
///
/// # Errors
/// As [`python`].
pub fn gguf() -> Result<PathBuf> {
    python_packages("gguf", GGUF, "about 10 seconds")
}

/// A folder `<name>-…` of the cache with the packages that `requirements` names, for `PYTHONPATH`. All of them must be
/// named: nothing is resolved, and what is installed elsewhere has no say.
///
/// # Errors
/// `python3` or its pip is missing, or they cannot be installed.
pub fn python_packages(name: &str, requirements: &str, expected: &str) -> Result<PathBuf> {
    python_packages_with(name, [requirements, ""], expected, |_| ())
}

/// The same where `llama-cpp-python` is among them, which is built, with the packages in `built_with` and for any
/// processor of this kind.
pub(crate) fn built(name: &str, requirements: &str, built_with: &str, expected: &str) -> Result<PathBuf> {
    python_packages_with(name, [requirements, built_with], expected, |pip| {
        pip.args(["--no-binary", "llama-cpp-python"]);
        pip.env("CMAKE_ARGS", "-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF");
    })
}

fn python_packages_with(
    name: &str,
    [requirements, built_with]: [&str; 2],
    expected: &str,
    with: impl FnOnce(&mut Command),
) -> Result<PathBuf> {
    // Some packages are compiled for one version of Python.
    let version = run(Command::new("python3").args(["-c", "import sys; print(sys.version)"]), NEEDS_PYTHON)?;
    let parts = [requirements.as_bytes(), version.as_bytes(), built_with.as_bytes()];
    // What is not built has the key that it had before anything was.
    let key = cache::key(parts.into_iter().filter(|part| !part.is_empty()));
    cache::made(&format!("{name}-{key}"), expected, |half| {
        let file = half.join("requirements.txt");
        fs::write(&file, requirements)?;
        let constraints = half.join("constraints.txt");
        fs::write(&constraints, built_with)?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--root-user-action", "ignore", "--target"]);
        pip.arg(half).arg("--requirement").arg(file);
        with(pip.env("PIP_CONSTRAINT", constraints)); // what pip makes of it for what it builds with
        run(&mut pip, NEEDS_PYTHON).map(drop)
    })
}

/// A folder with the `node_modules` of `tests/clients/package-lock.json`.
///
/// # Errors
/// `node` or `npm` is missing, or they cannot be installed.
pub fn node() -> Result<PathBuf> {
    run(Command::new("node").arg("--version"), NEEDS_NODE)?;
    let key = cache::key([PACKAGE.as_bytes(), LOCK.as_bytes()]);
    cache::made(&format!("node-{key}"), "seconds", |half| {
        fs::write(half.join("package.json"), PACKAGE)?;
        fs::write(half.join("package-lock.json"), LOCK)?;
        let mut npm = Command::new("npm");
        npm.args(["ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(half);
        run(&mut npm, NEEDS_NODE).map(drop)
    })
}

/// Runs a command to its end; yields what it wrote. What it says of an error is in the error.
fn run(command: &mut Command, needs: &str) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}: {needs}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}): {needs}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_not_there_is_named() {
        let missing = run(&mut Command::new("no-such-python"), NEEDS_PYTHON).unwrap_err();
        let said = format!("{missing:#}");
        assert!(said.contains("no-such-python") && said.contains(NEEDS_PYTHON), "{said}");
    }
}
