//! The one task that changes what the cores see: it asks the replicas what they have, takes new configurations and what
//! discovery has found, builds tables and publishes them.

mod releasing;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tutti_api::{Address, Config, TrafficWord, canonical};
use tutti_control_plane::Report;

use crate::discovery::{self, Discovery};
use crate::drain::{self, Drained, Refused, Wish};
use crate::inventory::{self, Heard};
use crate::keys::Opened;
use crate::registry::Registry;
use crate::releases::{self, Disobeyed, NotTaken, Releases, Releasing};
use crate::replica::Replica;
use crate::shared::Shared;
use crate::table::{Available, Table, World};

/// How often the replicas are asked what they have.
const EVERY: Duration = Duration::from_secs(10);
/// How soon they may be asked again because a name was not known.
const AGAIN: Duration = Duration::from_secs(1);

/// What the task is asked for, and where to say what came of it.
enum Ask {
    /// To take up a configuration.
    Reload(Arc<Config>, oneshot::Sender<Result<u32, String>>),
    /// To take the replica at a URL out of service, or back.
    Drain(String, Wish, oneshot::Sender<Result<Drained, Refused>>),
    /// To change a model's release.
    Release(releases::Wish, oneshot::Sender<Result<Report, Disobeyed>>),
    /// To tell of it.
    Report(String, oneshot::Sender<Result<Report, Disobeyed>>),
    /// To go by a driver's word.
    Word(TrafficWord, oneshot::Sender<Result<(), NotTaken>>),
}

/// The handle of the control task.
#[derive(Clone, Debug)]
pub struct Control {
    asks: mpsc::Sender<Ask>,
}

/// What a handle says once its task is gone.
const GONE: &str = "the gateway is shutting down";

