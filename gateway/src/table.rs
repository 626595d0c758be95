//! Which name leads where: immutable, built whole from specs and what is known of the world, swapped whole.

mod lead;
mod world;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderName;
use serde_json::Value;
use tutti_api::{Config, Engine, Expose, PoolSpec, RevisionSpec, canonical};

pub(crate) use self::lead::Lead;
use crate::adapters;
use crate::batch::Desk;
use crate::classify::{Api, Pins};
use crate::discovery::{self, Located, Origin};
use crate::errors::{Code, Failure};
use crate::health::Probing;
use crate::loaders::{self, Loader, Trial, Word};
use crate::registry::{Live, Registry, Served, Shown};
use crate::replica::Replica;
use crate::schedule::{self, Mixed, Owner, Sharing, Slots, Target};
use crate::weights::Weights;
pub use world::{Apis, Available, Catalog, World};

/// Where the requests for a name go.
#[derive(Debug)]
pub struct Route {
    /// What it is called.
    pub served: Arc<Served>,
    /// The pool that serves it.
    pub pool: Arc<Pool>,
    /// The name the replicas know it by; `None` where that is whatever the client wrote (an Ollama's exposed model).
    pub engine_name: Option<Box<str>>,
    /// The slots it may take.
    pub target: Arc<Target>,
    later: Later,
    /// The numbers of the replicas that have it for sure.
    proven: Vec<u64>,
    /// What the replicas say of it.
    pub entry: Option<Value>,
    /// Where it lies below `adapters.from`, where it is an adapter.
    adapter: Option<Box<str>>,
}

/// The slots of those of a route's replicas that have an API which not all have.
#[derive(Debug)]
struct Later {
    responses: Option<Arc<Target>>,
    messages: Option<Arc<Target>>,
    /// Whether a replica has not said what it has.
    unheard: bool,
}

impl Route {
    /// The slots that a request of this API may take.
    ///
    /// # Errors
    /// No replica has the API, or none that was heard.
    pub fn target(&self, api: Api) -> Result<&Arc<Target>, Failure> {
        let target = match api {
            Api::OpenAiResponses => self.later.responses.as_ref(),
            Api::AnthropicMessages => self.later.messages.as_ref(),
            _ => Some(&self.target),
        };
        target.ok_or_else(|| {
            if self.later.unheard {
                return Failure::new(Code::NoReplica, "a replica that may have this API has not been heard yet");
            }
            let message = format!("no replica of pool {} has {}", self.pool.name, api.path());
            Failure::new(Code::ApiNotServed, message)
        })
    }

    /// All its targets.
    fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        [Some(&self.target), self.later.responses.as_ref(), self.later.messages.as_ref()].into_iter().flatten()
    }

    /// Why no replica serves it, as far as the loaders tell, for clients; of an adapter alone.
    pub(crate) fn why_nobody(&self) -> Option<String> {
        let path = self.adapter.as_deref()?;
        let Served { model, revision, .. } = &*self.served;
        let of: Vec<_> = self.pool.loaders.iter().flatten().filter_map(|loader| loader.adapter(path)).collect();
        let why = loaders::why(of.iter());
        Some(match why {
            Some(why) => format!("{model}@{revision} is {why}"),
            None => format!("nobody has told of {model}@{revision} yet"),
        })
    }

    /// The name the replicas know it by; of an exposed model, as they spell it themselves.
    pub fn engine_name(&self) -> &str {
        self.engine_name.as_deref().unwrap_or(&self.served.model)
    }
}

