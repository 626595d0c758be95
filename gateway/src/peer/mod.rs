//! Several gateways before the same replicas: who is there, who schedules which pool, and how a request gets there.
//!
//! [`membership`] decides and is pure; [`poll`] asks the others how they stand and feeds it. A request of another's pool
//! goes to its owner as [`frames`] on a stream of HTTP/2 ([`offer`] sends, [`server`] takes), over connections of mutual
//! TLS that each core keeps ([`line`]). It is sent to a replica only after its sender was told that it will be, and has
//! said yes: so one that was not sent can be offered to another, and is never sent twice.

mod frames;
mod hello;
mod line;
mod membership;
mod offer;
mod poll;
mod server;
mod told;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};
use tutti_api::{Engine, PeerSpec, TrafficWord};

pub(crate) use frames::Declined;
pub(crate) use hello::Standing;
pub(crate) use membership::{Reach, View, Whose};
pub(crate) use offer::{Answering, Asked, Handed, Offer, Taken, hand_over, offer};
pub(crate) use poll::start;
pub(crate) use server::{Inbound, answer};
pub(crate) use told::{Asks, Told, Untold, hear, spoken, tell};

use crate::control::Control;
use crate::shared::Shared;
use crate::table::Pool;
use crate::tls::{Between, Mutual};

/// How many gateways a request may go through beside the one that holds the client.
pub(crate) const MAX_HOPS: u8 = 2;
/// TLS handshakes of peers in progress; further ones wait.
const HANDSHAKES: usize = 64;
/// How soon a request that found nobody is offered again, where nothing was heard before.
const AGAIN: Duration = Duration::from_millis(250);

/// What a gateway knows of the others.
#[derive(Debug)]
pub(crate) struct Peers {
    /// This process's number.
    pub(crate) id: Box<str>,
    pub(crate) mutual: Arc<Mutual>,
    pub(crate) handshakes: Semaphore,
    pub(crate) counts: Counts,
    /// Connections of others.
    pub(crate) connections: AtomicUsize,
    view: ArcSwap<View>,
    /// What is answered to who looks whether this gateway is there.
    hello: ArcSwap<Bytes>,
    changed: watch::Sender<()>,
    /// Has the others asked at once.
    hurry: Notify,
    /// The word of the driver of releases that this gateway goes by.
    pub(crate) word: ArcSwapOption<TrafficWord>,
    /// The driver that asked last.
    pub(crate) asker: told::Asker,
    /// Who takes another, once there is somebody.
    pub(crate) control: OnceLock<Control>,
}

macro_rules! outcomes {
    ($($name:ident $direction:literal $label:literal;)*) => {
        /// What became of a request between two gateways.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Outcome { $($name,)* }

        /// Direction and outcome, as the metric has them.
        const OUTCOMES: &[(&str, &str)] = &[$(($direction, $label),)*];
    };
}

outcomes! {
    SentDispatched "out" "dispatched";
    SentMoved "out" "moved";
    SentUnknown "out" "unknown";
    SentRefused "out" "refused";
    SentUnreached "out" "unreached";
    TakenDispatched "in" "dispatched";
    TakenMoved "in" "moved";
    TakenUnknown "in" "unknown";
    TakenRefused "in" "refused";
    TakenMisdirected "in" "misdirected";
}

/// How often each became of one.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; OUTCOMES.len()]);

impl Counts {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Direction, outcome and how often.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        OUTCOMES.iter().zip(&self.0).map(|((direction, outcome), count)| (*direction, *outcome, count.load(Relaxed)))
    }
}

/// Whether one gateway schedules a pool: its replicas lose time where several choose what they load.
pub(crate) fn one_schedules(pool: &Pool) -> bool {
    pool.engine == Engine::Ollama
}

impl Peers {
    /// Reads the certificates. Nobody is asked before [`start`].
    ///
    /// # Errors
    /// What is wrong with them, and what to do.
    pub(crate) fn new(spec: &PeerSpec) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            id: format!("{:016x}", crate::random()).into(),
            mutual: Mutual::start(&spec.tls, Between::Gateways)?,
            handshakes: Semaphore::new(HANDSHAKES),
            counts: Counts::default(),
            connections: AtomicUsize::new(0),
            view: ArcSwap::default(),
            hello: ArcSwap::default(),
            changed: watch::Sender::new(()),
            hurry: Notify::new(),
            word: ArcSwapOption::empty(),
            asker: told::Asker::default(),
            control: OnceLock::new(),
        }))
    }

    /// How all stands.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Who schedules a pool. A pool that is new is looked at within a moment.
    pub(crate) fn whose(&self, pool: &Pool) -> Whose {
        self.view.load().pools.get(&pool.name).map_or(Whose::Soon, |view| view.whose.clone())
    }

    fn is_here(&self, pool: &Pool) -> bool {
        self.view.load().pools.get(&pool.name).is_some_and(|view| view.whose == Whose::Here)
    }

    /// Resolves when a pool is not, or not any more, scheduled here.
    pub(crate) async fn moved(&self, pool: &Pool) {
        let mut changed = self.changed.subscribe();
        while self.is_here(pool) {
            let _ = changed.changed().await; // the sender is our own
        }
    }

    /// Waits until something is heard, but not for long, and not beyond `until`. True where there is time left.
    pub(crate) async fn wait(&self, until: Instant) -> bool {
        let mut changed = self.changed.subscribe();
        let soon = (Instant::now() + AGAIN).min(until);
        let _ = tokio::time::timeout_at(soon.into(), changed.changed()).await;
        Instant::now() < until
    }

    /// Has the others asked how they stand: one of them is not as it was thought to be.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    /// Resolves when it is known who is there.
    pub(crate) async fn settled(&self) {
        let mut changed = self.changed.subscribe();
        while !self.view.load().settled {
            let _ = changed.changed().await;
        }
    }

    /// Shows to all how it stands.
    fn show(&self, view: View, hello: Bytes) {
        self.hello.store(Arc::new(hello));
        let before = self.view.swap(Arc::new(view));
        if !before.leads_as(&self.view.load()) {
            self.changed.send_replace(());
        }
    }

    /// What is answered to who looks whether this gateway is there.
    fn hello(&self) -> Bytes {
        Bytes::clone(&self.hello.load())
    }
}

/// The requests on the replicas of each pool that one gateway schedules.
fn at_work(shared: &Shared) -> Vec<(Box<str>, u32)> {
    let in_flight = |pool: &Pool| pool.replicas.iter().map(|replica| replica.in_flight()).sum();
    let table = shared.table();
    let pools = table.pools.iter().filter(|pool| one_schedules(pool));
    pools.map(|pool| (pool.name.clone(), in_flight(pool))).collect()
}
