//! What a pool's engines should have: the adapters that models refer to.

use std::collections::HashMap;

use tutti_api::{AdapterPath, AdaptersSpec, Config, Digest, ModelSpec, PoolSpec};

/// What a configuration wants of the loaders of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Wants {
    /// The base model, by the engine's name for it.
    pub base: String,
    /// Where adapters come from and how.
    pub spec: AdaptersSpec,
    /// The adapters, the most urgent first, each path once.
    pub adapters: Vec<Wanted>,
}

/// An adapter that a model refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it lies below `from`.
    pub path: AdapterPath,
    /// The manifest's digest that a revision insists on.
    pub expected: Option<Digest>,
    /// Whether a model's traffic goes there: such a one comes first, and stays when the disk is full.
    pub pinned: bool,
}

/// Why a loader has nothing to do with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingWanted {
    /// There is no such pool.
    #[error("there is no pool {0:?} in the configuration: it has {1}")]
    NoPool(String, String),
    /// The pool has no adapters.
    #[error("the pool {0:?} has no `adapters`: say where they come from, as `adapters: {{ from: s3://models/ }}`")]
    NoAdapters(String),
    /// The pool has no base.
    #[error("the pool {0:?} has no `base`: name the model that its adapters are for, by the engine's name for it")]
    NoBase(String),
}

/// What the configuration wants of a pool's loaders.
///
/// # Errors
/// The pool is not there, or is none with adapters.
pub fn wanted(config: &Config, pool: &str) -> Result<Wants, NothingWanted> {
    let Some(spec) = config.pools.iter().find(|spec| spec.name == pool) else {
        let names: Vec<&str> = config.pools.iter().map(|spec| &*spec.name).collect();
        return Err(NothingWanted::NoPool(pool.to_owned(), names.join(", ")));
    };
    let PoolSpec { adapters: Some(adapters), .. } = spec else {
        return Err(NothingWanted::NoAdapters(pool.to_owned()));
    };
    let base = spec.base.clone().ok_or_else(|| NothingWanted::NoBase(pool.to_owned()))?;
    let mut places = HashMap::new();
    let mut found: Vec<Wanted> = Vec::new();
    for wanted in config.models.iter().flat_map(|model| of_model(model, pool)) {
        let place = *places.entry(wanted.path.clone()).or_insert(found.len());
        match found.get_mut(place) {
            Some(known) => {
                known.pinned |= wanted.pinned;
                known.expected = known.expected.or(wanted.expected);
            }
            None => found.push(wanted),
        }
    }
    found.sort_by_key(|wanted| !wanted.pinned); // a stable sort: else as they are written
    Ok(Wants { base, spec: adapters.clone(), adapters: found })
}

/// The adapters that one model has on a pool. A path that is none is no adapter: `tutti check` says so.
fn of_model<'c>(model: &'c ModelSpec, pool: &'c str) -> impl Iterator<Item = Wanted> + 'c {
    let first = model.revisions.first().map(|revision| &*revision.name);
    let serves = model.traffic.as_ref().and_then(|traffic| traffic.revision.as_deref()).or(first);
    model.revisions.iter().filter(move |revision| revision.pool == pool).filter_map(move |revision| {
        let path = revision.adapter.as_deref()?.parse().ok()?;
        let expected = revision.digest.as_deref().and_then(|digest| digest.parse().ok());
        Some(Wanted { path, expected, pinned: serves == Some(&revision.name) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let digest = "ab".repeat(32);
        let json = serde_json::json!({
            "pools": [
                { "name": "qwen", "base": "qwen2.5:0.5b", "adapters": { "from": "s3://models/" } },
                { "name": "plain", "base": "x" },
                { "name": "baseless", "adapters": { "from": "/a" } },
            ],
            "models": [
                { "name": "risk", "revisions": [
                    { "name": "v1", "pool": "qwen", "adapter": "risk/v1" },
                    { "name": "v2", "pool": "qwen", "adapter": "risk/v2", "digest": format!("sha256:{digest}") },
                    { "name": "base", "pool": "qwen", "upstream": "qwen2.5:0.5b" },
                    { "name": "far", "pool": "other", "adapter": "risk/v9" },
                ], "traffic": { "revision": "v2" } },
                { "name": "tone", "revisions": [{ "name": "a", "pool": "qwen", "adapter": "tone/a" }] },
                { "name": "risk-again", "revisions": [
                    { "name": "v2", "pool": "qwen", "adapter": "risk/v2" },
                    { "name": "v1", "pool": "qwen", "adapter": "risk/v1" },
                    { "name": "no", "pool": "qwen", "adapter": "../etc" },
                ] },
            ],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_traffic_names_comes_first_and_each_path_once() {
        let wants = wanted(&config(), "qwen").unwrap();
        let seen: Vec<_> = wants.adapters.iter().map(|w| (w.path.as_str(), w.pinned, w.expected.is_some())).collect();
        assert_eq!(seen, [("risk/v2", true, true), ("tone/a", true, false), ("risk/v1", false, false)]);
        assert_eq!(wants.base, "qwen2.5:0.5b");
    }

    #[test]
    fn a_pool_without_adapters_wants_nothing_and_says_why() {
        let why = |pool| wanted(&config(), pool).unwrap_err().to_string();
        assert!(why("qwne").contains("it has qwen, plain, baseless"), "{}", why("qwne"));
        assert!(why("plain").contains("has no `adapters`"));
        assert!(why("baseless").contains("has no `base`"));
    }
}