/// A pool, with its specs at hand.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: Box<str>,
    /// What its replicas speak.
    pub engine: Engine,
    /// What it pins of Ollama's options.
    pub pins: Pins,
    /// Its queue.
    pub owner: Arc<Owner>,
    /// Its replicas.
    pub replicas: Vec<Arc<Replica>>,
    /// The numbers of those among them that get nothing new.
    pub drained: HashSet<u64>,
    /// Of each of them, who said where it is.
    pub origins: Vec<Origin>,
    /// Of each of them, the loader that brings it adapters, where one is named.
    pub loaders: Vec<Option<Arc<Loader>>>,
    /// Embeddings that leave together.
    pub(crate) desk: Arc<Desk>,
    /// Most requests that wait.
    pub(crate) most_waiting: usize,
    /// Longest wait for a slot.
    pub wait: Duration,
    /// Longest wait in all while weights load, or while there is no replica.
    pub cold_wait: Duration,
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// How long the first byte of an answer may take.
    pub first_byte: Duration,
    /// How long an answer may pause.
    pub idle: Duration,
    /// How often a request may be sent again.
    pub retries: u32,
    /// The share of a retry that each request brings, from 0 to 1.
    pub retry_budget: f64,
    /// The share of a replica's time that probes of adapters may take, from 0 to 1, where it has any.
    pub(crate) probe_share: Option<f64>,
    /// When its replicas are asked for a token, if ever.
    pub(crate) probing: Option<Probing>,
}

impl Pool {
    /// Whether requests of OpenAI's API should go to the replicas by Ollama's own: only that carries what is pinned.
    pub fn wants_native(&self) -> bool {
        self.engine == Engine::Ollama && !self.pins.is_empty()
    }

    /// Its replicas, each with its loader, where one is named.
    pub(crate) fn with_loaders(&self) -> impl Iterator<Item = (&Arc<Replica>, Option<&Arc<Loader>>)> {
        self.replicas.iter().zip(self.loaders.iter().map(Option::as_ref))
    }

    /// Its replicas but for those that get nothing new.
    pub fn serving(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.replicas.iter().filter(|replica| !self.drained.contains(&replica.id))
    }
}

/// The table.
#[derive(Debug)]
pub struct Table {
    /// Rises with every table.
    pub generation: u32,
    /// The configuration it was built from.
    pub config: Arc<Config>,
    /// The pools, as configured.
    pub pools: Vec<Arc<Pool>>,
    /// The URLs of the replicas that get nothing new, also of those that are away for a while.
    pub(crate) drained: Vec<Box<str>>,
    /// Replicas of former tables that may work on something still.
    pub(crate) left: Vec<Weak<Replica>>,
    /// Whether a replica that may have models of its own to show has not said which.
    pub unheard: bool,
    routes: HashMap<Box<str>, Lead>,
    /// The names to list, in order: each model once, under its own name.
    listed: Vec<Arc<Route>>,
    /// All that requests go to by themselves, a model's revisions each; and all that a request may name.
    routed: Vec<Arc<Route>>,
    pinned: Vec<Arc<Route>>,
    /// Headers that keep clients of some model where they are.
    pub(crate) sticky: Vec<HeaderName>,
    /// The slots that share runners, by pool.
    sharing: HashMap<Box<str>, schedule::Shared>,
    /// By replica, what has slots there while a probe runs.
    trials: HashMap<u64, (Trial, HashMap<String, Arc<Target>>)>,
}

impl Table {
    /// Builds the table of this generation. Slots, queues and replicas that a former table had are found in the
    /// registry and kept; nothing that serves changes until [`Registry::publish`].
    ///
    /// # Errors
    /// Why an endpoint cannot be one.
    pub fn build(config: Arc<Config>, world: &World, generation: u32, registry: &mut Registry) -> Result<Self, String> {
        let mut table = Self {
            generation,
            config: config.clone(),
            pools: Vec::new(),
            drained: world.drains.urls(),
            left: Vec::new(),
            unheard: false,
            routes: HashMap::new(),
            listed: Vec::new(),
            routed: Vec::new(),
            pinned: Vec::new(),
            sticky: Vec::new(),
            sharing: HashMap::new(),
            trials: HashMap::new(),
        };
        for spec in &config.pools {
            let pool = pool(spec, world, registry)?;
            table.pools.push(pool);
        }
        table.left = registry.others(&table.replicas().map(|replica| replica.id).collect::<Vec<_>>());
        for model in &config.models {
            let Some(lead) = table.lead_of(model, world, registry) else { continue };
            table.listed.push(lead.route.clone());
            for name in std::iter::once(&model.name).chain(&model.aliases) {
                table.routes.entry(canonical(name).into()).or_insert_with(|| lead.clone());
            }
        }
        for (spec, pool) in config.pools.iter().zip(table.pools.clone()) {
            if spec.expose == Expose::All {
                table.unheard |= pool.replicas.iter().any(|replica| !world.catalog.contains_key(&replica.id));
                table.expose(spec, &pool, world, registry);
            }
        }
        for (spec, pool) in config.pools.iter().zip(table.pools.clone()) {
            for (replica, loader) in pool.with_loaders() {
                let Some(trial) = loader.and_then(|loader| loader.trial()) else { continue };
                let target = |name: &String| {
                    let (of, limit) = ((&*pool.name, ""), slots_of(spec));
                    let target = registry.target(of, std::slice::from_ref(replica), name, generation, limit);
                    (name.clone(), target)
                };
                let targets = trial.names().iter().map(target).collect();
                table.trials.insert(replica.id, (trial, targets));
            }
        }
        table.sharing = table.shared(&world.catalog);
        Ok(table)
    }

