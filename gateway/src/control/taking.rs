//! What takes its time: a configuration is taken up, and what discovery found. Replicas and name servers are asked for that,
//! and who hangs takes seconds; meanwhile the task goes on with what changes releases and drains, which waits for nobody.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tutti_api::{Address, Config};

use super::{Ask, Asking, Task, replicas};
use crate::discovery::{self, Found};
use crate::inventory;
use crate::keys::Opened;
use crate::shared::Shared;

/// A configuration that is to be taken up, and where to say what came of it.
type Reload = (Arc<Config>, oneshot::Sender<Result<u32, String>>);

/// Those who want something, in the order in which they came.
pub(super) struct Inbox {
    pub(super) asks: mpsc::Receiver<Ask>,
    /// Who came with a configuration while another was being taken up, and is next. Of several the last.
    pub(super) next: Option<Reload>,
}

impl Inbox {
    pub(super) fn of(asks: mpsc::Receiver<Ask>) -> Self {
        Self { asks, next: None }
    }

    /// Of a task that nobody can ask yet.
    pub(super) fn nobody() -> Self {
        Self::of(mpsc::channel(1).1)
    }
}

impl Task {
    /// Takes up a configuration before anybody can ask for anything. New replicas are asked what they have before anybody is
    /// sent to them.
    ///
    /// # Errors
    /// Why it cannot be; then all stays as it was.
    pub(crate) async fn take(&mut self, config: Arc<Config>) -> Result<u32, String> {
        self.take_up(config, &mut Inbox::nobody()).await
    }

    /// The same while others ask.
    pub(super) async fn take_up(&mut self, config: Arc<Config>, inbox: &mut Inbox) -> Result<u32, String> {
        let before = self.shared.table().config.clone();
        self.coming = Some(config.clone());
        self.discover(&config, inbox).await;
        let taken = self.take_found(config, inbox).await;
        self.coming = None;
        // What is wanted at once is, where a replica that was new here has it.
        if taken.is_ok() && !inbox.asks.is_closed() {
            self.release_tick().await;
        }
        if taken.is_err() {
            self.discover(&before, inbox).await;
            self.shared.discovery.keep(&discovery::wanted(&before, &self.world.found));
        }
        taken
    }

    async fn take_found(&mut self, config: Arc<Config>, inbox: &mut Inbox) -> Result<u32, String> {
        self.keeps_its_keys(&config)?;
        let (keyring, of) = (self.shared.keys.clone(), config.clone());
        let opened = tokio::spawn(async move { keyring.open(of.gateway.auth.as_ref()).await });
        let keys = match self.meanwhile(inbox, opened).await {
            Some(opened) => opened.map_err(|error| format!("gateway.auth.keysFile: {error}"))?,
            None => return Err("gateway.auth.keysFile: it could not be read".to_owned()),
        };
        // Where this gateway itself was found, it is asked again; until that is known nobody is sent there.
        let ourselves = std::mem::take(&mut self.world.ourselves);
        let table = self.build(config.clone()).map(Arc::new);
        self.world.ourselves = ourselves;
        let (table, shared) = (table?, self.shared.clone());
        let asked_of = table.clone();
        let asked = tokio::spawn(async move { inventory::ask_all(&asked_of, &shared, |_| true).await });
        let answers = self.meanwhile(inbox, asked).await.unwrap_or_default(); // who panics has heard nothing
        let ourselves: Vec<u64> = answers.iter().filter(|(_, heard)| heard.ourselves).map(|(of, _)| of.id).collect();
        for pool in &table.pools {
            for (replica, origin) in pool.replicas.iter().zip(&pool.origins) {
                if origin.written && ourselves.contains(&replica.id) {
                    let url = &replica.url;
                    return Err(format!("the endpoint {url} is this gateway itself: name the address of a replica"));
                }
            }
        }
        let before = std::mem::take(&mut self.world.ourselves);
        self.heard(answers);
        // Nobody asks by the new table without a key that is wanted now, or by the old one without one that was wanted.
        let is_open = matches!(keys, Opened::Anybody);
        if !is_open {
            self.shared.keys.install(keys);
            return self.publish(config).await.inspect_err(|_| self.world.ourselves.extend(before));
        }
        let generation = self.publish(config).await.inspect_err(|_| self.world.ourselves.extend(before))?;
        self.shared.keys.install(keys);
        Ok(generation)
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

    /// Takes up what discovery has found. New replicas are asked what they have before anybody is sent to them.
    pub(super) async fn discovered(&mut self, inbox: &mut Inbox) -> Option<Asking> {
        let config = self.shared.table().config.clone();
        self.discover(&config, inbox).await;
        self.world.forget_ourselves(&config);
        let next = match self.build(config) {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(error, "what was found cannot be used");
                return None;
            }
        };
        if replicas(&next) == replicas(&self.shared.table()) {
            return None;
        }
        let known: HashSet<u64> = self.world.catalog.keys().copied().collect();
        let shared = self.shared.clone();
        let asked = async move { inventory::ask_all(&next, &shared, |replica| !known.contains(&replica.id)).await };
        Some(Asking { answers: tokio::spawn(asked), some_are_new: true })
    }

    /// Has the sources of a configuration say where replicas are.
    async fn discover(&mut self, config: &Arc<Config>, inbox: &mut Inbox) {
        let found = tokio::spawn(found(self.shared.clone(), config.clone()));
        let found = self.meanwhile(inbox, found).await;
        self.world.found = found.unwrap_or_else(|| self.shared.discovery.found());
    }

    /// Waits for something, and meanwhile does what waits for nobody; a further configuration has its turn later. `None`: it
    /// has come to nothing.
    async fn meanwhile<T>(&mut self, inbox: &mut Inbox, mut work: JoinHandle<T>) -> Option<T> {
        loop {
            let release = self.release_due();
            tokio::select! {
                done = &mut work => return done.ok(),
                Some(ask) = inbox.asks.recv() => match ask {
                    Ask::Reload(config, reply) => {
                        if let Some((_, reply)) = inbox.next.replace((config, reply)) {
                            let _ = reply.send(Err("another configuration has come since".to_owned()));
                        }
                    }
                    ask => self.obey(ask).await,
                },
                // Before anybody can ask, no replica has said what it has: there is nothing to go by.
                () = release, if !inbox.asks.is_closed() => self.release_tick().await,
            }
        }
    }
}

/// Asks the sources of a configuration, and of what they name, for their first word; none is waited for long.
async fn found(shared: Arc<Shared>, config: Arc<Config>) -> Found {
    let discovery = &shared.discovery;
    discovery.ask_at(name_servers(&config));
    let mut wanted = discovery::wanted(&config, &discovery.found());
    loop {
        discovery.watch(&wanted).await;
        let found = discovery.found();
        let now = discovery::wanted(&config, &found);
        if now.is_subset(&wanted) {
            return found;
        }
        wanted = now; // with the names that are in files
    }
}

/// The name servers that a configuration writes.
fn name_servers(config: &Config) -> Vec<SocketAddr> {
    config.gateway.nameservers.iter().filter_map(|server| tutti_api::name_server(server).ok()).collect()
}
