//! Sockets, threads and time around the request: a runtime a core for clients, one for control, ops and admin.

mod accept;
mod activity;
mod admin;
mod connection;
mod core;
mod files;
mod handshake;
mod http1;
mod http2;
mod levels;
mod listen;
mod ops;
mod paced;
pub(crate) mod pages;
mod peers;
mod places;
mod socket;
mod sockets;
mod stream;
mod take_over;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tutti_api::{Config, PeerSpec, TrafficWord};

use crate::beginning;
use crate::control::{Control, Task};
use crate::demand;
use crate::ending::Phase;
use crate::health;
use crate::loaders;
use crate::peer::{self, Peers};
use crate::registry::Registry;
use crate::releases::{Led, Lone, Releases};
use crate::shared::Shared;
use crate::status::Status;
use crate::table::{Table, World};
use crate::tls::Tls;
use admin::Admin;
pub use levels::{Filter, Levels};
pub use listen::StartError;
pub(crate) use listen::token;
use pages::Port;
pub use sockets::Sockets;

/// What a gateway is started with, beside its configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that serve clients. Unit: cores.
    pub cores: usize,
    /// Where the admin token is, and is made if it is not.
    pub token_file: PathBuf,
    /// What changes how much is said on the way; without it `/log-level` is no page.
    pub levels: Option<Arc<dyn Levels>>,
    /// Where a lone gateway keeps what was decided of releases, and beside it (`.word`) one among several what it goes by;
    /// `None`: nowhere.
    pub releases: Option<PathBuf>,
    /// Whether another process may take over: not one that ends with more than itself.
    pub may_be_succeeded: bool,
}

/// A gateway that serves.
#[derive(Debug)]
pub struct Gateway {
    /// Where clients reach it.
    pub listen: SocketAddr,
    /// Where its metrics are.
    pub ops: SocketAddr,
    /// Where it is asked about itself.
    pub admin: SocketAddr,
    /// Where other gateways reach it, if there are others.
    pub peer: Option<SocketAddr>,
    shared: Arc<Shared>,
    control: Control,
    cores: core::Cores,
    offering: Option<take_over::Offering>,
}

impl Gateway {
    /// Asks the replicas what they have, and serves at these sockets. Called on the control thread's runtime
    /// (current-thread), which must go on running. Where the sockets were another gateway's, that one serves until this
    /// one does.
    ///
    /// # Errors
    /// What stood in the way, with what to do.
    pub async fn start(config: Arc<Config>, options: Options, sockets: Sockets) -> Result<Self, StartError> {
        let spec = &config.gateway;
        let tls = spec.tls.as_ref().map(|tls| Tls::start(tls, spec.limits.handshakes)).transpose();
        let tls = tls.map_err(StartError::Tls)?;
        let peers = spec.peer.as_ref().map(Peers::new).transpose().map_err(StartError::Tls)?;
        let [address, ops_address, admin_address] = sockets.addresses()?;
        let token = listen::token(&options.token_file)?;

        let Sockets { ports, peer, predecessor } = sockets;
        let peer_address = peer.as_ref().map(take_over::Port::address).transpose()?;
        // An endpoint that leads back here is known by this, whichever of the two answers there.
        let instance = match &predecessor {
            Some(predecessor) => predecessor.instance.clone(),
            None => format!("{:016x}", crate::random()),
        };
        let instance = HeaderValue::try_from(instance).unwrap_or(HeaderValue::from_static("0"));
        let mut registry = Registry::default();
        let mut world = World::default();
        for url in predecessor.iter().flat_map(|predecessor| &predecessor.drained) {
            world.drains.insert(url);
        }
        let told = predecessor.as_ref().and_then(|predecessor| predecessor.word.clone());
        let releases = releases(&config, options.releases.clone(), told, admin_address).await;
        world.traffic = releases.traffic();
        let table = Table::build(config.clone(), &world, 1, &mut registry).map_err(StartError::Endpoint)?;
        let shared = Shared::new(Arc::new(table), instance, tls, peers, files::connections());
        let keys = shared.keys.open(spec.auth.as_ref()).await.map_err(StartError::Keys)?;
        shared.keys.install(keys);
        let cores = core::Cores::start(options.cores, &shared).map_err(StartError::Thread)?;
        if !address.ip().is_loopback() && spec.auth_has_keys() && spec.tls.is_none() {
            warn_of_keys_in_clear(address);
        }
        let copies = ports.iter().chain(&peer).map(take_over::Port::copy).collect();
        let [listen, ops, admin] = ports.map(|port| port.listener);
        let accept = |listen| _ = tokio::spawn(accept::accept(listen, cores.doors(), shared.clone()));
        let tell = |ops| ops::start(ops, Port::Ops, shared.clone());
        let (listen, ops) = match (&predecessor, &peer) {
            (Some(_), _) => (Some(listen), Some(ops)),
            (None, None) => {
                accept(listen); // at once: an endpoint that leads back here is known by our own answer
                (None, Some(ops))
            }
            (None, Some(_)) => {
                shared.beginning.begin(); // nobody is served yet, and who asks for it is told why
                accept(listen);
                tell(ops);
                (None, None)
            }
        };
        let mut task = Task::new(shared.clone(), registry, world, releases);
        task.take(config.clone()).await.map_err(StartError::Endpoint)?;
        let control = task.start();
        tokio::spawn(health::watch(shared.clone()));
        demand::start(shared.clone());
        tokio::spawn(loaders::watch(shared.clone()));
        if let Some((port, spec)) = peer.zip(spec.peer.clone()) {
            join(port, spec, &cores, &shared, &control).await;
        }
        ops.into_iter().for_each(tell);
        let admin_pages = Admin { token, control: control.clone(), levels: options.levels };
        ops::start(admin, Port::Admin(Arc::new(admin_pages)), shared.clone());
        if let Some((listen, predecessor)) = listen.zip(predecessor) {
            accept(listen);
            if let Some(word) = predecessor.relieve().await {
                let _ = control.word(word).await; // an older one than is known is none
            }
        }
        let offering = options.may_be_succeeded.then(|| offer(&options.token_file, copies, &shared)).flatten();
        let peer = peer_address;
        Ok(Self { listen: address, ops: ops_address, admin: admin_address, peer, shared, control, cores, offering })
    }

