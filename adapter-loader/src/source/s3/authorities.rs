//! Who signs an object store's certificate: a file that is followed, so that an authority is replaced without a restart.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::print::{Print, print};
use crate::source::error::{SourceError, Trouble};

/// How long a connection is kept that nobody uses: MinIO closes them after 30 s.
const IDLE: Duration = Duration::from_secs(20);
/// Largest file of authorities. Unit: bytes.
const MAX_CA: u64 = 4 << 20;

/// What connections are made by: the system's authorities, or those of a file.
pub(super) fn http(ca_file: Option<&str>) -> Result<SharedHttpClient, SourceError> {
    let Some(file) = ca_file.map(PathBuf::from) else { return trusting(TrustStore::default()) };
    let held = Mutex::new(Held { print: print(&file), client: of_file(&file)? });
    Ok(SharedHttpClient::new(Following { file, held }))
}

/// Connections by the authorities that a file has now. Each question costs a look at the file's times; connections that are open
/// stay until nobody has used them for a while.
#[derive(Debug)]
struct Following {
    file: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// The file as it was when it was read.
    print: Option<Print>,
    client: SharedHttpClient,
}

impl Following {
    fn current(&self) -> SharedHttpClient {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at before it is read: what changes in between is read again.
        let now = print(&self.file);
        if now != held.print {
            held.print = now;
            match of_file(&self.file) {
                Ok(client) => {
                    tracing::info!(file = %self.file.display(), "the changed authorities are in force");
                    held.client = client;
                }
                Err(error) => tracing::error!("the changed authorities are refused, and those before stay: {error}"),
            }
        }
        held.client.clone()
    }
}

impl HttpClient for Following {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        self.current().http_connector(settings, components)
    }
}

fn trusting(trust: TrustStore) -> Result<SharedHttpClient, SourceError> {
    let tls = TlsContext::builder().with_trust_store(trust).build();
    let tls = tls.map_err(|error| SourceError::new(Trouble::Configuration, "adapters.s3", error.to_string()))?;
    let mut builder = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls);
    builder.set_pool_idle_timeout(Some(Some(IDLE)));
    Ok(builder.build_https())
}

/// A file of authorities, looked at: the client would panic at what is none.
fn of_file(file: &PathBuf) -> Result<SharedHttpClient, SourceError> {
    let wrong = |detail: String| SourceError::new(Trouble::Configuration, file.display().to_string(), detail);
    let size = fs::metadata(file).map_err(|error| wrong(error.to_string()))?.len();
    if size > MAX_CA {
        return Err(wrong(format!("adapters.s3.caFile is larger than {MAX_CA} bytes")));
    }
    let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let none = || wrong("adapters.s3.caFile holds no certificates in PEM".to_owned());
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|_| none())?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(none()) } else { trusting(TrustStore::empty().with_pem_certificate(pem)) }
}
