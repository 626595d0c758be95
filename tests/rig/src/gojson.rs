//! Go's JSON decoder, the one that Ollama reads a body with, as an oracle.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cache;
use crate::ollama::run_go;

const SOURCE: &str = include_str!("../gojson/main.go");
const MODULE: &str = include_str!("../gojson/go.mod");

/// What Go made of a body.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Decoded {
    /// Whether Ollama's decoder takes the body (its first JSON value: what follows is not read).
    pub decoded: bool,
    /// Whether the whole body is one JSON value and nothing else.
    pub valid: bool,
    /// `model`, as the last member whose name folds to it has it.
    pub model: String,
    /// `stream`; absent if no member says it.
    pub stream: Option<bool>,
    /// `max_tokens` as it is written; empty if no member says it.
    pub max_tokens: String,
    /// `max_completion_tokens` as it is written; empty if no member says it.
    pub max_completion_tokens: String,
    /// `keep_alive` as it is written; empty if no member says it.
    pub keep_alive: String,
    /// `options`, as a map whose keys keep their case, to values as they are written; empty if it is no object.
    pub options: BTreeMap<String, String>,
}

/// The oracle's process.
#[derive(Debug)]
pub struct GoJson {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl GoJson {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be built or started.
    pub fn start() -> Result<Self> {
        // It ends when its input does: it needs no supervisor.
        let mut child = Command::new(binary()?).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, input, output })
    }

    /// What Go makes of this body.
    ///
    /// # Errors
    /// The process is gone.
    pub fn decode(&mut self, body: &[u8]) -> Result<Decoded> {
        self.input.write_all(format!("{}\n", cache::hex(body)).as_bytes())?;
        self.input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the oracle said {line:?}"))
    }
}

impl Drop for GoJson {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn binary() -> Result<PathBuf> {
    let key = cache::key([SOURCE.as_bytes(), MODULE.as_bytes()]);
    let made = cache::made(&format!("gojson-{key}"), "seconds", |half| {
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(half.join("gojson")).arg(".");
        go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("gojson"));
        run_go(go)
    })?;
    Ok(made.join("gojson"))
}
