//! All releases of one driver: what it was told, what it says to gateways, what it keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tutti_api::{Engine, MirrorTo, ModelSpec, ModelTraffic, PoolSpec, TrafficWord};

use crate::command::{Command, Refused, command};
use crate::evidence::{Evidence, Heard, Ready, RevisionHeard, Seen};
use crate::mark::Mark;
use crate::release::{Millis, Release, is_at_once, observe};
use crate::report::Standing;
use crate::step::step;

/// How long a floor holds after it was last said.
const FLOOR_HOLDS: Millis = 60_000;

/// What a driver keeps through restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// The driver's lives so far.
    pub term: u64,
    /// Its changes so far.
    pub generation: u64,
    /// The releases, by model.
    pub releases: BTreeMap<String, Release>,
}

/// Replicas that a pool needs for a release, whatever its load. It is said again and again while that is so, and ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    /// The pool's name.
    pub pool: String,
    /// How many.
    pub replicas: u32,
    /// How long from when it is said, by the clock of who hears it.
    pub holds: Millis,
}

/// A driver.
#[derive(Clone, Debug)]
pub struct Driver {
    name: String,
    state: State,
    specs: BTreeMap<String, ModelSpec>,
    /// Pools whose engine has the weights of one model at a time.
    reloading: Vec<String>,
    /// What each gateway tells.
    heard: BTreeMap<String, Heard>,
    marks: BTreeMap<String, Mark>,
}

impl Driver {
    /// Of this name, which goes on where the former one ended: its term is the next.
    pub fn new(name: &str, former: State) -> Self {
        let state = State { term: former.term + 1, ..former };
        let (specs, reloading) = (BTreeMap::new(), Vec::new());
        Self { name: name.to_owned(), state, specs, reloading, heard: BTreeMap::new(), marks: BTreeMap::new() }
    }

    /// Takes up a configuration; whether anything is to be kept, and said, for it. Models that are not in it are forgotten.
    pub fn configure(&mut self, models: &[ModelSpec], pools: &[PoolSpec], now: Millis) -> bool {
        let before = self.state.clone();
        let reloads = pools.iter().filter(|pool| pool.engine == Engine::Ollama);
        self.reloading = reloads.map(|pool| pool.name.clone()).collect();
        self.specs = models.iter().map(|spec| (spec.name.clone(), spec.clone())).collect();
        let known = |model: &String| self.specs.contains_key(model);
        self.state.releases.retain(|model, _| known(model));
        // A word without them is another one.
        self.state.generation += u64::from(self.state.releases.len() < before.releases.len());
        self.marks.retain(|model, _| known(model));
        for spec in models {
            let release = self.state.releases.get(&spec.name).cloned();
            let Some(next) = observe(release.as_ref(), spec, now) else { continue };
            let at_once = next.candidate.as_ref().is_some_and(|candidate| is_at_once(&candidate.strategy));
            self.set(next);
            if at_once {
                self.tick_model(&spec.name, now); // where a replica is known to have it, it waits for nothing
            }
        }
        self.state != before
    }

    /// Takes in what a gateway tells, in place of what it told before.
    pub fn hear(&mut self, gateway: &str, heard: Heard) {
        for (model, mark) in &mut self.marks {
            let Some(release) = self.state.releases.get(model) else { continue };
            match self.heard.get(gateway) {
                Some(before) => mark.tells(release, before, &heard),
                None => mark.comes(gateway, release, &heard),
            }
        }
        self.heard.insert(gateway.to_owned(), heard);
    }

    /// A gateway is gone, with what it told; or another one is in its place.
    pub fn forget(&mut self, gateway: &str) {
        if self.heard.remove(gateway).is_some() {
            self.marks.values_mut().for_each(|mark| mark.goes(gateway));
        }
    }

    /// Obeys somebody.
    ///
    /// # Errors
    /// Why not; then all stays as it was.
    pub fn command(&mut self, model: &str, wish: &Command, by: &str, now: Millis) -> Result<&Release, Refused> {
        let found = self.state.releases.get(model).zip(self.specs.get(model));
        let Some((release, spec)) = found else {
            let known = self.state.releases.keys().cloned().collect();
            return Err(Refused::NoModel { model: model.to_owned(), known });
        };
        let reloads = |pool: &str| self.reloading.iter().any(|name| name == pool);
        // Somebody may know better than a gateway that reaches nobody.
        let next = command(release, spec, &self.merged(Says::Most), reloads, (wish, by), now)?;
        self.set(next);
        self.tick_model(model, now);
        Ok(&self.state.releases[model])
    }