impl Control {
    /// Takes up a configuration; resolves with its generation once every queue goes by it.
    ///
    /// # Errors
    /// Why it cannot be; then all stays as it was.
    pub async fn reload(&self, config: Arc<Config>) -> Result<u32, String> {
        let (reply, outcome) = oneshot::channel();
        let gone = || GONE.to_owned();
        self.asks.send(Ask::Reload(config, reply)).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Takes the replica at a URL out of service, or back; resolves once every queue goes by it.
    pub(crate) async fn drain(&self, url: String, wish: Wish) -> Result<Drained, Refused> {
        let (reply, outcome) = oneshot::channel();
        let gone = || Refused::Failed(GONE.to_owned());
        self.asks.send(Ask::Drain(url, wish, reply)).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

impl Releasing for Control {
    async fn release(&self, wish: releases::Wish) -> Result<Report, Disobeyed> {
        self.told(|reply| Ask::Release(wish, reply)).await
    }

    async fn report(&self, model: String) -> Result<Report, Disobeyed> {
        self.told(|reply| Ask::Report(model, reply)).await
    }
}

impl Control {
    async fn told(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<Report, Disobeyed>>) -> Ask,
    ) -> Result<Report, Disobeyed> {
        let (reply, outcome) = oneshot::channel();
        let gone = || Disobeyed::Failed(GONE.to_owned());
        self.asks.send(ask(reply)).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Goes by a driver's word; resolves once every queue does. `None`: the gateway is shutting down.
    pub(crate) async fn word(&self, word: TrafficWord) -> Option<Result<(), NotTaken>> {
        let (reply, outcome) = oneshot::channel();
        self.asks.send(Ask::Word(word, reply)).await.ok()?;
        outcome.await.ok()
    }
}

/// Replicas that are being asked what they have.
struct Asking {
    answers: JoinHandle<Vec<(Arc<Replica>, Heard)>>,
    /// Some of them are new: there is a table to build whatever they say.
    some_are_new: bool,
}

/// The control task's state.
pub(crate) struct Task {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry,
    pub(crate) world: World,
    pub(crate) releases: Releases,
}

impl Task {
    /// Starts the task; it ends with its last handle.
    pub(crate) fn start(self) -> Control {
        let (asks, inbox) = mpsc::channel(1);
        tokio::spawn(self.run(inbox));
        Control { asks }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        let mut asked = Instant::now();
        let (shared, told) = (self.shared.clone(), self.registry.told.clone());
        // While replicas are asked, which may take them seconds, releases go on.
        let mut asking: Option<Asking> = None;
        loop {
            let due = tokio::time::sleep_until((asked + EVERY).into());
            let release = self.release_due();
            let idle = asking.is_none();
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(Ask::Reload(config, reply)) => {
                        let _ = reply.send(self.take(config).await);
                    }
                    Some(Ask::Drain(url, wish, reply)) => {
                        let _ = reply.send(self.drain(&url, wish).await);
                    }
                    Some(Ask::Release(wish, reply)) => {
                        let _ = reply.send(self.release(&wish).await);
                    }
                    Some(Ask::Report(model, reply)) => {
                        let _ = reply.send(self.report(&model));
                    }
                    Some(Ask::Word(word, reply)) => {
                        let _ = reply.send(self.word(word).await);
                    }
                    None => return,
                },
                () = release => self.release_tick().await,
                answers = answered(&mut asking), if !idle => self.answered(answers).await,
                () = due, if idle => {
                    asking = Some(self.refresh());
                    asked = Instant::now();
                }
                () = shared.discovery.news(), if idle => asking = self.discovered().await,
                () = told.notified(), if idle => asking = self.told(),
                () = shared.refresh.notified(), if idle => {
                    if asked.elapsed() >= AGAIN {
                        asking = Some(self.refresh());
                        asked = Instant::now();
                    } else {
                        self.shared.refreshed.send_modify(|count| *count += 1); // what is known is new enough
                    }
                }
            }
        }
    }

    /// Takes up a configuration. New replicas are asked what they have before anybody is sent to them.
    ///
    /// # Errors
    /// Why it cannot be; then all stays as it was.
    pub(crate) async fn take(&mut self, config: Arc<Config>) -> Result<u32, String> {
        let before = self.shared.table().config.clone();
        let ourselves = std::mem::take(&mut self.world.ourselves); // all are asked again
        self.discover(&config).await;
        let taken = self.take_found(config).await;
        if taken.is_err() {
            self.world.ourselves = ourselves;
            self.discover(&before).await;
            self.shared.discovery.keep(&discovery::wanted(&before, &self.world.found));
        }
        taken
    }

    async fn take_found(&mut self, config: Arc<Config>) -> Result<u32, String> {
        self.keeps_its_keys(&config)?;
        let keys = self.shared.keys.open(config.gateway.auth.as_ref()).await;
        let keys = keys.map_err(|error| format!("gateway.auth.keysFile: {error}"))?;
        let table = self.build(config.clone())?;
        let answers = inventory::ask_all(&table, &self.shared, |_| true).await;
        let ourselves: Vec<u64> = answers.iter().filter(|(_, heard)| heard.ourselves).map(|(of, _)| of.id).collect();
        for pool in &table.pools {
            for (replica, origin) in pool.replicas.iter().zip(&pool.origins) {
                if origin.written && ourselves.contains(&replica.id) {
                    let url = &replica.url;
                    return Err(format!("the endpoint {url} is this gateway itself: name the address of a replica"));
                }
            }
        }
        self.heard(answers);
        // Nobody asks by the new table without a key that is wanted now, or by the old one without one that was wanted.
        if matches!(keys, Opened::Anybody) {
            let generation = self.publish(config).await?;
            self.shared.keys.install(keys);
            return Ok(generation);
        }
        self.shared.keys.install(keys);
        self.publish(config).await
    }

    /// Refuses that a port which strangers may reach is opened to them by a configuration which does not say so: it may
    /// name another address, and that is taken at the next start.
    fn keeps_its_keys(&self, config: &Config) -> Result<(), String> {
        let listen = &self.shared.started.gateway.listen;
        let local = listen.parse::<Address>().is_ok_and(|address| address.is_loopback());
        if local || config.gateway.auth.is_some() || self.shared.keys.set().is_none() {
            return Ok(());
        }
        Err(format!(
            "it names no keys, and this gateway listens off loopback, at {listen}: write `auth: none` if whoever \
             reaches the port may ask"
        ))
    }

    async fn drain(&mut self, given: &str, wish: Wish) -> Result<Drained, Refused> {
        let table = self.shared.table().clone();
        let drains = &mut self.world.drains;
        let url = drain::meant(&table, drains, given)?;
        let news = match wish {
            Wish::Undrain => drains.remove(&url),
            Wish::Drain { force } => {
                if !force && !drains.contains(&url) {
                    drain::not_the_last(&table, &url)?;
                }
                drains.insert(&url)
            }
        };
        if news {
            self.publish(table.config.clone()).await.map_err(Refused::Failed)?;
            tracing::info!(
                replica = url,
                "{}",
                if wish == Wish::Undrain { "replica serves again" } else { "replica gets nothing new" }
            );
        }
        Ok(drain::drained(&self.shared.table(), url))
    }

    /// Asks every replica.
    fn refresh(&mut self) -> Asking {
        self.forget_drains();
        let (table, shared) = (self.shared.table().clone(), self.shared.clone());
        let asked = async move { inventory::ask_all(&table, &shared, |_| true).await };
        Asking { answers: tokio::spawn(asked), some_are_new: false }
    }

    /// Takes up what replicas have answered; a table is built only where that is news.
    async fn answered(&mut self, (answers, some_are_new): (Vec<(Arc<Replica>, Heard)>, bool)) {
        if self.heard(answers) || some_are_new {
            self.publish_again().await;
        }
        self.shared.refreshed.send_modify(|count| *count += 1);
    }

    /// Takes up what discovery has found. New replicas are asked what they have before anybody is sent to them.
    async fn discovered(&mut self) -> Option<Asking> {
        let table = self.shared.table().clone();
        self.discover(&table.config).await;
        self.world.forget_ourselves(&table.config);
        let next = match self.build(table.config.clone()) {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(error, "what was found cannot be used");
                return None;
            }
        };
        if replicas(&next) == replicas(&table) {
            return None;
        }
        let known: HashSet<u64> = self.world.catalog.keys().copied().collect();
        let shared = self.shared.clone();
        let asked = async move { inventory::ask_all(&next, &shared, |replica| !known.contains(&replica.id)).await };
        Some(Asking { answers: tokio::spawn(asked), some_are_new: true })
    }

