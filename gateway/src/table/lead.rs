//! Where a model's name leads: to one of its revisions.

use std::sync::Arc;

use tutti_api::{ModelSpec, PoolSpec, RevisionSpec, canonical};
use tutti_control_plane::Ready;

use super::{Pool, Route, Table, World, entry, has, later, named, slots_of};
use crate::errors::Failure;
use crate::registry::Registry;
use crate::replica::Replica;
use crate::traffic::{Choice, Parts, Split, Sticky, no_revision, weights};

/// Where a name leads.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    /// Of the revision that gets most of the requests: what lists and keys go by.
    pub(crate) route: Arc<Route>,
    /// Of a model of several revisions, who gets which.
    pub(crate) split: Option<Arc<Split>>,
}

impl Lead {
    /// Of what has no revisions.
    pub(super) fn alone(route: Arc<Route>) -> Self {
        Self { route, split: None }
    }

    /// Where a request goes.
    ///
    /// # Errors
    /// It names a revision that there is not.
    pub(crate) fn choose(&self, choice: &Choice) -> Result<&Arc<Route>, Failure> {
        match (&self.split, &choice.pin) {
            (Some(split), _) => split.choose(choice),
            (None, Some(pin)) if *pin != self.route.served.revision => Err(no_revision(pin)),
            (None, _) => Ok(&self.route),
        }
    }
}

impl Table {
    /// Where the names of a model lead; `None` where it has no revision on any pool.
    pub(super) fn lead_of(&mut self, model: &ModelSpec, world: &World, registry: &mut Registry) -> Option<Lead> {
        let said = world.traffic.get(model.name.as_str());
        let weights = weights(model, said);
        let revision = |name: &str| model.revisions.iter().find(|revision| revision.name == name);
        let several = model.revisions.len() > 1;
        // Who waits for a revision of its own choice waits on when that gets no requests any more.
        let lines =
            if several { [format!("split {}", model.name), format!("pin {}", model.name)] } else { Default::default() };
        let mut parts = Vec::new();
        for part in &weights {
            let route = self.route_of(model, revision(&part.revision)?, world, registry, &lines[0]);
            parts.extend(route.map(|route| (route, part.weight)));
        }
        let (route, _) = parts.iter().max_by_key(|(_, weight)| *weight)?.clone();
        self.routed.extend(parts.iter().map(|(route, _)| route.clone()));
        if !several {
            return Some(Lead::alone(route));
        }
        let all =
            model.revisions.iter().filter_map(|revision| self.route_of(model, revision, world, registry, &lines[1]));
        let all: Vec<Arc<Route>> = all.collect();
        self.pinned.extend(all.iter().cloned());
        let mirror = said.and_then(|said| said.mirror.as_ref()).and_then(|mirror| {
            let to = all.iter().find(|route| *route.served.revision == *mirror.revision)?;
            Some((to.clone(), mirror.share))
        });
        let sticky = model.traffic.as_ref().and_then(|traffic| traffic.sticky.as_ref()).and_then(Sticky::of);
        if let Some(Sticky::Header(name)) = &sticky
            && !self.sticky.contains(name)
        {
            self.sticky.push(name.clone());
        }
        let split = Split {
            parts: Parts::of(parts.iter().map(|(_, weight)| *weight)),
            routed: parts.into_iter().map(|(route, _)| route).collect(),
            all,
            mirror,
            salt: said.map_or(0, |said| said.salt),
            generation: said.map_or(0, |said| said.generation),
            overridden: said.is_some_and(|said| said.overridden),
            sticky,
            turns: registry.turns(&model.name),
        };
        Some(Lead { route, split: Some(Arc::new(split)) })
    }

    /// The route to a revision, whose waiters stand in this line.
    fn route_of(
        &self,
        model: &ModelSpec,
        revision: &RevisionSpec,
        world: &World,
        registry: &mut Registry,
        line: &str,
    ) -> Option<Arc<Route>> {
        let at = self.config.pools.iter().position(|pool| pool.name == revision.pool)?;
        let (pool, spec): (Arc<Pool>, &PoolSpec) = (self.pools[at].clone(), &self.config.pools[at]);
        let (upstream, replicas) = named(&world.catalog, &pool, revision)?;
        let upstream = upstream.as_str();
        let (of, generation, limit) = ((&*pool.name, line), self.generation, slots_of(spec));
        let mut target = |some: &[Arc<Replica>]| registry.target(of, some, upstream, generation, limit);
        let (later, target) = (later(world, &replicas, &mut target), target(&replicas));
        let proven = replicas.iter().filter(|replica| has(&world.catalog, replica, upstream) == Some(true));
        Some(Arc::new(Route {
            served: registry.served(&model.name, &revision.name, &pool.name, spec.engine, model.revisions.len() > 1),
            later,
            target,
            proven: proven.map(|replica| replica.id).collect(),
            entry: entry(&world.catalog, &pool.replicas, upstream),
            engine_name: Some(upstream.into()),
            adapter: revision.adapter.as_deref().map(Into::into),
            pool,
        }))
    }

    /// Of each model with several revisions, by its name, who gets which requests.
    pub(crate) fn splits(&self) -> impl Iterator<Item = (&str, &Split)> {
        self.config.models.iter().filter_map(|model| Some((&*model.name, &**self.lead(&model.name)?.split.as_ref()?)))
    }

    /// Where a name leads.
    pub(crate) fn lead(&self, name: &str) -> Option<&Lead> {
        self.routes.get(&*canonical(name))
    }
}

impl Route {
    /// Who can serve it now: has it, proven, and can be reached.
    pub(crate) fn ready(&self) -> Ready {
        let health = &self.pool.owner.health;
        let slots = self.target.slots().iter();
        let ready =
            slots.filter(|slots| self.proven.contains(&slots.replica.id) && health.is_reachable(&slots.replica));
        let (mut replicas, mut count) = (0, 0);
        for slots in ready {
            replicas += 1;
            count += u32::from(slots.view().limit);
        }
        Ready { pool: self.pool.name.to_string(), replicas, slots: count }
    }
}
