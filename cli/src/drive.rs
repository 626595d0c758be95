//! `tutti scaler-metrics --drive`: the one process that drives the releases of several gateways.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tutti_gateway::drive::{Drive, DriveOptions, ReleaseMetrics};

use crate::gateway::Ends;
use crate::{Source, config};

/// How a process drives releases, if it does.
#[derive(Args, Clone, Debug)]
pub(crate) struct Driving {
    /// Drive the releases of the gateways of a configuration's gateway.peer: one process does
    #[arg(long, requires = "state")]
    pub(crate) drive: bool,
    /// The folder in which what was decided is kept
    #[arg(long, value_name = "DIR", requires = "drive")]
    state: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// Where `tutti traffic` and `tutti rollback` ask, by --admin; their token is admin-token in the state folder
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11522")]
    drive_admin: SocketAddr,
}

impl Driving {
    /// Drives until a signal comes, and tells there how the releases stand.
    ///
    /// # Errors
    /// It cannot, or somebody else does.
    pub(crate) async fn run(&self, metrics: ReleaseMetrics, ends: &mut Ends) -> Result<ExitCode> {
        let state = self.state.clone().context("name the folder in which it is kept with --state DIR")?;
        if !self.drive_admin.ip().is_loopback() {
            bail!("--drive-admin stays on loopback: its token would cross the network unprotected");
        }
        let loaded = config::load(&self.source)?;
        let options = DriveOptions {
            config: Arc::new(loaded.config.clone()),
            token_file: state.join("admin-token"),
            state,
            admin: self.drive_admin,
            metrics,
        };
        let drive = Drive::start(options).await.map_err(|why| anyhow!(why))?;
        tracing::info!(admin = %drive.admin, "tutti drives releases");
        let (handle, mut file) = (drive.handle(), loaded.file);
        let following = async {
            let mut hangup = signal(SignalKind::hangup())?;
            let Some(file) = &mut file else { return std::future::pending().await };
            loop {
                match file.changed(&mut hangup).await {
                    Ok(config) => handle.configure(Arc::new(config)).await,
                    Err(why) => {
                        tracing::error!("the changed configuration is refused, and all stays as it was:\n{why}")
                    }
                }
            }
        };
        tokio::select! {
            () = ends.come() => Ok(ExitCode::SUCCESS),
            why = drive.ended() => Err(anyhow!("this driver ends: {why}")),
            failed = following => failed,
        }
    }
}
