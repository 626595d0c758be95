//! What every core can see.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tutti_api::{Config, Timestamp};
use tutti_control_plane::Standing;

use crate::answers::Residents;
use crate::beginning::Beginning;
use crate::budget::Budget;
use crate::demand::Demand;
use crate::discovery::Discovery;
use crate::ending::Ending;
use crate::keys::Keyring;
use crate::limits::Limit;
use crate::log;
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::table::Table;
use crate::tls::Tls;
use crate::weights::Known;

/// One gateway, as its cores share it.
#[derive(Debug)]
pub struct Shared {
    table: ArcSwap<Table>,
    /// The configuration it was started with.
    pub started: Arc<Config>,
    /// The memory that bodies take.
    pub budget: Arc<Budget>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What work there is.
    pub(crate) demand: Demand,
    /// Who says where replicas are that the configuration does not name itself.
    pub discovery: Discovery,
    /// Who may ask.
    pub keys: Arc<Keyring>,
    /// Tells this gateway from others, so that it can know itself when it meets itself as a replica.
    pub instance: HeaderValue,
    /// Connections that are open.
    pub connections: AtomicUsize,
    /// Requests beyond the first that HTTP/2 connections have at work at the same time.
    pub(crate) further_requests: AtomicUsize,
    /// How many of both together this process may have files for.
    pub(crate) files: usize,
    /// What clients are served by under TLS; `None`: in clear.
    pub(crate) tls: Option<Tls>,
    /// How the releases stand that it drives.
    pub(crate) releases: ArcSwap<Vec<Standing>>,
    /// The other gateways, where there are some.
    pub(crate) peers: Option<Arc<Peers>>,
    /// TLS handshakes that came to nothing.
    pub failed_handshakes: AtomicU64,
    /// Heads that were no HTTP, or longer than they may be.
    pub refused_heads: AtomicU64,
    /// Changes whenever a connection has closed.
    pub(crate) closed: watch::Sender<()>,
    /// Whether it serves already.
    pub(crate) beginning: Beginning,
    /// How far it has come to its end.
    pub(crate) ending: Arc<Ending>,
    reloaded: Mutex<Reloaded>,
    /// Which models the replicas hold in memory, for who asks.
    pub(crate) residents: Residents,
    /// What the models of the replicas are made of.
    pub(crate) weights: Known,
    /// Wakes whoever asks the replicas what they have.
    pub(crate) refresh: Notify,
    /// How often they have been asked; a change says that the answers are in the table.
    pub(crate) refreshed: watch::Sender<u64>,
}

impl Shared {
    /// Of a gateway that starts with this table.
    pub(crate) fn new(
        table: Arc<Table>,
        instance: HeaderValue,
        tls: Option<Tls>,
        peers: Option<Arc<Peers>>,
        files: usize,
    ) -> Arc<Self> {
        let metrics: Arc<Metrics> = Arc::default();
        metrics.set_limit(table.config.gateway.limits.label_values);
        log::set_requests(table.config.gateway.log.requests);
        Arc::new(Self {
            started: table.config.clone(),
            table: ArcSwap::new(table),
            budget: Arc::default(),
            metrics,
            demand: Demand::default(),
            discovery: Discovery::default(),
            keys: Arc::default(),
            instance,
            connections: AtomicUsize::new(0),
            further_requests: AtomicUsize::new(0),
            files,
            tls,
            releases: ArcSwap::default(),
            peers,
            failed_handshakes: AtomicU64::new(0),
            refused_heads: AtomicU64::new(0),
            closed: watch::Sender::new(()),
            beginning: Beginning::default(),
            ending: Arc::default(),
            reloaded: Mutex::new(Reloaded::now(None)),
            residents: Residents::default(),
            weights: Known::default(),
            refresh: Notify::new(),
            refreshed: watch::Sender::new(0),
        })
    }

    /// The table as it is now.
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Whether new work should come: what `/readyz` says.
    pub(crate) fn is_ready(&self) -> bool {
        self.ending.is_ready() && !self.beginning.waits()
    }

    /// Shows another table to all.
    pub(crate) fn swap(&self, table: Arc<Table>) {
        self.metrics.set_limit(table.config.gateway.limits.label_values);
        log::set_requests(table.config.gateway.log.requests);
        self.table.store(table);
    }

    /// The limit that keeps another connection, or another request on one, from being taken, if one does.
    pub(crate) fn full(&self) -> Option<Limit> {
        let open = self.connections.load(Relaxed) + self.further_requests.load(Relaxed);
        let wanted = self.table().config.gateway.limits.connections as usize;
        if open >= wanted {
            return Some(Limit::Connections);
        }
        (open >= self.files).then_some(Limit::Files)
    }

    /// Remembers what came of a change of the configuration.
    pub(crate) fn reloaded(&self, outcome: &Result<u32, String>) {
        *self.reloaded.lock().unwrap_or_else(PoisonError::into_inner) = Reloaded::now(outcome.as_ref().err().cloned());
    }

    /// What came of the last one.
    pub fn reload_outcome(&self) -> Reloaded {
        self.reloaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the replicas asked what they have, because a name is not known, and waits until the answers are in the
    /// table: a model that was pulled a moment ago is found. Not longer than `within`.
    pub(crate) async fn look_again(&self, within: Duration) {
        let mut refreshed = self.refreshed.subscribe();
        self.refresh.notify_one();
        // Late answers are as good as none: the name stays unknown.
        let _ = tokio::time::timeout(within, refreshed.changed()).await;
    }
}

/// What came of the last change of the configuration, or of another file that is followed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Reloaded {
    /// When. Unit: seconds since 1970.
    pub at: i64,
    /// Why it was refused, if it was.
    pub error: Option<String>,
}

impl Reloaded {
    pub(crate) fn now(error: Option<String>) -> Self {
        Self { at: Timestamp::now().unix(), error }
    }
}
