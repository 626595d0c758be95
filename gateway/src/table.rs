//! Which name leads where: immutable, built whole from specs and what is known of the world, swapped whole.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Value;
use tutti_api::{Config, Engine, Expose, PoolSpec, canonical};

use crate::classify::{Api, Pins};
use crate::discovery::{self, Found, Located, Origin};
use crate::drain::Drains;
use crate::errors::{Code, Failure};
use crate::health::Probing;
use crate::registry::{Live, Registry, Served};
use crate::replica::Replica;
use crate::schedule::{Owner, Sharing, Slots, Target};
use crate::weights::Weights;

/// What a replica said it has, by its number; a replica that has not answered yet is missing.
pub type Catalog = HashMap<u64, Vec<Available>>;

/// What is known of the world, beside what the configuration says: what a table is built from.
#[derive(Debug, Default)]
pub struct World {
    /// Where the replicas are that the configuration does not name itself.
    pub found: Found,
    /// What the replicas have.
    pub catalog: Catalog,
    /// Which APIs that not every replica has they have, by their numbers; who has not said is missing.
    pub apis: HashMap<u64, Apis>,
    /// Those that get nothing new.
    pub drains: Drains,
    /// URLs at which this gateway itself answers: no replicas.
    pub ourselves: HashSet<Box<str>>,
}

impl World {
    /// Takes in what a replica said it has; what it did not say stays. Yields whether any of it is new.
    pub(crate) fn learn(&mut self, replica: u64, models: Option<Vec<Available>>, apis: Option<Apis>) -> bool {
        let models = models.filter(|models| self.catalog.get(&replica) != Some(models));
        let apis = apis.filter(|apis| self.apis.get(&replica) != Some(apis));
        let new = models.is_some() || apis.is_some();
        self.catalog.extend(models.map(|models| (replica, models)));
        self.apis.extend(apis.map(|apis| (replica, apis)));
        new
    }

    /// Forgets all replicas but these.
    pub(crate) fn keep(&mut self, known: &[u64]) {
        self.catalog.retain(|id, _| known.contains(id));
        self.apis.retain(|id, _| known.contains(id));
    }

    /// Forgets that somewhere was this gateway itself where nobody says any more that a replica is there.
    pub(crate) fn forget_ourselves(&mut self, config: &Config) {
        let located = config.pools.iter().filter_map(|spec| discovery::endpoints(spec, &self.found).ok()).flatten();
        let urls: HashSet<String> = located.map(|located| located.url.to_string()).collect();
        self.ourselves.retain(|url| urls.contains(&**url));
    }
}

/// The APIs that came with later versions of the engines: whether a replica has each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apis {
    /// `/v1/responses`
    pub responses: bool,
    /// `/v1/messages`
    pub messages: bool,
}

impl Apis {
    /// Whether it has this one; the others every replica has.
    fn has(self, api: Api) -> bool {
        match api {
            Api::OpenAiResponses => self.responses,
            Api::AnthropicMessages => self.messages,
            _ => true,
        }
    }
}

/// A model that a replica has.
#[derive(Clone, Debug, PartialEq)]
pub struct Available {
    /// Its name at the replica.
    pub name: String,
    /// Its entry in the replica's `/api/tags`.
    pub entry: Value,
    /// What it is made of, where the replica says.
    pub weights: Option<Arc<Weights>>,
}

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
    /// What the replicas say of it.
    pub entry: Option<Value>,
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
    /// Longest wait for a slot.
    pub wait: Duration,
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
    /// When its replicas are asked for a token, if ever.
    pub(crate) probing: Option<Probing>,
}

