//! What a schema cannot say of the other gateways.

use std::net::SocketAddr;

use super::{Report, field, item};
use crate::yaml::Step;
use crate::{Address, PeerSpec};

pub(super) fn check(spec: &PeerSpec, here: &[Step], report: &mut Report<'_>) {
    if spec.dns.is_none() && spec.addresses.is_empty() {
        let help =
            "name where they are, as `dns: tutti-peers:11503` or `addresses: [10.0.0.2:11503]`, or leave `peer` out";
        report.add(here, "it does not say where the other gateways are", Some(help));
    }
    if let Some(dns) = &spec.dns
        && let Err(error) = dns.parse::<Address>()
    {
        let help = "write host:port, such as tutti-peers.default.svc:11503";
        report.add(&field(here, "dns"), format!("this is no name to ask for: {error}"), Some(help));
    }
    for (number, address) in spec.addresses.iter().enumerate() {
        if address.parse::<SocketAddr>().is_err() {
            let help = "write ip:port, such as 10.0.0.2:11503; a name belongs into `dns`";
            report.add(&item(here, "addresses", number), "this is no address of a gateway", Some(help));
        }
    }
    report.mutual(&field(here, "tls"), &spec.tls);
}