    /// Takes up what the loaders have told. Replicas are asked for what their loaders say they have by now.
    fn told(&mut self) -> Option<Asking> {
        let table = self.shared.table().clone();
        let catalog = &self.world.catalog;
        let lacks = |id: u64, name: &str| {
            let has = |available: &Available| canonical(&available.name) == name;
            !catalog.get(&id).is_some_and(|all| all.iter().any(has))
        };
        let pairs = table.pools.iter().flat_map(|pool| pool.with_loaders());
        let news = pairs.filter_map(|(replica, loader)| {
            let (names, trial) = (loader?.names(), loader?.trial());
            let tried = trial.iter().flat_map(|trial| trial.names()).any(|name| lacks(replica.id, &canonical(name)));
            (tried || names.iter().any(|name| lacks(replica.id, name.as_str()))).then_some(replica.id)
        });
        let news: HashSet<u64> = news.collect();
        let (asked_of, shared) = (table.clone(), self.shared.clone());
        let asked = async move { inventory::ask_all(&asked_of, &shared, |replica| news.contains(&replica.id)).await };
        Some(Asking { answers: tokio::spawn(asked), some_are_new: true })
    }

    /// Has the sources of a configuration say where replicas are.
    async fn discover(&mut self, config: &Config) {
        let discovery = &self.shared.discovery;
        discovery.ask_at(name_servers(config));
        let mut wanted = discovery::wanted(config, &discovery.found());
        loop {
            discovery.watch(&wanted).await;
            self.world.found = discovery.found();
            let now = discovery::wanted(config, &self.world.found);
            if now.is_subset(&wanted) {
                break;
            }
            wanted = now; // with the names that are in files
        }
    }

    /// Takes note of what replicas said; whether it was news.
    fn heard(&mut self, answers: Vec<(Arc<Replica>, Heard)>) -> bool {
        let mut news = false;
        for (replica, heard) in answers {
            if heard.ourselves {
                news |= self.world.ourselves.insert(replica.url.clone());
                tracing::warn!(replica = &*replica.url, "this is the gateway itself, and no replica of it");
            } else {
                news |= self.world.learn(replica.id, heard.models, heard.apis);
            }
        }
        news
    }

    /// Forgets the drained replicas that nobody has named for long: who comes to their addresses is another.
    fn forget_drains(&mut self) {
        for url in self.world.drains.forget(Instant::now()) {
            tracing::info!(replica = &*url, "a drained replica is gone: whoever comes to its address gets work");
        }
    }

