//! A real Kubernetes with one node, its kubelet and containers included, and a real KEDA in it; and kwok, which runs the Pods of
//! nodes that are annotated `kwok.x-k8s.io/node: fake` in name only, for tests of scale.
//!
//! It runs in network and process namespaces of its own: no port clashes, nothing leaks out, and it ends as a whole when its
//! first process does. Wants root, and Debian's containerd and its like ([`PACKAGES`]).

mod alone;
mod binaries;
mod image;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use alone::ControlPlane;

use crate::Supervised;

/// What Debian has of it.
pub const PACKAGES: [&str; 9] = [
    "containerd",
    "runc",
    "containernetworking-plugins",
    "busybox-static",
    "iptables",
    "conntrack",
    "iproute2",
    "openssl",
    "util-linux",
];
/// Their programs.
pub const PROGRAMS: [&str; 8] = ["containerd", "runc", "busybox", "iptables", "conntrack", "ip", "openssl", "nsenter"];

/// How long one may take to come: about 20 s on two idle cores.
const START: Duration = Duration::from_secs(300);
/// What runs inside.
const INSIDE: &str = include_str!("../../cluster/inside.sh");

/// Builds what it is made of, if it is not in the cache yet.
///
/// # Errors
/// A tool or a registry is missing; says which.
pub fn prepare_cluster() -> Result<()> {
    binaries::kubernetes()?;
    binaries::keda()?;
    binaries::coredns()?;
    binaries::kwok()?;
    Ok(())
}

/// A cluster. Dropping it ends it.
#[derive(Debug)]
pub struct Cluster {
    process: Supervised,
    folder: TempDir,
    path: String,
}

impl Cluster {
    /// Starts one that has an image `docker.io/rig/tutti:1` with this program, which must be static.
    ///
    /// # Errors
    /// It does not come to be ready; what its parts said is in the error.
    pub fn start(tutti: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("tutti-cluster-")?;
        let images = folder.path().join("images");
        fs::create_dir(&images)?;
        let busybox = Path::new("/bin/busybox");
        image::write(&images, "pause", &[("sleep", busybox)], &["/bin/sleep", "2147483647"])?;
        image::write(&images, "tutti", &[("tutti", tutti)], &["/bin/tutti"])?;
        let (kubernetes, keda) = (binaries::kubernetes()?, binaries::keda()?);
        let parts = [&kubernetes, &keda, &binaries::coredns()?, &binaries::kwok()?];
        let own = parts.map(|part| part.display().to_string()).join(":");
        let path = format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let script = folder.path().join("inside.sh");
        fs::write(&script, INSIDE)?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--pid", "--fork", "--mount-proc", "--kill-child", "bash"]).arg(&script);
        command.env("S", folder.path()).env("CRDS", keda.join("crds")).env("PATH", &path);
        let log = File::create(folder.path().join("inside.log"))?;
        let cluster = Self { process: Supervised::start(&command, &log)?, folder, path };
        cluster.wait()
    }

    fn wait(mut self) -> Result<Self> {
        let until = Instant::now() + START;
        while !self.file("ready").exists() {
            if self.process.ended()?.is_some() || Instant::now() > until {
                bail!("the cluster does not come: {}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(100)); // between two looks: nothing tells us
        }
        Ok(self)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The last lines of all its parts.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let files = fs::read_dir(self.file("logs")).into_iter().flatten().flatten().map(|entry| entry.path());
        for file in files.chain([self.file("inside.log")]) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("\n");
            all.push_str(&format!("--- {}\n{last}\n", file.display()));
        }
        all
    }

    /// A file in `/proc` by which a thread can come to be in its network (setns(2)).
    ///
    /// # Errors
    /// It has ended.
    pub fn network(&self) -> Result<PathBuf> {
        let wanted = fs::read_to_string(self.file("namespace"))?;
        for process in fs::read_dir("/proc")?.flatten() {
            let namespace = process.path().join("ns/net");
            if fs::read_link(&namespace).is_ok_and(|of| of.as_os_str() == wanted.trim()) {
                return Ok(namespace);
            }
        }
        bail!("the cluster has ended: {}", self.logs())
    }

    /// A command in its network, with its kubectl.
    ///
    /// # Errors
    /// It has ended.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network()?.display())).arg(program);
        command.env("KUBECONFIG", self.file("kubeconfig")).env("PATH", &self.path);
        Ok(command)
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// What it says.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command("kubectl")?.args(arguments).output().context("cannot run kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies objects.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut kubectl = self.command("kubectl")?;
        kubectl.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("cannot run kubectl")?;
        child.stdin.take().context("no standard input")?.write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.process.kill();
        // What containers had mounted lies below the folder, which could not be removed else.
        let prefix = self.folder.path().display().to_string();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut below: Vec<&str> =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&prefix)).collect();
        below.sort_unstable_by(|a, b| b.cmp(a));
        for at in below {
            let _ = Command::new("umount").args(["--lazy", at]).status();
        }
    }
}