    /// Whether another process has taken over.
    pub fn is_succeeded(&self) -> bool {
        self.shared.ending.is_succeeded()
    }

    /// Resolves when another process has taken over: then there is nothing left to do but to drain.
    pub async fn succeeded(&self) {
        self.shared.ending.succeeded().await;
    }

    /// `http` or `https`: how clients reach it.
    pub fn scheme(&self) -> &'static str {
        if self.shared.tls.is_some() { "https" } else { "http" }
    }

    /// Takes up a configuration without a pause; what [`Status::at_next_start`] names stays as it is until then.
    ///
    /// # Errors
    /// Why it cannot be; then all stays as it was.
    pub async fn reload(&self, config: Arc<Config>) -> Result<u32, String> {
        let outcome = self.control.reload(config).await;
        self.shared.reloaded(&outcome);
        outcome
    }

    /// Says that a configuration could not even be read: a metric and the status tell it.
    pub fn reload_failed(&self, why: &str) {
        self.shared.reloaded(&Err(why.to_owned()));
    }

    /// The models it serves, by the names that clients use, in the order in which they are listed.
    pub fn models(&self) -> Vec<String> {
        self.shared.table().listed().iter().map(|route| route.served.model.to_string()).collect()
    }

    /// What it does.
    pub fn status(&self) -> Status {
        Status::without_queues(&self.shared)
    }

    /// Is not ready any more and serves on for `delay`; then takes no new connections, and resolves when what runs has
    /// ended. What has not by `deadline` is told so: requests without an answer get a 503 that may be retried, streams an
    /// error. True where nothing was left.
    pub async fn drain(self, delay: Duration, deadline: Duration) -> bool {
        drop(self.offering);
        self.shared.ending.enter(Phase::Leaving);
        tokio::time::sleep(delay).await;
        self.shared.ending.enter(Phase::Draining);
        let nothing_left = self.cores.drain(&self.shared, deadline).await;
        loaders::let_go(&self.shared).await;
        nothing_left
    }
}

fn warn_of_keys_in_clear(address: SocketAddr) {
    tracing::warn!(
        listen = %address,
        "keys cross the network in clear: whoever can listen there can use them. Only where something before the \
         gateway ends TLS is that as it should be"
    );
}

/// Who drives the releases: a gateway that knows others is told. `told`: what the one before it was.
async fn releases(config: &Config, file: Option<PathBuf>, told: Option<TrafficWord>, admin: SocketAddr) -> Releases {
    if config.gateway.peer.is_some() {
        return Releases::Led(Led::open(file.map(|file| file.with_extension("word")), told));
    }
    let mut lone = Lone::open(&format!("the gateway at {admin} (process {})", std::process::id()), file);
    lone.configure(config);
    lone.keep().await;
    Releases::Lone(Box::new(lone))
}

/// Joins the others: from now on they reach this gateway, which goes by the newest word that any of them goes by before it
/// serves anybody.
async fn join(port: take_over::Port, spec: PeerSpec, cores: &core::Cores, shared: &Arc<Shared>, control: &Control) {
    let Some(peers) = shared.peers.clone() else { return };
    let _ = peers.control.set(control.clone());
    peers::accept(port.listener, cores.doors(), shared.clone(), peers.clone());
    peer::start(spec, peers.clone(), shared.clone());
    match newest_word(&peers).await {
        None => {
            tracing::info!("no other gateway has said what traffic goes by: it goes by what it was, or as configured")
        }
        Some(word) => {
            if let Some(Err(why)) = control.word(word).await {
                tracing::warn!(%why, "what the other gateways go by is not taken");
            }
        }
    }
    shared.beginning.end();
}

/// The newest word that any of the others goes by, of those that say so in time.
async fn newest_word(peers: &Arc<Peers>) -> Option<TrafficWord> {
    let until = tokio::time::Instant::now() + beginning::WITHIN;
    let _ = timeout_at(until, peers.settled()).await; // who is not known by then is not asked
    let mut asked = JoinSet::new();
    for (reach, _) in &peers.view().peers {
        let (peers, address) = (peers.clone(), reach.address);
        asked.spawn(async move { peer::spoken(&peers.mutual, address).await });
    }
    let mut newest: Option<TrafficWord> = None;
    while let Ok(Some(said)) = timeout_at(until, asked.join_next()).await {
        let Ok(Ok(Some(word))) = said else { continue };
        if newest.as_ref().is_none_or(|newest| word.age() > newest.age()) {
            newest = Some(word);
        }
    }
    newest
}

/// Offers the ports to a successor; a gateway can do without.
fn offer(token_file: &Path, copies: Copies, shared: &Arc<Shared>) -> Option<take_over::Offering> {
    let start = || take_over::start(token_file, copies?, shared.clone());
    start().inspect_err(|error| tracing::info!(%error, "no other process can take over from this one")).ok()
}

/// Of the ports.
type Copies = std::io::Result<Vec<take_over::Port>>;
