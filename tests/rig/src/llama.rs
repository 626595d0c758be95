//! A real engine that takes an array of texts in one pass: the server of `llama-cpp-python`, with the rig's embedding
//! model.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::{Supervised, models, packages};

const REQUIREMENTS: &str = include_str!("../llama/requirements.txt");
const BUILT_WITH: &str = include_str!("../llama/constraints.txt");

/// How long it may take to listen: seconds on two idle cores.
const START: Duration = Duration::from_secs(60);

/// What it says, in its folder.
const LOG: &str = "llama.log";

/// The server, with the model `tutti-embed`, on a port of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Llama {
    _process: Supervised,
    port: u16,
    _folder: TempDir,
}

/// The folder with the server and what it needs, built if need be.
pub(crate) fn server() -> Result<PathBuf> {
    packages::built("llama", REQUIREMENTS, BUILT_WITH, "about 3 minutes")
}

impl Llama {
    /// Starts it and waits until it listens. It serves one call at a time, on one thread.
    ///
    /// # Errors
    /// It cannot be built or does not come to listen; its log is in the error.
    pub fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("tutti-llama-")?;
        let path = folder.path().join(LOG);
        let log = File::create(&path)?;
        let mut command = Command::new("python3");
        command.args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", "0", "--embedding", "true"]);
        command.args(["--model_alias", models::EMBEDDING, "--n_threads", "1", "--n_threads_batch", "1"]);
        command.arg("--model").arg(models::embedding()).args(["--verbose", "false"]);
        command.current_dir(folder.path()).env("PYTHONPATH", server()?).env("HOME", folder.path());
        let mut process = Supervised::start(&command, &log)?;
        let until = Instant::now() + START;
        loop {
            let said = fs::read_to_string(&path).unwrap_or_default();
            if let Some(port) = listening_on(&said) {
                return Ok(Self { _process: process, port, _folder: folder });
            }
            if process.ended()?.is_some() || Instant::now() > until {
                bail!("the server of llama-cpp-python does not listen: {said}");
            }
            std::thread::sleep(Duration::from_millis(5)); // between two looks: only its log tells
        }
    }

    /// Where it is reached: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it is.
    pub fn version() -> &'static str {
        let known = REQUIREMENTS.lines().find_map(|line| line.strip_prefix("llama-cpp-python=="));
        known.unwrap_or_default()
    }
}

/// The port in `Uvicorn running on http://127.0.0.1:<port> (…`, which it logs once the socket is bound.
fn listening_on(log: &str) -> Option<u16> {
    let (_, after) = log.split_once("running on http://127.0.0.1:")?;
    let (port, _) = after.split_once(' ')?;
    port.parse().ok()
}
