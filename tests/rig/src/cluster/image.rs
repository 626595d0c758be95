//! Images of containers, as `docker save` writes them: one layer of files. A static program needs no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cache::hex;

/// Packs a folder.
fn tar(folder: &Path, to: &Path, names: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@0"]);
    let status = tar.arg(format!("--file={}", to.display())).arg("--directory").arg(folder).args(names).status()?;
    ensure!(status.success(), "{tar:?}: {status}");
    Ok(())
}

fn digest(file: &Path) -> Result<String> {
    Ok(hex(&Sha256::digest(fs::read(file)?)))
}

/// Writes an image `docker.io/rig/<name>:1` that holds these programs in `/bin` and starts with these words, and yields
/// the file in this folder.
pub(super) fn write(folder: &Path, name: &str, programs: &[(&str, &Path)], start: &[&str]) -> Result<PathBuf> {
    let work = tempfile::tempdir_in(folder)?;
    let path = |path: &str| work.path().join(path);
    for part in ["root/bin", "root/tmp", "root/etc", "root/var/lib/tutti", "image"] {
        fs::create_dir_all(path(part))?;
    }
    for (name, program) in programs {
        fs::copy(program, path("root/bin").join(name))?;
    }
    tar(&path("root"), &path("image/layer.tar"), &["."])?;
    let layer = digest(&path("image/layer.tar"))?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": start, "Env": ["PATH=/bin", "HOME=/var/lib/tutti"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [],
    });
    fs::write(path("image/config.json"), config.to_string())?;
    let tag = format!("docker.io/rig/{name}:1");
    let manifest = json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"] }]);
    fs::write(path("image/manifest.json"), manifest.to_string())?;
    let image = folder.join(format!("{name}.tar"));
    tar(&path("image"), &image, &["config.json", "layer.tar", "manifest.json"])?;
    Ok(image)
}