    /// Does what is due by itself; whether anything is to be kept, and said, for it.
    pub fn tick(&mut self, now: Millis) -> bool {
        let models: Vec<String> = self.state.releases.keys().cloned().collect();
        models.into_iter().filter(|model| self.tick_model(model, now)).count() > 0
    }

    fn tick_model(&mut self, model: &str, now: Millis) -> bool {
        let Some(release) = self.state.releases.get_mut(model) else { return false };
        if release.candidate.is_none() {
            self.marks.remove(model);
            // Also while it is frozen: replicas are not kept for ever.
            return release.former.take_if(|former| now >= former.until).is_some();
        }
        let release = release.clone();
        let mut evidence = self.evidence(&release);
        let next_look = |of: &Release| of.candidate.as_ref().map(|candidate| candidate.next_look);
        let mark = self.marks.get_mut(model);
        if let Some(mark) = mark.as_ref().filter(|_| next_look(&release).is_some_and(|next| now >= next)) {
            evidence.recent = mark.recent(&evidence);
        }
        let next = step(&release, &evidence, now);
        if let Some(mark) = mark.filter(|_| next_look(&next) != next_look(&release)) {
            mark.looked(&evidence);
        }
        let changed = next != release;
        self.set(next);
        if let Some(now) = self.state.releases.get(model).filter(|now| now.generation != release.generation).cloned() {
            self.evidence(&now); // from now on it counts for the new weights
        }
        changed
    }

    /// Whether a change is under way, or what it replaced stays ready, so that it is to be looked at again soon: also a
    /// frozen one has its floor.
    pub fn is_at_work(&self) -> bool {
        self.state.releases.values().any(|release| release.candidate.is_some() || release.former.is_some())
    }

    /// What gateways are to go by.
    pub fn word(&self) -> TrafficWord {
        let State { term, generation, .. } = self.state;
        let models = self.state.releases.values().map(traffic).collect();
        TrafficWord { driver: self.name.clone(), term, generation, models }
    }

    /// What is to be kept.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A model's release.
    pub fn release(&self, model: &str) -> Option<&Release> {
        self.state.releases.get(model)
    }

    /// How all releases stand.
    pub fn standing(&self) -> Vec<Standing> {
        self.state.releases.values().map(Standing::of).collect()
    }

    /// What was seen of a model's revisions, by all gateways, since the weights last changed where a change is under way.
    pub fn figures(&self, model: &str) -> BTreeMap<String, RevisionHeard> {
        let mut figures = self.merged(Says::Least).remove(model).unwrap_or_default();
        if let Some(release) = self.state.releases.get(model)
            && let Some(candidate) = &release.candidate
            && self.marks.contains_key(model)
        {
            let evidence = self.since(release, self.marks.get(model));
            figures.entry(release.current.clone()).or_default().seen = evidence.current;
            figures.entry(candidate.revision.clone()).or_default().seen = evidence.candidate;
        }
        figures
    }

    /// Replicas that pools need for what is under way: as many for a candidate as the current revision has; of the current one's
    /// pool one stays, also when it gets nothing any more, for there may be a way back. Pools never follow each other in a circle,
    /// which would hold the most that any of them ever had: of changes that would have them do so, one after the other has it.
    /// After a switch the former revision's pool keeps what it had, for as long as the switch says.
    pub fn floors(&self, now: Millis) -> Vec<Floor> {
        if !self.is_at_work() {
            return Vec::new();
        }
        let merged = self.merged(Says::Most);
        let under = |release: &Release| {
            let candidate = release.candidate.as_ref()?;
            let current = merged.get(&release.model).and_then(|of| of.get(&release.current));
            let (pool, at) = (self.pool(release, &candidate.revision)?, self.pool(release, &release.current)?);
            let replicas = current.map_or(1, |current| current.ready.replicas.max(1));
            Some((pool, at, replicas, is_at_once(&candidate.strategy)))
        };
        let floor = |pool, replicas| Floor { pool, replicas, holds: FLOOR_HOLDS };
        let (mut floors, mut follows) = (Vec::new(), Vec::new());
        for (pool, at, replicas, at_once) in self.state.releases.values().filter_map(under) {
            if pool == at {
                // A trial needs a replica beside one that serves. How many there are says nothing: they would stay.
                floors.push(floor(pool, if at_once { 1 } else { 2 }));
                continue;
            }
            let in_circle = is_followed(&pool, &at, &follows);
            if !in_circle {
                follows.push((pool.clone(), at.clone()));
            }
            let replicas = if in_circle { 1 } else { replicas };
            floors.extend([floor(pool, replicas), floor(at, 1)]);
        }
        let stays = |release: &Release| {
            let former = release.former.as_ref().filter(|former| now < former.until)?;
            let (pool, at) = (self.pool(release, &former.revision)?, self.pool(release, &release.current)?);
            // One pool of both follows the load of the one that serves: there only has to be a replica.
            let replicas = if pool == at { 1 } else { former.replicas };
            Some(Floor { pool, replicas, holds: FLOOR_HOLDS.min(former.until - now) })
        };
        floors.extend(self.state.releases.values().filter_map(stays));
        floors
    }

