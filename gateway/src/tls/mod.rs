//! TLS for clients: one certificate and its key, taken up again when their files change.
//!
//! By rustls with `ring`, and rustls's defaults: TLS 1.2 and 1.3. A client's session is resumed by a ticket, which needs
//! no memory here; a change of the certificate changes neither tickets nor connections.

mod expiry;
mod mutual;
mod pair;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tutti_api::{Timestamp, TlsSpec};

use self::pair::{MAX_FILE, Pair};
use crate::follow::FollowedSet;
use crate::shared::Reloaded;

pub use self::mutual::check as check_mutual;
pub use self::mutual::{Between, Mutual};

/// What clients may speak; who speaks both gets the first.
const ALPN: [&[u8]; 2] = [HTTP_2, b"http/1.1"];
/// HTTP/2, as it is called there.
pub(crate) const HTTP_2: &[u8] = b"h2";

/// Where its files are configured.
const FIELD: &str = "gateway.tls";

/// What clients are served by.
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    /// A place for each handshake in progress (`gateway.limits.handshakes`).
    pub(crate) handshakes: Semaphore,
    current: Arc<Current>,
}

/// The certificate in force, and what came of the last change.
#[derive(Debug)]
struct Current {
    certified: ArcSwap<CertifiedKey>,
    /// When the first of the chain expires. Unit: seconds since 1970.
    expires: AtomicI64,
    reloaded: Mutex<Reloaded>,
}

/// What a gateway says of its certificate.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct CertificateStatus {
    /// When the first of the chain expires.
    pub expires: Timestamp,
    /// What came of the last change of its files.
    pub reload: Reloaded,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.load_full())
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files, serves by what they hold, and follows them from now on, on the current runtime.
    ///
    /// # Errors
    /// What is wrong with them, and what to do.
    pub(crate) fn start(spec: &TlsSpec, handshakes: u32) -> Result<Self, String> {
        let (files, texts) = FollowedSet::open([PathBuf::from(&spec.cert), PathBuf::from(&spec.key)], MAX_FILE);
        let pair = Pair::of(&texts, spec, FIELD)?;
        pair.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let current = Arc::new(Current {
            certified: ArcSwap::new(pair.certified),
            expires: AtomicI64::new(pair.expires.unix()),
            reloaded: Mutex::new(Reloaded::now(None)),
        });
        let config = config(current.clone()).map_err(|error| format!("gateway.tls: {error}"))?;
        tokio::spawn(follow(files, spec.clone(), Arc::downgrade(&current)));
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshakes: Semaphore::new(handshakes as usize),
            current,
        })
    }

    /// What is said of the certificate.
    pub(crate) fn status(&self) -> CertificateStatus {
        let reloaded = self.current.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
        CertificateStatus {
            expires: Timestamp::from_unix(self.current.expires.load(Relaxed)),
            reload: reloaded.clone(),
        }
    }
}

fn config(current: Arc<Current>) -> Result<ServerConfig, tokio_rustls::rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

/// Takes up what the files hold when that changes; what cannot be used changes nothing, and is said.
async fn follow(mut files: FollowedSet<2>, spec: TlsSpec, current: std::sync::Weak<Current>) {
    loop {
        let texts = files.changed().await;
        let Some(current) = current.upgrade() else { return };
        let outcome = match Pair::of(&texts, &spec, FIELD) {
            Ok(pair) => {
                pair.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                tracing::info!(expires = %pair.expires, "the changed certificate is in force");
                current.certified.store(pair.certified);
                current.expires.store(pair.expires.unix(), Relaxed);
                None
            }
            Err(why) => {
                tracing::error!("the changed certificate is refused, and the one before stays: {why}");
                Some(why)
            }
        };
        *current.reloaded.lock().unwrap_or_else(PoisonError::into_inner) = Reloaded::now(outcome);
    }
}

/// Looks at the files as a start would; yields what is to be warned of.
///
/// # Errors
/// What is wrong with them, and what to do.
pub fn check(spec: &TlsSpec) -> Result<Vec<String>, String> {
    let (_, texts) = FollowedSet::open([PathBuf::from(&spec.cert), PathBuf::from(&spec.key)], MAX_FILE);
    Pair::of(&texts, spec, FIELD).map(|pair| pair.warnings)
}
