//! `tutti adapter-loader`: beside each engine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tutti_adapter_loader::server::Tls;
use tutti_adapter_loader::{Loader, Options};
use tutti_api::{Address, Config, HumanDuration, MutualTlsSpec, ReplicaUrl};
use tutti_gateway::tls::{Between, Mutual};

use crate::Source;
use crate::config::{self, Loaded};
use crate::gateway::{Ends, Hangup, run};

#[derive(Args, Clone, Debug)]
pub(crate) struct AdapterLoader {
    #[command(flatten)]
    source: Source,
    /// The pool whose adapters it brings
    #[arg(long, value_name = "NAME")]
    pool: String,
    /// The engine that it brings them to
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:11434")]
    engine: ReplicaUrl,
    /// The folder that it keeps them in; no other loader's
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where gateways ask it, and probes of the Pod; beyond loopback it wants a token (`adapters.tokenFile`) or certificates
    /// (`adapters.tls`)
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11510")]
    listen: Address,
    /// How long what no model wants any more stays in the engine at least; and how long after its start the loader takes it
    /// that gateways have leases that it has not heard of
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    retire_after: HumanDuration,
}

impl AdapterLoader {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let loaded = config::load(&self.source)?;
        let options = Options {
            pool: self.pool.clone(),
            engine: self.engine.clone(),
            state: self.state.clone(),
            listen: self.listen.clone(),
            retire_after: self.retire_after.get(),
            tls,
        };
        run(Hangup::Reloads, async |ends| serve(&options, loaded, ends).await)
    }
}

/// What a loader's port is served by, by these files.
pub(crate) fn tls(spec: &MutualTlsSpec) -> Result<Tls, String> {
    let mutual = Mutual::start(spec, Between::Loaders)?;
    Ok(Tls::new(move || mutual.server()))
}

async fn serve(options: &Options, loaded: Loaded, ends: &mut Ends) -> Result<ExitCode> {
    let loader = Loader::open(options, &loaded.config).await?;
    let listen = loader.listen();
    tracing::info!(%listen, pool = options.pool, engine = %options.engine, "tutti loads adapters");
    let (tell, told) = watch::channel(Arc::new(loaded.config.clone()));
    tokio::select! {
        () = loader.run(told) => {}
        followed = follow(loaded, &tell) => followed?,
        () = ends.come() => {}
    }
    tracing::info!("ended: the next start goes on from here");
    Ok(ExitCode::SUCCESS)
}

/// Tells of changes of the configuration's file.
async fn follow(loaded: Loaded, tell: &watch::Sender<Arc<Config>>) -> Result<()> {
    let Some(mut file) = loaded.file else { return std::future::pending().await };
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        match file.changed(&mut hangup).await {
            Ok(config) => drop(tell.send_replace(Arc::new(config))),
            Err(why) => tracing::error!("the changed configuration is refused, and all stays as it was:\n{why}"),
        }
    }
}