impl Pool {
    /// Whether requests of OpenAI's API should go to the replicas by Ollama's own: only that carries what is pinned.
    pub fn wants_native(&self) -> bool {
        self.engine == Engine::Ollama && !self.pins.is_empty()
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
    routes: HashMap<Box<str>, Arc<Route>>,
    /// The names to list, in order: each model once, under its own name.
    listed: Vec<Arc<Route>>,
    /// The slots that share runners, by pool.
    sharing: HashMap<Box<str>, Vec<Sharing>>,
}

impl Table {
    /// Builds the table of this generation. Slots, queues and replicas that a former table had are found in the
    /// registry and kept; nothing that serves changes until [`Registry::publish`].
    ///
    /// # Errors
    /// Why an endpoint cannot be one.
    pub fn build(config: Arc<Config>, world: &World, generation: u32, registry: &mut Registry) -> Result<Self, String> {
        let catalog = &world.catalog;
        let mut table = Self {
            generation,
            config: config.clone(),
            pools: Vec::new(),
            drained: world.drains.urls(),
            left: Vec::new(),
            unheard: false,
            routes: HashMap::new(),
            listed: Vec::new(),
            sharing: HashMap::new(),
        };
        for spec in &config.pools {
            let pool = pool(spec, world, registry)?;
            table.pools.push(pool);
        }
        table.left = registry.others(&table.replicas().map(|replica| replica.id).collect::<Vec<_>>());
        for model in &config.models {
            let wanted = model.traffic.as_ref().and_then(|traffic| traffic.revision.as_deref());
            let revision = match wanted {
                Some(name) => model.revisions.iter().find(|revision| revision.name == name),
                None => model.revisions.first(),
            };
            let Some(revision) = revision else { continue };
            let Some(at) = config.pools.iter().position(|pool| pool.name == revision.pool) else { continue };
            let Some(upstream) = revision.upstream.as_deref() else { continue };
            let (pool, spec) = (table.pools[at].clone(), &config.pools[at]);
            let replicas = serving(catalog, &pool, upstream);
            let route = Arc::new(Route {
                served: registry.served(&model.name, &revision.name, &pool.name, spec.engine),
                later: later(world, &replicas, |some| registry.target(some, upstream, generation, limit(spec))),
                target: registry.target(&replicas, upstream, generation, limit(spec)),
                entry: entry(catalog, &pool.replicas, upstream),
                engine_name: Some(upstream.into()),
                pool,
            });
            table.listed.push(route.clone());
            for name in std::iter::once(&model.name).chain(&model.aliases) {
                table.routes.entry(canonical(name).into()).or_insert_with(|| route.clone());
            }
        }
        for (spec, pool) in config.pools.iter().zip(table.pools.clone()) {
            if spec.expose == Expose::All {
                table.unheard |= pool.replicas.iter().any(|replica| !catalog.contains_key(&replica.id));
                table.expose(spec, &pool, world, registry);
            }
        }
        table.sharing = table.shared(catalog);
        Ok(table)
    }

    /// Which slots share runners: those of one replica for models of one base that exclude each other.
    fn shared(&self, catalog: &Catalog) -> HashMap<Box<str>, Vec<Sharing>> {
        let slots = self.listed.iter().flat_map(|route| route.targets()).flat_map(|target| target.slots());
        // By replica and base; each with its group.
        type Members<'s> = Vec<(&'s Arc<Slots>, Box<str>)>;
        let mut runners: HashMap<(u64, Box<str>), Members<'_>> = HashMap::new();
        for slots in slots {
            let Some(weights) = weights(catalog, &slots.replica, &slots.name) else { continue };
            let runner = runners.entry((slots.replica.id, weights.base.clone())).or_default();
            if !runner.iter().any(|(known, _)| known.id() == slots.id()) {
                runner.push((slots, weights.group.clone()));
            }
        }
        let alone = |pool: &str| self.pools.iter().any(|of| *of.name == *pool && of.replicas.len() == 1);
        let mut sharing: HashMap<Box<str>, Vec<Sharing>> = HashMap::new();
        // Where there are several it is not decided yet which of them loads what.
        runners.retain(|_, members| alone(&members[0].0.replica.pool));
        for ((replica, base), mut members) in runners {
            // Of names that stand for the same weights none waits for another; and turns are between names.
            let groups: HashSet<&str> = members.iter().map(|(_, group)| &**group).collect();
            if groups.len() < 2 || groups.len() < members.len() {
                continue;
            }
            members.sort_by_key(|(slots, _)| slots.id());
            let pool = members[0].0.replica.pool.clone();
            let slots = members.into_iter().map(|(slots, _)| slots.clone()).collect();
            sharing.entry(pool).or_default().push(Sharing::new(replica, &base, slots));
        }
        sharing
    }

