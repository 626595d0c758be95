//! The one task that changes what the cores see: it asks the replicas what they have, takes new configurations and what
//! discovery has found, builds tables and publishes them.

mod releasing;
mod taking;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tutti_api::{Config, TrafficWord, canonical};
use tutti_control_plane::Report;

use self::releasing::Unbuilt;
use self::taking::Inbox;
use crate::discovery::{self, Discovery};
use crate::drain::{self, Drained, Refused, Wish};
use crate::inventory::{self, Heard};
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
    Word(TrafficWord, oneshot::Sender<Result<(u64, u64), NotTaken>>),
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

    /// Goes by a driver's word; resolves once every queue does, with term and generation of what they go by. `None`: the
    /// gateway is shutting down.
    pub(crate) async fn word(&self, word: TrafficWord) -> Option<Result<(u64, u64), NotTaken>> {
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
    shared: Arc<Shared>,
    registry: Registry,
    world: World,
    releases: Releases,
    /// The configuration that is being taken up, if one is: what it needs of discovery is kept.
    coming: Option<Arc<Config>>,
    /// Why the last table could not be built, if it could not: what was decided is not in force then.
    unbuilt: Option<Unbuilt>,
}

impl Task {
    /// Of a gateway that goes by this table and these releases.
    pub(crate) fn new(shared: Arc<Shared>, registry: Registry, world: World, releases: Releases) -> Self {
        if let (Some(peers), Releases::Led(led)) = (&shared.peers, &releases) {
            peers.word.store(led.word().cloned().map(Arc::new)); // others that start learn it here
        }
        Self { shared, registry, world, releases, coming: None, unbuilt: None }
    }

    /// Starts the task; it ends with its last handle.
    pub(crate) fn start(self) -> Control {
        let (asks, inbox) = mpsc::channel(1);
        tokio::spawn(self.run(Inbox::of(inbox)));
        Control { asks }
    }

