//! What outlives a table: replicas, their slots, the pools' queues, the numbers of what is served.

use std::collections::HashMap;
use std::sync::Arc;

use tutti_api::{PoolSpec, canonical};

use crate::replica::Replica;
use crate::schedule::{Owner, Target};

type TargetKey = (Box<str>, Vec<u64>);

/// Model, revision and pool of a route: what logs and metrics call it.
#[derive(Debug, PartialEq, Eq)]
pub struct Served {
    /// Tells these apart in this process; from 1.
    pub number: u32,
    /// The model's name.
    pub model: Box<str>,
    /// The revision's name.
    pub revision: Box<str>,
    /// The pool's name.
    pub pool: Box<str>,
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
    /// Its replicas, by number.
    pub replicas: Vec<u64>,
}

/// Everything with a state that tables refer to. Lives on the control thread, which alone builds tables.
#[derive(Debug, Default)]
pub struct Registry {
    replicas: HashMap<(Box<str>, Box<str>), Arc<Replica>>,
    owners: HashMap<Box<str>, Arc<Owner>>,
    /// By canonical engine name and replicas; with the number of slots each replica has.
    targets: HashMap<TargetKey, (Arc<Target>, u16)>,
    /// By model, revision and pool.
    served: HashMap<[Box<str>; 3], Arc<Served>>,
}

impl Registry {
    /// The replica of a pool at this URL.
    ///
    /// # Errors
    /// Why the URL leads nowhere.
    pub fn replica(&mut self, pool: &str, url: &str) -> Result<Arc<Replica>, String> {
        let key = (pool.into(), url.into());
        if let Some(replica) = self.replicas.get(&key) {
            return Ok(replica.clone());
        }
        let replica = Replica::new(url)?;
        self.replicas.insert(key, replica.clone());
        Ok(replica)
    }

    /// The queue of a pool; a new one holds at most `bound` requests.
    pub fn owner(&mut self, pool: &str, bound: usize) -> Arc<Owner> {
        self.owners.entry(pool.into()).or_insert_with(|| Owner::start(bound)).clone()
    }

    /// The slots for an engine name, however it is spelt, on these replicas; the same ones again while the replicas
    /// stay the same.
    pub fn target(&mut self, replicas: &[Arc<Replica>], engine_name: &str, generation: u32, limit: u16) -> Arc<Target> {
        let key = (canonical(engine_name).into(), replicas.iter().map(|replica| replica.id).collect());
        let slots = || replicas.iter().map(|replica| replica.slots(engine_name, generation, limit)).collect();
        let target = self.targets.entry(key).or_insert_with(|| (Target::new(slots()), limit));
        target.1 = limit;
        target.0.clone()
    }

    /// What logs and metrics call a revision. A name gets its number once and keeps it.
    pub fn served(&mut self, model: &str, revision: &str, pool: &str) -> Arc<Served> {
        let number = u32::try_from(self.served.len() + 1).unwrap_or(u32::MAX);
        let key: [Box<str>; 3] = [model.into(), revision.into(), pool.into()];
        let [model, revision, pool] = key.clone();
        self.served.entry(key).or_insert_with(|| Arc::new(Served { number, model, revision, pool })).clone()
    }

    /// Makes a table the one that counts: first no slot can be taken by choices from an older one, then `swap` shows
    /// the table to all, then each queue lets go who waits for what is gone. Resolves when all queues have.
    pub async fn publish(&mut self, live: Live<'_>, swap: impl FnOnce()) {
        let Live { generation, targets, pools, replicas } = live;
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
        let spec = |pool: &str| pools.iter().find(|spec| spec.name == pool);
        for (name, owner) in &self.owners {
            let size = spec(name).map_or(0, |pool| pool.queue.size as usize);
            // An owner that does not answer is one whose runtime is shutting down.
            let _ = owner.table(targets.clone(), size).await;
        }
        self.owners.retain(|pool, _| spec(pool).is_some());
        self.replicas.retain(|_, replica| replicas.contains(&replica.id));
    }
}
