//! Where something listens, and where a replica is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// `host:port`. Two that are written differently and mean the same are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Ip(IpAddr),
    /// A DNS name, in lower case.
    Name(String),
}

/// Why a text is no address. It does not say the text: that may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(&'static str);

impl Address {
    /// Whether only this machine reaches it. A name other than localhost may mean anything, later if not now.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => is_localhost(name),
        }
    }

    /// A name that DNS is to be asked for; `None` for an address, and for localhost, which is known (RFC 6761, section 6.3).
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) if !is_localhost(name) => Some(name),
            Host::Name(_) | Host::Ip(_) => None,
        }
    }

    /// The addresses that are known without asking: none for a name other than localhost.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ips = match &self.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) if is_localhost(name) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Host::Name(_) => Vec::new(),
        };
        ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether who connects here meets who listens on `listener`. Port 0 is another one for each.
    pub fn meets(&self, listener: &Address) -> bool {
        let any = |address: &Address| matches!(address.host, Host::Ip(ip) if ip.is_unspecified());
        let usual = |address: &Address| match &address.host {
            Host::Ip(ip) => *ip == Ipv4Addr::LOCALHOST || *ip == Ipv6Addr::LOCALHOST,
            Host::Name(name) => name == "localhost",
        };
        let named = matches!(self.host, Host::Name(_)) || matches!(listener.host, Host::Name(_));
        self.port != 0
            && self.port == listener.port
            && (self.host == listener.host
                || (any(listener) && (self.is_loopback() || any(self)))
                || (any(self) && listener.is_loopback())
                || (named && usual(self) && usual(listener)))
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress("the port is missing"))?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(InvalidAddress("the port is no number up to 65535"))?;
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match v6 {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(IpAddr::from(ip).to_canonical())),
            None => match host.parse::<Ipv4Addr>() {
                Ok(ip) => Some(Host::Ip(ip.into())),
                Err(_) => is_name(host).then(|| Host::Name(host.to_ascii_lowercase())),
            },
        };
        let host = host.ok_or(InvalidAddress(
            "the host is neither a name, nor an IPv4 address, nor an IPv6 address in brackets",
        ))?;
        Ok(Self { host, port })
    }
}

