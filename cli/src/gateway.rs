//! `tutti gateway`: starts it, keeps it by its configuration, ends it in order.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tutti_api::Config;
use tutti_gateway::{Accept, Gateway, Options};

use crate::config::Loaded;
use crate::{Source, config, local};

/// How often the configuration file is looked at. Its contents are compared: a time stamp says little on the mounted
/// volumes that configuration comes from.
const LOOK: Duration = Duration::from_secs(1);

/// How long the last requests' lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

/// How the gateway uses the machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct Threads {
    /// Threads that serve clients; else one a processor
    #[arg(long, value_name = "N")]
    cores: Option<usize>,
    /// How sockets reach the threads
    #[arg(long, value_enum, default_value = "handoff", hide = true)]
    accept: How,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    Reuseport,
    Handoff,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let loaded = match config::load(&self.source)? {
            Ok(Some(loaded)) => loaded,
            Ok(None) => Loaded::unnamed(config::overridden(local::zero_config(&local::ollama_host()))?),
            Err(code) => return Ok(code),
        };
        serve(loaded, &self.threads, |_| ())
    }
}

/// Serves until it is told to end. `ready` is called with the gateway once it is.
pub(crate) fn serve(loaded: Loaded, threads: &Threads, ready: impl FnOnce(&Gateway)) -> Result<ExitCode> {
    start_logging();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let clean = runtime.block_on(async {
        let options = Options {
            cores: threads.cores.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            accept: match threads.accept {
                How::Reuseport => Accept::ReusePort,
                How::Handoff => Accept::HandOff,
            },
            token_file: config::token_file(&loaded.config),
        };
        let mut ends = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let gateway = Gateway::start(Arc::new(loaded.config.clone()), options).await?;
        tracing::info!(listen = %gateway.listen, ops = %gateway.ops, admin = %gateway.admin, "tutti serves");
        ready(&gateway);
        let drain = follow(&gateway, loaded, &mut ends).await?;
        tracing::info!("draining: a second signal ends at once");
        tokio::select! {
            clean = gateway.drain(drain) => anyhow::Ok(clean),
            () = ended(&mut ends) => Ok(false),
        }
    })?;
    tutti_gateway::log::finish(LAST_LINES);
    if !clean {
        tracing::warn!("ended with requests that had not");
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes up changes of the configuration until a signal ends it; yields how long to drain.
async fn follow(gateway: &Gateway, mut loaded: Loaded, ends: &mut [Signal; 2]) -> Result<Duration> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = ended(ends) => return Ok(loaded.config.gateway.drain.get()),
            _ = hangup.recv() => {}
            _ = look.tick() => {}
        }
        match loaded.changed() {
            None => {}
            Some(Err(why)) => {
                tracing::error!("the changed configuration is refused, and all stays as it was:\n{why}");
                gateway.reload_failed(&why);
            }
            Some(Ok(config)) => take(gateway, config).await,
        }
    }
}

async fn take(gateway: &Gateway, config: Config) {
    match gateway.reload(Arc::new(config)).await {
        Ok(generation) => tracing::info!(generation, "the changed configuration is in force"),
        Err(why) => tracing::error!("the changed configuration is refused, and all stays as it was: {why}"),
    }
}

async fn ended([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Requests go to standard output, a line of JSON each; what the gateway says of itself goes to standard error.
fn start_logging() {
    tutti_gateway::log::start(std::io::stdout());
    let filter = tracing_subscriber::EnvFilter::try_from_env("TUTTI_LOG").unwrap_or_else(|_| "info".into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Where a subscriber is set already, its owner wants it.
    let _ =
        if std::io::stderr().is_terminal() { subscriber.compact().try_init() } else { subscriber.json().try_init() };
}
