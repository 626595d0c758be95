//! Where gateways are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tutti_api::Address;
use tutti_gateway::discovery::Discovery;

use crate::kubernetes;
use crate::scaler::Shared;

/// How often it is looked where they are.
const EVERY: Duration = Duration::from_secs(1);
/// Most gateways; those beyond are left out, and that is said. Unit: gateways.
const MAX_GATEWAYS: usize = 1_000;

/// Who says where gateways are: by their ops addresses.
#[derive(Clone, Debug)]
pub enum Where {
    /// They are listed.
    List(Vec<Address>),
    /// A name whose addresses they have, and their port.
    Dns(Address),
    /// The EndpointSlices of a Service in Kubernetes.
    Slices(Service),
}

/// A Service in Kubernetes and the port of its Pods, as `namespace/name:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Pods' port, by number.
    pub port: u16,
}

/// Why a text names no Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no Service: write NAMESPACE/NAME:PORT, with the number of the Pods' port")]
pub struct InvalidService(String);

impl FromStr for Service {
    type Err = InvalidService;

    fn from_str(text: &str) -> Result<Self, InvalidService> {
        let invalid = || InvalidService(text.to_owned());
        let (namespace, rest) = text.split_once('/').ok_or_else(invalid)?;
        let (name, port) = rest.split_once(':').ok_or_else(invalid)?;
        let is_label = |name: &str| {
            (1..=63).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_label(namespace) || !is_label(name) {
            return Err(invalid());
        }
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(invalid)?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// Looks where gateways are, again and again; what was known stays where nobody says.
pub(crate) async fn run(of: Where, shared: Arc<Shared>) {
    let discovery = Discovery::default();
    let names: Vec<&Address> = match &of {
        Where::List(addresses) => addresses.iter().collect(),
        Where::Dns(address) => vec![address],
        Where::Slices(_) => Vec::new(),
    };
    for address in &names {
        if let Some(name) = address.name() {
            discovery.follow(name).await;
        }
    }
    let mut was_failing = false;
    loop {
        let (found, failed) = match &of {
            Where::Slices(service) => match kubernetes::endpoints(service).await {
                Ok(addresses) => (Some(addresses), None),
                Err(why) => (None, Some(why)),
            },
            Where::List(_) | Where::Dns(_) => resolved(&discovery, &names),
        };
        if let Some(mut addresses) = found {
            let beyond = bounded(&mut addresses);
            if beyond != shared.left_out() && beyond > 0 {
                tracing::error!(
                    left_out = beyond,
                    most = MAX_GATEWAYS,
                    "there are more gateways than are asked: the demand of those with the highest addresses is not counted"
                );
            }
            shared.set_left_out(beyond);
            shared.discovered(&addresses, Instant::now());
        }
        if let Some(why) = failed.as_ref().filter(|_| !was_failing) {
            tracing::warn!(why, "it is not known where all gateways are: those that were stay");
        }
        was_failing = failed.is_some();
        shared.set_discovery_failing(was_failing);
        tokio::time::sleep(EVERY).await;
    }
}

/// Leaves out those beyond the most; yields how many.
fn bounded(addresses: &mut BTreeSet<String>) -> usize {
    let beyond = addresses.len().saturating_sub(MAX_GATEWAYS);
    (0..beyond).for_each(|_| _ = addresses.pop_last());
    beyond
}

/// Where names and addresses lead, and what is wrong with a name that leads nowhere. Among others that do lead somewhere it
/// counts as a gateway that is not heard, or one stale line of a list would hide all the others for ever.
fn resolved(discovery: &Discovery, names: &[&Address]) -> (Option<BTreeSet<String>>, Option<String>) {
    let (mut all, mut lost) = (BTreeSet::new(), BTreeSet::new());
    let mut failed = None;
    for address in names {
        match address.name() {
            None => all.extend(address.addresses().iter().map(ToString::to_string)),
            Some(name) => match discovery.addresses(name) {
                Ok(ips) => all.extend(ips.iter().map(|ip| SocketAddr::new(*ip, address.port()).to_string())),
                Err(why) => {
                    lost.insert(address.to_string());
                    failed = Some(format!("{name}: {why}"));
                }
            },
        }
    }
    let found = !all.is_empty() || failed.is_none();
    all.append(&mut lost);
    (found.then_some(all), failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_beyond_the_most_are_counted() {
        let mut all: BTreeSet<String> = (0..MAX_GATEWAYS + 3).map(|number| format!("{number:05}")).collect();
        assert_eq!((bounded(&mut all), all.len(), bounded(&mut all)), (3, MAX_GATEWAYS, 0));
        assert_eq!(all.last().map(String::as_str), Some("00999"));
    }

    #[test]
    fn a_service_has_one_form() {
        let good: Service = "bank/tutti-gateway:11501".parse().unwrap();
        assert_eq!(good.to_string(), "bank/tutti-gateway:11501");
        for wrong in ["", "a", "a/b", "a/b:0", "a/b:c", "/b:1", "a/:1", "A/b:1", "a/b/c:1"] {
            assert!(wrong.parse::<Service>().is_err(), "{wrong}");
        }
    }
}
