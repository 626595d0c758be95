//! Processes that end when whoever started them does.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// A process, and everything it starts, under `tutti-rig-supervise`: all of it is killed when this is dropped, and
/// when the process that holds this is gone, be it by `kill -9`.
#[derive(Debug)]
pub struct Supervised {
    // Its standard input is the leash: the supervisor kills when the other end is closed, and the kernel closes it.
    supervisor: Child,
}

impl Supervised {
    /// Starts `command`, with nothing to read, and both outputs in `log`.
    ///
    /// # Errors
    /// The supervisor cannot be started. That the command itself cannot be is in `log`, and the supervisor ends.
    pub fn start(command: &Command, log: &File) -> Result<Self> {
        let mut supervisor = Command::new(supervisor_binary()?);
        supervisor.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => supervisor.env(name, value),
                None => supervisor.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            supervisor.current_dir(folder);
        }
        supervisor.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        // A Ctrl-C at the terminal is for its caller, who may have things to finish first.
        supervisor.process_group(0);
        Ok(Self { supervisor: supervisor.spawn().context("cannot start tutti-rig-supervise")? })
    }

    /// The exit status, if the process has ended by itself.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.supervisor.try_wait()?)
    }

    /// Kills it and everything it started, and returns when all of it is gone.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn kill(&mut self) -> Result<()> {
        drop(self.supervisor.stdin.take());
        self.supervisor.wait()?;
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The supervisor's binary, built if need be: it lies beside whatever cargo built us as.
fn supervisor_binary() -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--quiet", "--package", "tutti-rig", "--bin", "tutti-rig-supervise"];
    let status = Command::new(cargo).args(build).current_dir(env!("CARGO_MANIFEST_DIR")).status();
    ensure!(status.context("cannot run cargo")?.success(), "cannot build tutti-rig-supervise");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")));
    let binary = target.join("debug/tutti-rig-supervise");
    Ok(BUILT.get_or_init(|| binary).clone())
}
