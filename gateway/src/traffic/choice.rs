//! What of a request its revision is chosen by.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderMap, HeaderName};

use super::Sticky;
use crate::keys::Key;

/// What of a request its revision is chosen by, whatever the table.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// The revision that it names: no other will do.
    pub(crate) pin: Option<Box<str>>,
    /// The revision that it has been put together for: it has that one while that gets requests.
    pub(crate) prefers: Option<Box<str>>,
    /// Headers that may keep its client where it is.
    headers: Vec<(HeaderName, u64)>,
    key: Option<u64>,
    tenant: Option<u64>,
    /// Its lot, once it has one; 0 before. A lot that another gateway has drawn is kept.
    lot: AtomicU64,
}

impl Choice {
    /// That of a request with this head.
    pub(crate) fn of(headers: &HeaderMap, sticky: &[HeaderName], key: Option<&Key>) -> Self {
        let value = |name: &HeaderName| Some((name.clone(), hash(headers.get(name)?.as_bytes())));
        Self {
            headers: sticky.iter().filter_map(value).collect(),
            key: key.map(|key| hash(key.id.as_bytes())),
            tenant: key.map(|key| hash(key.tenant.as_bytes())),
            ..Self::default()
        }
    }

    /// One that stays with this revision while that gets requests, and then falls where another did.
    pub(crate) fn preferring(revision: &str) -> Self {
        Self { prefers: (!revision.is_empty()).then(|| revision.into()), ..Self::default() }
    }

    /// One that has this revision, or none.
    pub(crate) fn pinned(revision: &str) -> Self {
        Self { pin: (!revision.is_empty()).then(|| revision.into()), ..Self::default() }
    }

    /// One of another gateway, which has drawn this lot.
    pub(crate) fn drawn(lot: u64) -> Self {
        Self { lot: AtomicU64::new(lot), ..Self::default() }
    }

    /// The same of a request that names its revision, or not.
    pub(crate) fn naming(self, pin: Option<Box<str>>) -> Self {
        Self { pin, ..self }
    }

    /// The same of a request that has been put together for a revision, or not.
    pub(crate) fn having(self, prefers: Option<Box<str>>) -> Self {
        Self { prefers, ..self }
    }

    /// The lot; drawn now where there is none yet.
    pub(super) fn lot(&self, draw: impl FnOnce() -> u64) -> u64 {
        match self.lot.load(Relaxed) {
            0 => {
                let lot = draw().max(1);
                self.lot.store(lot, Relaxed);
                lot
            }
            lot => lot,
        }
    }

    /// The lot that it has drawn.
    pub(crate) fn had(&self) -> u64 {
        self.lot.load(Relaxed)
    }

    /// Who is kept where he is.
    pub(super) fn kept_by(&self, sticky: &Sticky) -> Option<u64> {
        match sticky {
            Sticky::Header(name) => self.headers.iter().find(|(known, _)| known == name).map(|(_, hash)| *hash),
            Sticky::Key => self.key,
            Sticky::Tenant => self.tenant,
        }
    }
}

/// A number for bytes, the same in every process (FNV-1a).
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