    fn build(&mut self, config: Arc<Config>) -> Result<Table, String> {
        self.forget_drains();
        let generation = self.shared.table().generation + 1;
        let table = Table::build(config, &self.world, generation, &mut self.registry)?;
        locate(&table, &self.shared.discovery);
        Ok(table)
    }

    async fn publish_again(&mut self) {
        let config = self.shared.table().config.clone();
        if let Err(error) = self.publish(config).await {
            tracing::error!(error, "the table could not be built again");
        }
    }

    async fn publish(&mut self, config: Arc<Config>) -> Result<u32, String> {
        if let Releases::Lone(lone) = &mut self.releases
            && lone.configure(&config)
        {
            lone.keep().await;
        }
        self.tell();
        self.world.traffic = self.releases.traffic();
        let table = Arc::new(self.build(config)?);
        let shared = self.shared.clone();
        self.registry.publish(table.live(), || shared.swap(table.clone())).await;
        let known = replicas(&table);
        self.world.keep(&known);
        let urls: HashSet<&str> = table.replicas().map(|replica| &*replica.url).collect();
        self.world.drains.name(|url| urls.contains(url), Instant::now());
        shared.discovery.keep(&discovery::wanted(&table.config, &self.world.found));
        Ok(table.generation)
    }
}

/// What was answered, once all were, and whether some were new.
async fn answered(asking: &mut Option<Asking>) -> (Vec<(Arc<Replica>, Heard)>, bool) {
    let Some(under_way) = asking else { return std::future::pending().await };
    let answers = (&mut under_way.answers).await.unwrap_or_default(); // who panics has heard nothing
    let some_are_new = under_way.some_are_new;
    *asking = None;
    (answers, some_are_new)
}

/// Tells the replicas of a table that have names where these lead now.
fn locate(table: &Table, discovery: &Discovery) {
    for replica in table.replicas() {
        if let Some(name) = &replica.name {
            replica.locate(discovery.lead(name));
        }
    }
    for loader in table.pools.iter().flat_map(|pool| pool.loaders.iter().flatten()) {
        if let Some(name) = loader.name() {
            loader.locate(discovery.lead(name));
        }
    }
}

/// The name servers that a configuration writes.
fn name_servers(config: &Config) -> Vec<SocketAddr> {
    config.gateway.nameservers.iter().filter_map(|server| tutti_api::name_server(server).ok()).collect()
}

/// The replicas of a table, pool by pool.
fn replicas(table: &Table) -> Vec<u64> {
    table.replicas().map(|replica| replica.id).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[tokio::test]
    async fn who_comes_to_the_address_of_a_drained_replica_that_is_long_gone_gets_work() {
        let config = |urls: &str| {
            let yaml = format!("pools: [{{ name: p, endpoints: [{urls}], expose: all }}]");
            Arc::new(tutti_api::load(&yaml, "t", []).unwrap())
        };
        let (one, both) =
            ("{ url: 'http://127.0.0.1:1' }", "{ url: 'http://127.0.0.1:1' }, { url: 'http://127.0.0.1:2' }");
        let (mut registry, world) = (Registry::default(), World::default());
        let table = Table::build(config(both), &world, 1, &mut registry).unwrap();
        let shared = Shared::new(Arc::new(table), HeaderValue::from_static("x"), None, None, 1);
        let releases = Releases::Led(releases::Led::default());
        let mut task = Task { shared: shared.clone(), registry, world, releases };
        let drained = || shared.table().pools[0].drained.len();
        let url = "http://127.0.0.1:2";
        task.drain(url, Wish::Drain { force: true }).await.unwrap();
        assert_eq!(drained(), 1);
        task.take(config(one)).await.unwrap();
        task.take(config(both)).await.unwrap();
        assert_eq!(drained(), 1, "it was away for a moment");
        task.take(config(one)).await.unwrap();
        let begun = Instant::now().checked_sub(drain::REMEMBERED).unwrap();
        task.world.drains = drain::Drains::default();
        task.world.drains.insert(url);
        task.world.drains.name(|_| false, begun);
        task.take(config(both)).await.unwrap();
        assert_eq!(drained(), 0);
    }
}
