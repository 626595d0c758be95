//! What a gateway says of itself to people.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use tutti_api::GatewaySpec;

use crate::discovery::{Heard, Origin, Source};
use crate::ending::Phase;
pub use crate::health::{Cause, HeldState, HeldStatus};
use crate::keys::KeysStatus;
use crate::replica::Replica;
use crate::schedule::Sharing;
use crate::shared::{Reloaded, Shared};
use crate::table::{Pool, Table};
use crate::tls::{CertificateStatus, Tls};

/// The answer of `/status`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Status {
    /// tutti's version.
    pub version: String,
    /// The gateway's process.
    pub pid: u32,
    /// The table's generation.
    pub generation: u32,
    /// What came of the last change of the configuration.
    pub reload: Reloaded,
    /// The fields that the configuration in force has changed and that are taken at the start only.
    #[serde(default)]
    pub at_next_start: Vec<String>,
    /// The certificate that clients are served by, if they are by TLS.
    #[serde(default)]
    pub certificate: Option<CertificateStatus>,
    /// The keys, where who asks needs one.
    #[serde(default)]
    pub keys: Option<KeysStatus>,
    /// Connections that are open.
    pub connections: usize,
    /// Whether it is draining.
    pub draining: bool,
    /// The pools.
    pub pools: Vec<PoolStatus>,
    /// Who says where replicas are that the configuration does not name itself.
    #[serde(default)]
    pub discovery: Vec<SourceStatus>,
    /// The models, by the names that clients use, and where each leads.
    pub models: BTreeMap<String, String>,
}

/// A pool in a [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Requests that wait.
    pub queued: usize,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
}

/// A replica in a [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ReplicaStatus {
    /// Its URL.
    pub url: String,
    /// Who said where it is: `url`, `dns ollama.svc:11434`, `file /etc/tutti/replicas`.
    #[serde(default)]
    pub from: String,
    /// Where a name leads, where the URL has one.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
    /// Its engine's version, once it has told it.
    pub version: Option<String>,
    /// Whether it could be reached the last time.
    pub reachable: bool,
    /// Whether it was taken out of service by hand: it gets nothing new.
    #[serde(default)]
    pub drained: bool,
    /// Whether nobody names it any more: it is here until it has ended what it works on.
    #[serde(default)]
    pub leaving: bool,
    /// What is held against it, and against models on it.
    #[serde(default)]
    pub held: Vec<HeldStatus>,
    /// Of models that share a runner, those that are in its memory.
    #[serde(default)]
    pub loaded: Vec<String>,
    /// Requests it works on.
    pub in_flight: u32,
}

/// A name or a file in a [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct SourceStatus {
    /// `dns` or `file`.
    pub kind: String,
    /// The name, or the file's path.
    pub name: String,
    /// Addresses or replicas that it names.
    pub endpoints: usize,
    /// Addresses beyond the most that are taken.
    pub left_out: usize,
    /// When it last said something. Unit: seconds since 1970.
    pub at: Option<i64>,
    /// Whether it failed the last time; then what was known stays.
    pub failing: bool,
    /// Why it says nothing, or nothing new.
    pub why: Option<String>,
    /// How often it has failed.
    pub failures: u64,
}

impl SourceStatus {
    fn of((source, heard): (Source, Heard)) -> Self {
        let (kind, name) = source.kind_and_name();
        Self {
            kind: kind.to_owned(),
            name,
            endpoints: heard.endpoints(),
            left_out: heard.left_out,
            at: heard.at,
            failing: heard.failing,
            why: heard.why,
            failures: heard.failures,
        }
    }
}

