//! What the system says of names: resolv.conf(5) and hosts(5). Pure; the resolver reads the files.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tutti_api::name_server;

/// The bounds that resolv.conf(5) gives. Units: name servers, search domains, dots, tries.
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 32;
const MAX_NDOTS: usize = 15;
const MAX_ATTEMPTS: u32 = 5;
/// How long a name server may take. Longer than resolv.conf(5) does nobody wait, for the last addresses stay.
const MAX_TIMEOUT: Duration = Duration::from_secs(3);

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) servers: Vec<SocketAddr>,
    /// The domains under which a name is looked for.
    pub(super) search: Vec<String>,
    /// A name with fewer dots is tried under the search domains first.
    pub(super) ndots: usize,
    /// How long a server may take to answer.
    pub(super) timeout: Duration,
    /// How often the servers are asked in turn.
    pub(super) attempts: u32,
}

impl Settings {
    /// These servers, for names as they stand.
    pub(super) fn of(servers: Vec<SocketAddr>) -> Self {
        Self { servers, search: Vec::new(), ndots: 0, timeout: Duration::from_secs(2), attempts: 2 }
    }

    /// What a resolv.conf says. What cannot be understood is passed over, as the system does.
    pub(super) fn read(text: &str) -> Self {
        let mut settings = Self { ndots: 1, timeout: MAX_TIMEOUT, ..Self::of(Vec::new()) };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => settings.servers.extend(words.next().and_then(|ip| name_server(ip).ok())),
                Some("search" | "domain") => {
                    settings.search = words.take(MAX_SEARCH).map(str::to_ascii_lowercase).collect();
                }
                Some("options") => words.for_each(|option| settings.option(option)),
                _ => {}
            }
        }
        settings.servers.truncate(MAX_SERVERS);
        settings
    }

    fn option(&mut self, option: &str) {
        let Some((name, Ok(value))) = option.split_once(':').map(|(name, value)| (name, value.parse::<u32>())) else {
            return;
        };
        match name {
            "ndots" => self.ndots = MAX_NDOTS.min(value as usize),
            "timeout" => self.timeout = Duration::from_secs(value.max(1).into()).min(MAX_TIMEOUT),
            "attempts" => self.attempts = value.clamp(1, MAX_ATTEMPTS),
            _ => {}
        }
    }
}

/// The addresses that a hosts file gives to names.
pub(super) fn hosts(text: &str) -> HashMap<Box<str>, Vec<IpAddr>> {
    let mut hosts: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(ip) = words.next().and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            hosts.entry(name.to_ascii_lowercase().into()).or_default().push(ip);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_system_reads_it() {
        let text = "
# of a Pod
search bank.svc.cluster.local svc.cluster.local Cluster.Local
nameserver 10.96.0.10
nameserver fd00::10
nameserver not-an-address
options ndots:5 timeout:1 attempts:9 rotate edns0 trust-ad ndots:x
";
        let read = Settings::read(text);
        let expected = Settings {
            servers: vec!["10.96.0.10:53".parse().unwrap(), "[fd00::10]:53".parse().unwrap()],
            search: ["bank.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned).into(),
            ndots: 5,
            timeout: Duration::from_secs(1),
            attempts: 5,
        };
        assert_eq!(read, expected);
        let last =
            Settings::read("domain a\nsearch b c\nnameserver 1.1.1.1\noptions timeout:0 ndots:99\n;nameserver 9.9.9.9");
        assert_eq!((last.search, last.ndots, last.servers.len()), (vec!["b".to_owned(), "c".to_owned()], 15, 1));
        assert_eq!(Settings::read("nameserver 1.1.1.1\n".repeat(9).as_str()).servers.len(), MAX_SERVERS);
        assert!(Settings::read("").servers.is_empty());
    }

    #[test]
    fn a_hosts_file_gives_names_addresses() {
        let hosts = hosts("127.0.0.1 localhost\n10.0.0.7\tGPU gpu.bank # rack 2\n::7 gpu\nx y\n#10.0.0.9 gpu\n");
        let of = |name: &str| hosts.get(name).map(|ips| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>());
        assert_eq!(of("gpu"), Some(vec!["10.0.0.7".to_owned(), "::7".to_owned()]));
        assert_eq!(of("gpu.bank"), Some(vec!["10.0.0.7".to_owned()]));
        assert_eq!((of("rack"), of("y")), (None, None));
    }
}
