//! Which sets of labels there are: bounded, and gone again some time after what they name.
//!
//! A core asks for its cells once and keeps them. Cells are dropped only when nothing can count in them any more: when
//! the [`Served`] or the tenant that led to them is gone from the tables, from the keys and from every request in
//! flight. A name that comes back before that finds its old cells, so that no counter falls while it is shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::cells::{Counts, Shape};
use crate::classify::Api;
use crate::demand;
use crate::limits::{self, Limit};
use crate::registry::Served;

/// How long a set is shown after what it names is gone: longer than any scraper pauses, and than Prometheus shows what
/// it does not find again (5 minutes).
pub(super) const SHOWN: Duration = Duration::from_secs(15 * 60);
/// Sets of labels, whatever names the configuration has.
const MAX_SETS: usize = 10_000;
/// What is counted together where there are too many names.
pub(super) const OTHER: &str = "(other)";

/// Whose request it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Who<'r> {
    pub(super) served: Option<&'r Arc<Served>>,
    pub(super) api: Option<Api>,
    pub(super) tenant: Option<&'r Arc<str>>,
}

/// Model, revision and pool, and what its engine is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Names {
    pub(crate) model: Arc<str>,
    pub(crate) revision: Arc<str>,
    pub(crate) pool: Arc<str>,
    pub(crate) provider: &'static str,
}

/// The labels of [`Counts`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CountsKey {
    pub(super) names: Names,
    pub(super) api: &'static str,
    pub(super) tenant: Arc<str>,
}

/// The labels of a [`Shape`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShapeKey {
    pub(super) names: Names,
    pub(super) operation: &'static str,
}

/// What must be there for a set to be counted in.
#[derive(Clone, Debug)]
struct User {
    served: Option<Weak<Served>>,
    tenant: Option<Weak<str>>,
}

impl User {
    fn is_there(&self) -> bool {
        let served = self.served.as_ref().is_none_or(|served| served.strong_count() > 0);
        served && self.tenant.as_ref().is_none_or(|tenant| tenant.strong_count() > 0)
    }

