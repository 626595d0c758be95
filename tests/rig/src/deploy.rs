//! The files of `deploy/`, as the tools that people run them with read them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cache;
use crate::ollama::run_go;

const SOURCE: &str = include_str!("../deploy/main.go");
const MODULE: &str = include_str!("../deploy/go.mod");
const SUMS: &str = include_str!("../deploy/go.sum");

/// What a file of `deploy/` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Dockerfile, read by BuildKit's parser: its stages, each with `base`, `name` and `steps` (`name`, `text`).
    Dockerfile,
    /// A Compose file, read by Compose's own library: the project, checked and with defaults filled in.
    Compose,
    /// A folder, built by kustomize: the objects.
    Kustomize,
}

/// What its tool makes of a file.
///
/// # Errors
/// What the tool says is wrong with it, or why there is no such tool.
pub fn deployed(kind: Kind, path: &Path) -> Result<Value> {
    let kind = match kind {
        Kind::Dockerfile => "dockerfile",
        Kind::Compose => "compose",
        Kind::Kustomize => "kustomize",
    };
    let output = Command::new(binary()?).arg(kind).arg(path).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", path.display());
    serde_json::from_slice(&output.stdout).with_context(|| format!("what was made of {}", path.display()))
}

pub(crate) fn binary() -> Result<PathBuf> {
    let key = cache::key([SOURCE.as_bytes(), MODULE.as_bytes(), SUMS.as_bytes()]);
    let made = cache::made(&format!("deploy-{key}"), "about a minute", |half| {
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(half.join("deploy")).arg(".");
        go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy"));
        run_go(go)
    })?;
    Ok(made.join("deploy"))
}
