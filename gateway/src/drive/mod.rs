//! The driver of releases where several gateways are: one process that tells all of them what they go by, on their port for
//! peers. Decisions are [`tutti_control_plane`]'s; here are its clock, its file and its connections.

mod gateways;
mod page;

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tutti_api::{Config, PeerSpec};
use tutti_control_plane::{Fleet, Report, Standing};

use self::gateways::{News, Poll};
use crate::peer::{self, Asks};
use crate::releases::{Disobeyed, Keeper, Store, Wish};
use crate::tls::{Between, Mutual};

/// How often changes under way are looked at.
const TICK: Duration = Duration::from_millis(100);
/// What a gateway told is forgotten this long after it last did.
const FORGET: Duration = Duration::from_secs(10);
/// Commands that wait to be taken.
const COMMANDS: usize = 16;
/// Commands that wait for gateways to go by them. Further ones wait to be taken.
const WAITING: usize = 64;

/// What a driver is started with.
#[derive(Clone, Debug)]
pub struct DriveOptions {
    /// The configuration: its models, and where the gateways are (`gateway.peer`).
    pub config: Arc<Config>,
    /// The folder in which it keeps its releases.
    pub state: PathBuf,
    /// Where commands reach it: an address of this machine.
    pub admin: SocketAddr,
    /// Where the admin token is, and is made if it is not.
    pub token_file: PathBuf,
    /// Where it tells how the releases stand.
    pub metrics: ReleaseMetrics,
}

/// How the releases of a driver stand, for Prometheus.
#[derive(Clone, Debug, Default)]
pub struct ReleaseMetrics(Arc<ArcSwap<Vec<Standing>>>);

impl ReleaseMetrics {
    /// The page, or what is to be added to one; empty where nothing is driven.
    pub fn page(&self) -> String {
        let releases = self.0.load();
        if releases.is_empty() { String::new() } else { crate::metrics::releases_page(&releases) }
    }
}

/// A driver that drives.
#[derive(Debug)]
pub struct Drive {
    /// Where commands reach it.
    pub admin: SocketAddr,
    asks: mpsc::Sender<Ask>,
    ended: oneshot::Receiver<String>,
}

/// What changes a driver's configuration.
#[derive(Clone, Debug)]
pub struct DriveHandle(mpsc::Sender<Ask>);

impl DriveHandle {
    /// Takes up a changed configuration.
    pub async fn configure(&self, config: Arc<Config>) {
        let _ = self.0.send(Ask::Configure(config)).await; // one that has ended goes by none
    }
}

/// Where an answer goes.
type Reply = oneshot::Sender<Result<Report, Disobeyed>>;

/// What the task is asked for.
#[derive(Debug)]
pub(crate) enum Ask {
    Release(Wish, Reply),
    Report(String, Reply),
    Configure(Arc<Config>),
}

impl Drive {
    /// Starts to drive, on the current runtime (current-thread), which must go on running.
    ///
    /// # Errors
    /// What stands in the way: another driver that is alive, by name, for one.
    pub async fn start(options: DriveOptions) -> Result<Self, String> {
        let config = options.config;
        let Some(spec) = config.gateway.peer.clone() else {
            return Err("the configuration has no gateway.peer: a lone gateway drives its releases itself".to_owned());
        };
        let mutual = Mutual::start(&spec.tls, Between::Gateways)?;
        let token = crate::serve::token(&options.token_file).map_err(|error| error.to_string())?;
        let listener =
            std::net::TcpListener::bind(options.admin).map_err(|error| format!("{}: {error}", options.admin))?;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        let admin = listener.local_addr().map_err(|error| error.to_string())?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = format!("the driver at {admin} (process {} on {})", std::process::id(), host.trim());
        let mut keeper = Keeper::new(&name, Some(Store::at(options.state.join("releases.json"))));
        keeper.claim();
        if let Some(another) = keeper.another() {
            return Err(another.to_owned());
        }
        let addresses = gateways::addresses(&spec).await;
        keeper.begin(gateways::term_after_others(&mutual, &addresses.addresses).await?);
        keeper.configure(&config);
        keeper.keep().await;
        let (asks, inbox) = mpsc::channel(COMMANDS);
        let (end, ended) = oneshot::channel();
        let (news, heard) = mpsc::channel(gateways::MAX);
        let task = Task {
            keeper,
            name,
            mutual,
            spec,
            fleet: Fleet::default(),
            polls: Poll::at(addresses),
            waiting: Vec::new(),
            news,
            metrics: options.metrics.clone(),
        };
        page::start(listener, token, asks.clone(), options.metrics);
        tokio::spawn(async move {
            let why = task.run(inbox, heard).await;
            let _ = end.send(why);
        });
        Ok(Self { admin, asks, ended })
    }

    /// What changes its configuration.
    pub fn handle(&self) -> DriveHandle {
        DriveHandle(self.asks.clone())
    }

    /// Resolves when it drives no more, with the reason: another driver took over.
    pub async fn ended(self) -> String {
        self.ended.await.unwrap_or_else(|_| "its runtime has ended".to_owned())
    }
}

/// Somebody who wants to know that all gateways go by what he has said.
struct Waiting {
    model: String,
    /// Term and generation of it.
    age: (u64, u64),
    /// When he is answered, whatever there is.
    until: Instant,
    reply: Reply,
}

struct Task {
    keeper: Keeper,
    name: String,
    mutual: Arc<Mutual>,
    spec: PeerSpec,
    fleet: Fleet,
    polls: Poll,
    /// No more than [`WAITING`].
    waiting: Vec<Waiting>,
    news: mpsc::Sender<News>,
    metrics: ReleaseMetrics,
}

