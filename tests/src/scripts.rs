//! The scripts of `tests/clients/`: the official client packages, as their users have them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Without what this machine tells clients of servers and proxies.
pub fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if ["OPENAI_", "OLLAMA_", "LANGCHAIN_", "LANGSMITH_"].iter().any(|prefix| upper.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// A script with the pinned packages and none of the machine's.
///
/// # Panics
/// Where the rig has no packages.
pub fn python(script: &str) -> Command {
    let packages = tutti_rig::python().unwrap_or_else(|error| panic!("the rig's Python packages: {error:#}"));
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages).args(["-SB"]).arg(folder().join(script));
    python
}

/// The same, in a folder where `import` finds the packages as it does in a project.
///
/// # Panics
/// Where the rig has no packages, or the folder cannot be made.
pub fn node(script: &str) -> (Command, TempDir) {
    let packages = tutti_rig::node().unwrap_or_else(|error| panic!("the rig's JavaScript packages: {error:#}"));
    let made = || {
        let project = tempfile::tempdir()?;
        symlink(packages.join("node_modules"), project.path().join("node_modules"))?;
        for file in [script, "checks.mjs"] {
            fs::copy(folder().join(file), project.path().join(file))?;
        }
        std::io::Result::Ok(project)
    };
    let project = made().unwrap_or_else(|error| panic!("a project's folder: {error}"));
    let mut node = Command::new("node");
    node.arg(script).current_dir(project.path());
    (node, project)
}

/// Runs a script against these servers. It must make these checks and no other, all with success.
///
/// # Panics
/// Where it does not, with what it said.
pub fn passes(mut script: Command, urls: &[String], checks: &[&str]) {
    let ran = clean(&mut script).args(urls).output();
    let Output { status, stdout, stderr } = ran.unwrap_or_else(|error| panic!("the script does not run: {error}"));
    let said = String::from_utf8_lossy(&stdout);
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let failed: Vec<String> = lines
        .iter()
        .filter(|line| line["ok"] != true)
        .map(|line| format!("{}: {}", line["check"], line["detail"].as_str().unwrap_or_default()))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let made: Vec<&str> = lines.iter().filter_map(|line| line["check"].as_str()).collect();
    assert!(status.success() && made == checks, "{status}: {made:?}: {}", String::from_utf8_lossy(&stderr));
}