/// Whether a text is a DNS name (RFC 1123, section 2.1; `_`, for there are such), and no failed IPv4 address.
pub(crate) fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(good) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a name, in lower case, means this machine wherever it is asked.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// Reads a name server: `ip:port`, or an address alone, then with port 53.
///
/// # Errors
/// Why it is none: a name would have to be asked for itself.
pub fn name_server(text: &str) -> Result<SocketAddr, InvalidAddress> {
    const DNS_PORT: u16 = 53;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DNS_PORT));
    }
    let address: Address = text.parse()?;
    match address.host {
        Host::Ip(ip) if address.port != 0 => Ok(SocketAddr::new(ip, address.port)),
        Host::Ip(_) => Err(InvalidAddress("nobody listens on port 0")),
        Host::Name(_) => Err(InvalidAddress("a name would have to be asked for itself")),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Where a replica is: `http://host:port`, in one form whatever was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaUrl(Address);

impl ReplicaUrl {
    /// `host:port`, as a Host header has it.
    pub fn address(&self) -> &Address {
        &self.0
    }

    /// The replica at an address that was found.
    pub fn at(ip: IpAddr, port: u16) -> Self {
        Self(Address { host: Host::Ip(ip.to_canonical()), port })
    }
}

impl FromStr for ReplicaUrl {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let rest = text.strip_prefix("http://").ok_or(InvalidAddress("it does not begin with http://"))?;
        if rest.contains('@') {
            return Err(InvalidAddress("a user or a password is in it"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(InvalidAddress("it does not end with the port"));
        }
        let address: Address = rest.parse()?;
        if address.port == 0 {
            return Err(InvalidAddress("nobody listens on port 0"));
        }
        Ok(Self(address))
    }
}

impl fmt::Display for ReplicaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// Where the adapter-loader beside a replica is: a URL of its own, or a port on the replica's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoaderAt {
    /// `http://host:port`, or `https://`, where `tls` is written.
    Url {
        /// Where.
        url: ReplicaUrl,
        /// Whether it is `https://`.
        tls: bool,
    },
    /// `:port`
    Port(u16),
}

impl LoaderAt {
    /// The one beside this replica.
    pub fn beside(&self, replica: &ReplicaUrl) -> ReplicaUrl {
        match self {
            Self::Url { url, .. } => url.clone(),
            Self::Port(port) => ReplicaUrl(Address { host: replica.0.host.clone(), port: *port }),
        }
    }
}

impl FromStr for LoaderAt {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let Some(port) = text.strip_prefix(':') else {
            let plain = text.strip_prefix("https://").map(|rest| format!("http://{rest}"));
            let url = plain.as_deref().unwrap_or(text).parse()?;
            return Ok(Self::Url { url, tls: plain.is_some() });
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse().ok().filter(|_| digits) {
            Some(0) => Err(InvalidAddress("nobody listens on port 0")),
            Some(port) => Ok(Self::Port(port)),
            None => Err(InvalidAddress("the port is no number up to 65535")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_is_at_a_url_or_at_a_port_of_its_replicas_host() {
        let beside = |text: &str, replica: &str| {
            let at: LoaderAt = text.parse().unwrap();
            at.beside(&replica.parse().unwrap()).to_string()
        };
        assert_eq!(beside(":11510", "http://GPU-1:11434"), "http://gpu-1:11510");
        assert_eq!(beside(":11510", "http://[::1]:11434"), "http://[::1]:11510");
        assert_eq!(beside("http://127.0.0.1:9/", "http://gpu-1:11434"), "http://127.0.0.1:9");
        assert!(
            matches!("https://gpu-1:9".parse(), Ok(LoaderAt::Url { tls: true, url }) if url.to_string() == "http://gpu-1:9")
        );
        for wrong in ["", ":", ":0", ":65536", ":+1", "11510", "gpu-1:11510", "https://gpu-1", "http://gpu-1:0"] {
            assert!(wrong.parse::<LoaderAt>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (written, meant) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::0001]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("Ollama_1.svc.:0", "ollama_1.svc.:0"),
            ("localhost:65535", "localhost:65535"),
        ] {
            assert_eq!(written.parse::<Address>().map(|address| address.to_string()), Ok(meant.to_owned()));
        }
        for wrong in [
            "",
            ":80",
            "h",
            "h:",
            "h:-1",
            "h:+1",
            "h:65536",
            "::1",
            "::1:80",
            "[127.0.0.1]:80",
            "[::1",
            "*:80",
            "a b:80",
            "a:b:80",
            "風:80",
            "h%20x:1",
            "-h:1",
            "a..b:1",
            "999.1.1.1:1",
            "http://h:1",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_known_is_not_asked() {
        let of = |text: &str| {
            let address: Address = text.parse().unwrap();
            (address.name().map(str::to_owned), address.addresses().iter().map(SocketAddr::to_string).collect())
        };
        let known = |at: &[&str]| (None, at.iter().map(|at| (*at).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("10.0.0.7:1"), known(&["10.0.0.7:1"]));
        assert_eq!(of("[::ffff:10.0.0.7]:1"), known(&["10.0.0.7:1"]));
        for name in ["localhost:1", "LocalHost.:1", "gpu.localhost:1"] {
            assert_eq!(of(name), known(&["127.0.0.1:1", "[::1]:1"]), "{name}");
        }
        for name in ["gpu:1", "localhost.example:1", "notlocalhost:1"] {
            assert_eq!(of(name), (name.strip_suffix(":1").map(str::to_owned), Vec::new()));
        }
    }

    #[test]
    fn a_name_server_is_an_address() {
        for (written, meant) in [
            ("10.0.0.10", "10.0.0.10:53"),
            ("10.0.0.10:5353", "10.0.0.10:5353"),
            ("::1", "[::1]:53"),
            ("[::1]:54", "[::1]:54"),
        ] {
            assert_eq!(name_server(written).map(|server| server.to_string()), Ok(meant.to_owned()));
        }
        for wrong in ["", "dns.example", "dns.example:53", "10.0.0.10:0", "10.0.0.10:x", "udp://10.0.0.10"] {
            assert!(name_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_replicas_url_has_one_form() {
        for (written, meant) in [
            ("http://H:1", "http://h:1"),
            ("http://h:1/", "http://h:1"),
            ("http://h:01", "http://h:1"),
            ("http://[::0001]:80", "http://[::1]:80"),
        ] {
            assert_eq!(written.parse::<ReplicaUrl>().map(|url| url.to_string()), Ok(meant.to_owned()));
        }
        for wrong in [
            "http://h",
            "http://:80",
            "http://127.0.0.1:",
            "http://127.0.0.1:99999",
            "http://h:0",
            "http://h:1/v1",
            "http://h:1?",
            "http://[::1",
            "https://h:1",
            "h:1",
        ] {
            assert!(wrong.parse::<ReplicaUrl>().is_err(), "{wrong}");
        }
        let refused = "http://u:secretpw@h:1".parse::<ReplicaUrl>().unwrap_err();
        assert!(!refused.to_string().contains("secretpw"));
    }

    #[test]
    fn who_listens_is_known_by_every_name() {
        let meets = |to: &str, listener: &str| to.parse::<Address>().unwrap().meets(&listener.parse().unwrap());
        for (to, listener) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("127.0.0.1:1", "localhost:1"),
            ("127.0.0.2:1", "0.0.0.0:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::1]:1", "[::]:1"),
            ("gate.bank:1", "gate.bank:1"),
        ] {
            assert!(meets(to, listener), "{to} {listener}");
        }
        for (to, listener) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.2:1", "127.0.0.1:1"),
            ("[::1]:1", "127.0.0.1:1"),
            ("10.0.0.7:1", "0.0.0.0:1"),
        ] {
            assert!(!meets(to, listener), "{to} {listener}");
        }
    }
}