    /// The pool of a revision, where that is configured.
    fn pool(&self, release: &Release, revision: &str) -> Option<String> {
        let spec = self.specs.get(&release.model)?;
        spec.revisions.iter().find(|of| of.name == revision).map(|of| of.pool.clone())
    }

    /// Takes up how a release stands; it has a new generation where gateways are to go by something else.
    fn set(&mut self, mut next: Release) {
        let before = self.state.releases.get(&next.model);
        // All but the count itself.
        let says = |release: &Release| ModelTraffic { generation: 0, ..traffic(release) };
        let same = before.is_some_and(|before| says(before) == says(&next));
        if !same {
            self.state.generation += 1;
            next.generation = self.state.generation;
        }
        self.state.releases.insert(next.model.clone(), next);
    }

    /// What all gateways together tell. Of who can serve a revision, the least or the most that any says.
    fn merged(&self, says: Says) -> Heard {
        let mut merged: BTreeMap<String, BTreeMap<String, Vec<&RevisionHeard>>> = BTreeMap::new();
        for (model, revisions) in self.heard.values().flatten() {
            for (revision, heard) in revisions {
                merged.entry(model.clone()).or_default().entry(revision.clone()).or_default().push(heard);
            }
        }
        let one = |all: Vec<&RevisionHeard>| {
            let mut seen = Seen::default();
            all.iter().for_each(|heard| seen.merge(&heard.seen));
            RevisionHeard { seen, ready: says.of(all.iter().map(|heard| &heard.ready)) }
        };
        let models = merged.into_iter();
        models.map(|(model, of)| (model, of.into_iter().map(|(name, all)| (name, one(all))).collect())).collect()
    }

    /// What a release is judged by. Evidence counts from when its weights last changed.
    fn evidence(&mut self, release: &Release) -> Evidence {
        if !self.marks.get(&release.model).is_some_and(|mark| mark.is_of(release)) {
            if release.candidate.is_none() {
                return Evidence::default();
            }
            self.marks.insert(release.model.clone(), Mark::new(release, &self.heard));
        }
        self.since(release, self.marks.get(&release.model))
    }

    fn since(&self, release: &Release, mark: Option<&Mark>) -> Evidence {
        let mut evidence = Evidence::default();
        let Some(candidate) = &release.candidate else { return evidence };
        let nothing = (Seen::default(), Seen::default());
        let empty = RevisionHeard::default();
        for (gateway, heard) in &self.heard {
            let of = |revision: &str| heard.get(&release.model).and_then(|of| of.get(revision)).unwrap_or(&empty);
            let (current, before) = mark.and_then(|mark| mark.before(gateway)).unwrap_or(&nothing);
            evidence.current.merge(&of(&release.current).seen.since(current));
            evidence.candidate.merge(&of(&candidate.revision).seen.since(before));
        }
        let ready = |says: Says, revision: &str| -> Ready {
            let of = self.heard.values().filter_map(|heard| heard.get(&release.model)?.get(revision));
            says.of(of.map(|heard| &heard.ready))
        };
        // A candidate has to be there for all, and must do for as many as anybody has had.
        evidence.current_ready = ready(Says::Most, &release.current);
        evidence.candidate_ready = ready(Says::Least, &candidate.revision);
        evidence
    }
}

/// Whose word counts where gateways see replicas differently.
#[derive(Clone, Copy)]
enum Says {
    Least,
    Most,
}

