//! What outlives a table: replicas, their slots, the pools' queues, the numbers of what is served.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tutti_api::{Engine, MutualTlsSpec, PoolSpec, ReplicaUrl, canonical};

use crate::batch::Desk;
use crate::credential::Credential;
use crate::health;
use crate::health::core::Policy;
use crate::loaders::{Loader, Neighbours, Reach};
use crate::replica::Replica;
use crate::schedule::{Owner, Shared, Slots, Target, Terms};
use crate::tls::{Between, Mutual};
use crate::traffic::{Counted, Turns};

/// The pool, the line in which those stand who wait, the canonical engine name, and the replicas.
type TargetKey = ([Box<str>; 3], Vec<u64>);
/// The pool's name, its engine, where the replica is, and the file with the key that it wants.
type ReplicaKey = (Box<str>, Engine, ReplicaUrl, Option<PathBuf>);

/// The replica's number, where its loader is, and what it wants of whoever asks.
type LoaderKey = (u64, ReplicaUrl, Shown);

/// What a loader wants of whoever asks it: a token in a file, a certificate, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Shown {
    pub(crate) token: Option<PathBuf>,
    pub(crate) tls: Option<MutualTlsSpec>,
}

impl Shown {
    /// What those of a pool want.
    pub(crate) fn of(pool: &PoolSpec) -> Self {
        let Some(adapters) = &pool.adapters else { return Self::default() };
        Self { token: adapters.token_file.as_ref().map(PathBuf::from), tls: adapters.tls.clone() }
    }
}

/// The slots for each engine name, and how many each is to have.
type Models = BTreeMap<Box<str>, Vec<(Arc<Slots>, u16)>>;

/// Model, revision and pool of a route: what logs and metrics call it.
#[derive(Debug)]
pub struct Served {
    /// Tells these apart in this process; from 1.
    pub number: u64,
    /// The model's name.
    pub model: Box<str>,
    /// The revision's name.
    pub revision: Box<str>,
    /// The pool's name.
    pub pool: Box<str>,
    /// OpenTelemetry's `gen_ai.provider.name` of the pool's engine.
    pub provider: &'static str,
    /// What is counted for who judges it, where the model has other revisions.
    pub(crate) counted: Option<Counted>,
}

/// What a table refers to.
#[derive(Debug)]
pub struct Live<'a> {
    /// The table's generation.
    pub generation: u32,
    /// Its targets.
    pub targets: Vec<Arc<Target>>,
    /// Its pools.
    pub pools: &'a [PoolSpec],
    /// The slots that share runners, by pool.
    pub sharing: &'a HashMap<Box<str>, Shared>,
}

/// Everything with a state that tables refer to. Lives on the control thread, which alone builds tables.
///
/// Replicas and queues are kept by tables and by requests in flight: what a table drops and a later one names again is
/// the same, with its slots in use, as long as anybody uses it.
#[derive(Debug, Default)]
pub struct Registry {
    replicas: HashMap<ReplicaKey, Weak<Replica>>,
    /// By the files that hold them.
    credentials: HashMap<PathBuf, Weak<Credential>>,
    owners: HashMap<Box<str>, Weak<Owner>>,
    loaders: HashMap<LoaderKey, Weak<Loader>>,
    /// By the URLs of engines, all replicas there, of whichever pool.
    neighbours: HashMap<Box<str>, Arc<Neighbours>>,
    /// TLS with loaders, by its files.
    mutuals: HashMap<MutualTlsSpec, Weak<Mutual>>,
    /// A loader has told, or a replica was seen to hold, something after which requests go elsewhere.
    pub(crate) told: Arc<Notify>,
    /// What the pools know of their embeddings.
    desks: HashMap<Box<str>, Weak<Desk>>,
    /// How many requests have drawn lots, by model.
    turns: HashMap<Box<str>, Weak<Turns>>,
    /// With the number of slots each replica has.
    targets: HashMap<TargetKey, (Arc<Target>, u16)>,
    /// By model, revision and pool, and what the engine is called.
    served: HashMap<([Box<str>; 3], &'static str), Weak<Served>>,
    last_served: u64,
}

impl Registry {
    /// The replica of a pool at this URL, with the key in this file.
    ///
    /// # Errors
    /// Why its address cannot be sent as a header, or that the file holds no key.
    pub fn replica(
        &mut self,
        pool: &PoolSpec,
        url: ReplicaUrl,
        key_file: Option<&Path>,
    ) -> Result<Arc<Replica>, String> {
        let credential = key_file.map(|file| self.credential(file)).transpose()?;
        let key = (pool.name.as_str().into(), pool.engine, url, key_file.map(Path::to_owned));
        if let Some(known) = self.replicas.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let new = Replica::new(pool, &key.2, credential)?;
        self.neighbours(&new.url).join(&new);
        self.replicas.insert(key, Arc::downgrade(&new));
        Ok(new)
    }

    /// Those that are none of these, and that somebody uses all the same: they end what they work on.
    pub(crate) fn others(&self, than: &[u64]) -> Vec<Weak<Replica>> {
        let is_other = |of: &&Weak<Replica>| of.upgrade().is_some_and(|replica| !than.contains(&replica.id));
        self.replicas.values().filter(is_other).cloned().collect()
    }