    async fn run(mut self, mut inbox: Inbox) {
        let mut asked = Instant::now();
        let (shared, told) = (self.shared.clone(), self.registry.told.clone());
        // While replicas are asked, which may take them seconds, releases go on.
        let mut asking: Option<Asking> = None;
        loop {
            while let Some((config, reply)) = inbox.next.take() {
                let _ = reply.send(self.take_up(config, &mut inbox).await);
            }
            let due = tokio::time::sleep_until((asked + EVERY).into());
            let release = self.release_due();
            let idle = asking.is_none();
            tokio::select! {
                ask = inbox.asks.recv() => match ask {
                    Some(Ask::Reload(config, reply)) => inbox.next = Some((config, reply)),
                    Some(ask) => self.obey(ask).await,
                    None => return,
                },
                () = release => self.release_tick().await,
                answers = answered(&mut asking), if !idle => self.answered(answers).await,
                () = due, if idle => {
                    asking = Some(self.refresh());
                    asked = Instant::now();
                }
                () = shared.discovery.news(), if idle => asking = self.discovered(&mut inbox).await,
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

    /// Does what somebody wants that waits for nobody else: no replica is asked for it.
    async fn obey(&mut self, ask: Ask) {
        match ask {
            Ask::Drain(url, wish, reply) => _ = reply.send(self.drain(&url, wish).await),
            Ask::Release(wish, reply) => _ = reply.send(self.release(&wish).await),
            Ask::Report(model, reply) => _ = reply.send(self.report(&model)),
            Ask::Word(word, reply) => _ = reply.send(self.word(word).await),
            Ask::Reload(..) => {} // it waits for replicas, and never comes here
        }
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
        let built = self.build(config);
        self.unbuilt = built.as_ref().err().map(|why| Unbuilt::new(why));
        let table = Arc::new(built?);
        let shared = self.shared.clone();
        self.registry.publish(table.live(), || shared.swap(table.clone())).await;
        if let Releases::Led(led) = &mut self.releases {
            led.in_force();
        }
        let known = replicas(&table);
        self.world.keep(&known);
        let urls: HashSet<&str> = table.replicas().map(|replica| &*replica.url).collect();
        self.world.drains.name(|url| urls.contains(url), Instant::now());
        let mut kept = discovery::wanted(&table.config, &self.world.found);
        kept.extend(self.coming.iter().flat_map(|config| discovery::wanted(config, &shared.discovery.found())));
        shared.discovery.keep(&kept);
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

/// The replicas of a table, pool by pool.
fn replicas(table: &Table) -> Vec<u64> {
    table.replicas().map(|replica| replica.id).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tutti_api::{ModelTraffic, RevisionWeight, WHOLE};

    use super::*;

    /// A task that goes by a driver's word, and what it shows.
    fn led(config: Arc<Config>) -> (Task, Arc<Shared>) {
        let (mut registry, world) = (Registry::default(), World::default());
        let table = Table::build(config, &world, 1, &mut registry).expect("a table");
        let shared = Shared::new(Arc::new(table), HeaderValue::from_static("x"), None, None, 1);
        let releases = Releases::Led(releases::Led::default());
        (Task::new(shared.clone(), registry, world, releases), shared)
    }

    /// A model of two revisions on one replica.
    fn model(endpoint: &str) -> Arc<Config> {
        let revisions = "[{ name: v1, pool: p, upstream: a }, { name: v2, pool: p, upstream: b }]";
        let yaml =
            format!("pools: [{{ name: p, endpoints: [{endpoint}] }}]\nmodels: [{{ name: m, revisions: {revisions} }}]");
        Arc::new(tutti_api::load(&yaml, "t", []).expect("a configuration"))
    }

    /// That v2 serves all.
    fn to_v2(generation: u64) -> TrafficWord {
        let revisions = vec![RevisionWeight { revision: "v2".to_owned(), weight: WHOLE }];
        let model =
            ModelTraffic { model: "m".to_owned(), generation, revisions, mirror: None, salt: 0, overridden: true };
        TrafficWord { driver: "d".to_owned(), term: 1, generation, models: vec![model] }
    }

    #[tokio::test]
    async fn a_word_waits_for_no_replica_that_a_new_configuration_asks() {
        let (task, shared) = led(model("{ url: 'http://127.0.0.1:1' }"));
        let control = task.start();
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let with_silent = model(&format!("{{ url: 'http://{}' }}", silent.local_addr().unwrap()));
        let (reloads, config) = (control.clone(), with_silent.clone());
        let reload = tokio::spawn(async move { reloads.reload(config).await });
        let _asked = silent.accept().await.unwrap(); // and hears nothing, for seconds
        assert_eq!(control.word(to_v2(7)).await, Some(Ok((1, 7))));
        assert!(!reload.is_finished() && shared.table().config != with_silent, "it is not taken up yet");
        let overridden =
            |shared: &Shared| shared.table().splits().any(|(model, split)| model == "m" && split.overridden);
        assert!(overridden(&shared));
        reload.await.unwrap().unwrap();
        assert!(shared.table().config == with_silent && overridden(&shared));
    }

    #[tokio::test]
    async fn what_no_table_can_be_built_for_nobody_acknowledges() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "secret").unwrap();
        let (mut task, shared) = led(model(&format!("{{ url: 'http://127.0.0.1:1', apiKeyFile: {key:?} }}")));
        assert_eq!(task.word(to_v2(3)).await, Ok((1, 3)));
        let generation = shared.table().generation;
        // As if no replica had been there for a while, so that nobody knows the key any more.
        task.registry = Registry::default();
        std::fs::remove_file(&key).unwrap();
        for _ in 0..2 {
            let refused = task.word(to_v2(4)).await.unwrap_err();
            assert!(matches!(refused, NotTaken::Unbuilt { in_force: Some((1, 3)), .. }), "{refused}");
            assert!(refused.to_string().ends_with("it goes by term 1, generation 3"), "{refused}");
        }
        assert_eq!(shared.table().generation, generation);
        std::fs::write(&key, "secret").unwrap();
        assert_eq!(task.word(to_v2(4)).await, Ok((1, 4)));
    }

    #[tokio::test]
    async fn who_comes_to_the_address_of_a_drained_replica_that_is_long_gone_gets_work() {
        let config = |urls: &str| {
            let yaml = format!("pools: [{{ name: p, endpoints: [{urls}], expose: all }}]");
            Arc::new(tutti_api::load(&yaml, "t", []).unwrap())
        };
        let (one, both) =
            ("{ url: 'http://127.0.0.1:1' }", "{ url: 'http://127.0.0.1:1' }, { url: 'http://127.0.0.1:2' }");
        let (mut task, shared) = led(config(both));
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
