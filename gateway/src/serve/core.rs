//! The threads that serve clients: a current-thread runtime each, with connections and cells of its own.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{connection, peers};
use crate::ending::Phase;
use crate::limits;
use crate::shared::Shared;
use crate::{exchange, log, metrics};

/// How often a core writes its log lines and looks for idle connections.
const TICK: Duration = Duration::from_millis(100);

/// How long the last words to requests that have not ended may take to go out.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The way to a core.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// Unbounded, and yet bounded: by `limits.connections`. `None` ends the core.
    sockets: mpsc::UnboundedSender<Option<Accepted>>,
    /// Other gateways', which are few.
    peers: mpsc::UnboundedSender<TcpStream>,
    open: Arc<AtomicUsize>,
}

/// A client's socket, and where the client is.
type Accepted = (TcpStream, SocketAddr, Counted);

/// A connection, or a request, in the counts, until it is dropped.
pub(super) struct Counted {
    what: What,
    core: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

/// What of a client is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// A connection, with its first request.
    Connection,
    /// A further request on it at the same time.
    Request,
    /// A request that another gateway hands over.
    Forwarded,
}

impl Counted {
    fn new(what: What, core: &Arc<AtomicUsize>, shared: &Arc<Shared>) -> Self {
        core.fetch_add(1, Relaxed);
        what.count(shared).fetch_add(1, Relaxed);
        Self { what, core: core.clone(), shared: shared.clone() }
    }

    /// A request that another gateway hands to this core; `None`: there is no room.
    pub(super) fn forwarded(core: &Arc<AtomicUsize>, shared: &Arc<Shared>) -> Option<Self> {
        if let Some(limit) = shared.full() {
            limits::hit(limit);
            return None;
        }
        Some(Self::new(What::Forwarded, core, shared))
    }

    /// A further request on the same connection.
    pub(super) fn another(&self) -> Self {
        Self::new(What::Request, &self.core, &self.shared)
    }
}

impl What {
    fn count(self, shared: &Shared) -> &AtomicUsize {
        match self {
            What::Connection => &shared.connections,
            What::Request | What::Forwarded => &shared.further_requests,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.core.fetch_sub(1, Relaxed);
        self.what.count(&self.shared).fetch_sub(1, Relaxed);
        let last = || self.shared.ending.has_reached(Phase::Draining);
        if self.what == What::Connection || self.what == What::Forwarded && last() {
            self.shared.closed.send_replace(());
        }
    }
}

impl Door {
    /// Connections and further requests that this core has.
    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Gives it a connection of another gateway.
    pub(super) fn hand_peer(&self, socket: TcpStream) {
        let _ = self.peers.send(socket);
    }

    /// Gives it another. It counts from now on, not from when the core gets to it: more may come before that.
    pub(super) fn hand(&self, socket: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
        let counted = Counted::new(What::Connection, &self.open, shared);
        let _ = self.sockets.send(Some((socket, peer, counted))); // a core that has ended takes none: the socket closes
    }
}

/// All cores.
#[derive(Debug)]
pub(super) struct Cores {
    doors: Vec<Door>,
    threads: Vec<JoinHandle<()>>,
}

impl Cores {
    /// Starts `count` threads.
    pub(super) fn start(count: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let started = (0..count.max(1)).map(|number| start(number, shared.clone()));
        let (doors, threads) = started.collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self { doors, threads })
    }

    pub(super) fn doors(&self) -> Vec<Door> {
        self.doors.clone()
    }

    /// Waits until no connection is open, or until `deadline` has passed; then those who are left are told, and the
    /// threads end. True where nobody was left.
    pub(super) async fn drain(self, shared: &Shared, deadline: Duration) -> bool {
        let all_closed = || async {
            let mut closed = shared.closed.subscribe();
            let open = || shared.connections.load(Relaxed) + shared.further_requests.load(Relaxed);
            while open() > 0 && closed.changed().await.is_ok() {}
        };
        let clean = timeout(deadline, all_closed()).await.is_ok();
        if !clean {
            shared.ending.enter(Phase::Over);
            let _ = timeout(LAST_WORDS, all_closed()).await; // who does not take them even now is cut
        }
        for door in &self.doors {
            let _ = door.sockets.send(None);
        }
        for thread in self.threads {
            let _ = thread.join(); // at once: what still runs there is dropped
        }
        clean
    }
}

fn start(number: usize, shared: Arc<Shared>) -> io::Result<(Door, JoinHandle<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (sockets, inbox) = mpsc::unbounded_channel();
    let (peers, of_peers) = mpsc::unbounded_channel();
    let door = Door { sockets, peers, open: Arc::default() };
    let open = door.open.clone();
    let thread = std::thread::Builder::new().name(format!("tutti-core-{number}")).spawn(move || {
        metrics::enter(shared.metrics.clone());
        runtime.spawn(tick());
        runtime.spawn(take_peers(of_peers, open, shared.clone()));
        runtime.block_on(take(inbox, shared));
        drop(runtime); // drops what still ran: its requests are settled here
        log::flush();
    })?;
    Ok((door, thread))
}

async fn take(mut inbox: mpsc::UnboundedReceiver<Option<Accepted>>, shared: Arc<Shared>) {
    while let Some(Some((socket, peer, counted))) = inbox.recv().await {
        tokio::spawn(connection::serve(socket, peer, counted, shared.clone()));
    }
}

async fn take_peers(mut inbox: mpsc::UnboundedReceiver<TcpStream>, open: Arc<AtomicUsize>, shared: Arc<Shared>) {
    while let Some(socket) = inbox.recv().await {
        if let Some(peers) = shared.peers.clone() {
            tokio::spawn(peers::serve(socket, shared.clone(), peers, open.clone()));
        }
    }
}

async fn tick() {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        log::flush();
        metrics::tidy();
        exchange::sweep(Instant::now());
    }
}
