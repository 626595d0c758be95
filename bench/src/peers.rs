//! Gateways for language models that others build, from PyPI, pinned with all that they need in `bench/peers/`.
//!
//! Each runs as its makers start it, with as many threads or workers as the others and no log line a request.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::contender::{Contender, Plan, Proxy, find, free_addr, guarded};
use crate::http::{self, MODEL};

/// How long one may take to answer its first request: litellm takes 20 s and more.
const START_MAX: Duration = Duration::from_secs(120);
/// How long the answer to it may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The router of SGLang, in Rust.
    Sglang,
    /// Its successor, in Rust.
    Smg,
    /// The router of vLLM, in Rust; it began as SGLang's.
    Vllm,
    /// LiteLLM's proxy, in Python.
    Litellm,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 4] = [Peer::Sglang, Peer::Smg, Peer::Vllm, Peer::Litellm];

    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Sglang => "sglang-router",
            Peer::Smg => "smg",
            Peer::Vllm => "vllm-router",
            Peer::Litellm => "litellm",
        }
    }

    /// The packages it is made of, for pip.
    pub fn requirements(self) -> &'static str {
        match self {
            Peer::Sglang => include_str!("../peers/sglang-router.txt"),
            Peer::Smg => include_str!("../peers/smg.txt"),
            Peer::Vllm => include_str!("../peers/vllm-router.txt"),
            Peer::Litellm => include_str!("../peers/litellm.txt"),
        }
    }

    /// Its own package with its version: the first that it is made of.
    pub fn version(self) -> &'static str {
        self.requirements().lines().find(|line| !line.starts_with('#')).unwrap_or_default()
    }

    /// Starts it before a replica; `packages` is the folder its requirements are installed in.
    fn start(self, packages: &Path, replica: SocketAddr, workers: usize) -> Result<Proxy> {
        let (dir, addr) = (TempDir::with_prefix("tutti-bench-peer-")?, free_addr()?);
        let mut command = guarded(&find("python3").unwrap_or_else(|| "python3".into()));
        command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(dir.path());
        command.env("TOKIO_WORKER_THREADS", workers.to_string());
        let key = (self == Peer::Litellm).then(|| "sk-bench".to_owned());
        match self {
            Peer::Litellm => litellm(&mut command, &dir, addr, replica, workers)?,
            _ => self.router(&mut command, addr, replica)?,
        }
        let plan = Plan { name: self.name(), version: self.version().to_owned(), addr, dir, command };
        let mut proxy = plan.spawn()?;
        // It is ready when a chat comes through: some listen long before they know their replica.
        let body = format!(r#"{{"model":"{MODEL}","max_tokens":1,"messages":[{{"role":"user","content":"hi"}}]}}"#);
        let request = http::post(&addr.to_string(), "/v1/chat/completions", &body, key.as_deref());
        proxy.key = key;
        proxy.wait(START_MAX, || http::ask(addr, &request, ANSWER_MAX).is_ok_and(|status| status == 200))?;
        Ok(proxy)
    }

    /// The three that are one family.
    fn router(self, command: &mut Command, addr: SocketAddr, replica: SocketAddr) -> Result<()> {
        let (program, quiet): (&[&str], _) = match self {
            Peer::Smg => (&["-c", "from smg.cli import main; main()", "launch"], "warn"),
            Peer::Vllm => (&["-m", "vllm_router.launch_router"], "warning"),
            _ => (&["-m", "sglang_router.launch_router"], "warn"),
        };
        command.args(program).args(["--policy", "round_robin", "--log-level", quiet, "--host", "127.0.0.1"]);
        command.args(["--port", &addr.port().to_string(), "--prometheus-port", &free_addr()?.port().to_string()]);
        command.arg("--worker-urls").arg(format!("http://{replica}"));
        Ok(())
    }
}

fn litellm(command: &mut Command, dir: &TempDir, addr: SocketAddr, replica: SocketAddr, workers: usize) -> Result<()> {
    let config = format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params: {{ model: \"openai/{MODEL}\", api_base: \"http://{replica}/v1\", \
         api_key: none }}\ngeneral_settings: {{ master_key: sk-bench }}\nlitellm_settings: {{ telemetry: false }}\n"
    );
    let file = dir.path().join("litellm.yaml");
    std::fs::write(&file, config)?;
    // Prices come with the package; the newest of them are not asked for.
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("LITELLM_LOG", "ERROR");
    command.args(["-c", "from litellm import run_server; run_server()", "--host", "127.0.0.1"]);
    command.args(["--port", &addr.port().to_string(), "--num_workers", &workers.to_string(), "--config"]).arg(file);
    Ok(())
}

/// Installs a peer's packages, or says why not.
pub type Install<'a> = &'a dyn Fn(Peer) -> Result<PathBuf>;

/// Installs and starts a peer. What keeps it from running here is an answer, not an error.
pub(crate) fn start(peer: Peer, install: Install, replica: SocketAddr, workers: usize) -> Contender {
    match install(peer).and_then(|packages| peer.start(&packages, replica, workers)) {
        Ok(proxy) => Contender::Ready(proxy),
        Err(why) => Contender::Absent(format!("{} did not run here: {why:#}", peer.version())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_pinned_and_the_peer_is_the_first() {
        for peer in Peer::ALL {
            let packages: Vec<&str> = peer.requirements().lines().filter(|line| !line.starts_with('#')).collect();
            assert!(packages.iter().all(|line| line.contains("==")), "{}", peer.name());
            assert!(peer.version().starts_with(peer.name()), "{}", peer.version());
        }
    }

    #[test]
    fn a_peer_that_cannot_be_installed_is_named_with_the_reason() {
        let refuse = |_| anyhow::bail!("no registry");
        let Contender::Absent(why) = start(Peer::Smg, &refuse, free_addr().unwrap(), 1) else { panic!("it runs") };
        assert_eq!(why, "smg==1.13.0 did not run here: no registry");
    }

    #[test]
    fn a_peer_that_does_not_start_is_quoted() {
        let empty = TempDir::new().unwrap();
        let install = |_| Ok(empty.path().to_owned());
        let Contender::Absent(why) = start(Peer::Smg, &install, free_addr().unwrap(), 1) else { panic!("it runs") };
        assert!(why.contains("No module named 'smg'"), "{why}");
    }
}