    /// The replicas at a URL.
    pub(crate) fn neighbours(&mut self, url: &str) -> Arc<Neighbours> {
        self.neighbours.entry(url.into()).or_default().clone()
    }

    /// The key in a file. One that was read before is the same: it is followed, and may be older than the file.
    fn credential(&mut self, file: &Path) -> Result<Arc<Credential>, String> {
        if let Some(known) = self.credentials.get(file).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let new = Credential::open(file)?;
        self.credentials.insert(file.to_owned(), Arc::downgrade(&new));
        Ok(new)
    }

    /// TLS with loaders by these files, which are followed.
    fn mutual(&mut self, spec: &MutualTlsSpec) -> Result<Arc<Mutual>, String> {
        if let Some(known) = self.mutuals.get(spec).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let new = Mutual::start(spec, Between::Loaders)?;
        self.mutuals.insert(spec.clone(), Arc::downgrade(&new));
        Ok(new)
    }

    /// The loader beside a replica at this URL, which is shown this.
    ///
    /// # Errors
    /// Why its address cannot be sent as a header, or that the files do not hold what they should.
    pub(crate) fn loader(
        &mut self,
        replica: &Arc<Replica>,
        url: ReplicaUrl,
        shown: &Shown,
    ) -> Result<Arc<Loader>, String> {
        let key = (replica.id, url, shown.clone());
        if let Some(known) = self.loaders.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let token = shown.token.as_deref().map(|file| self.credential(file)).transpose();
        let token = token.map_err(|error| format!("adapters.tokenFile: {error}"))?;
        let tls = shown.tls.as_ref().map(|spec| self.mutual(spec)).transpose()?;
        let reach = Reach::new(key.1.clone(), token, tls)?;
        let new = Loader::start(reach, replica, self.neighbours(&replica.url), self.told.clone());
        self.loaders.insert(key, Arc::downgrade(&new));
        Ok(new)
    }

    /// The queue of a pool; a new one holds at most `bound` requests.
    pub fn owner(&mut self, pool: &str, bound: usize) -> Arc<Owner> {
        if let Some(known) = self.owners.get(pool).and_then(Weak::upgrade) {
            return known;
        }
        let new = Owner::start(bound, self.told.clone());
        self.owners.insert(pool.into(), Arc::downgrade(&new));
        new
    }

    /// Where a pool's embeddings meet.
    pub(crate) fn desk(&mut self, pool: &str) -> Arc<Desk> {
        if let Some(known) = self.desks.get(pool).and_then(Weak::upgrade) {
            return known;
        }
        let new: Arc<Desk> = Arc::default();
        self.desks.insert(pool.into(), Arc::downgrade(&new));
        new
    }

    /// How many requests for a model have drawn lots.
    pub(crate) fn turns(&mut self, model: &str) -> Arc<Turns> {
        if let Some(known) = self.turns.get(model).and_then(Weak::upgrade) {
            return known;
        }
        let new: Arc<Turns> = Arc::default();
        self.turns.insert(model.into(), Arc::downgrade(&new));
        new
    }

    /// The slots for an engine name, however it is spelt, on these replicas of a pool; the same ones again while the replicas
    /// stay the same. Who waits in one line is not told to choose again for what happens in another, nor who waits for one pool
    /// without replicas for what happens in another.
    pub fn target(
        &mut self,
        (pool, line): (&str, &str),
        replicas: &[Arc<Replica>],
        engine_name: &str,
        generation: u32,
        limit: u16,
    ) -> Arc<Target> {
        let names = [pool.into(), line.into(), canonical(engine_name).into()];
        let key = (names, replicas.iter().map(|replica| replica.id).collect());
        let slots = || replicas.iter().map(|replica| replica.slots(engine_name, generation, limit)).collect();
        let target = self.targets.entry(key).or_insert_with(|| (Target::new(slots()), limit));
        target.1 = limit;
        target.0.clone()
    }

    /// What logs and metrics call a revision on a pool of this engine; the same again while anybody knows it. `counted`:
    /// it is one of several, and may be judged.
    pub fn served(&mut self, model: &str, revision: &str, pool: &str, engine: Engine, counted: bool) -> Arc<Served> {
        let provider = match engine {
            Engine::Ollama => "ollama",
            Engine::Openai => "openai",
        };
        let key = ([model.into(), revision.into(), pool.into()], provider);
        let known = self.served.get(&key).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.counted.is_some() == counted) {
            return known;
        }
        self.last_served += 1;
        let [model, revision, pool] = key.0.clone();
        let new = Arc::new(Served {
            number: self.last_served,
            model,
            revision,
            pool,
            provider,
            counted: counted.then(Counted::default),
        });
        self.served.insert(key, Arc::downgrade(&new));
        new
    }