    /// Adds the replicas' own models under their own names, where no model has the name.
    fn expose(&mut self, spec: &PoolSpec, pool: &Arc<Pool>, world: &World, registry: &mut Registry) {
        let catalog = &world.catalog;
        let available = pool.replicas.iter().filter_map(|replica| catalog.get(&replica.id)).flatten();
        for Available { name, entry, .. } in available {
            let key = canonical(name);
            if self.routes.contains_key(&*key) {
                continue;
            }
            let replicas: Vec<_> =
                pool.serving().filter(|replica| has(catalog, replica, name) == Some(true)).cloned().collect();
            let route = Arc::new(Route {
                served: registry.served(name, "", &pool.name, spec.engine),
                later: later(world, &replicas, |some| registry.target(some, &key, self.generation, limit(spec))),
                target: registry.target(&replicas, &key, self.generation, limit(spec)),
                pool: pool.clone(),
                // An Ollama folds names as they are folded here; others want them to the letter.
                engine_name: (spec.engine != Engine::Ollama).then(|| name.as_str().into()),
                entry: Some(entry.clone()),
            });
            self.listed.push(route.clone());
            self.routes.insert(key.into(), route);
        }
    }

    /// All replicas, pool by pool.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.pools.iter().flat_map(|pool| &pool.replicas)
    }

    /// Where a name leads.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(&*canonical(name))
    }

    /// The models that lead to what the replicas of this pool know by this name, however it is spelt.
    pub fn leading_to<'t>(&'t self, pool: &'t Arc<Pool>, engine_name: &str) -> impl Iterator<Item = &'t Arc<Route>> {
        let key = canonical(engine_name).into_owned();
        self.listed.iter().filter(move |route| Arc::ptr_eq(&route.pool, pool) && canonical(route.engine_name()) == key)
    }

    /// The models there are, each once.
    pub fn listed(&self) -> &[Arc<Route>] {
        &self.listed
    }

    /// What of the registry's this table refers to.
    pub fn live(&self) -> Live<'_> {
        Live {
            generation: self.generation,
            targets: self.listed.iter().flat_map(|route| route.targets()).cloned().collect(),
            pools: &self.config.pools,
            sharing: &self.sharing,
        }
    }

    /// The runners of a pool's replicas that several groups share.
    pub(crate) fn sharing(&self, pool: &str) -> &[Sharing] {
        self.sharing.get(pool).map_or(&[], Vec::as_slice)
    }

    /// Whether names unknown now may be known when the replicas are asked again.
    pub fn exposes(&self) -> bool {
        self.config.pools.iter().any(|pool| pool.expose == Expose::All)
    }
}

fn pool(spec: &PoolSpec, world: &World, registry: &mut Registry) -> Result<Arc<Pool>, String> {
    let (mut replicas, mut origins) = (Vec::new(), Vec::new());
    for Located { url, key_file, origin } in discovery::endpoints(spec, &world.found)? {
        if !world.ourselves.contains(&*url.to_string()) {
            replicas.push(registry.replica(spec, url, key_file.as_deref())?);
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
        wait: spec.queue.wait.get(),
        connect: spec.timeouts.connect.get(),
        first_byte: spec.timeouts.first_byte.get(),
        idle: spec.timeouts.idle.get(),
        retries: spec.retries.max,
        retry_budget: spec.retries.budget.fraction(),
        probing: Probing::of(&spec.health.probe),
    }))
}

/// Requests a replica works on at once in one runner. What is found without a word on it is not known to have fewer:
/// then the replica's own queue orders what is beyond its slots.
const FOUND: u16 = 64;

fn limit(spec: &PoolSpec) -> u16 {
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
