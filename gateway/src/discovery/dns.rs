//! Asks DNS. Around [`search`] and [`answer`](super::answer): sockets, files and time.
//!
//! hickory brings the message format, ports and numbers that nobody guesses, and TCP where an answer does not fit into a
//! datagram. Which server is asked next, which name, and what an answer means is decided here: hickory's own resolver
//! takes the first server's failure for an answer, and its cache would hide when a TTL ends.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::proto::op::{DnsRequestOptions, Query};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::answer::{Answer, Part};
use super::search::{self, Dns, Family};
use super::system::{self, Settings};
use super::told::{can_be_a_replica, told, untold};
use crate::follow;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// Largest of these files that is read. Unit: bytes.
const MAX_FILE: u64 = 4 << 20;
/// How long what they said is taken to be what they say.
const FRESH: Duration = Duration::from_secs(1);
/// How long an address of the hosts file is taken to be the name's.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// How long a name may take, over all its servers and search domains.
const WITHIN: Duration = Duration::from_secs(10);

type Server = NameServerPool<TokioRuntimeProvider>;

/// Whom to ask.
struct Ways {
    /// The servers of the configuration; without any, the texts of the system's files.
    from: (Vec<SocketAddr>, Option<[String; 2]>),
    settings: Settings,
    hosts: HashMap<Box<str>, Vec<IpAddr>>,
    servers: Vec<Server>,
    /// The server that answered last: it is asked first.
    first: AtomicUsize,
    /// Why there is nobody to ask, if so.
    why: Option<String>,
}

/// Asks for names.
#[derive(Default)]
pub(super) struct Resolver {
    /// The servers of the configuration.
    written: Mutex<Vec<SocketAddr>>,
    /// Whom to ask, and when that was last read.
    ways: tokio::sync::Mutex<Option<(Instant, Arc<Ways>)>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Resolver {
    /// From now on these servers are asked; the system's, where there are none.
    pub(super) fn ask_at(&self, servers: Vec<SocketAddr>) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    /// Asks for a name's addresses. `last` is the full name that had some the last time.
    pub(super) async fn ask(&self, name: &str, last: Option<&str>) -> Answer {
        let failed =
            |why: String| Answer { name: name.to_owned(), v4: Part::Failed(why.clone()), v6: Part::Failed(why) };
        let asked = async {
            let ways = self.ways().await;
            if let Some(ips) = ways.hosts.get(name.trim_end_matches('.')) {
                return of_hosts(ips);
            }
            if let Some(why) = &ways.why {
                return failed(why.clone());
            }
            let names = search::candidates(name, &ways.settings.search, ways.settings.ndots);
            search::resolve(names, last, &*ways).await
        };
        let late = || failed(format!("no name server answered within {WITHIN:?}"));
        tokio::time::timeout(WITHIN, asked).await.unwrap_or_else(|_| late())
    }

    /// Whom to ask now.
    async fn ways(&self) -> Arc<Ways> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ways = self.ways.lock().await;
        let known = ways.take();
        if let Some((read, known)) = known.as_ref().filter(|(_, known)| known.from.0 == written)
            && read.elapsed() < FRESH
        {
            return ways.insert((*read, known.clone())).1.clone();
        }
        let (texts, why) = if written.is_empty() { system_files().await } else { (None, None) };
        let from = (written, texts);
        let known = known.map(|(_, known)| known).filter(|known| known.from == from && known.why == why);
        let fresh = known.unwrap_or_else(|| Arc::new(Ways::new(from, why)));
        ways.insert((Instant::now(), fresh)).1.clone()
    }
}

/// What the system's files say, and why that is not known, if so. Read on a thread of its own: a file system that does
/// not answer holds up nothing else.
async fn system_files() -> (Option<[String; 2]>, Option<String>) {
    let read = || {
        let read = |path: &str| follow::read(Path::new(path), MAX_FILE).map(|(text, _)| text);
        let hosts = read(HOSTS).unwrap_or_default(); // none is as good as an empty one
        match read(RESOLV_CONF) {
            Ok(resolv_conf) => (Some([resolv_conf, hosts]), None),
            Err(error) => (Some([String::new(), hosts]), Some(format!("{RESOLV_CONF}: {error}"))),
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

fn of_hosts(ips: &[IpAddr]) -> Answer {
    let usable = || ips.iter().copied().filter(|ip| can_be_a_replica(*ip));
    let part = |v4: bool| match usable().filter(|ip| ip.is_ipv4() == v4).collect::<Vec<_>>() {
        none if none.is_empty() => Part::Nothing { exists: true, ttl: Some(HOSTS_TTL) },
        found => Part::Addresses { found, ttl: HOSTS_TTL },
    };
    Answer { name: HOSTS.to_owned(), v4: part(true), v6: part(false) }
}

impl Ways {
    fn new(from: (Vec<SocketAddr>, Option<[String; 2]>), mut why: Option<String>) -> Self {
        let (settings, hosts) = match &from {
            (_, Some([resolv_conf, hosts])) => (Settings::read(resolv_conf), system::hosts(hosts)),
            (written, None) => (Settings::of(written.clone()), HashMap::new()),
        };
        if settings.servers.is_empty() {
            why.get_or_insert_with(|| format!("{RESOLV_CONF} names no name server"));
        }
        let servers = settings.servers.iter().filter_map(|server| connect(*server, &settings)).collect();
        Self { from, settings, hosts, servers, first: AtomicUsize::new(0), why }
    }
}

impl Dns for Ways {
    /// Asks one server after the other, until one can tell.
    async fn ask(&self, name: &str, family: Family) -> Part {
        let Ok(name) = Name::from_ascii(name) else { return Part::Failed("this is no name of DNS".to_owned()) };
        let record = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        let mut failed = "there is no name server".to_owned();
        let (count, first) = (self.servers.len(), self.first.load(Relaxed));
        for turn in 0..count * self.settings.attempts as usize {
            let at = (first + turn) % count;
            let mut options = DnsRequestOptions::default();
            (options.use_edns, options.recursion_desired) = (true, true);
            let asked = self.servers[at].lookup(Query::query(name.clone(), record), options).first_answer();
            let part = match tokio::time::timeout(self.settings.timeout, asked).await {
                Ok(Ok(response)) => told(&response, &name, record),
                Ok(Err(error)) => untold(error),
                Err(_) => Part::Failed("timed out".to_owned()),
            };
            match part {
                Part::Failed(why) => failed = format!("no name server can tell: {why}"),
                part => {
                    self.first.store(at, Relaxed);
                    return part;
                }
            }
        }
        Part::Failed(failed)
    }
}

fn connect(server: SocketAddr, settings: &Settings) -> Option<Server> {
    let to = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = vec![to(ConnectionConfig::udp()), to(ConnectionConfig::tcp())];
    let config = NameServerConfig::new(server.ip(), true, connections);
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts) = (settings.timeout, 0);
    let context = PoolContext::new(options, TlsConfig::new().ok()?);
    Some(NameServerPool::from_config([config], Arc::new(context), TokioRuntimeProvider::default()))
}