impl Says {
    fn of<'r>(self, all: impl Iterator<Item = &'r Ready>) -> Ready {
        let count = |ready: &&Ready| (ready.replicas, ready.slots);
        let found = match self {
            Self::Least => all.min_by_key(count),
            Self::Most => all.max_by_key(count),
        };
        found.cloned().unwrap_or_default()
    }
}

/// Whether a pool is one whose count another follows, by these pairs of a pool and the one that it follows, or by way of others.
fn is_followed(pool: &str, by: &str, pairs: &[(String, String)]) -> bool {
    let mut reached = vec![by];
    let mut at = 0;
    while let Some(of) = reached.get(at).copied() {
        let next = pairs.iter().filter(|(follows, _)| follows == of).map(|(_, followed)| followed.as_str());
        let new: Vec<&str> = next.filter(|name| !reached.contains(name)).collect();
        reached.extend(new);
        at += 1;
    }
    reached.contains(&pool)
}

/// What gateways are to go by for a model.
fn traffic(release: &Release) -> ModelTraffic {
    let mirror = release.candidate.as_ref().filter(|candidate| !candidate.lost).and_then(|candidate| {
        let share = candidate.mirror.map(tutti_api::Share::parts).filter(|share| *share > 0)?;
        Some(MirrorTo { revision: candidate.revision.clone(), share })
    });
    ModelTraffic {
        model: release.model.clone(),
        generation: release.generation,
        revisions: release.weights.clone(),
        mirror,
        salt: release.salt,
        overridden: release.is_overridden(),
    }
}

#[cfg(test)]
mod tests {
    use tutti_api::Config;

    use super::*;
    use crate::command::How;

    fn config(models: &str) -> Config {
        let pool = |name: &str| format!("{{ name: {name}, endpoints: [{{ url: \"http://{name}:1\" }}] }}");
        let yaml = format!("pools: [{}, {}]\nmodels: [{models}]", pool("blue"), pool("green"));
        tutti_api::load(&yaml, "t", []).expect("a configuration")
    }

    const RISK: &str = "{ name: risk, revisions: [{ name: v1, pool: blue, upstream: a }, { name: v2, pool: green, \
                        upstream: b }, { name: v3, pool: blue, upstream: c }], traffic: { revision: v1 } }";

    fn driver() -> Driver {
        let config = config(RISK);
        let mut driver = Driver::new("the driver", State::default());
        driver.configure(&config.models, &config.pools, 0);
        let ready = Ready { replicas: 3, slots: 12, ..Ready::default() };
        let heard = RevisionHeard { ready, ..RevisionHeard::default() };
        driver.hear("a", [("risk".to_owned(), [("v1".to_owned(), heard)].into())].into());
        driver
    }

    fn to(driver: &mut Driver, revision: &str) {
        let blue_green = Some(tutti_api::BlueGreenSpec::default());
        let how = How::By(Box::new(tutti_api::StrategySpec { blue_green, ..tutti_api::StrategySpec::default() }));
        let wish = Command::To { revision: revision.to_owned(), how, mirror: None, force: false };
        driver.command("risk", &wish, "somebody", 1).expect("it may");
    }

    #[test]
    fn a_candidate_has_a_floor_of_as_many_replicas_as_serve_until_the_change_is_over() {
        let mut driver = driver();
        assert_eq!(driver.floors(9), []);
        to(&mut driver, "v2");
        let floor = |pool: &str, replicas| Floor { pool: pool.to_owned(), replicas, holds: FLOOR_HOLDS };
        assert_eq!(driver.floors(9), [floor("green", 3), floor("blue", 1)], "one stays for the way back");
        driver.command("risk", &Command::Freeze, "somebody", 2).expect("it may");
        assert!(driver.floors(9).len() == 2 && driver.is_at_work(), "while it is frozen too");
        driver.command("risk", &Command::Rollback { to: None, force: false }, "somebody", 3).expect("it may");
        assert_eq!(driver.floors(9), []);
        to(&mut driver, "v3");
        assert_eq!(driver.floors(9), [floor("blue", 2)], "on one pool, however many it has");
    }

