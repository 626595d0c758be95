//! `tutti gateway`: starts it, keeps it by its configuration, ends it in order.

use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tutti_api::Config;
use tutti_gateway::{Gateway, Options, Sockets};

use crate::beside::Beside;
use crate::config::Loaded;
use crate::{Source, config, local, logging};

/// How long the last requests' lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    threads: Threads,
    /// Take the place of the gateway that runs with these addresses, without losing a request; it drains and ends. Where
    /// none runs, start as always
    #[arg(long)]
    take_over: bool,
}

/// How the gateway uses the machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct Threads {
    /// Threads that serve clients; else one a processor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: Option<u16>,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let loaded = config::load(&self.source)?;
        run(Hangup::Reloads, async |ends| {
            let successor = Succession { takes: self.take_over, gives: true };
            serve(loaded, &self.threads, successor, ends, |_| ()).await
        })
    }
}

/// What SIGHUP means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// Have a look at the configuration's file.
    Reloads,
    /// The terminal is closed, and with it what was started there; unless whoever started us had it ignored (nohup).
    Ends,
}

/// The signals that end the process. They are held, not obeyed: whoever holds them ends what it has started.
pub(crate) struct Ends {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Ends {
    fn hold(hangup: Hangup) -> io::Result<Self> {
        let ends = hangup == Hangup::Ends && !ignores_hangup(&std::fs::read_to_string("/proc/self/status")?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if ends { Some(signal(SignalKind::hangup())?) } else { None },
        })
    }

    /// Resolves when one has come since the last time.
    pub(crate) async fn come(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether a process ignores SIGHUP, by its /proc/PID/status: the first bit of `SigIgn` (proc(5)).
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|ignored| ignored & 1 == 1)
}

/// Runs a command that serves, with the signals held from its beginning.
pub(crate) fn run(hangup: Hangup, command: impl AsyncFnOnce(&mut Ends) -> Result<ExitCode>) -> Result<ExitCode> {
    logging::start();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let outcome = runtime.block_on(async { command(&mut Ends::hold(hangup)?).await });
    runtime.shutdown_background(); // a look at a file system that does not answer is not waited for
    outcome
}

/// Whose place a gateway takes, and whether another may take its own.
#[derive(Clone, Copy)]
pub(crate) struct Succession {
    pub(crate) takes: bool,
    pub(crate) gives: bool,
}

/// Serves until it is told to end. `ready` is called with the gateway once it is.
pub(crate) async fn serve(
    loaded: Loaded,
    threads: &Threads,
    succession: Succession,
    ends: &mut Ends,
    ready: impl FnOnce(&Gateway),
) -> Result<ExitCode> {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        cores: threads.cores.map_or_else(processors, usize::from),
        token_file: config::token_file(&loaded.config.gateway)?,
        levels: logging::levels(),
        releases: config::releases_file(&loaded.config.gateway),
        may_be_succeeded: succession.gives,
    };
    let start = async {
        let spec = &loaded.config.gateway;
        let sockets = match succession.takes {
            true => Sockets::take_over(spec, &options.token_file).await?,
            false => Sockets::bind(spec)?,
        };
        Gateway::start(Arc::new(loaded.config.clone()), options, sockets).await
    };
    let gateway = tokio::select! {
        started = start => started?,
        () = ends.come() => return Ok(ExitCode::SUCCESS), // it has served nobody yet
    };
    let peer = gateway.peer.map(tracing::field::display);
    tracing::info!(listen = %gateway.listen, ops = %gateway.ops, admin = %gateway.admin, peer, "tutti serves");
    ready(&gateway);
    let End { delay, drain } = follow(&gateway, loaded, ends).await?;
    tracing::info!(?delay, ?drain, "draining: a second signal ends at once");
    let is_succeeded = gateway.is_succeeded();
    let at_once = async {
        if is_succeeded {
            ends.come().await; // the first is whose who has started the other process, and ends this one now
            tracing::info!("draining already, for another process has taken over");
        }
        ends.come().await;
    };
    let clean = tokio::select! {
        clean = gateway.drain(delay, drain) => clean,
        () = at_once => false,
    };
    tutti_gateway::log::finish(LAST_LINES);
    if !clean {
        tracing::warn!("ended with requests that had not");
    }
    Ok(ExitCode::SUCCESS)
}

/// How to end, once a signal has come.
#[derive(Clone, Copy)]
struct End {
    /// How long to serve on.
    delay: Duration,
    /// How long what runs may take after that.
    drain: Duration,
}

impl End {
    fn of(config: &Config) -> Self {
        Self { delay: config.gateway.shutdown_delay.get(), drain: config.gateway.drain.get() }
    }
}

/// Takes up changes of the configuration until a signal ends it, which waits for none of them; yields how to end.
async fn follow(gateway: &Gateway, loaded: Loaded, ends: &mut Ends) -> Result<End> {
    let mut end = End::of(&loaded.config);
    let following = async {
        let Loaded { mut lists_pools, mut file, beside, .. } = loaded;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            let changed = match &mut file {
                Some(file) => file.changed(&mut hangup).await,
                None => pending().await,
            };
            match take(gateway, lists_pools, &beside, changed).await {
                Ok(written) => {
                    lists_pools = !written.pools.is_empty();
                    end = End::of(&written);
                }
                Err(why) => tracing::error!("the changed configuration is refused, and all stays as it was:\n{why}"),
            }
        }
    };
    let ended: Result<()> = tokio::select! {
        () = ends.come() => Ok(()),
        () = gateway.succeeded() => Ok(()),
        failed = following => failed,
    };
    ended?;
    if gateway.is_succeeded() {
        tracing::info!("another process has taken over");
        end.delay = Duration::ZERO; // nobody need be sent elsewhere
    }
    Ok(end)
}

/// Takes up a changed file; yields what is written in it.
async fn take(
    gateway: &Gateway,
    lists_pools: bool,
    beside: &Beside,
    changed: Result<Config, String>,
) -> Result<Config, String> {
    let complete = changed.and_then(|written| complete(lists_pools, written));
    let (written, mut complete) = complete.inspect_err(|why| gateway.reload_failed(why))?;
    beside.join(&mut complete);
    let generation = gateway.reload(Arc::new(complete)).await?;
    tracing::info!(generation, "the changed configuration is in force");
    let later = gateway.status().at_next_start;
    if !later.is_empty() {
        tracing::warn!("changes of these are taken at the next start: {}", later.join(", "));
    }
    Ok(written)
}

/// What is written, and what to serve by it. A file that has lost all its pools is refused: it is a save that went wrong.
fn complete(lists_pools: bool, written: Config) -> Result<(Config, Config), String> {
    if lists_pools && written.pools.is_empty() {
        return Err(
            "it lists no pools any more, which would end all service: restart tutti if that is meant".to_owned()
        );
    }
    let complete = local::completed(written.clone()).map_err(|error| format!("{error:#}"))?;
    Ok((written, complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ignores_a_hangup_is_known() {
        assert!(ignores_hangup("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
    }
}