    /// The slots for a probe that runs on a replica, by name; `None` while this table has none for it.
    pub(crate) fn trial(&self, replica: u64, trial: &Trial) -> Option<&HashMap<String, Arc<Target>>> {
        self.trials.get(&replica).filter(|(known, _)| known == trial).map(|(_, targets)| targets)
    }

    fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        let trials = self.trials.values().flat_map(|(_, targets)| targets.values());
        self.all().flat_map(|route| route.targets()).chain(trials)
    }

    /// Which slots share runners: those of one replica for models of one base, or of bases of which the replica holds one at a
    /// time, that exclude each other; and which replicas have models of several bases.
    fn shared(&self, catalog: &Catalog) -> HashMap<Box<str>, schedule::Shared> {
        let slots = self.targets().flat_map(|target| target.slots());
        // By replica and base; each with its group.
        type Members<'s> = Vec<(&'s Arc<Slots>, Box<str>)>;
        let mut runners: HashMap<(u64, Box<str>), Members<'_>> = HashMap::new();
        let mut mixed: HashMap<u64, Mixed> = HashMap::new();
        for slots in slots {
            let Some(weights) = weights(catalog, &slots.replica, &slots.name) else { continue };
            let runner = slots.replica.crowding().runner(&weights.base).into();
            let runner = runners.entry((slots.replica.id, runner)).or_default();
            if !runner.iter().any(|(known, _)| known.id() == slots.id()) {
                runner.push((slots, format!("{}\n{}", weights.base, weights.group).into()));
            }
            let new = || Mixed { replica: slots.replica.clone(), bases: HashMap::new() };
            let of_replica = mixed.entry(slots.replica.id).or_insert_with(new);
            of_replica.bases.insert(slots.name.clone(), weights.base.clone());
        }
        let mut sharing: HashMap<Box<str>, schedule::Shared> = HashMap::new();
        for ((replica, base), mut members) in runners {
            let groups: HashSet<&str> = members.iter().map(|(_, group)| &**group).collect();
            if groups.len() < 2 {
                continue; // names for the same weights exclude nobody
            }
            members.sort_by_key(|(slots, _)| slots.id());
            let pool = members[0].0.replica.pool.clone();
            let slots = members.into_iter().map(|(slots, group)| (slots.clone(), group)).collect();
            sharing.entry(pool).or_default().runners.push(Sharing::new(replica, &base, slots));
        }
        for mixed in mixed.into_values() {
            let bases: HashSet<&str> = mixed.bases.values().map(|base| &**base).collect();
            if bases.len() > 1 {
                sharing.entry(mixed.replica.pool.clone()).or_default().mixed.push(mixed);
            }
        }
        sharing
    }

    /// Adds the replicas' own models under their own names, where no model has the name.
    fn expose(&mut self, spec: &PoolSpec, pool: &Arc<Pool>, world: &World, registry: &mut Registry) {
        let catalog = &world.catalog;
        let available = pool.replicas.iter().filter_map(|replica| catalog.get(&replica.id)).flatten();
        for Available { name, entry, .. } in available {
            let key = canonical(name);
            let is_loaders = || pool.loaders.iter().flatten().any(|loader| loader.is_its_own(&key));
            let is_made = adapters::is_made_by_a_loader(&key, spec.adapters.is_some());
            if self.routes.contains_key(&*key) || is_made || is_loaders() {
                continue;
            }
            let replicas: Vec<_> =
                pool.serving().filter(|replica| has(catalog, replica, name) == Some(true)).cloned().collect();
            let (of, generation, limit) = ((&*pool.name, ""), self.generation, slots_of(spec));
            let route = Arc::new(Route {
                served: registry.served(name, "", &pool.name, spec.engine, false),
                later: later(world, &replicas, |some| registry.target(of, some, &key, generation, limit)),
                target: registry.target(of, &replicas, &key, generation, limit),
                proven: Vec::new(),
                pool: pool.clone(),
                // An Ollama folds names as they are folded here; others want them to the letter.
                engine_name: (spec.engine != Engine::Ollama).then(|| name.as_str().into()),
                entry: Some(entry.clone()),
                adapter: None,
            });
            self.listed.push(route.clone());
            self.routed.push(route.clone());
            self.routes.insert(key.into(), Lead::alone(route));
        }
    }

    /// All replicas, pool by pool.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.pools.iter().flat_map(|pool| &pool.replicas)
    }

    /// Where a name leads.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.lead(name).map(|lead| &lead.route)
    }

    /// All routes.
    fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routed.iter().chain(&self.pinned)
    }

    /// Those that requests go to by themselves.
    pub(crate) fn routed(&self) -> &[Arc<Route>] {
        &self.routed
    }

    /// The models that lead to what the replicas of this pool know by this name, however it is spelt.
    pub fn leading_to<'t>(&'t self, pool: &'t Arc<Pool>, engine_name: &str) -> impl Iterator<Item = &'t Arc<Route>> {
        let key = canonical(engine_name).into_owned();
        self.all().filter(move |route| Arc::ptr_eq(&route.pool, pool) && canonical(route.engine_name()) == key)
    }

    /// The models there are, each once.
    pub fn listed(&self) -> &[Arc<Route>] {
        &self.listed
    }

    /// What of the registry's this table refers to.
    pub fn live(&self) -> Live<'_> {
        Live {
            generation: self.generation,
            targets: self.targets().cloned().collect(),
            pools: &self.config.pools,
            sharing: &self.sharing,
        }
    }

    /// Whether several groups share runners of a pool's replicas.
    pub(crate) fn shares_runners(&self, pool: &str) -> bool {
        self.sharing.get(pool).is_some_and(|shared| !shared.runners.is_empty())
    }

    /// Whether names unknown now may be known when the replicas are asked again.
    pub fn exposes(&self) -> bool {
        self.config.pools.iter().any(|pool| pool.expose == Expose::All)
    }
}

