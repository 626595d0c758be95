//! `cargo xtask cluster`

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use tutti_rig::Cluster;

use crate::run::debian_packages;

/// How long one may take to come, once it is built.
const START: Duration = Duration::from_secs(600);
/// How long it may take to end.
const END: Duration = Duration::from_secs(60);
/// Between two looks at a file: nothing tells us.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts one that stays until `down`, and prints how to reach it
    Up,
    /// Ends it
    Down,
    /// Starts one, runs a command in its network with its kubectl, and ends it
    Run {
        /// The command; kubectl is on its PATH and knows the cluster
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// What `up` starts
    #[command(hide = true)]
    Hold,
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Up => up(),
            Command::Down => down(),
            Command::Run { command } => {
                let cluster = start()?;
                let mut words = command.iter();
                let program = words.next().context("no command")?;
                let status = cluster.command(program)?.args(words).status()?;
                ensure!(status.success(), "{program}: {status}");
                Ok(())
            }
            Command::Hold => hold(),
        }
    }
}

fn start() -> Result<Cluster> {
    ensure!(rustix::process::geteuid().is_root(), "containers want root");
    debian_packages(&tutti_rig::PACKAGES, &tutti_rig::PROGRAMS)?;
    tutti_rig::prepare_cluster()?;
    Cluster::start(&tutti_rig::static_binary()?)
}

/// Where the one that stays says how it is.
fn folder() -> Result<PathBuf> {
    let folder = tutti_rig::cache_dir()?.join("cluster");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn up() -> Result<()> {
    let folder = folder()?;
    let ready = folder.join("ready");
    ensure!(!ready.exists(), "there is one already: `cargo xtask cluster down` ends it");
    let log = fs::File::create(folder.join("log"))?;
    let mut hold = process::Command::new(std::env::current_exe()?);
    hold.args(["cluster", "hold"]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    hold.process_group(0); // a Ctrl-C here is not for it
    let mut child = hold.spawn()?;
    let until = Instant::now() + START;
    while !ready.exists() {
        if child.try_wait()?.is_some() || Instant::now() > until {
            bail!("it does not come:\n{}", fs::read_to_string(folder.join("log")).unwrap_or_default());
        }
        std::thread::sleep(LOOK);
    }
    println!("{}", fs::read_to_string(ready)?);
    Ok(())
}

fn hold() -> Result<()> {
    let (folder, cluster) = (folder()?, start()?);
    let (ready, stop) = (folder.join("ready"), folder.join("stop"));
    let _ = fs::remove_file(&stop);
    let line = format!("{:?} get nodes", cluster.command("kubectl")?);
    write(
        &ready,
        &format!(
            "In it, for example:\n\n  {line}\n\nIts image of tutti is docker.io/rig/tutti:1 (imagePullPolicy: Never)."
        ),
    )?;
    while !stop.exists() {
        std::thread::sleep(LOOK);
    }
    drop(cluster);
    fs::remove_file(ready)?;
    Ok(fs::remove_file(stop)?)
}

fn down() -> Result<()> {
    let folder = folder()?;
    let (ready, stop) = (folder.join("ready"), folder.join("stop"));
    ensure!(ready.exists(), "there is none");
    fs::write(&stop, "")?;
    let until = Instant::now() + END;
    while ready.exists() && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    for left in [&ready, &stop] {
        let _ = fs::remove_file(left); // whoever held it is gone without a word, as after a reboot
    }
    Ok(())
}

/// A file that is there whole or not at all.
fn write(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}