    fn is(&self, other: &Self) -> bool {
        let same = |a: &Option<Weak<Served>>, b: &Option<Weak<Served>>| match (a, b) {
            (Some(a), Some(b)) => a.ptr_eq(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let tenants = match (&self.tenant, &other.tenant) {
            (Some(a), Some(b)) => a.ptr_eq(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same(&self.served, &other.served) && tenants
    }
}

/// The cells of all cores under one set of labels.
#[derive(Debug)]
pub(crate) struct Set<T> {
    cells: Vec<(usize, Arc<T>)>,
    users: Vec<User>,
    gone: Option<Instant>,
}

/// The same cells again.
impl<T> Clone for Set<T> {
    fn clone(&self) -> Self {
        Self { cells: self.cells.clone(), users: self.users.clone(), gone: self.gone }
    }
}

impl<T> Set<T> {
    /// Each core's.
    pub(crate) fn cores(&self) -> impl Iterator<Item = &T> {
        self.cells.iter().map(|(_, cells)| &**cells)
    }
}

pub(crate) type Sets<K, T> = BTreeMap<K, Set<T>>;

/// The cells of a core under these labels, which are new if need be.
fn cells<K: Ord + Clone, T: Default>(sets: &mut Arc<Sets<K, T>>, key: &K, core: usize, user: User) -> Arc<T> {
    // Copied only where a scrape reads it just now.
    let set = Arc::make_mut(sets).entry(key.clone());
    let set = set.or_insert_with(|| Set { cells: Vec::new(), users: Vec::new(), gone: None });
    set.gone = None;
    if !set.users.iter().any(|known| known.is(&user)) {
        set.users.retain(User::is_there);
        set.users.push(user);
    }
    if let Some((_, cells)) = set.cells.iter().find(|(other, _)| *other == core) {
        return cells.clone();
    }
    let new = Arc::new(T::default());
    set.cells.push((core, new.clone()));
    new
}

/// Forgets sets that nobody has been able to count in for [`SHOWN`]; true where there were any.
fn forget<K: Ord + Clone, T>(sets: &mut Arc<Sets<K, T>>, now: Instant, mut forgotten: impl FnMut(&K)) -> bool {
    let is_over = |set: &Set<T>| set.gone.is_some_and(|gone| now.saturating_duration_since(gone) >= SHOWN);
    let is_news = |set: &Set<T>| set.gone.is_none() != set.users.iter().any(User::is_there) || is_over(set);
    if !sets.values().any(is_news) {
        return false; // and nothing is copied
    }
    let sets = Arc::make_mut(sets);
    let before = sets.len();
    sets.retain(|key, set| {
        let there = set.users.iter().any(User::is_there);
        set.gone = if there { None } else { set.gone.or(Some(now)) };
        let kept = !is_over(set);
        if !kept {
            forgotten(key);
        }
        kept
    });
    sets.len() < before
}

/// Values of a label that no configuration lists, and how many sets have each.
#[derive(Debug, Default)]
struct Seen(BTreeMap<Arc<str>, usize>);

impl Seen {
    fn admits(&self, value: &str, limit: usize) -> bool {
        value.is_empty() || self.0.len() < limit || self.0.contains_key(value)
    }

    fn add(&mut self, value: &Arc<str>) {
        if !value.is_empty() && **value != *OTHER {
            *self.0.entry(value.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, value: &str) {
        if let Some(sets) = self.0.get_mut(value) {
            *sets -= 1;
            if *sets == 0 {
                self.0.remove(value);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    counts: Arc<Sets<CountsKey, Counts>>,
    shapes: Arc<Sets<ShapeKey, Shape>>,
    demand: Arc<Sets<Names, demand::Cells>>,
    /// Models that replicas show of themselves.
    models: Seen,
    tenants: Seen,
}

/// Whether only a replica says that there is this model: a configured one has a revision.
fn is_exposed(names: &Names) -> bool {
    names.revision.is_empty() && !names.model.is_empty()
}

impl Known {
    /// The labels to count under, which may be those of many.
    fn key(&self, who: &Who<'_>, limit: usize) -> CountsKey {
        let name = |pick: fn(&Served) -> &str| who.served.map_or("", |served| pick(served)).into();
        let names = Names {
            model: name(|served| &served.model),
            revision: name(|served| &served.revision),
            pool: name(|served| &served.pool),
            provider: who.served.map_or("", |served| served.provider),
        };
        let tenant = who.tenant.cloned().unwrap_or_default();
        let mut key = CountsKey { names, api: who.api.map_or("", Api::path), tenant };
        if is_exposed(&key.names) && !self.models.admits(&key.names.model, limit) {
            key.names.model = OTHER.into();
        }
        if !self.tenants.admits(&key.tenant, limit) {
            key.tenant = OTHER.into();
        }
        if self.counts.len() >= MAX_SETS && !self.counts.contains_key(&key) {
            key.names = Names { model: OTHER.into(), revision: "".into(), pool: OTHER.into(), provider: "" };
            key.tenant = OTHER.into();
        }
        key
    }

    fn forget(&mut self, now: Instant) -> bool {
        let Self { counts, shapes, demand, models, tenants } = self;
        let forgotten = forget(counts, now, |key| {
            if is_exposed(&key.names) {
                models.remove(&key.names.model);
            }
            tenants.remove(&key.tenant);
        });
        let forgotten = forget(demand, now, |_| ()) || forgotten;
        forget(shapes, now, |_| ()) || forgotten
    }
}

/// What a scrape reads.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) counts: Arc<Sets<CountsKey, Counts>>,
    pub(super) shapes: Arc<Sets<ShapeKey, Shape>>,
}

/// All cells of one gateway.
#[derive(Debug)]
pub struct Metrics {
    known: Mutex<Known>,
    /// `gateway.limits.labelValues`
    limit: AtomicUsize,
    /// Changes when there is room again.
    pub(super) epoch: AtomicU64,
    /// The number of the next core.
    pub(super) cores: AtomicUsize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            limit: AtomicUsize::new(tutti_api::LimitsSpec::default().label_values as usize),
            epoch: AtomicU64::new(0),
            cores: AtomicUsize::new(0),
        }
    }
}

/// What a core counts in, once it has asked for it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) counts: Arc<Counts>,
    pub(super) shape: Arc<Shape>,
    pub(super) demand: Arc<demand::Cells>,
    /// Whether others are counted in it too, for want of room.
    pub(super) folded: bool,
    /// Who is led to it.
    leads: User,
}

impl Place {
    /// Whether a request can still lead to it.
    pub(super) fn is_used(&self) -> bool {
        self.leads.is_there()
    }
}

impl Metrics {
    /// From now on so many models and tenants that the configuration does not list have series of their own.
    pub(crate) fn set_limit(&self, values: u32) {
        if self.limit.swap(values as usize, Relaxed) != values as usize {
            self.epoch.fetch_add(1, Relaxed);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a core counts the requests of this kind.
    pub(super) fn place(&self, who: &Who<'_>, core: usize, now: Instant) -> Place {
        let mut known = self.known();
        if known.counts.len() >= MAX_SETS {
            known.forget(now);
        }
        let key = known.key(who, self.limit.load(Relaxed));
        // What many are counted in together stays while one of them may come.
        let served = who.served.filter(|served| *served.model == *key.names.model);
        let tenant = who.tenant.filter(|tenant| **tenant == key.tenant);
        let folded = served.is_some() != who.served.is_some() || tenant.is_some() != who.tenant.is_some();
        if folded {
            limits::hit(Limit::LabelValues);
        }
        let user = User { served: served.map(Arc::downgrade), tenant: tenant.map(Arc::downgrade) };
        if !known.counts.contains_key(&key) {
            known.tenants.add(&key.tenant);
            if is_exposed(&key.names) {
                known.models.add(&key.names.model);
            }
        }
        let counts = cells(&mut known.counts, &key, core, user.clone());
        let demand = cells(&mut known.demand, &key.names, core, User { tenant: None, ..user.clone() });
        let key = ShapeKey { names: key.names, operation: who.api.map_or("", Api::operation) };
        let shape = cells(&mut known.shapes, &key, core, User { tenant: None, ..user });
        let key = User { served: who.served.map(Arc::downgrade), tenant: who.tenant.map(Arc::downgrade) };
        Place { counts, shape, demand, folded, leads: key }
    }

    /// What there is of demand.
    pub(crate) fn demand(&self, now: Instant) -> Arc<Sets<Names, demand::Cells>> {
        self.read(now);
        self.known().demand.clone()
    }

    /// What there is, to be read while cores go on counting; what is over is left out, for good.
    pub(super) fn read(&self, now: Instant) -> Shown {
        let mut known = self.known();
        if known.forget(now) {
            self.epoch.fetch_add(1, Relaxed);
        }
        Shown { counts: known.counts.clone(), shapes: known.shapes.clone() }
    }
}