fn pool(spec: &PoolSpec, world: &World, registry: &mut Registry) -> Result<Arc<Pool>, String> {
    let (mut replicas, mut origins, mut loaders) = (Vec::new(), Vec::new(), Vec::new());
    let shown = Shown::of(spec);
    for Located { url, key_file, loader, origin } in discovery::endpoints(spec, &world.found)? {
        if !world.ourselves.contains(&*url.to_string()) {
            let replica = registry.replica(spec, url, key_file.as_deref())?;
            loaders.push(loader.map(|url| registry.loader(&replica, url, &shown)).transpose()?);
            replicas.push(replica);
            origins.push(origin);
        }
    }
    Ok(Arc::new(Pool {
        name: spec.name.as_str().into(),
        engine: spec.engine,
        pins: Pins::of(spec),
        owner: registry.owner(&spec.name, spec.queue.size as usize),
        drained: replicas.iter().filter(|of| world.drains.contains(&of.url)).map(|of| of.id).collect(),
        replicas,
        origins,
        loaders,
        desk: registry.desk(&spec.name),
        most_waiting: spec.queue.size as usize,
        wait: spec.queue.wait.get(),
        cold_wait: spec.queue.cold_wait.get(),
        connect: spec.timeouts.connect.get(),
        first_byte: spec.timeouts.first_byte.get(),
        idle: spec.timeouts.idle.get(),
        retries: spec.retries.max,
        retry_budget: spec.retries.budget.fraction(),
        probe_share: spec.adapters.as_ref().map(|adapters| adapters.probe_share.fraction()),
        probing: Probing::of(&spec.health.probe),
    }))
}

