//! The one task that changes what the cores see: it asks the replicas what they have, takes new configurations, builds
//! tables and publishes them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tutti_api::Config;

use crate::answers;
use crate::drain::{self, Drained, Refused, Wish};
use crate::fetch;
use crate::health;
use crate::inventory;
use crate::registry::Registry;
use crate::replica::Replica;
use crate::shared::Shared;
use crate::table::{Catalog, Pool, Table, World};

/// How often the replicas are asked what they have.
const EVERY: Duration = Duration::from_secs(10);
/// How soon they may be asked again because a name was not known.
const AGAIN: Duration = Duration::from_secs(1);
/// How long one may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// What the task is asked for, and where to say what came of it.
enum Ask {
    /// To take up a configuration.
    Reload(Arc<Config>, oneshot::Sender<Result<u32, String>>),
    /// To take the replica at a URL out of service, or back.
    Drain(String, Wish, oneshot::Sender<Result<Drained, Refused>>),
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

/// The control task's state.
pub(crate) struct Task {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry,
    pub(crate) world: World,
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
        loop {
            let due = tokio::time::sleep_until((asked + EVERY).into());
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(Ask::Reload(config, reply)) => {
                        let _ = reply.send(self.take(config).await);
                    }
                    Some(Ask::Drain(url, wish, reply)) => {
                        let _ = reply.send(self.drain(&url, wish).await);
                    }
                    None => return,
                },
                () = due => {
                    self.refresh().await;
                    asked = Instant::now();
                }
                () = self.shared.refresh.notified() => {
                    if asked.elapsed() >= AGAIN {
                        self.refresh().await;
                        asked = Instant::now();
                    } else {
                        self.shared.refreshed.send_modify(|count| *count += 1); // what is known is new enough
                    }
                }
            }
        }
    }

    async fn take(&mut self, config: Arc<Config>) -> Result<u32, String> {
        let known = self.shared.table();
        let table = Table::build(config.clone(), &self.world, known.generation + 1, &mut self.registry)?;
        drop(known);
        // New replicas are asked before anybody is sent to them.
        not_ourselves(&table, &self.shared).await?;
        let new = ask(&table).await;
        self.world.catalog.extend(new);
        self.publish(config).await
    }

    async fn drain(&mut self, given: &str, wish: Wish) -> Result<Drained, Refused> {
        let table = self.shared.table().clone();
        let url = drain::meant(&table, given)?;
        let news = match wish {
            Wish::Undrain => self.world.drained.remove(&*url),
            Wish::Drain { force } => {
                if !force && !self.world.drained.contains(&*url) {
                    drain::not_the_last(&table, &url)?;
                }
                self.world.drained.insert(url.as_str().into())
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

    /// Asks every replica; a table is built only where an answer is news.
    pub(crate) async fn refresh(&mut self) {
        let table = self.shared.table().clone();
        let heard = ask(&table).await;
        let news = heard.iter().any(|(id, available)| self.world.catalog.get(id) != Some(available));
        self.world.catalog.extend(heard);
        if news && let Err(error) = self.publish(table.config.clone()).await {
            tracing::error!(error, "the table could not be built again");
        }
        self.shared.refreshed.send_modify(|count| *count += 1);
    }

    async fn publish(&mut self, config: Arc<Config>) -> Result<u32, String> {
        let generation = self.shared.table().generation + 1;
        let table = Arc::new(Table::build(config, &self.world, generation, &mut self.registry)?);
        let shared = self.shared.clone();
        self.registry.publish(table.live(), || shared.swap(table.clone())).await;
        let known: Vec<u64> = table.pools.iter().flat_map(|pool| &pool.replicas).map(|replica| replica.id).collect();
        self.world.catalog.retain(|id, _| known.contains(id));
        Ok(generation)
    }
}

/// Asks all replicas of a table at once what they have. Who does not answer keeps what was known of it, and goes behind
/// the others.
async fn ask(table: &Table) -> Catalog {
    let mut asking = JoinSet::new();
    for (pool, replica) in each(table) {
        asking.spawn(async move {
            let heard = inventory::ask(&replica).await;
            if !heard.reached {
                health::unreachable(&pool.owner, &replica);
            }
            (replica.id, heard.models)
        });
    }
    let mut catalog = HashMap::new();
    while let Some(answered) = asking.join_next().await {
        if let Ok((id, Some(available))) = answered {
            catalog.insert(id, available);
        }
    }
    catalog
}

fn each(table: &Table) -> impl Iterator<Item = (Arc<Pool>, Arc<Replica>)> {
    table.pools.iter().flat_map(|pool| pool.replicas.iter().map(|replica| (pool.clone(), replica.clone())))
}

/// Refuses an endpoint at which the gateway of this instance itself answers: it would send every request round in
/// circles.
///
/// # Errors
/// Which one, and what to do.
pub(crate) async fn not_ourselves(table: &Table, shared: &Arc<Shared>) -> Result<(), String> {
    let mut asking = JoinSet::new();
    for (_, replica) in each(table) {
        let shared = shared.clone();
        asking.spawn(async move {
            let fetched = fetch::get(&replica, inventory::sign_of_life(replica.engine), WITHIN).await.ok()?;
            (fetched.headers.get(answers::INSTANCE) == Some(&shared.instance)).then(|| replica.url.to_string())
        });
    }
    while let Some(asked) = asking.join_next().await {
        if let Ok(Some(url)) = asked {
            return Err(format!("the endpoint {url} is this gateway itself: name the address of a replica"));
        }
    }
    Ok(())
}