    /// Makes a table the one that counts: first no slot can be taken by choices from an older one, then `swap` shows
    /// the table to all, then each queue lets go who waits for what is gone. Resolves when all queues have.
    pub async fn publish(&mut self, live: Live<'_>, swap: impl FnOnce()) {
        let Live { generation, targets, pools, sharing } = live;
        let spec = |pool: &str| pools.iter().find(|spec| spec.name == pool);
        let models = self.models(&targets);
        for (name, owner) in &self.owners {
            let Some(owner) = owner.upgrade() else { continue };
            let policy = spec(name).map(|pool| Policy::of(&pool.health)).unwrap_or_default();
            let models = models.get(name).into_iter().flat_map(BTreeMap::values).cloned().collect::<Vec<_>>();
            health::table(&owner, policy, &models);
        }
        self.targets.retain(|_, (target, _)| {
            targets.iter().any(|other| other.id() == target.id()) || {
                target.slots().iter().for_each(|slots| slots.set_table(generation, 0));
                false
            }
        });
        for (target, limit) in self.targets.values() {
            target.slots().iter().for_each(|slots| slots.set_table(generation, *limit));
        }
        swap();
        for (name, owner) in &self.owners {
            let Some(owner) = owner.upgrade() else { continue };
            let terms = spec(name).map(Terms::of).unwrap_or_default();
            let shared = sharing.get(name).cloned().unwrap_or_default();
            // An owner that does not answer is one whose runtime is shutting down.
            let _ = owner.table(targets.clone(), shared, terms).await;
        }
        self.owners.retain(|_, owner| owner.strong_count() > 0);
        self.desks.retain(|_, desk| desk.strong_count() > 0);
        self.replicas.retain(|_, replica| replica.strong_count() > 0);
        self.neighbours.retain(|_, neighbours| neighbours.is_anybody_there());
        self.loaders.retain(|_, loader| {
            loader.upgrade().inspect(|loader| loader.look()).is_some() // what it has to keep may be other names now
        });
        self.credentials.retain(|_, credential| credential.strong_count() > 0);
        self.mutuals.retain(|_, mutual| mutual.strong_count() > 0);
        self.served.retain(|_, served| served.strong_count() > 0);
        self.turns.retain(|_, turns| turns.strong_count() > 0);
    }

    /// The slots of these targets and how many there are, by pool and engine name.
    fn models(&self, targets: &[Arc<Target>]) -> HashMap<Box<str>, Models> {
        let mut models: HashMap<Box<str>, Models> = HashMap::new();
        let is_live = |target: &Target| targets.iter().any(|other| other.id() == target.id());
        for (target, limit) in self.targets.values().filter(|(target, _)| is_live(target)) {
            for slots in target.slots() {
                let of_pool = models.entry(slots.replica.pool.clone()).or_default();
                let model = of_pool.entry(slots.name.clone()).or_default();
                if !model.iter().any(|(known, _)| Arc::ptr_eq(known, slots)) {
                    model.push((slots.clone(), *limit));
                }
            }
        }
        models
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::schedule::{Place, Verdict};

    #[tokio::test]
    async fn what_is_in_use_is_the_same_when_it_is_named_again() {
        let mut registry = Registry::default();
        let none = HashMap::new();
        let nothing = |generation| Live { generation, targets: Vec::new(), pools: &[], sharing: &none };
        let pool = PoolSpec { name: "p".to_owned(), ..PoolSpec::default() };
        let owner = registry.owner("p", 8);
        let replica = registry.replica(&pool, "http://Localhost:1/".parse().unwrap(), None).unwrap();
        let target = registry.target(("p", ""), &[replica], "m", 1, 1);
        let Verdict::Go(permit) = owner.acquire(&target, 1, Instant::now(), &mut Place::default(), None).await else {
            panic!("a free slot is not to be had");
        };
        let queue = Arc::downgrade(&owner);
        drop((owner, target));
        registry.publish(nothing(2), || ()).await;

        let replica = registry.replica(&pool, "http://localhost:1".parse().unwrap(), None).unwrap();
        assert!(Arc::ptr_eq(&replica, permit.replica()));
        assert!(queue.upgrade().is_some_and(|queue| Arc::ptr_eq(&queue, &registry.owner("p", 8))));
        let target = registry.target(("p", ""), std::slice::from_ref(&replica), "M:latest", 3, 1);
        registry.publish(Live { targets: vec![target.clone()], ..nothing(3) }, || ()).await;
        assert_eq!((target.slots()[0].view().in_flight, target.slots()[0].view().limit), (1, 1));

        let id = replica.id;
        let gone = Arc::downgrade(&replica);
        drop((replica, target, permit));
        registry.publish(nothing(4), || ()).await;
        for _ in 0..100 {
            tokio::task::yield_now().await; // the queue's task ends
        }
        assert_eq!(gone.strong_count(), 0);
        let replica = registry.replica(&pool, "http://localhost:1".parse().unwrap(), None).unwrap();
        assert_ne!(replica.id, id, "nobody used it any more");
        let openai = PoolSpec { engine: Engine::Openai, ..pool };
        let other = registry.replica(&openai, "http://localhost:1".parse().unwrap(), None).unwrap();
        assert_ne!(other.id, replica.id, "what is known of an Ollama is not known of a server of the OpenAI API");
    }
}