/// Requests a replica works on at once in one runner. What is found without a word on it is not known to have fewer:
/// then the replica's own queue orders what is beyond its slots.
const FOUND: u16 = 64;

pub(crate) fn slots_of(spec: &PoolSpec) -> u16 {
    spec.slots.count().unwrap_or(FOUND)
}

/// The slots of those of a route's replicas that have each API which not all have.
fn later(world: &World, replicas: &[Arc<Replica>], mut target: impl FnMut(&[Arc<Replica>]) -> Arc<Target>) -> Later {
    let has = |replica: &Replica, api: Api| world.apis.get(&replica.id).is_some_and(|apis| apis.has(api));
    let mut with = |api: Api| {
        let having: Vec<_> = replicas.iter().filter(|replica| has(replica, api)).cloned().collect();
        (!having.is_empty()).then(|| target(&having))
    };
    Later {
        responses: with(Api::OpenAiResponses),
        messages: with(Api::AnthropicMessages),
        unheard: replicas.iter().any(|replica| !world.apis.contains_key(&replica.id)),
    }
}

/// Whether a replica has a model; `None`: it has not been heard yet.
fn has(catalog: &Catalog, replica: &Replica, name: &str) -> Option<bool> {
    let key = canonical(name);
    Some(catalog.get(&replica.id)?.iter().any(|available| canonical(&available.name) == key))
}

/// The replicas that serve a model which the configuration names: those that have it, or have not said. Where none has it
/// all do: their own word is the answer.
fn serving(catalog: &Catalog, pool: &Pool, upstream: &str) -> Vec<Arc<Replica>> {
    let may_have = |replica: &Arc<Replica>| has(catalog, replica, upstream) != Some(false);
    let somebody_has = pool.replicas.iter().any(may_have);
    pool.serving().filter(|replica| may_have(replica) || !somebody_has).cloned().collect()
}

/// What the replicas of a pool know a revision by, and those that serve it. An adapter is served by those alone that have it,
/// proven; while none has, by none.
fn named(catalog: &Catalog, pool: &Pool, revision: &RevisionSpec) -> Option<(String, Vec<Arc<Replica>>)> {
    if let Some(upstream) = &revision.upstream {
        return Some((upstream.clone(), serving(catalog, pool, upstream)));
    }
    let path = revision.adapter.as_deref()?;
    let has = |replica: &Replica| catalog.get(&replica.id).map_or(&[][..], Vec::as_slice);
    let word = |loader: Option<&Arc<Loader>>| loader.map_or(Word::None, |loader| loader.word(path));
    let known: Vec<_> = pool.with_loaders().map(|(replica, loader)| (has(replica), word(loader))).collect();
    let Some((name, serves)) = adapters::proven(path, &known) else { return Some((path.to_owned(), Vec::new())) };
    let serving =
        pool.replicas.iter().zip(serves).filter(|(replica, serves)| *serves && !pool.drained.contains(&replica.id));
    Some((name, serving.map(|(replica, _)| replica.clone()).collect()))
}

/// What a replica's model is made of, where it said.
fn weights(catalog: &Catalog, replica: &Replica, name: &str) -> Option<Arc<Weights>> {
    let mut available = catalog.get(&replica.id)?.iter();
    available.find(|available| canonical(&available.name) == name)?.weights.clone()
}

fn entry(catalog: &Catalog, replicas: &[Arc<Replica>], name: &str) -> Option<Value> {
    let key = canonical(name);
    let mut available = replicas.iter().filter_map(|replica| catalog.get(&replica.id)).flatten();
    available.find(|available| canonical(&available.name) == key).map(|available| available.entry.clone())
}
