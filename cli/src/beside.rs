//! The loaders of `tutti up`: one beside each engine of this machine whose pool has adapters and names no loader for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{oneshot, watch};
use tutti_adapter_loader::{Loader, Options};
use tutti_api::{Config, Endpoint, Engine, PoolSpec, ReplicaUrl};

/// How long what no model wants any more stays in an engine at least.
const RETIRE_AFTER: Duration = Duration::from_secs(30);

/// Loaders in this process, each on a thread of its own: what converts adapters holds up no request. Dropping this ends them.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    at: HashMap<(String, String), SocketAddr>,
    tell: Option<watch::Sender<Arc<Config>>>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beside {
    /// Starts those that a configuration asks for; each keeps what it has in a folder of its own below `state`.
    pub(crate) fn start(config: &Config, state: &Path) -> Result<Self> {
        let (tell, told) = watch::channel(Arc::new(config.clone()));
        let mut beside = Self::default();
        for (pool, url) in wanted(config) {
            let folder = state.join(format!("{pool}-{}", url.address().to_string().replace([':', '[', ']', '/'], "-")));
            let options = Options {
                pool: pool.to_owned(),
                engine: url.clone(),
                state: folder,
                listen: "127.0.0.1:0".parse().context("no address to listen on")?,
                retire_after: RETIRE_AFTER,
                tls: crate::loader::tls,
            };
            let started = run(options, told.clone());
            let (running, listen) = started.with_context(|| format!("the adapter-loader of {pool} for {url}"))?;
            tracing::info!(pool, engine = %url, %listen, "tutti loads adapters");
            beside.running.push(running);
            beside.at.insert((pool.to_owned(), url.to_string()), listen);
        }
        beside.tell = (!beside.running.is_empty()).then_some(tell);
        Ok(beside)
    }

    /// Writes where the loaders are into a configuration, and tells them of it.
    pub(crate) fn join(&self, config: &mut Config) {
        let Some(tell) = &self.tell else { return };
        tell.send_replace(Arc::new(config.clone()));
        for pool in &mut config.pools {
            let scheme = if pool.adapters.as_ref().is_some_and(|of| of.tls.is_some()) { "https" } else { "http" };
            for endpoint in pool.endpoints.iter_mut().filter(|endpoint| endpoint.loader.is_none()) {
                let Some(url) = endpoint.url.as_ref().and_then(|url| url.parse::<ReplicaUrl>().ok()) else { continue };
                if let Some(at) = self.at.get(&(pool.name.clone(), url.to_string())) {
                    endpoint.loader = Some(format!("{scheme}://{at}"));
                }
            }
        }
        for (pool, url) in wanted(config) {
            tracing::warn!(pool, engine = %url, "this engine's adapter-loader is started at the next start of tutti");
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        for running in &mut self.running {
            drop(running.end.take());
        }
        for thread in self.running.iter_mut().filter_map(|running| running.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// The engines of this machine whose pools have adapters, and that have no loader.
fn wanted(config: &Config) -> Vec<(&str, ReplicaUrl)> {
    let has_adapters = |pool: &&PoolSpec| pool.engine == Engine::Ollama && pool.adapters.is_some();
    let of = |endpoint: &Endpoint| {
        let url: ReplicaUrl = endpoint.url.as_ref().filter(|_| endpoint.loader.is_none())?.parse().ok()?;
        url.address().is_loopback().then_some(url)
    };
    let pools = config.pools.iter().filter(has_adapters);
    pools.flat_map(|pool| pool.endpoints.iter().filter_map(move |at| Some((&*pool.name, of(at)?)))).collect()
}

/// Starts a loader on a thread of its own, and waits until it listens.
fn run(options: Options, told: watch::Receiver<Arc<Config>>) -> Result<(Running, SocketAddr)> {
    let (end, ended) = oneshot::channel::<()>();
    let (ready, started) = mpsc::sync_channel(1);
    let thread = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(anyhow!(error)))),
        };
        runtime.block_on(async {
            let config = told.borrow().clone();
            let loader = match Loader::open(&options, &config).await {
                Ok(loader) => loader,
                Err(error) => return drop(ready.send(Err(anyhow!(error)))),
            };
            let _ = ready.send(Ok(loader.listen()));
            tokio::select! {
                () = loader.run(told) => {}
                _ = ended => {}
            }
        });
        runtime.shutdown_background(); // what it converts just now, the next start begins anew
    };
    let thread = std::thread::Builder::new().name("adapter-loader".to_owned()).spawn(thread)?;
    let listen = started.recv().map_err(|_| anyhow!("it broke off"))??;
    Ok((Running { end: Some(end), thread: Some(thread) }, listen))
}
