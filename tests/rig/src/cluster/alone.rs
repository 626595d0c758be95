//! A real Kubernetes without a node: its API server, its store and the controllers of Deployments. Pods are objects here, which
//! nobody runs; what is asked of Kubernetes and told to it is real. Wants openssl, and no root.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::binaries;
use crate::Supervised;

/// How long it may take to come: about 10 s on two idle cores.
const START: Duration = Duration::from_secs(180);
/// What runs.
const ALONE: &str = include_str!("../../cluster/alone.sh");

/// Kubernetes without a node. Dropping it ends it.
#[derive(Debug)]
pub struct ControlPlane {
    process: Supervised,
    folder: TempDir,
    path: String,
    address: SocketAddr,
}

impl ControlPlane {
    /// Starts one.
    ///
    /// # Errors
    /// It does not come to be ready; what its parts said is in the error.
    pub fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("tutti-control-plane-")?;
        let programs = binaries::kubernetes()?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let script = folder.path().join("alone.sh");
        fs::write(&script, ALONE)?;
        // All at once, so that they differ.
        let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").and_then(|free| Ok((free.local_addr()?, free))));
        let free = free.into_iter().collect::<std::io::Result<Vec<_>>>()?;
        let ports: Vec<String> = free.iter().map(|(address, _)| address.port().to_string()).collect();
        let address = free[2].0;
        drop(free);
        let mut command = Command::new("bash");
        command.arg(&script).env("S", folder.path()).env("PORTS", ports.join(" ")).env("PATH", &path);
        let log = File::create(folder.path().join("log"))?;
        let mut plane = Self { process: Supervised::start(&command, &log)?, folder, path, address };
        let until = Instant::now() + START;
        while !plane.file("ready").exists() {
            if plane.process.ended()?.is_some() || Instant::now() > until {
                bail!("Kubernetes does not come: {}", plane.logs());
            }
            std::thread::sleep(Duration::from_millis(100)); // between two looks: nothing tells us
        }
        Ok(plane)
    }

    /// Where its API server is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that its API server's is signed by.
    pub fn authority(&self) -> PathBuf {
        self.file("ca.crt")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The last lines of all its parts.
    pub fn logs(&self) -> String {
        let parts = ["etcd.log", "apiserver.log", "controllers.log", "log"];
        let last = |name: &str| {
            let text = fs::read_to_string(self.file(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(5)..].join("\n"))
        };
        parts.map(last).concat()
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// What it says.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("kubectl");
        command.args(arguments).env("KUBECONFIG", self.file("kubeconfig")).env("PATH", &self.path);
        let output = command.output().context("cannot run kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies the objects of a file.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let file = self.file("objects.yaml");
        fs::write(&file, yaml)?;
        self.kubectl(&["apply", "-f", path(&file)?]).map(drop)
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