impl Task {
    /// Drives until somebody else does; yields who.
    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>, mut heard: mpsc::Receiver<News>) -> String {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_room = self.waiting.len() < WAITING;
            tokio::select! {
                ask = inbox.recv(), if has_room => match ask {
                    Some(Ask::Release(wish, reply)) => self.release(&wish, reply).await,
                    Some(Ask::Report(model, reply)) => {
                        let _ = reply.send(self.report(&model));
                    }
                    Some(Ask::Configure(config)) => {
                        if let Some(spec) = config.gateway.peer.clone().filter(|spec| *spec != self.spec) {
                            self.spec = spec;
                            self.polls.look_again();
                        }
                        if self.keeper.configure(&config) {
                            self.keeper.keep().await;
                        }
                    }
                    None => return "nobody wants it any more".to_owned(),
                },
                Some(news) = heard.recv() => self.hear(news),
                _ = ticks.tick() => self.tick().await,
            }
            if let Some(other) = self.polls.superseded.take() {
                return other;
            }
            self.answer();
            self.metrics.0.store(Arc::new(self.keeper.driver.standing()));
        }
    }

    /// What a gateway has told, or done, or not.
    fn hear(&mut self, news: News) {
        match news {
            News::Found(found) => self.polls.found(found),
            News::Told(address, Ok(told)) => {
                if self.fleet.is(&address, &told.gateway) {
                    self.keeper.driver.forget(&address); // what the one before has seen is no part of what this one has
                }
                self.polls.heard(&address);
                self.keeper.driver.hear(&address, told.heard);
            }
            News::Told(address, Err(why)) => self.fleet.fails(&address, &why),
            News::Obeyed(address, age, outcome) => {
                self.polls.told(&address, age);
                let Err(why) = outcome else { return self.fleet.acknowledges(&address, age) };
                if let peer::Untold::Superseded(_) = &why {
                    self.polls.superseded = Some(why.to_string());
                }
                self.polls.failed(&address);
                self.fleet.fails(&address, &why.to_string());
            }
        }
    }

    async fn tick(&mut self) {
        let addresses = self.polls.addresses(&self.spec, &self.news);
        self.fleet.at(&addresses);
        let (keeper, name) = (&self.keeper, &self.name);
        // Much is merged for them: once, and only where anybody is asked now.
        let floors = OnceCell::new();
        let asks = || Asks { driver: name.clone(), floors: floors.get_or_init(|| keeper.floors()).clone() };
        self.polls.ask(&addresses, &self.mutual, asks, &self.news);
        for gone in self.polls.gone(FORGET) {
            self.keeper.driver.forget(&gone);
        }
        if self.keeper.tick() {
            self.keeper.keep().await;
        }
        self.tell(false);
    }

    /// Has all gateways go by the word that do not; those that have just failed only where `all`.
    fn tell(&mut self, all: bool) {
        let word = self.keeper.driver.word();
        let lacking = self.fleet.lacking(word.age());
        let due = lacking.into_iter().filter(|address| all || self.polls.may_tell(address)).collect::<Vec<_>>();
        if due.is_empty() {
            return;
        }
        let body = bytes::Bytes::from(serde_json::to_vec(&word).unwrap_or_default());
        self.polls.tell(due, (word.age(), &body), &self.mutual, &self.news);
    }

    /// Obeys somebody, who is answered once all gateways go by it, or will not.
    async fn release(&mut self, wish: &Wish, reply: Reply) {
        if let Err(why) = self.keeper.command(wish) {
            let _ = reply.send(Err(why)); // who has gone wants no answer
            return;
        }
        self.keeper.keep().await;
        self.tell(true);
        let age = self.keeper.driver.word().age();
        let until = Instant::now() + gateways::OBEYS_WITHIN + TICK;
        self.waiting.push(Waiting { model: wish.model.clone(), age, until, reply });
    }

    /// Answers those for whom there is nothing more to wait.
    fn answer(&mut self) {
        let now = Instant::now();
        let (fleet, polls) = (&self.fleet, &self.polls);
        let over = |of: &mut Waiting| {
            fleet.silent(of.age).is_empty() || !polls.is_telling(of.age) || now >= of.until || of.reply.is_closed()
        };
        for Waiting { model, age, reply, .. } in self.waiting.extract_if(.., over).collect::<Vec<_>>() {
            let silent = self.fleet.silent(age);
            let nobody = "it is decided, and no gateway is known that could go by it: gateway.peer leads to none";
            let answer = match (self.fleet.count(), &*silent, self.polls.beyond()) {
                (0, ..) => Err(Disobeyed::Unacknowledged(nobody.to_owned())),
                (_, [], None) => self.report(&model),
                _ => Err(self.unacknowledged(&silent)),
            };
            let _ = reply.send(answer);
        }
    }

    fn unacknowledged(&self, silent: &[(String, String)]) -> Disobeyed {
        let named: Vec<String> = silent.iter().map(|(address, why)| format!("{address} ({why})")).collect();
        let (of, count) = (self.fleet.count(), silent.len());
        let mut what = format!("it is decided, and {} of {of} gateways go by it", of - count);
        if !silent.is_empty() {
            let named = named.join(", ");
            what.push_str(&format!("; these have not acknowledged it: {named}. They are told again until they do"));
        }
        what.extend(self.polls.beyond().map(|beyond| format!(". {beyond}")));
        Disobeyed::Unacknowledged(what)
    }

    fn report(&self, model: &str) -> Result<Report, Disobeyed> {
        let mut report = self.keeper.report(model)?;
        let silent = self.fleet.silent(self.keeper.driver.word().age());
        report
            .warnings
            .extend(silent.into_iter().map(|(address, why)| format!("{address} does not go by this: {why}")));
        report.warnings.extend(self.polls.beyond());
        Ok(report)
    }
}
