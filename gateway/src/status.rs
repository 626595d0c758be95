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
pub use crate::loaders::{AdapterStatus, LoaderStatus};
use crate::peer::{Peers, Reach, Standing, Whose};
use crate::replica::Replica;
pub use crate::schedule::Known;
use crate::schedule::{GroupExplained, RunnerExplained};
use crate::shared::{Reloaded, Shared};
use crate::table::{Pool, Route, Table};
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
    /// The other gateways, where there are some.
    #[serde(default)]
    pub peers: Option<PeersStatus>,
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

/// What a gateway knows of the others.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PeersStatus {
    /// This one's number: another at each start.
    pub id: String,
    /// The certificate that it shows to others.
    pub certificate: CertificateStatus,
    /// Those that are there.
    pub others: Vec<PeerStatus>,
    /// Who schedules each pool that one gateway schedules, by the pools' names.
    pub pools: BTreeMap<String, OwnerStatus>,
}

/// Another gateway in a [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PeerStatus {
    /// Its number.
    pub id: String,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Whether another gateway is there, which passes on to it.
    pub through_another: bool,
    /// Whether it is about to end.
    pub leaving: bool,
}

/// Who schedules a pool, in a [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct OwnerStatus {
    /// Its number; `None` while this gateway waits for the one before to let go.
    pub id: Option<String>,
    /// The number of the ownership: higher with each change.
    pub epoch: u64,
}

impl PeersStatus {
    fn of(peers: &Peers) -> Self {
        let view = peers.view();
        let other = |(reach, standing): &(Reach, Standing)| PeerStatus {
            id: reach.id.to_string(),
            address: reach.address,
            through_another: reach.through_another,
            leaving: standing.leaving,
        };
        let owner = |whose: &Whose| match whose {
            Whose::Here => Some(peers.id.to_string()),
            Whose::Soon => None,
            Whose::There(reach) => Some(reach.id.to_string()),
        };
        let pools = view.pools.iter();
        Self {
            id: peers.id.to_string(),
            certificate: peers.mutual.status(),
            others: view.peers.iter().map(other).collect(),
            pools: pools
                .map(|(pool, view)| (pool.to_string(), OwnerStatus { id: owner(&view.whose), epoch: view.epoch }))
                .collect(),
        }
    }
}

/// A pool in a [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Requests that wait.
    pub queued: usize,
    /// What they wait for; those first that have waited longest.
    #[serde(default)]
    pub waits: Vec<Waits>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
}

/// Requests of a pool that wait for the same.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// The models, as the replicas call them.
    pub models: Vec<String>,
    /// How many.
    pub waiting: usize,
    /// How long the first has waited.
    pub oldest_ms: u64,
    /// `load` or `slot`.
    pub waits_for: String,
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
    /// Its runners that several models share: what they have in memory.
    #[serde(default)]
    pub runners: Vec<RunnerStatus>,
    /// Requests it works on.
    pub in_flight: u32,
    /// The loader that brings it adapters, where one is named.
    #[serde(default)]
    pub loader: Option<LoaderStatus>,
}

/// A runner that several models share, in a [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunnerStatus {
    /// The models that it has, as the replica calls them.
    pub loaded: Vec<String>,
    /// How that is known.
    pub known: Known,
    /// Since when. Unit: milliseconds ago.
    pub known_ms: Option<u64>,
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

/// As many kinds of waiters are told of a pool.
const MOST_WAITS: usize = 20;

impl Status {
    /// As it is now.
    pub async fn of(shared: &Shared) -> Self {
        let mut status = Self::without_queues(shared);
        let table = shared.table().clone();
        for of in &mut status.pools {
            let Some(pool) = table.pools.iter().find(|pool| *pool.name == *of.name) else { continue };
            let Some(explained) = pool.owner.explain(&pool.name).await else { continue };
            for RunnerExplained { replica, loaded, known, known_ms, .. } in explained.runners {
                let of = of.replicas.iter_mut().find(|of| of.url == replica);
                of.into_iter().for_each(|of| of.runners.push(RunnerStatus { loaded: loaded.clone(), known, known_ms }));
            }
            let waits = explained.groups.into_iter().filter(|group| group.waiting > 0).take(MOST_WAITS);
            of.waits = waits
                .map(|GroupExplained { models, waiting, oldest_ms, waits_for, .. }| Waits {
                    models,
                    waiting,
                    oldest_ms,
                    waits_for,
                })
                .collect();
        }
        status
    }

