//! The ports that a gateway starts with: its own, or those of the one whose place it takes.

use std::net::SocketAddr;
use std::path::Path;

use tutti_api::GatewaySpec;

use super::listen::{self, StartError};
use super::take_over::{self, Port, Predecessor};

/// Listening sockets for clients, metrics and administration; nobody accepts there yet.
#[derive(Debug)]
pub struct Sockets {
    /// For clients, metrics and administration.
    pub(super) ports: [Port; 3],
    pub(super) predecessor: Option<Predecessor>,
}

fn wanted(spec: &GatewaySpec) -> [(&'static str, &str); 3] {
    [("listen", &spec.listen), ("ops", &spec.ops), ("admin", &spec.admin.listen)]
}

impl Sockets {
    /// Listens on the configured addresses.
    ///
    /// # Errors
    /// Which of them cannot be had, and why.
    pub fn bind(spec: &GatewaySpec) -> Result<Self, StartError> {
        let port = |(name, address): (&'static str, &str)| {
            Ok::<_, StartError>(Port { name, configured: address.to_owned(), listener: listen::bind(address)? })
        };
        let [clients, ops, admin] = wanted(spec).map(port);
        Ok(Self { ports: [clients?, ops?, admin?], predecessor: None })
    }

    /// Takes those of the gateway that has some of the configured addresses, and listens on the others itself. That one
    /// is known by a socket beside the admin token, and serves on until [`super::Gateway::start`] is done. Where there is
    /// none, as [`Self::bind`].
    ///
    /// # Errors
    /// Which address cannot be had, or why the other gives nothing.
    pub async fn take_over(spec: &GatewaySpec, token_file: &Path) -> Result<Self, StartError> {
        match take_over::take(token_file, &wanted(spec), listen::bind).await? {
            Some((ports, predecessor)) => Ok(Self { ports, predecessor: Some(predecessor) }),
            None => {
                tracing::info!("--take-over: no gateway runs with these addresses, so this one starts as always");
                Self::bind(spec).map_err(StartError::for_successor)
            }
        }
    }

    /// Where each listens.
    pub(super) fn addresses(&self) -> Result<[SocketAddr; 3], StartError> {
        let [clients, ops, admin] = self.ports.each_ref().map(Port::address);
        Ok([clients?, ops?, admin?])
    }
}

impl Port {
    fn address(&self) -> Result<SocketAddr, StartError> {
        let failed = |error| StartError::Listen { address: self.configured.clone(), error };
        self.listener.local_addr().map_err(failed)
    }
}
