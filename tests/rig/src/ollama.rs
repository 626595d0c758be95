//! Real Ollama replicas.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Supervised, cache, models};

/// The last version that builds from the Go module proxy alone and takes LoRA adapters: later modules lack folders
/// that a module's archive leaves out.
pub(crate) const VERSION: &str = "v0.11.4";

/// How long a replica may take to listen: about a second on two idle cores.
const START: Duration = Duration::from_secs(60);

/// How often it is asked before its refusal is believed: 0.11.4 walks its manifests for nearly every call, and one in a hundred
/// or so that meets the deletion of another name (a loader's staging names) is refused with words that say nothing of itself.
const ASKED: u32 = 3;

/// What it says, in its folder.
const LOG: &str = "ollama.log";

/// The binary, built if need be.
pub(crate) fn binary() -> Result<PathBuf> {
    let made = cache::made(&format!("ollama-{VERSION}"), "about 3 minutes", |half| {
        let mut go = Command::new("go");
        // `go install` leaves the version out.
        go.arg("install")
            .arg("-ldflags")
            .arg(format!("-s -w -X github.com/ollama/ollama/version.Version={}", VERSION.trim_start_matches('v')));
        go.arg(format!("github.com/ollama/ollama@{VERSION}"));
        // From nowhere, so that no go.mod or go.work around has a say.
        go.env("GOBIN", half).env("GOFLAGS", "").env("CGO_ENABLED", "1").current_dir(half);
        run_go(go)
    })?;
    Ok(made.join("ollama"))
}

/// Runs a Go command; what it says goes to standard error.
pub(crate) fn run_go(mut go: Command) -> Result<()> {
    let status = go.status().context("cannot run `go`: the rig needs Go 1.24 or later (https://go.dev/dl)")?;
    ensure!(status.success(), "{go:?} failed ({status}); it also needs a C and C++ compiler");
    Ok(())
}

/// How a replica is started.
#[derive(Clone, Debug)]
pub struct OllamaOptions {
    /// Further environment: `OLLAMA_NUM_PARALLEL` and the like.
    pub env: Vec<(String, String)>,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The one processor that it may use, by its number, where it may not use all (Linux's `taskset`).
    pub processor: Option<usize>,
    /// Whether it has the rig's models: `tutti-story`, `risk-v1`, `risk-v2`, `tutti-embed`.
    pub models: bool,
}

impl Default for OllamaOptions {
    fn default() -> Self {
        Self { env: Vec::new(), port: 0, processor: None, models: true }
    }
}

/// A real Ollama on a port of its own, with a store and a home of its own. Dropping it ends it and removes them.
#[derive(Debug)]
pub struct Ollama {
    process: Supervised,
    port: u16,
    options: OllamaOptions,
    folder: TempDir,
}

impl Ollama {
    /// Its version.
    pub fn version() -> &'static str {
        VERSION.trim_start_matches('v')
    }

    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// It cannot be built or does not come to listen; its log is in the error.
    pub fn start(options: &OllamaOptions) -> Result<Self> {
        let folder = TempDir::with_prefix("tutti-ollama-")?;
        if options.models {
            models_into(&folder.path().join("models"))?;
        }
        let (process, port) = launch(folder.path(), options)?;
        Ok(Self { process, port, options: options.clone(), folder })
    }

    /// Where it is reached: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its models (`OLLAMA_MODELS`), for tests that harm them.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// Kills it and its runners, as a crash does. Its store stays.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on the same port after [`Self::kill`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let options = OllamaOptions { port: self.port, ..self.options.clone() };
        (self.process, _) = launch(self.folder.path(), &options)?;
        Ok(())
    }

    /// What it has logged since it was started.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join(LOG))?)
    }

    /// Posts JSON to it, past any gateway.
    ///
    /// # Errors
    /// It does not answer, or not with a success; its answer is in the error.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        post(&self.url(), path, body)
    }

    /// Gets JSON from it, past any gateway.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub fn get(&self, path: &str) -> Result<Value> {
        ask(&format!("GET {path}"), || {
            ureq::get(format!("{}{path}", self.url())).config().http_status_as_error(false).build().call()
        })
    }

    /// Takes a name from it, past any gateway.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub fn delete(&self, model: &str) -> Result<()> {
        let body = serde_json::json!({ "model": model }).to_string();
        let url = format!("{}/api/delete", self.url());
        let delete = || ureq::delete(&url).force_send_body().config().http_status_as_error(false).build().send(&body);
        ask(&format!("DELETE {model}"), delete).map(drop)
    }
}

pub(crate) fn post(url: &str, path: &str, body: &Value) -> Result<Value> {
    let (url, body) = (format!("{url}{path}"), body.to_string());
    ask(&format!("POST {path}"), || ureq::post(&url).config().http_status_as_error(false).build().send(&body))
}

/// Asks until it answers with a success, or has refused [`ASKED`] times.
fn ask(what: &str, send: impl Fn() -> Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let mut refused = 0;
    loop {
        let mut answer = send()?;
        let text = answer.body_mut().read_to_string()?;
        if answer.status().is_success() {
            return Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)));
        }
        refused += 1;
        ensure!(refused < ASKED, "{what}: {} {text}", answer.status());
    }
}

fn launch(folder: &Path, options: &OllamaOptions) -> Result<(Supervised, u16)> {
    let path = folder.join(LOG);
    let log = File::create(&path)?;
    let mut command = match options.processor {
        Some(processor) => {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", &processor.to_string()]).arg(binary()?);
            command
        }
        None => Command::new(binary()?),
    };
    command.arg("serve").current_dir(folder);
    command.env("OLLAMA_HOST", format!("127.0.0.1:{}", options.port));
    command.env("OLLAMA_MODELS", folder.join("models")).env("HOME", folder);
    command.envs(options.env.iter().map(|(name, value)| (name, value)));
    let mut process = Supervised::start(&command, &log)?;
    let until = Instant::now() + START;
    loop {
        let said = fs::read_to_string(&path).unwrap_or_default();
        if let Some(port) = listening_on(&said) {
            return Ok((process, port));
        }
        if process.ended()?.is_some() || Instant::now() > until {
            bail!("Ollama does not listen: {said}");
        }
        std::thread::sleep(Duration::from_millis(5)); // between two looks: only its log tells
    }
}

/// The port in `Listening on 127.0.0.1:<port> (version …)`, which it logs once the socket is bound.
fn listening_on(log: &str) -> Option<u16> {
    let (_, after) = log.split_once("Listening on 127.0.0.1:")?;
    let (port, _) = after.split_once(' ')?;
    port.parse().ok()
}

/// Puts the rig's models into a store (`OLLAMA_MODELS`) of its own, for an Ollama that a test starts by itself.
///
/// # Errors
/// They cannot be made, or not be copied.
pub fn models_into(store: &Path) -> Result<()> {
    copy(&models::store()?, store)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            // Ollama lists models by the time of their manifests.
            File::options().write(true).open(&target)?.set_modified(entry.metadata()?.modified()?)?;
        }
    }
    Ok(())
}
