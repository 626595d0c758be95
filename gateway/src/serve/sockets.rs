//! The ports that a gateway starts with: its own, or those of the one whose place it takes.

use std::net::SocketAddr;
use std::path::Path;

use tutti_api::GatewaySpec;

use super::listen::{self, StartError};
use super::take_over::{self, Port, Predecessor};

/// Listening sockets for clients, metrics, administration and peers; nobody accepts there yet.
#[derive(Debug)]
pub struct Sockets {
    /// For clients, metrics and administration.
    pub(super) ports: [Port; 3],
    /// For other gateways, where there are some.
    pub(super) peer: Option<Port>,
    pub(super) predecessor: Option<Predecessor>,
}

/// The ports' names and addresses; that for peers is the last.
fn wanted(spec: &GatewaySpec) -> Vec<(&'static str, &str)> {
    let peer = spec.peer.as_ref().map(|peer| ("peer", &*peer.listen));
    let own = [("listen", &*spec.listen), ("ops", &*spec.ops), ("admin", &*spec.admin.listen)];
    own.into_iter().chain(peer).collect()
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
        let ports = wanted(spec).into_iter().map(port).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::of(ports, None)?)
    }

    /// Takes those of the gateway that has some of the configured addresses, and listens on the others itself. That one
    /// is known by a socket beside the admin token, and serves on until [`super::Gateway::start`] is done. Where there is
    /// none, as [`Self::bind`].
    ///
    /// # Errors
    /// Which address cannot be had, or why the other gives nothing.
    pub async fn take_over(spec: &GatewaySpec, token_file: &Path) -> Result<Self, StartError> {
        match take_over::take(token_file, &wanted(spec), listen::bind).await? {
            Some((ports, predecessor)) => Ok(Self::of(ports, Some(predecessor))?),
            None => {
                tracing::info!("--take-over: no gateway runs with these addresses, so this one starts as always");
                Self::bind(spec).map_err(StartError::for_successor)
            }
        }
    }

    /// Of ports as they are wanted.
    fn of(mut ports: Vec<Port>, predecessor: Option<Predecessor>) -> Result<Self, String> {
        let peer = ports.drain(ports.len().min(3)..).next();
        let ports =
            <[Port; 3]>::try_from(ports).map_err(|ports| format!("{} ports are there of three", ports.len()))?;
        Ok(Self { ports, peer, predecessor })
    }

    /// Where each listens.
    pub(super) fn addresses(&self) -> Result<[SocketAddr; 3], StartError> {
        let [clients, ops, admin] = self.ports.each_ref().map(Port::address);
        Ok([clients?, ops?, admin?])
    }
}

impl Port {
    pub(super) fn address(&self) -> Result<SocketAddr, StartError> {
        let failed = |error| StartError::Listen { address: self.configured.clone(), error };
        self.listener.local_addr().map_err(failed)
    }
}
