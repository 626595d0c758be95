//! Sockets and a clock around the engine.

mod answer;
mod connection;
mod driver;
mod handler;
mod making;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::config::{Config, Model};
use crate::faults::{Fault, Scope};
use crate::records::{Records, Seen};
use crate::store::Store;
use crate::wire::{self, Reply};
use driver::Driver;

/// Starts simulated replicas.
#[derive(Debug)]
pub struct Simulator;

/// How a replica ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As Ollama ends on SIGTERM: at once, whatever is under way.
    Close,
    /// As a process dies: connections are reset.
    Reset,
}

/// What is switched on, readable from the replica's thread.
#[derive(Debug, Default)]
struct Switches {
    fault: Option<(Fault, Scope)>,
    /// Requests for an answer in tokens, since it was switched on.
    turns: u32,
    /// Full names of models that do not load.
    broken: HashSet<String>,
}

type Switch = Arc<Mutex<Switches>>;

/// What all connections of a replica share.
struct Replica {
    config: Config,
    driver: Rc<Driver>,
    records: Arc<Records>,
    switch: Switch,
    end: watch::Sender<Option<End>>,
    prerendered: Reply,
    modified: SystemTime,
    store: Option<Rc<Store>>,
}

impl Replica {
    /// The configuration with the models that are on the disk now.
    fn with_stored(&self) -> Cow<'_, Config> {
        let Some(store) = &self.store else { return Cow::Borrowed(&self.config) };
        let mut config = self.config.clone();
        config.models.extend(store.models());
        Cow::Owned(config)
    }
}

impl Simulator {
    /// Binds the address and serves it from a thread of its own, with a runtime of its own.
    ///
    /// # Errors
    /// The address cannot be bound, or the thread or its runtime cannot be made.
    pub fn start(config: Config) -> io::Result<Running> {
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let records = Records::new(config.records_max);
        let switch: Switch = Arc::new(Mutex::new(Switches { fault: config.fault, ..Switches::default() }));
        let (end, ended) = watch::channel(None);
        let pulls = Arc::new(AtomicU64::new(0));
        let store = config.store.as_ref().map(|at| Store::new(at, config.takes_adapters, pulls.clone()));
        let shared = (records.clone(), switch.clone(), end.clone());
        let thread = std::thread::Builder::new().name("simulator".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, serve(listener, config, store, shared, ended));
            // Whatever is left, clients in mid-answer too, is dropped here with the runtime.
        })?;
        Ok(Running { addr, records, switch, pulls, end, thread: Some(thread) })
    }
}

/// A replica that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    records: Arc<Records>,
    switch: Switch,
    pulls: Arc<AtomicU64>,
    end: watch::Sender<Option<End>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A copy of what reached it so far, in order; at most `records_max` requests.
    pub fn seen(&self) -> Vec<Seen> {
        self.records.all()
    }

    /// Blocks until `found` finds something in the records, or `None` after `bound`.
    pub fn wait<T>(&self, bound: Duration, found: impl FnMut(&[Seen]) -> Option<T>) -> Option<T> {
        self.records.wait(bound, found)
    }

    /// Waits as [`Running::wait`] does, without blocking the caller's runtime.
    pub async fn until<T>(&self, bound: Duration, found: impl FnMut(&[Seen]) -> Option<T>) -> Option<T> {
        self.records.until(bound, found).await
    }

    /// Waits for request `number` to end before its answer was complete, and returns its record.
    pub async fn until_gone(&self, number: u64, bound: Duration) -> Option<Seen> {
        self.until(bound, |all| all.iter().find(|s| s.number == number && s.ended_early.is_some()).cloned()).await
    }

    /// Requests whose head arrived, recorded or not.
    pub fn requests(&self) -> u64 {
        self.records.requests.load(Relaxed)
    }

    /// Requests whose answer is not complete.
    pub fn in_flight(&self) -> u64 {
        self.records.in_flight.load(Relaxed)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.records.connections.load(Relaxed)
    }

    /// Connections that ended because what came was no valid HTTP.
    pub fn malformed(&self) -> u64 {
        self.records.malformed.load(Relaxed)
    }

    /// Models that were looked for outside: a create from one that was not there.
    pub fn pulls(&self) -> u64 {
        self.pulls.load(Relaxed)
    }

    /// Switches a fault on for the requests that arrive from now on, or off.
    pub fn set_fault(&self, fault: Option<(Fault, Scope)>) {
        let mut switches = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        (switches.fault, switches.turns) = (fault, 0);
    }

    /// From now on a model does not load, as with a broken file of its own: each request for it gets a 500 at once; or
    /// it does again.
    pub fn set_broken(&self, model: &str, broken: bool) {
        let name = Model::chat(model, 0).full_name();
        let mut switches = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        if broken {
            switches.broken.insert(name);
        } else {
            switches.broken.remove(&name);
        }
    }

    /// Whether it has died of a request.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends as Ollama does on SIGTERM: closes everything at once. The port is free when this returns.
    pub fn stop(mut self) {
        self.finish(End::Close);
    }

    /// Ends as a killed machine does: every connection is reset. The port is free when this returns. Yields what had
    /// reached it.
    pub fn kill(mut self) -> Vec<Seen> {
        self.finish(End::Reset);
        self.records.all()
    }

    fn finish(&mut self, end: End) {
        self.end.send_replace(Some(end));
        if let Some(thread) = self.thread.take() {
            // A panic of the replica's thread was printed there; the caller is about to end it anyway.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.finish(End::Close);
        }
    }
}

/// Accepts connections until told to end, then waits until each has closed its socket.
async fn serve(
    listener: std::net::TcpListener,
    config: Config,
    store: Option<Store>,
    (records, switch, end): (Arc<Records>, Switch, watch::Sender<Option<End>>),
    mut ended: watch::Receiver<Option<End>>,
) {
    let listener =
        TcpListener::from_std(listener).expect("the listener is non-blocking and the runtime has its driver");
    let prerendered = wire::prerendered(&config.models.first().map(|m| m.full_name()).unwrap_or_default());
    let replica = Rc::new(Replica {
        driver: Driver::start(config.machine.clone()),
        config,
        records,
        switch,
        end,
        prerendered,
        modified: SystemTime::now(),
        store: store.map(Rc::new),
    });
    let open = Rc::new(Cell::new(0usize));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ended.wait_for(Option::is_some) => break,
        };
        // Out of file descriptors is the one error that lasts; a pause lets others close.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (replica, ended, open) = (replica.clone(), ended.clone(), open.clone());
        open.set(open.get() + 1);
        tokio::task::spawn_local(async move {
            connection::serve(&replica, stream, ended).await;
            open.set(open.get() - 1);
        });
    }
    drop(listener);
    while open.get() > 0 {
        tokio::task::yield_now().await;
    }
}