    /// The same, without what those wait for who wait.
    pub(crate) fn without_queues(shared: &Shared) -> Self {
        let table = shared.table();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: table.generation,
            reload: shared.reload_outcome(),
            at_next_start: at_next_start(&shared.started.gateway, &table.config.gateway),
            certificate: shared.tls.as_ref().map(Tls::status),
            keys: shared.keys.status(),
            peers: shared.peers.as_deref().map(PeersStatus::of),
            connections: shared.connections.load(Relaxed),
            draining: shared.ending.has_reached(Phase::Leaving),
            pools: pools(&table),
            discovery: shared.discovery.heard().into_iter().map(SourceStatus::of).collect(),
            models: table
                .listed()
                .iter()
                .map(|route| {
                    let served = &route.served;
                    (served.model.to_string(), leads_to(&table, route))
                })
                .collect(),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Where a model leads, for people.
fn leads_to(table: &Table, route: &Route) -> String {
    let served = &route.served;
    let to = |route: &Route| [&*route.served.pool, &*route.served.revision].join(" ").trim_end().to_owned();
    let Some(split) = table.lead(&served.model).and_then(|lead| lead.split.as_ref()) else { return to(route) };
    let share = |route: &Route| tutti_api::Share::of_parts(split.weight(&route.served.revision));
    let mut all = match split.routed.as_slice() {
        [only] => to(only),
        several => several.iter().map(|route| format!("{} {}", to(route), share(route))).collect::<Vec<_>>().join(", "),
    };
    if let Some((mirror, share)) = &split.mirror {
        all.push_str(&format!(", {} mirrors {}", to(mirror), tutti_api::Share::of_parts(*share)));
    }
    if split.overridden {
        all.push_str(", OVERRIDDEN");
    }
    all
}

/// The fields of which only the next start takes notice.
fn at_next_start(started: &GatewaySpec, now: &GatewaySpec) -> Vec<String> {
    let fields = [
        ("gateway.listen", started.listen != now.listen),
        ("gateway.ops", started.ops != now.ops),
        ("gateway.admin.listen", started.admin.listen != now.admin.listen),
        ("gateway.tls", started.tls != now.tls),
        ("gateway.peer", started.peer != now.peer),
        ("gateway.limits.handshakes", started.limits.handshakes != now.limits.handshakes),
        ("gateway.admin.tokenFile", started.admin.token_file != now.admin.token_file),
    ];
    fields.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name.to_owned()).collect()
}

fn pools(table: &Table) -> Vec<PoolStatus> {
    let left: Vec<_> = table.left.iter().filter_map(Weak::upgrade).filter(|replica| replica.in_flight() > 0).collect();
    let of = |pool: &Pool| {
        let named = pool.with_loaders().zip(&pool.origins).map(|((of, loader), from)| ReplicaStatus {
            loader: loader.map(|loader| LoaderStatus::of(loader, pool, table, false)),
            ..replica(pool, of, Some(from))
        });
        let left = left.iter().filter(|replica| replica.pool == pool.name).map(|of| replica(pool, of, None));
        let (name, queued) = (pool.name.to_string(), pool.owner.queued() + pool.desk.waiting());
        PoolStatus { name, queued, waits: Vec::new(), replicas: named.chain(left).collect() }
    };
    table.pools.iter().map(|pool| of(pool)).collect()
}

/// `origin`: `None` for one that nobody names any more.
fn replica(pool: &Pool, replica: &Replica, origin: Option<&Origin>) -> ReplicaStatus {
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
        runners: Vec::new(),
        in_flight: replica.in_flight(),
        loader: None,
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
        let tls = tutti_api::MutualTlsSpec { cert: String::new(), key: String::new(), ca: String::new() };
        now.peer = Some(tutti_api::PeerSpec { listen: String::new(), tls, dns: None, addresses: Vec::new() });
        let schema = tutti_api::json_schema();
        let all = at_next_start(&GatewaySpec::default(), &now);
        assert_eq!(all.len(), 7, "{all:?}");
        for field in all {
            let at = format!("/properties/{}", field.replace('.', "/properties/"));
            let about = schema.pointer(&at).and_then(|field| field["description"].as_str()).unwrap_or_default();
            assert!(about.contains("at the start only") || about.contains("at the\nstart only"), "{field}: {about}");
        }
    }
}
