//! TLS between processes of ours: each shows a certificate of one authority, and takes who shows another.
//!
//! TLS 1.3 alone. Who signed is all that counts: gateways and loaders are met at addresses that no certificate was written
//! for. No session is resumed, so that each connection is judged by the authority in force.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use tutti_api::{MutualTlsSpec, TlsSpec};

use super::pair::{MAX_FILE, Pair};
use super::{CertificateStatus, HTTP_2};
use crate::follow::{FollowedSet, Text};
use crate::shared::Reloaded;

/// Who speak to each other by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Gateways, and who drives or watches them: by HTTP/2.
    Gateways,
    /// Gateways and loaders: by HTTP/1.1. Whoever starts and watches a replica asks its loader too, and has no certificate:
    /// the loader itself says what is for all.
    Loaders,
}

impl Between {
    /// Where the files are configured.
    fn field(self) -> &'static str {
        match self {
            Self::Gateways => "gateway.peer.tls",
            Self::Loaders => "adapters.tls",
        }
    }

    fn speaks(self) -> Vec<Vec<u8>> {
        match self {
            Self::Gateways => vec![HTTP_2.to_vec()],
            Self::Loaders => vec![b"http/1.1".to_vec()],
        }
    }
}

/// Both sides of the connections between gateways.
#[derive(Debug)]
pub struct Mutual {
    current: ArcSwap<Configs>,
    status: Mutex<CertificateStatus>,
}

/// What is in force.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Mutual {
    /// Reads the files and follows them from now on, on the current runtime.
    ///
    /// # Errors
    /// What is wrong with them, and what to do.
    pub fn start(spec: &MutualTlsSpec, between: Between) -> Result<Arc<Self>, String> {
        let (files, texts) = open(spec);
        let (configs, pair) = configs(&texts, spec, between)?;
        pair.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let status = CertificateStatus { expires: pair.expires, reload: Reloaded::now(None) };
        let mutual = Arc::new(Self { current: ArcSwap::from_pointee(configs), status: Mutex::new(status) });
        tokio::spawn(follow(files, spec.clone(), between, Arc::downgrade(&mutual)));
        Ok(mutual)
    }

    /// What new connections go by.
    pub(crate) fn current(&self) -> Arc<Configs> {
        self.current.load_full()
    }

    /// What new connections of others are served by.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    /// What new connections to others are made by.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.current().client.clone()
    }

    /// What is said of this gateway's certificate.
    pub(crate) fn status(&self) -> CertificateStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks at the files as a start would; yields what is to be warned of.
///
/// # Errors
/// What is wrong with them, and what to do.
pub fn check(spec: &MutualTlsSpec, between: Between) -> Result<Vec<String>, String> {
    configs(&open(spec).1, spec, between).map(|(_, pair)| pair.warnings)
}

fn open(spec: &MutualTlsSpec) -> (FollowedSet<3>, [Text; 3]) {
    FollowedSet::open([&spec.cert, &spec.key, &spec.ca].map(PathBuf::from), MAX_FILE)
}

/// Takes up what the files hold when that changes; what cannot be used changes nothing, and is said.
async fn follow(mut files: FollowedSet<3>, spec: MutualTlsSpec, between: Between, mutual: std::sync::Weak<Mutual>) {
    loop {
        let texts = files.changed().await;
        let Some(mutual) = mutual.upgrade() else { return };
        let changed = configs(&texts, &spec, between);
        let mut status = mutual.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.reload = Reloaded::now(changed.as_ref().err().cloned());
        match changed {
            Ok((configs, pair)) => {
                pair.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let of = between.field();
                tracing::info!(expires = %pair.expires, of, "the changed certificate is in force");
                status.expires = pair.expires;
                mutual.current.store(Arc::new(configs));
            }
            Err(why) => {
                tracing::error!("the changed certificate is refused, and the one before stays: {why}")
            }
        }
    }
}

fn configs([cert, key, ca]: &[Text; 3], spec: &MutualTlsSpec, between: Between) -> Result<(Configs, Pair), String> {
    let field = between.field();
    let of_pair = TlsSpec { cert: spec.cert.clone(), key: spec.key.clone() };
    let pair = Pair::of(&[cert.clone(), key.clone()], &of_pair, field)?;
    let ca = ca.as_ref().map_err(|why| format!("{field}.ca: {why}"))?;
    let of_ca = |why: &str| format!("{field}.ca: {}: {why}", spec.ca);
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let authority = authority.map_err(|_| of_ca("it is no PEM file, or not a whole one"))?;
        roots.add(authority).map_err(|error| of_ca(&format!("a certificate in it is none: {error}")))?;
    }
    if roots.is_empty() {
        return Err(of_ca("no certificate is in it: write the certificates of those who sign for the others, in PEM"));
    }
    let failed = |error: Error| format!("{field}: {error}");
    let roots = Arc::new(roots);
    let provider = Arc::new(ring::default_provider());
    let ours = Arc::new(SingleCertAndKey::from(pair.certified.clone()));
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let clients = match between {
        Between::Gateways => clients,
        Between::Loaders => clients.allow_unauthenticated(),
    };
    let clients = clients.build().map_err(|error| of_ca(&error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(ours.clone());
    server.alpn_protocols = between.speaks();
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let servers = Arc::new(SignedBy { roots, provider: provider.clone() });
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .dangerous() // names are not looked at; the signature is
        .with_custom_certificate_verifier(servers)
        .with_client_cert_resolver(ours);
    client.alpn_protocols = between.speaks();
    client.resumption = Resumption::disabled();
    Ok((Configs { server: Arc::new(server), client: Arc::new(client) }, pair))
}

/// Takes whoever has a certificate of these, whatever its name.
#[derive(Debug)]
struct SignedBy {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SignedBy {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let cert = ParsedCertificate::try_from(cert)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&cert, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