impl Status {
    /// As it is now.
    pub fn of(shared: &Shared) -> Self {
        let table = shared.table();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: table.generation,
            reload: shared.reload_outcome(),
            at_next_start: at_next_start(&shared.started.gateway, &table.config.gateway),
            certificate: shared.tls.as_ref().map(Tls::status),
            keys: shared.keys.status(),
            connections: shared.connections.load(Relaxed),
            draining: shared.ending.has_reached(Phase::Leaving),
            pools: pools(&table),
            discovery: shared.discovery.heard().into_iter().map(SourceStatus::of).collect(),
            models: table
                .listed()
                .iter()
                .map(|route| {
                    let served = &route.served;
                    let to = [&*served.pool, &*served.revision].join(" ").trim_end().to_owned();
                    (served.model.to_string(), to)
                })
                .collect(),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The fields of which only the next start takes notice.
fn at_next_start(started: &GatewaySpec, now: &GatewaySpec) -> Vec<String> {
    let fields = [
        ("gateway.listen", started.listen != now.listen),
        ("gateway.ops", started.ops != now.ops),
        ("gateway.admin.listen", started.admin.listen != now.admin.listen),
        ("gateway.tls", started.tls != now.tls),
        ("gateway.limits.handshakes", started.limits.handshakes != now.limits.handshakes),
        ("gateway.admin.tokenFile", started.admin.token_file != now.admin.token_file),
    ];
    fields.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name.to_owned()).collect()
}

fn pools(table: &Table) -> Vec<PoolStatus> {
    let left: Vec<_> = table.left.iter().filter_map(Weak::upgrade).filter(|replica| replica.in_flight() > 0).collect();
    let of = |pool: &Pool| {
        let sharing = table.sharing(&pool.name);
        let named = pool.replicas.iter().zip(&pool.origins).map(|(of, from)| replica(pool, sharing, of, Some(from)));
        let left = left.iter().filter(|replica| replica.pool == pool.name).map(|of| replica(pool, sharing, of, None));
        PoolStatus { name: pool.name.to_string(), queued: pool.owner.queued(), replicas: named.chain(left).collect() }
    };
    table.pools.iter().map(|pool| of(pool)).collect()
}

/// `origin`: `None` for one that nobody names any more.
fn replica(pool: &Pool, sharing: &[Sharing], replica: &Replica, origin: Option<&Origin>) -> ReplicaStatus {
    let (health, slots) = (&pool.owner.health, replica.all_slots());
    ReplicaStatus {
        url: replica.url.to_string(),
        from: origin.map_or("nowhere any more".to_owned(), |origin| origin.shown.clone()),
        addresses: replica.name.as_ref().map(|_| replica.addresses().list.clone()).unwrap_or_default(),
        version: replica.version(),
        reachable: health.is_reachable(replica),
        drained: pool.drained.contains(&replica.id),
        leaving: origin.is_none(),
        held: health.told(replica, &slots),
        loaded: sharing.iter().filter_map(|sharing| sharing.loaded_on(replica)).map(str::to_owned).collect(),
        in_flight: replica.in_flight(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_start_takes_is_named() {
        let started = GatewaySpec::default();
        let mut now = GatewaySpec { drain: tutti_api::HumanDuration::from_secs(1), ..GatewaySpec::default() };
        assert_eq!(at_next_start(&started, &now), <[&str; 0]>::default());
        now.ops = "127.0.0.1:1".to_owned();
        now.admin.token_file = Some("token".to_owned());
        assert_eq!(at_next_start(&started, &now), ["gateway.ops", "gateway.admin.tokenFile"]);
    }

    #[test]
    fn what_only_a_start_takes_is_described_so() {
        let mut now = GatewaySpec { listen: String::new(), ops: String::new(), ..GatewaySpec::default() };
        now.admin = tutti_api::AdminSpec { listen: String::new(), token_file: Some(String::new()) };
        now.tls = Some(tutti_api::TlsSpec { cert: String::new(), key: String::new() });
        now.limits.handshakes += 1;
        let schema = tutti_api::json_schema();
        let all = at_next_start(&GatewaySpec::default(), &now);
        assert_eq!(all.len(), 6, "{all:?}");
        for field in all {
            let at = format!("/properties/{}", field.replace('.', "/properties/"));
            let about = schema.pointer(&at).and_then(|field| field["description"].as_str()).unwrap_or_default();
            assert!(about.contains("at the start only") || about.contains("at the\nstart only"), "{field}: {about}");
        }
    }
}
