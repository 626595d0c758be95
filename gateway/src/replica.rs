//! What the gateway knows of a replica. Keyed by pool, engine, URL and key; survives every swap of the table.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue};
use tokio::sync::Notify;
use tutti_api::{Engine, PoolSpec, ReplicaUrl, canonical};

use crate::credential::Credential;
use crate::crowding::Crowding;
use crate::discovery::Lead;
use crate::rendezvous;
use crate::schedule::Slots;

/// Where to connect.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// In the order to try them.
    pub(crate) list: Vec<SocketAddr>,
    /// Why there is none, if there is none.
    pub(crate) why: Option<String>,
    /// Has the name asked for again soon.
    pub(crate) hurry: Option<Arc<Notify>>,
}

/// One engine process.
#[derive(Debug)]
pub struct Replica {
    /// Tells replicas of this process apart; connections are kept by it.
    pub id: u64,
    /// The pool it is in.
    pub pool: Box<str>,
    /// What it speaks.
    pub engine: Engine,
    /// The endpoint's URL, in its one form.
    pub url: Box<str>,
    /// By which it is chosen for what comes back ([`rendezvous`]).
    pub(crate) key: u64,
    /// What goes into the Host header: the replica's own authority (an Ollama refuses others).
    pub authority: HeaderValue,
    /// The name to ask DNS for, where it has one; then its addresses may change.
    pub name: Option<Box<str>>,
    port: u16,
    addresses: ArcSwap<Addresses>,
    /// What it wants to hear of whoever asks.
    pub(crate) credential: Option<Arc<Credential>>,
    /// A name that tells clients two replicas apart, and nothing else.
    pub opaque: HeaderValue,
    version: Mutex<Option<String>>,
    /// Which bases exclude each other there.
    crowding: Mutex<Crowding>,
    /// By canonical engine name. Weak, for the slots refer to their replica; targets keep them.
    slots: Mutex<HashMap<Box<str>, Weak<Slots>>>,
}

impl Replica {
    /// A replica nobody has talked to yet.
    ///
    /// # Errors
    /// Why its address cannot be sent as a header.
    pub(crate) fn new(
        pool: &PoolSpec,
        url: &ReplicaUrl,
        credential: Option<Arc<Credential>>,
    ) -> Result<Arc<Self>, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shown = url.to_string();
        let mut hash = DefaultHasher::new();
        shown.hash(&mut hash);
        let text = |value: String| HeaderValue::try_from(value).map_err(|error| format!("{shown}: {error}"));
        Ok(Arc::new(Self {
            id: NEXT.fetch_add(1, Relaxed),
            pool: pool.name.as_str().into(),
            engine: pool.engine,
            credential,
            authority: text(url.address().to_string())?,
            name: url.address().name().map(Into::into),
            port: url.address().port(),
            addresses: ArcSwap::from_pointee(Addresses {
                list: url.address().addresses(),
                why: Some("the name has not been asked for yet".to_owned()),
                hurry: None,
            }),
            opaque: text(format!("{:08x}", hash.finish() >> 32))?,
            key: rendezvous::key(&shown),
            url: shown.into(),
            version: Mutex::default(),
            crowding: Mutex::default(),
            slots: Mutex::default(),
        }))
    }

    /// Where to connect now.
    pub(crate) fn addresses(&self) -> Arc<Addresses> {
        self.addresses.load_full()
    }

    /// Whether a connection to there is still one to it: its name may have come to mean another machine.
    pub(crate) fn is_at(&self, peer: SocketAddr) -> bool {
        self.name.is_none() || self.addresses.load().list.contains(&peer)
    }

    /// Takes note of what DNS said of its name.
    pub(crate) fn locate(&self, lead: Lead) {
        let (list, why) = match lead.addresses {
            Ok(ips) => (ips.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect(), None),
            Err(why) => (Vec::new(), Some(why)),
        };
        self.addresses.store(Arc::new(Addresses { list, why, hurry: Some(lead.hurry) }));
    }

    /// The headers that every request to it has.
    pub(crate) fn introduce(&self, headers: &mut HeaderMap) {
        headers.insert(HOST, self.authority.clone());
        if let Some(credential) = &self.credential {
            headers.insert(AUTHORIZATION, credential.header());
        }
    }

    /// The slots of the runner that serves `engine_name`, however it is spelt, under the table of this generation.
    pub fn slots(self: &Arc<Self>, engine_name: &str, generation: u32, limit: u16) -> Arc<Slots> {
        let engine_name = canonical(engine_name);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slots| slots.strong_count() > 0);
        if let Some(known) = slots.get(&*engine_name).and_then(Weak::upgrade) {
            return known;
        }
        let new = Slots::new(self.clone(), &engine_name, generation, limit);
        slots.insert(engine_name.into(), Arc::downgrade(&new));
        new
    }

    /// All its slots.
    pub fn all_slots(&self) -> Vec<Arc<Slots>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter_map(Weak::upgrade).collect()
    }

    /// Requests it works on.
    pub fn in_flight(&self) -> u32 {
        self.all_slots().iter().map(|slots| u32::from(slots.view().in_flight)).sum()
    }

    /// The engine's version, once it has told it.
    pub fn version(&self) -> Option<String> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which bases exclude each other there, as far as was seen.
    pub(crate) fn crowding(&self) -> MutexGuard<'_, Crowding> {
        self.crowding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_version(&self, version: String) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
    }
}
