//! A loader: one engine, one folder, one port.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tutti_api::{AdaptersSpec, Address, Config, MutualTlsSpec, ReplicaUrl};

use crate::board::Board;
use crate::engine::Ollama;
use crate::pipeline::Tools;
use crate::preflight::Preflight;
use crate::reconcile::Reconciler;
use crate::server::{self, Tls, Token, TokenError};
use crate::source::{Source, SourceError};
use crate::store::{Store, StoreError};
use crate::wanted::{NothingWanted, Wants, wanted};

/// Requests for room that wait.
const ROOMS: usize = 64;

/// What a loader is for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pool whose adapters it brings.
    pub pool: String,
    /// The engine that it brings them to.
    pub engine: ReplicaUrl,
    /// The folder that it keeps them in.
    pub state: PathBuf,
    /// Where it listens.
    pub listen: Address,
    /// How long what no model wants any more stays in the engine at least, and how long after its start the loader takes it
    /// that gateways have leases that it has not heard of.
    pub retire_after: Duration,
    /// How `adapters.tls` becomes what its port is served by: on the loader's runtime, where the files are followed.
    pub tls: fn(&MutualTlsSpec) -> Result<Tls, String>,
}

/// Why a loader does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has nothing for it to do.
    #[error("{0}")]
    Nothing(#[from] NothingWanted),
    /// Its folder cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// What the configuration says of the source is not right.
    #[error("adapters.from: {0}")]
    Source(#[from] SourceError),
    /// There is no token where one is wanted.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// Its certificate, or who signs for gateways, is not to be had.
    #[error("{0}")]
    Tls(String),
    /// It would let everybody in.
    #[error(
        "a loader that listens on {0}, beyond loopback, wants a token or certificates: name a file that holds one as adapters.tokenFile, or write adapters.tls"
    )]
    TokenWanted(Address),
    /// It cannot listen.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: Address,
        /// What the system says.
        error: io::Error,
    },
}

/// A loader that listens; [`Loader::run`] has it work.
#[derive(Debug)]
pub struct Loader {
    listen: SocketAddr,
    listener: TcpListener,
    board: Arc<Board>,
    door: Door,
    reconciler: Reconciler,
    wants: watch::Sender<Arc<Wants>>,
    pool: String,
    preflight: Preflight,
}

/// Who is let in, by the configuration in force. The files that it names are followed by those who read them.
#[derive(Debug)]
struct Door {
    listen: Address,
    tls: fn(&MutualTlsSpec) -> Result<Tls, String>,
    /// What TLS is by.
    spec: Option<MutualTlsSpec>,
    wanted: watch::Sender<Arc<server::Wanted>>,
}

impl Door {
    /// As nobody has said anything yet.
    fn new(options: &Options) -> Self {
        let wanted = watch::Sender::new(Arc::default());
        Self { listen: options.listen.clone(), tls: options.tls, spec: None, wanted }
    }

    /// Has those let in that a configuration wants let in, from the next connection or request on.
    ///
    /// # Errors
    /// A file that it names does not hold what it should, or everybody would come in; then nothing changes.
    fn set(&mut self, spec: &AdaptersSpec) -> Result<(), StartError> {
        let before = self.wanted.borrow().clone();
        let token = match (spec.token_file.as_ref().map(Path::new), &before.token) {
            (None, _) => None,
            // It knows what the file held before.
            (Some(file), Some(token)) if token.path() == file => Some(token.clone()),
            (Some(file), Some(token)) => Some(Arc::new(Token::open_after(file, token, Instant::now())?)),
            (Some(file), None) => Some(Arc::new(Token::open(file)?)),
        };
        let tls = match &spec.tls {
            Some(of) if self.spec.as_ref() == Some(of) => before.tls.clone(),
            Some(of) => Some((self.tls)(of).map_err(StartError::Tls)?),
            None => None,
        };
        if token.is_none() && tls.is_none() && !self.listen.is_loopback() {
            return Err(StartError::TokenWanted(self.listen.clone()));
        }
        self.spec.clone_from(&spec.tls);
        self.wanted.send_replace(Arc::new(server::Wanted { token, tls }));
        Ok(())
    }
}

impl Loader {
    /// Takes the folder and the port, and finds out what is there.
    ///
    /// # Errors
    /// It has nothing to do, or not what it needs to do it.
    pub async fn open(options: &Options, config: &Config) -> Result<Self, StartError> {
        let wants = wanted(config, &options.pool)?;
        let mut door = Door::new(options);
        door.set(&wants.spec)?;
        let source = Source::open(&wants.spec)?;
        let (engines, state) = (vec![options.engine.clone()], Some(options.state.clone()));
        let preflight = Preflight::of(config, &options.pool, engines, state)?;
        let store = Store::open(&options.state)?;
        let cannot = |error| StartError::Listen { address: options.listen.clone(), error };
        let listener = bind(&options.listen).await.map_err(cannot)?;
        let listen = listener.local_addr().map_err(cannot)?;
        let board = Arc::new(Board::new(Instant::now() + options.retire_after));
        let (rooms, room) = mpsc::channel(ROOMS);
        let tools = Arc::new(Tools::new(store, board.clone(), Ollama::new(&options.engine, &options.pool), rooms));
        let (wants, changes) = watch::channel(Arc::new(wants));
        let reconciler = Reconciler::new(tools, source, changes, room, options.retire_after)?;
        Ok(Self { listen, listener, board, door, reconciler, wants, pool: options.pool.clone(), preflight })
    }

    /// Where it listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Works by the configurations that come, until it is dropped. Wherever that happens, the next start goes on from there.
    pub async fn run(self, mut configs: watch::Receiver<Arc<Config>>) {
        let Self { listener, board, mut door, reconciler, wants, pool, preflight, .. } = self;
        let shown = door.wanted.subscribe();
        let say = async {
            preflight.log().await;
            std::future::pending::<()>().await; // it has said all
        };
        let follow = async {
            while configs.changed().await.is_ok() {
                let config = configs.borrow_and_update().clone();
                let taken = wanted(&config, &pool).map_err(StartError::from).and_then(|now| {
                    door.set(&now.spec)?;
                    Ok(now)
                });
                match taken {
                    Ok(now) => drop(wants.send_replace(Arc::new(now))),
                    Err(error) => {
                        tracing::error!(%error, "the changed configuration is refused, and all stays as it was")
                    }
                }
            }
            std::future::pending::<()>().await; // whoever told of changes is gone: it goes on by the last word
        };
        tokio::select! {
            () = follow => {}
            () = say => {}
            () = reconciler.run() => {}
            never = server::serve(listener, board, shown) => match never {},
        }
    }
}

/// Listens on the first of a name's addresses that can be had.
async fn bind(address: &Address) -> io::Result<TcpListener> {
    let mut addresses = address.addresses();
    if addresses.is_empty() {
        addresses = tokio::net::lookup_host(address.to_string()).await?.collect();
    }
    let mut failed = io::Error::other("the name has no address");
    for address in addresses {
        match server::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
