//! `/api/ps`: which models the replicas hold in memory, under the names that clients use.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tutti_api::Engine;

use super::unix;
use crate::fetch;
use crate::inventory;
use crate::keys::Key;
use crate::replica::Replica;
use crate::table::{Pool, Table};

/// How long an answer counts as new: however many clients ask, a replica is asked no more often.
const FRESH: Duration = Duration::from_secs(1);
/// How long a replica may take to answer; one that takes longer is left out.
const WITHIN: Duration = Duration::from_secs(2);
/// How many replicas are asked at once.
const AT_ONCE: usize = 32;

/// The last answer. Who asks while it is made waits for it.
#[derive(Debug, Default)]
pub(crate) struct Residents(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    at: Instant,
    generation: u32,
    models: Vec<Value>,
    body: Bytes,
}

impl Known {
    /// What a caller may see of it.
    fn body_for(&self, table: &Table, caller: Option<&Key>) -> Bytes {
        if caller.is_none_or(Key::may_use_all) {
            return self.body.clone();
        }
        let may_see = |entry: &&Value| {
            let route = entry["name"].as_str().and_then(|name| table.route(name));
            route.is_some_and(|route| super::may_use(caller, table, route))
        };
        body(self.models.iter().filter(may_see).collect())
    }
}

fn body(models: Vec<&Value>) -> Bytes {
    json!({ "models": models }).to_string().into()
}

impl Residents {
    /// The answer's body, not older than [`FRESH`], by this table's names.
    pub(crate) async fn list(&self, table: Arc<Table>, caller: Option<&Key>) -> Bytes {
        let mut known = self.0.lock().await;
        if let Some(known) = &*known
            && known.generation == table.generation
            && known.at.elapsed() < FRESH
        {
            return known.body_for(&table, caller);
        }
        let models = merged(ask(&table).await);
        let body = body(models.iter().collect());
        let new = Known { at: Instant::now(), generation: table.generation, models, body };
        known.insert(new).body_for(&table, caller)
    }
}

/// What all replicas that can be reached hold, with each name that a client may call it by.
async fn ask(table: &Table) -> Vec<(String, Value)> {
    let mut left = reachable(table);
    let mut asking = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while asking.len() < AT_ONCE
            && let Some((pool, replica)) = left.pop()
        {
            asking.spawn(async move { (pool, held(&replica).await) });
        }
        let Some(answered) = asking.join_next().await else { return found };
        let Ok((pool, models)) = answered else { continue };
        found.extend(models.into_iter().flat_map(|model| named(table, &pool, &model)));
    }
}

fn reachable(table: &Table) -> Vec<(Arc<Pool>, Arc<Replica>)> {
    let each = |pool: &Arc<Pool>| {
        let replicas = pool.replicas.iter().filter(|replica| pool.owner.health.is_reachable(replica));
        replicas.map(|replica| (pool.clone(), replica.clone())).collect::<Vec<_>>()
    };
    table.pools.iter().flat_map(each).collect()
}

/// What one replica holds; nothing where it does not say, or has no word for it.
async fn held(replica: &Replica) -> Vec<Value> {
    if replica.engine != Engine::Ollama {
        return Vec::new();
    }
    let fetched = fetch::get(replica, "/api/ps", WITHIN).await.ok().filter(|fetched| fetched.status.is_success());
    let models = fetched.and_then(|fetched| inventory::listed(&fetched.body)).unwrap_or_default();
    models.into_iter().filter(Value::is_object).collect()
}

/// An entry under each name that leads to it: none, where clients may not see the model.
fn named(table: &Table, pool: &Arc<Pool>, entry: &Value) -> Vec<(String, Value)> {
    let engine_name = entry["name"].as_str().unwrap_or_default();
    let routes = table.leading_to(pool, engine_name);
    let under = |model: &str| {
        let mut entry = entry.clone();
        super::name(&mut entry, model);
        (model.to_owned(), entry)
    };
    routes.map(|route| under(&route.served.model)).collect()
}

/// Each name once, with the entry that stays longest; as Ollama lists them, what stays longest first.
fn merged(found: Vec<(String, Value)>) -> Vec<Value> {
    let expires = |entry: &Value| unix(&entry["expires_at"]).unwrap_or(0);
    let mut names: BTreeMap<String, Value> = BTreeMap::new();
    for (name, entry) in found {
        match names.entry(name) {
            Entry::Vacant(place) => {
                place.insert(entry);
            }
            Entry::Occupied(mut known) if expires(known.get()) < expires(&entry) => {
                known.insert(entry);
            }
            Entry::Occupied(_) => {}
        }
    }
    let mut models: Vec<Value> = names.into_values().collect();
    models.sort_by_key(|entry| std::cmp::Reverse(expires(entry)));
    models
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_on_several_replicas_is_listed_once_as_long_as_it_stays() {
        let entry = |name: &str, expires: &str| (name.to_owned(), json!({ "name": name, "expires_at": expires }));
        let listed = merged(vec![
            entry("a", "2026-01-01T00:00:10Z"),
            entry("b", "2026-01-01T00:00:20Z"),
            entry("a", "2026-01-01T03:00:30+03:00"),
            entry("a", "2026-01-01T00:00:05Z"),
            entry("c", "never"),
        ]);
        let shown: Vec<(&str, &str)> = listed
            .iter()
            .map(|entry| (entry["name"].as_str().unwrap(), entry["expires_at"].as_str().unwrap()))
            .collect();
        assert_eq!(shown, [("a", "2026-01-01T03:00:30+03:00"), ("b", "2026-01-01T00:00:20Z"), ("c", "never")]);
    }
}
