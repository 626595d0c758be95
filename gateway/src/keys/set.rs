//! The keys in force, as every core reads them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use tutti_api::{KeySpec, KeyState, KeysFile, Priority, Timestamp};

use super::limits::{AtOnce, Limits};
use super::models::Models;
use super::secret::hash;
use crate::errors::Failure;
use crate::record::Record;
use crate::table::{Route, Table};

/// Longest text that is looked at as a key. Unit: bytes.
const MAX_KEY: usize = 256;

/// A key that somebody has.
#[derive(Debug)]
pub struct Key {
    /// What logs call it.
    pub id: Box<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    revoked: bool,
    expires: Option<Timestamp>,
    /// `None`: all.
    models: Option<Models>,
    limits: Limits,
    priority: Priority,
    weight: u32,
    /// Whether its requests may name their revision.
    pub(crate) pins: bool,
}

impl Key {
    /// The key of an entry; what it has used, it has used before the file was read again.
    pub(crate) fn of(spec: &KeySpec, tenant: Arc<str>, before: Option<&Key>) -> Self {
        Self {
            id: spec.id.as_str().into(),
            tenant,
            revoked: spec.revoked.is_some(),
            expires: spec.expires,
            models: spec.models.as_deref().map(Models::of),
            priority: spec.priority,
            weight: spec.weight,
            pins: spec.pin_revisions,
            limits: Limits::of(spec, before.map(|key| key.limits.used.clone()).unwrap_or_default()),
        }
    }

    /// Whether it may use the model that a route of this table leads to.
    pub fn may_use(&self, table: &Table, route: &Route) -> bool {
        self.models.as_ref().is_none_or(|models| models.have(table, route))
    }

    /// Whether there is no model that it may not use.
    pub fn may_use_all(&self) -> bool {
        self.models.is_none()
    }

    /// Takes a request of this moment in, as far as its limits go. What it holds is held until the request is settled.
    ///
    /// # Errors
    /// Which limit is used up.
    pub(crate) fn admit(&self, now: Instant) -> Result<Option<AtOnce>, Failure> {
        self.limits.admit(now)
    }

    /// How much of the slots its tenant has beside others.
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }

    /// The class of a request that asks for this one.
    pub fn class(&self, asked: Priority) -> Priority {
        asked.max(self.priority)
    }

    /// Charges what a request of its has cost.
    pub(crate) fn charge(&self, record: &Record, now: Instant) {
        self.limits.charge(record, now);
    }

    /// Says in an answer's headers what is left of its limits.
    pub(crate) fn tell(&self, headers: &mut HeaderMap, now: Instant) {
        self.limits.tell(headers, now);
    }

    /// Whether it opens anything now.
    pub fn is_good(&self) -> bool {
        !self.revoked && self.expires.is_none_or(|expires| Timestamp::now() < expires)
    }
}

/// How many keys there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Keys that are good.
    pub active: usize,
    /// Keys whose time is over.
    pub expired: usize,
    /// Keys that were revoked.
    pub revoked: usize,
}

/// All keys of a file, those that are not good any more included: the log says whose they were.
#[derive(Debug)]
pub struct KeySet {
    /// By SHA-256. Looking up takes a time that depends on how much of a stored hash a presented text's hash is like.
    /// That tells nobody anything: whoever could choose texts by their hashes would have broken SHA-256.
    by_hash: HashMap<[u8; 32], Arc<Key>>,
    /// Each name once, for as long as any set has it: metrics are kept by where it is.
    tenants: HashSet<Arc<str>>,
}

impl KeySet {
    /// The keys of a file, which come after these.
    pub fn of(file: &KeysFile, before: Option<&KeySet>) -> Self {
        let mut set = Self { by_hash: HashMap::new(), tenants: HashSet::new() };
        let by_id: HashMap<&str, &Key> =
            before.into_iter().flat_map(|set| set.by_hash.values()).map(|key| (&*key.id, &**key)).collect();
        for spec in &file.keys {
            let Some(hash) = bytes(&spec.sha256) else { continue };
            let name = &*spec.tenant;
            let known = set.tenants.get(name).or_else(|| before?.tenants.get(name)).cloned();
            let tenant = known.unwrap_or_else(|| name.into());
            set.tenants.insert(tenant.clone());
            set.by_hash.insert(hash, Arc::new(Key::of(spec, tenant, by_id.get(&*spec.id).copied())));
        }
        set
    }

    /// The key that a text is, good or not.
    pub fn find(&self, presented: &[u8]) -> Option<&Arc<Key>> {
        if presented.len() > MAX_KEY {
            return None;
        }
        self.by_hash.get(&hash(presented))
    }

    /// How many there are of each kind now.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let now = Timestamp::now();
        for key in self.by_hash.values() {
            let state = match (key.revoked, key.expires) {
                (true, _) => KeyState::Revoked,
                (false, Some(expires)) if expires <= now => KeyState::Expired,
                _ => KeyState::Active,
            };
            match state {
                KeyState::Active => counts.active += 1,
                KeyState::Expired => counts.expired += 1,
                KeyState::Revoked => counts.revoked += 1,
            }
        }
        counts
    }
}

/// What 64 hexadecimal digits stand for; a file that was read has no others.
fn bytes(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use tutti_api::load_keys;

    use super::*;
    use crate::keys::NewKey;

    #[test]
    fn a_key_is_found_by_its_text_and_by_nothing_else() {
        let (good, revoked, expired) = (NewKey::make().unwrap(), NewKey::make().unwrap(), NewKey::make().unwrap());
        let entry = |key: &NewKey, more: &str| {
            format!("  - {{ id: {}, name: n, tenant: acme, sha256: \"{}\"{more} }}\n", key.id, key.sha256())
        };
        let text = format!(
            "keys:\n{}{}{}",
            entry(&good, ""),
            entry(&revoked, ", revoked: 2020-01-01T00:00:00Z"),
            entry(&expired, ", expires: 2020-01-01T00:00:00Z")
        );
        let set = KeySet::of(&load_keys(&text, "").unwrap(), None);
        let found = set.find(good.text().as_bytes()).unwrap();
        assert_eq!((&*found.id, &*found.tenant, found.is_good()), (&*good.id, "acme", true));
        for other in [&revoked, &expired] {
            assert!(!set.find(other.text().as_bytes()).unwrap().is_good());
        }
        let again = KeySet::of(&load_keys(&text, "").unwrap(), Some(&set));
        assert!(Arc::ptr_eq(&found.tenant, &again.find(good.text().as_bytes()).unwrap().tenant));
        let counts = Counts { active: 1, expired: 1, revoked: 1 };
        assert_eq!(set.counts(), counts);
        let hash = good.sha256();
        let long = "x".repeat(MAX_KEY + 1);
        for wrong in ["", &good.text()[1..], &good.text().to_lowercase(), &hash, &long] {
            assert!(set.find(wrong.as_bytes()).is_none());
        }
    }
}