    #[test]
    fn a_candidate_has_to_be_there_for_all_and_do_for_as_many_as_anybody_had() {
        let mut driver = driver();
        let ready = |replicas| Ready { replicas, slots: replicas, ..Ready::default() };
        let tells = |of: [u32; 2]| -> Heard {
            let of = ["v1", "v2"].into_iter().zip(of);
            let of = of.map(|(name, count)| {
                (name.to_owned(), RevisionHeard { ready: ready(count), ..RevisionHeard::default() })
            });
            [("risk".to_owned(), of.collect())].into()
        };
        driver.hear("a", tells([4, 3]));
        driver.hear("b", tells([0, 4])); // it does not reach the pool of v1
        let to = Command::To { revision: "v2".to_owned(), how: How::Now, mirror: None, force: false };
        driver.command("risk", &to, "somebody", 0).expect("it may");
        let back = Command::Rollback { to: None, force: false };
        driver.command("risk", &back, "somebody", 1).expect("somebody reaches v1");
        let how = How::By(Box::new(tutti_api::StrategySpec {
            blue_green: Some(tutti_api::BlueGreenSpec::default()),
            ..tutti_api::StrategySpec::default()
        }));
        let to = Command::To { revision: "v2".to_owned(), how, mirror: None, force: false };
        driver.command("risk", &to, "somebody", 2).expect("it may");
        driver.tick(3);
        assert_eq!(driver.release("risk").map(|release| &*release.current), Some("v1"), "three are less than four");
        driver.hear("a", tells([4, 4]));
        driver.tick(4);
        assert_eq!(driver.release("risk").map(|release| &*release.current), Some("v2"));
    }

    #[test]
    fn pools_never_hold_each_other_up() {
        let model = |name: &str, from: &str, to: &str| {
            format!(
                "{{ name: {name}, revisions: [{{ name: v1, pool: {from}, upstream: a }}, {{ name: v2, pool: {to}, upstream: b }}] }}"
            )
        };
        let config = config(&[model("a", "blue", "green"), model("b", "green", "blue")].join(", "));
        let mut driver = Driver::new("the driver", State::default());
        driver.configure(&config.models, &config.pools, 0);
        // As it is where each pool has what the other one had at most.
        let ready = |replicas| Ready { replicas, slots: replicas, ..Ready::default() };
        let of = |replicas| -> BTreeMap<String, RevisionHeard> {
            [("v1".to_owned(), RevisionHeard { ready: ready(replicas), ..RevisionHeard::default() })].into()
        };
        driver.hear("g", [("a".to_owned(), of(8)), ("b".to_owned(), of(8))].into());
        for (number, name) in ["a", "b"].into_iter().enumerate() {
            let how = How::By(Box::new(tutti_api::StrategySpec {
                blue_green: Some(tutti_api::BlueGreenSpec::default()),
                ..tutti_api::StrategySpec::default()
            }));
            let wish = Command::To { revision: "v2".to_owned(), how, mirror: None, force: false };
            driver.command(name, &wish, "somebody", number as u64).expect("it may");
        }
        let most = |driver: &Driver, pool: &str| {
            driver.floors(9).into_iter().filter(|floor| floor.pool == pool).map(|floor| floor.replicas).max()
        };
        assert_eq!((most(&driver, "green"), most(&driver, "blue")), (Some(8), Some(1)), "blue may become less");
        // And so may green then.
        driver.hear("g", [("a".to_owned(), of(2)), ("b".to_owned(), of(8))].into());
        assert_eq!((most(&driver, "green"), most(&driver, "blue")), (Some(2), Some(1)));
        driver.command("a", &Command::Rollback { to: None, force: false }, "somebody", 3).expect("it may");
        assert_eq!((most(&driver, "green"), most(&driver, "blue")), (Some(1), Some(8)), "now it is the other's turn");
    }

    #[test]
    fn pools_are_followed_by_way_of_others_too() {
        let pairs =
            [("b", "a"), ("c", "b"), ("d", "d"), ("x", "y")].map(|(one, other)| (one.to_owned(), other.to_owned()));
        for (pool, by, is) in
            [("a", "c", true), ("c", "a", false), ("y", "c", false), ("b", "b", true), ("z", "d", false)]
        {
            assert_eq!(is_followed(pool, by, &pairs), is, "{pool} by {by}");
        }
    }

    #[test]
    fn a_model_that_is_not_configured_any_more_makes_another_word() {
        let mut driver = driver();
        let before = driver.word();
        let config = config("");
        assert!(driver.configure(&config.models, &config.pools, 1));
        assert!(driver.word().models.is_empty() && driver.word().age() > before.age());
        assert!(!driver.configure(&config.models, &config.pools, 2), "once");
    }
}
