//! What people and programs are told of a loader.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tutti_api::{ModelSpec, Phase, RevisionSpec};

use super::{Adapter, Loader, Shown};
use crate::replica::Replica;
use crate::table::{Pool, Table};

/// As many adapters of a replica are told of in a status; those first that do not serve.
const MOST: usize = 200;

/// The loader beside a replica.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoaderStatus {
    /// Its URL.
    pub url: String,
    /// When it last answered. Unit: seconds since 1970.
    pub at: Option<i64>,
    /// Why it does not answer, if it does not: what was ready serves on.
    pub why: Option<String>,
    /// Adapters that wait to be proven in their turn.
    pub probes: usize,
    /// When the last of those will have had its turn, as far as can be told. Unit: seconds from now.
    pub proven_in: Option<u64>,
    /// Its adapters.
    pub adapters: Vec<AdapterStatus>,
    /// How many more there are.
    pub more: usize,
    /// The names that it has promised this gateway to keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leased: Vec<String>,
}

/// An adapter on a replica.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AdapterStatus {
    /// Where it lies below `adapters.from`.
    pub path: String,
    /// The revisions that are it, as `risk@v2`.
    pub revisions: Vec<String>,
    /// How far it is; empty where this version does not know the word.
    pub phase: String,
    /// Why, in one word, where there is something to say.
    pub reason: Option<String>,
    /// Why, for people.
    pub message: Option<String>,
    /// What the engine knows it by.
    pub name: Option<String>,
}

impl LoaderStatus {
    /// As it is now, of a pool's loader. `whole`: all adapters, and what is leased.
    pub(crate) fn of(loader: &Loader, pool: &Pool, table: &Table, whole: bool) -> Self {
        let Shown { url, at, failing, mut adapters, leased } = loader.shown();
        adapters.sort_by_key(|adapter| adapter.phase == Some(Phase::Ready)); // stable: else by path
        let most = if whole { adapters.len() } else { adapters.len().min(MOST) };
        let more = adapters.len() - most;
        adapters.truncate(most);
        let (probes, within) = pool.probe_share.map_or((0, None), |share| loader.probes(share));
        Self {
            url,
            at,
            why: failing,
            probes,
            proven_in: within.map(|within| within.as_secs()),
            adapters: adapters.into_iter().map(|adapter| AdapterStatus::of(adapter, pool, table)).collect(),
            more,
            leased: leased.into_iter().filter(|_| whole).map(|name| name.to_string()).collect(),
        }
    }
}

impl AdapterStatus {
    fn of(adapter: Adapter, pool: &Pool, table: &Table) -> Self {
        let Adapter { path, engine_name, phase, reason, message, .. } = adapter;
        let of = |model: &ModelSpec| {
            let same = |revision: &&RevisionSpec| {
                *revision.pool == *pool.name && revision.adapter.as_deref() == Some(path.as_str())
            };
            let named = |revision: &RevisionSpec| format!("{}@{}", model.name, revision.name);
            model.revisions.iter().filter(same).map(named).collect::<Vec<_>>()
        };
        Self {
            revisions: table.config.models.iter().flat_map(of).collect(),
            path: path.to_string(),
            phase: phase.map(|phase| phase.to_string()).unwrap_or_default(),
            reason: reason.map(|reason| reason.to_string()),
            message,
            name: engine_name.map(|name| name.to_string()),
        }
    }
}

/// A replica's loader, where it stands.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Beside {
    pool: String,
    replica: String,
    loader: LoaderStatus,
}

/// All loaders, with all that they have told; of one pool, or of all.
pub(crate) fn all(table: &Table, pool: Option<&str>) -> Vec<Beside> {
    let pools = table.pools.iter().filter(|of| pool.is_none_or(|pool| pool == &*of.name));
    let of = |pool: &Arc<Pool>| {
        let beside = |(replica, loader): (&Arc<Replica>, Option<&Arc<Loader>>)| {
            let loader = LoaderStatus::of(loader?, pool, table, true);
            Some(Beside { pool: pool.name.to_string(), replica: replica.url.to_string(), loader })
        };
        pool.with_loaders().filter_map(beside).collect::<Vec<_>>()
    };
    pools.flat_map(of).collect()
}
