//! The gateway itself.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::contender::{Contender, Plan, Proxy, find, free_addr, get, guarded, version};
use crate::http::MODEL;

/// How long it may take to be ready.
const START_MAX: Duration = Duration::from_secs(20);
/// A limit that is counted and never met: what a key may do in a minute.
const NEVER_MET: &str = "4000000000";

/// How to start the gateway: one pool of these replicas, and on it the model [`MODEL`].
#[derive(Debug)]
pub(crate) struct Own<'a> {
    /// A binary built in release mode.
    pub(crate) program: &'a Path,
    pub(crate) replicas: &'a [SocketAddr],
    /// What the replicas speak.
    pub(crate) engine: &'a str,
    /// Requests that each replica works on at once.
    pub(crate) slots: u16,
    /// Threads that serve; else one a processor.
    pub(crate) cores: Option<usize>,
    /// Further lines of the configuration, below `gateway:` and below the pool.
    pub(crate) gateway: &'a str,
    pub(crate) pool: &'a str,
}

impl<'a> Own<'a> {
    /// Before one replica with slots enough for any load.
    pub(crate) fn before(program: &'a Path, replica: &'a SocketAddr) -> Self {
        let replicas = std::slice::from_ref(replica);
        Own { program, replicas, engine: "ollama", slots: 4096, cores: None, gateway: "", pool: "" }
    }

    /// Starts it; anybody may ask.
    pub(crate) fn start(&self) -> anyhow::Result<Proxy> {
        let dir = TempDir::with_prefix("tutti-bench-tutti-")?;
        self.start_in("tutti", dir, None, None)
    }

    /// Starts it with a key that has a limit of every kind, none of which is ever met. Not where this binary knows no keys.
    pub(crate) fn start_keyed(&self) -> anyhow::Result<Contender> {
        let dir = TempDir::with_prefix("tutti-bench-tutti-")?;
        match self.key(&dir.path().join("keys.yaml"))? {
            Some(key) => self.start_in("tutti, keys and limits", dir, Some(key), None).map(Contender::Ready),
            None => Ok(Contender::Absent("tutti with keys and limits: this binary has no `tutti key`".to_owned())),
        }
    }

    /// Starts it behind `wrapper`, a program with its first arguments, which becomes it.
    pub(crate) fn start_wrapped(&self, wrapper: &[String]) -> anyhow::Result<Proxy> {
        let dir = TempDir::with_prefix("tutti-bench-tutti-")?;
        self.start_in("tutti", dir, None, Some(wrapper))
    }

    fn start_in(
        &self,
        name: &'static str,
        dir: TempDir,
        key: Option<String>,
        wrapper: Option<&[String]>,
    ) -> anyhow::Result<Proxy> {
        let program = &self.program.canonicalize().with_context(|| self.program.display().to_string())?;
        let (addr, ops) = (free_addr()?, free_addr()?);
        let file = dir.path().join("tutti.yaml");
        std::fs::write(&file, self.config(&dir, addr, ops, key.is_some())?)?;
        let mut command = match wrapper {
            Some([first, others @ ..]) => {
                let mut command = guarded(&find(first).with_context(|| format!("no {first} on this machine"))?);
                command.args(others).arg(program);
                command
            }
            _ => guarded(program),
        };
        command.arg("gateway");
        if let Some(cores) = self.cores {
            command.args(["--cores", &cores.to_string()]);
        }
        command.arg("--config").arg(file).current_dir(dir.path());
        let mut proxy = Plan { name, version: version(program, "--version"), addr, dir, command }.spawn()?;
        (proxy.ops, proxy.key) = (ops, key);
        proxy.wait(START_MAX, || get(ops, "/readyz").is_ok())?;
        Ok(proxy)
    }

    fn config(&self, dir: &TempDir, addr: SocketAddr, ops: SocketAddr, keyed: bool) -> anyhow::Result<String> {
        let path = dir.path().display();
        let urls: Vec<String> = self.replicas.iter().map(|replica| format!("{{ url: http://{replica} }}")).collect();
        let auth = if keyed { format!("  auth: {{ keysFile: {path}/keys.yaml }}\n") } else { String::new() };
        Ok(format!(
            "gateway:\n  listen: {addr}\n  ops: {ops}\n  admin: {{ listen: {}, tokenFile: {path}/token }}\n{auth}{}\
             pools:\n  - name: p\n    engine: {}\n    endpoints: [{}]\n    slots: {}\n{}\
             models:\n  - name: {MODEL}\n    revisions:\n      - {{ name: base, pool: p, upstream: {MODEL} }}\n\
             \x20   traffic: {{ revision: base }}\n",
            free_addr()?,
            self.gateway,
            self.engine,
            urls.join(", "),
            self.slots,
            self.pool,
        ))
    }

    /// Makes a key; none where this binary has no such command.
    fn key(&self, keys_file: &Path) -> anyhow::Result<Option<String>> {
        let mut command = Command::new(self.program);
        command.args([
            "key",
            "new",
            "--name",
            "bench",
            "--tenant",
            "bench",
            "--models",
            MODEL,
            "--concurrency",
            "100000",
        ]);
        command.args(["--requests-per-minute", NEVER_MET, "--tokens-per-minute", NEVER_MET, "--keys-file"]);
        let made = command.arg(keys_file).output().with_context(|| format!("cannot run {command:?}"))?;
        let said = String::from_utf8_lossy(&made.stderr);
        if said.contains("unrecognized subcommand") {
            return Ok(None);
        }
        ensure!(made.status.success(), "no key was made: {said}");
        Ok(Some(String::from_utf8_lossy(&made.stdout).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_configuration_names_every_replica() {
        let replicas = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let own = Own { pool: "    queue: { size: 7 }\n", ..Own::before(Path::new("tutti"), &replicas[0]) };
        let own = Own { replicas: &replicas, ..own };
        let dir = TempDir::new().unwrap();
        let config = own.config(&dir, replicas[0], replicas[1], true).unwrap();
        assert!(config.contains("endpoints: [{ url: http://127.0.0.1:1 }, { url: http://127.0.0.1:2 }]"), "{config}");
        assert!(config.contains("    queue: { size: 7 }\nmodels:"), "{config}");
        assert!(config.contains("keysFile: "), "{config}");
    }
}
