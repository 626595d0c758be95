//! Puts it together: sockets, clocks and tasks around the fleet.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tutti_api::demand::Misshapen;
use tutti_api::{Address, MutualTlsSpec};
use tutti_gateway::drive::ReleaseMetrics;
use tutti_gateway::tls::{Between, Mutual};

use crate::discover::{self, Where};
use crate::fleet::Fleet;
use crate::metrics::Asked;
use crate::{poll, server, spare};

/// What a scaler is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where gateways are.
    pub gateways: Where,
    /// Where KEDA asks.
    pub grpc: Address,
    /// Where Prometheus and people ask, and probes of the Pod.
    pub listen: Address,
    /// The namespace of the replicas' Pods, where those are to be marked that are ended last.
    pub spare: Option<String>,
    /// The certificates of KEDA and of this; without them it is spoken in clear.
    pub tls: Option<GrpcTls>,
    /// How the releases stand that this process drives, if it does.
    pub releases: ReleaseMetrics,
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct GrpcTls {
    /// This one's certificate and its chain.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// Who signs for KEDA: nobody without a certificate of theirs is answered.
    pub client_ca: String,
}

/// What all tasks see.
#[derive(Debug)]
pub(crate) struct Shared {
    fleet: Mutex<Fleet>,
    /// Changes whenever a gateway was heard.
    pub(crate) heard: watch::Sender<()>,
    /// Where gateways are.
    pub(crate) known: watch::Sender<BTreeSet<String>>,
    /// How often each is asked. Unit: milliseconds.
    every: AtomicU64,
    pub(crate) discovery_failing: AtomicBool,
    /// Gateways that there are beyond the most that are asked.
    left_out: AtomicUsize,
    pub(crate) asked: Asked,
    pub(crate) releases: ReleaseMetrics,
}

impl Shared {
    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn discovered(&self, addresses: &BTreeSet<String>, now: Instant) {
        self.fleet().discovered(addresses, now);
        self.known.send_if_modified(|known| {
            let is_new = known != addresses;
            known.clone_from(addresses);
            is_new
        });
    }

    pub(crate) fn hear(&self, address: &str, body: &[u8], now: Instant) -> Result<Option<u64>, Misshapen> {
        let heard = self.fleet().hear(address, body, now);
        self.asked.polled(heard.is_ok());
        if let Err(why) = &heard {
            tracing::warn!(address, %why, "a gateway says what is no demand");
        }
        self.heard.send_replace(());
        heard
    }

    pub(crate) fn failed(&self, address: &str, why: String) {
        self.asked.polled(false);
        tracing::debug!(address, why, "a gateway was not heard");
        self.fleet().failed(address, why);
        self.heard.send_replace(());
    }

    pub(crate) fn asked(&self, call: &'static str, well: bool) {
        self.asked.answered(call, well);
    }

    pub(crate) fn pushed(&self) {
        self.asked.pushed();
    }

    pub(crate) fn set_every(&self, every: Duration) {
        self.every.store(u64::try_from(every.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn every(&self) -> Duration {
        Duration::from_millis(self.every.load(Relaxed))
    }

    pub(crate) fn set_left_out(&self, gateways: usize) {
        self.left_out.store(gateways, Relaxed);
    }

    pub(crate) fn left_out(&self) -> usize {
        self.left_out.load(Relaxed)
    }

    pub(crate) fn set_discovery_failing(&self, failing: bool) {
        self.discovery_failing.store(failing, Relaxed);
    }
}

/// One that listens.
#[derive(Debug)]
pub struct Scaler {
    shared: Arc<Shared>,
    gateways: Where,
    spare: Option<String>,
    grpc: TcpListener,
    http: TcpListener,
    tls: Option<Arc<Mutual>>,
}

impl Scaler {
    /// Takes its ports and reads its certificates. On the runtime that it will run on.
    ///
    /// # Errors
    /// What stood in the way, for people.
    pub async fn open(options: &Options) -> Result<Self, String> {
        let tls = options.tls.as_ref().map(|of| {
            let spec = MutualTlsSpec { cert: of.cert.clone(), key: of.key.clone(), ca: of.client_ca.clone() };
            Mutual::start(&spec, Between::Gateways)
        });
        let tls = tls.transpose()?;
        let shared = Arc::new(Shared {
            fleet: Mutex::new(Fleet::new(Instant::now())),
            heard: watch::Sender::new(()),
            known: watch::Sender::new(BTreeSet::new()),
            every: AtomicU64::new(u64::try_from(poll::EVERY.as_millis()).unwrap_or(u64::MAX)),
            discovery_failing: AtomicBool::new(false),
            left_out: AtomicUsize::new(0),
            asked: Asked::default(),
            releases: options.releases.clone(),
        });
        let (grpc, http) = (bind(&options.grpc).await?, bind(&options.listen).await?);
        Ok(Self { shared, gateways: options.gateways.clone(), spare: options.spare.clone(), grpc, http, tls })
    }

    /// Where KEDA asks, and where all others do.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.grpc.local_addr()?, self.http.local_addr()?))
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let Self { shared, gateways, spare, grpc, http, tls } = self;
        let marked = shared.clone();
        let marks = async move {
            if let Some(namespace) = spare {
                spare::run(namespace, marked).await;
            }
        };
        tokio::join!(
            discover::run(gateways, shared.clone()),
            poll::run(shared.clone()),
            marks,
            server::grpc(grpc, tls, shared.clone()),
            server::http(http, shared),
        );
    }
}

async fn bind(address: &Address) -> Result<TcpListener, String> {
    let at = match address.addresses().first() {
        Some(at) => *at,
        None => return Err(format!("cannot listen at {address}: it is no address of this machine")),
    };
    TcpListener::bind(at).await.map_err(|error| format!("cannot listen at {address}: {error}"))
}
