//! What a gateway says of itself: metrics for Prometheus, a status for people.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tutti_api::GatewaySpec;

use crate::limits;
use crate::log;
use crate::shared::{Reloaded, Shared};
use crate::table::Table;

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
    /// Connections that are open.
    pub connections: usize,
    /// Whether it is draining.
    pub draining: bool,
    /// The pools.
    pub pools: Vec<PoolStatus>,
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
    /// Its engine's version, once it has told it.
    pub version: Option<String>,
    /// Whether it could be reached the last time.
    pub reachable: bool,
    /// Requests it works on.
    pub in_flight: u32,
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
            connections: shared.connections.load(Relaxed),
            draining: shared.draining(),
            pools: pools(&table),
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
        ("gateway.admin.tokenFile", started.admin.token_file != now.admin.token_file),
    ];
    fields.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name.to_owned()).collect()
}

fn pools(table: &Table) -> Vec<PoolStatus> {
    let replica = |replica: &crate::replica::Replica| ReplicaStatus {
        url: replica.url.to_string(),
        version: replica.version(),
        reachable: replica.reachable(),
        in_flight: replica.all_slots().iter().map(|(_, slots)| u32::from(slots.view().in_flight)).sum(),
    };
    table
        .pools
        .iter()
        .map(|pool| PoolStatus {
            name: pool.name.to_string(),
            queued: pool.owner.queued(),
            replicas: pool.replicas.iter().map(|of| replica(of)).collect(),
        })
        .collect()
}

/// All metrics, in the OpenMetrics text format.
///
/// # Errors
/// Where the encoder refuses a name or label, which no input can bring about.
pub fn metrics(shared: &Shared) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(shared.metrics.clone()));
    registry.register_collector(Box::new(Gauges::of(shared)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The present state, read once for a scrape.
#[derive(Debug)]
struct Gauges {
    status: Status,
    buffered: usize,
    refused_heads: u64,
    dropped: u64,
}

impl Gauges {
    fn of(shared: &Shared) -> Self {
        Self {
            status: Status::of(shared),
            buffered: shared.budget.used(),
            refused_heads: shared.refused_heads.load(Relaxed),
            dropped: log::dropped(),
        }
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = &self.status;
        let gauges = [
            ("tutti_connections", "Connections of clients that are open", status.connections as i64),
            ("tutti_config_generation", "The generation of the table in force", i64::from(status.generation)),
            (
                "tutti_config_last_reload_successful",
                "1 where the last change of the configuration was taken up",
                i64::from(status.reload.error.is_none()),
            ),
            (
                "tutti_config_last_reload_seconds",
                "When the configuration last changed or was refused, in Unix time",
                status.reload.at,
            ),
            (
                "tutti_buffered_body_bytes",
                "Bytes of request bodies and of whole answers in memory",
                self.buffered as i64,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in [
            (
                "tutti_heads_refused",
                "Heads of requests that were no HTTP or longer than limits.header; no request, so neither in the log nor in tutti_requests",
                self.refused_heads,
            ),
            ("tutti_log_lines_dropped", "Log lines that could not be written in time", self.dropped),
        ] {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        limits::encode(&mut encoder)?;
        let mut queued = encoder.encode_descriptor(
            "tutti_requests_queued",
            "Requests that wait for a slot",
            None,
            MetricType::Gauge,
        )?;
        for pool in &status.pools {
            ConstGauge::new(pool.queued as i64).encode(queued.encode_family(&[("pool", &*pool.name)])?)?;
        }
        let mut in_flight = encoder.encode_descriptor(
            "tutti_requests_in_flight",
            "Requests that a replica works on",
            None,
            MetricType::Gauge,
        )?;
        for (labels, replica) in replicas(status) {
            ConstGauge::new(i64::from(replica.in_flight)).encode(in_flight.encode_family(&labels)?)?;
        }
        let mut up = encoder.encode_descriptor(
            "tutti_replica_reachable",
            "1 where the replica could be reached the last time",
            None,
            MetricType::Gauge,
        )?;
        for (labels, replica) in replicas(status) {
            ConstGauge::new(i64::from(replica.reachable)).encode(up.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn replicas(status: &Status) -> impl Iterator<Item = ([(&'static str, &str); 2], &ReplicaStatus)> {
    status.pools.iter().flat_map(|pool| {
        pool.replicas.iter().map(|replica| ([("pool", &*pool.name), ("replica", &*replica.url)], replica))
    })
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
}
