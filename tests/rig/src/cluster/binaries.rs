//! The cluster's programs, built from the Go module proxy by the pins in `kubernetes/`, `keda/` and below.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache;
use crate::ollama::run_go;

const KUBERNETES: [&str; 2] = [include_str!("../../kubernetes/go.mod"), include_str!("../../kubernetes/go.sum")];
const KEDA: [&str; 2] = [include_str!("../../keda/go.mod"), include_str!("../../keda/go.sum")];
/// The version that `kubernetes/go.mod` requires, as its programs say it.
const VERSION: &str = "v1.35.4";
const COREDNS: &str = "v1.14.7";
const KWOK: &str = "v0.8.0";
const COMMANDS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// A command of Go in one of the rig's modules.
fn go(module: &str) -> Command {
    let mut go = Command::new("go");
    go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(module)).env("CGO_ENABLED", "0");
    go
}

/// The folder with Kubernetes' programs and etcd.
pub(crate) fn kubernetes() -> Result<PathBuf> {
    let key = cache::key(KUBERNETES.map(str::as_bytes));
    cache::made(&format!("kubernetes-{key}"), "about 7 minutes on two idle cores", |half| {
        let of = "k8s.io/component-base/version";
        let flags = format!("-s -w -X {of}.gitVersion={VERSION} -X {of}.gitMajor=1 -X {of}.gitMinor=35");
        let mut build = go("kubernetes");
        build.args(["build", "-trimpath", "-ldflags", &flags, "-o"]).arg(format!("{}/", half.display()));
        build.args(COMMANDS.map(|name| format!("k8s.io/kubernetes/cmd/{name}")));
        run_go(build)?;
        let mut build = go("kubernetes");
        build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(half.join("etcd"));
        build.arg("go.etcd.io/etcd/server/v3");
        run_go(build)
    })
}

/// The folder with KEDA's programs, and its resources in `crds`.
pub(crate) fn keda() -> Result<PathBuf> {
    let key = cache::key(KEDA.map(str::as_bytes));
    cache::made(&format!("keda-{key}"), "6 to 11 minutes on two idle cores", |half| {
        for name in ["operator", "adapter"] {
            let mut build = go("keda");
            build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(half.join(format!("keda-{name}")));
            build.arg(format!("github.com/kedacore/keda/v2/cmd/{name}"));
            run_go(build)?;
        }
        let listed = go("keda").args(["list", "-m", "-f", "{{.Dir}}", "github.com/kedacore/keda/v2"]).output()?;
        ensure!(listed.status.success(), "go list: {}", String::from_utf8_lossy(&listed.stderr));
        let module = PathBuf::from(String::from_utf8_lossy(&listed.stdout).trim());
        let crds = half.join("crds");
        std::fs::create_dir(&crds)?;
        for file in std::fs::read_dir(module.join("config/crd/bases")).context("KEDA's resources")? {
            let file = file?;
            std::fs::write(crds.join(file.file_name()), std::fs::read(file.path())?)?;
        }
        Ok(())
    })
}

/// The folder with the cluster's name server.
pub(crate) fn coredns() -> Result<PathBuf> {
    cache::made(&format!("coredns-{COREDNS}"), "about 3 minutes", |half| {
        install(&format!("github.com/coredns/coredns@{COREDNS}"), half)
    })
}

/// What becomes of nodes and Pods in name only, in kwok's own words.
const STAGES: [&str; 3] = ["node/fast/node-initialize", "pod/fast/pod-ready", "pod/fast/pod-delete"];

/// The folder with who pretends to be nodes, whose Pods cost nothing, and with what becomes of those in `stages.yaml`.
pub(crate) fn kwok() -> Result<PathBuf> {
    cache::made(&format!("kwok-{KWOK}-with-stages"), "about 3 minutes", |half| {
        install(&format!("sigs.k8s.io/kwok/cmd/kwok@{KWOK}"), half)?;
        let mut download = Command::new("go");
        download.args(["mod", "download", "-json", &format!("sigs.k8s.io/kwok@{KWOK}")]).current_dir(half);
        let said = download.output()?;
        ensure!(said.status.success(), "go mod download: {}", String::from_utf8_lossy(&said.stderr));
        let said: serde_json::Value = serde_json::from_slice(&said.stdout)?;
        let module = PathBuf::from(said["Dir"].as_str().context("the module's folder")?);
        let read = |name: &str| std::fs::read_to_string(module.join(format!("kustomize/stage/{name}.yaml")));
        let stages = STAGES.map(read).into_iter().collect::<std::io::Result<Vec<_>>>().context("kwok's stages")?;
        Ok(std::fs::write(half.join("stages.yaml"), stages.join("---\n"))?)
    })
}

/// Builds a command of Go by its own pins.
fn install(command: &str, into: &Path) -> Result<()> {
    let mut install = Command::new("go");
    install.args(["install", "-trimpath", "-ldflags", "-s -w", command]);
    install.env("GOBIN", into).env("GOFLAGS", "").env("CGO_ENABLED", "0").current_dir(into);
    run_go(install)
}
