//! Where replicas are, as far as the configuration does not say it: the addresses of names, the lines of files.
//!
//! Each [`Source`] has a task that asks or reads it again and again. What follows from an answer, and when to ask again,
//! is decided by pure functions ([`answer`], [`search`], [`told`], [`list`]); the tasks ([`watch`]) and the resolver ([`dns`])
//! are thin around them. The control task hears of news and takes what was [`Found`] into the next table.

mod answer;
mod dns;
mod endpoints;
pub mod list;
mod search;
mod system;
mod told;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tutti_api::ReplicaUrl;

use dns::Resolver;
pub use endpoints::Origin;
pub(crate) use endpoints::{Located, endpoints, wanted};
pub(crate) use watch::Heard;
use watch::{Said, Watch};

/// How long who starts to use a source waits for its first word.
const FIRST: Duration = Duration::from_secs(3);

/// Something that says where replicas are, and may say something else later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A name, in lower case: its addresses.
    Name(Box<str>),
    /// A file: its lines.
    File(PathBuf),
}

impl Source {
    /// What it is called, in logs, metrics and the status.
    pub(crate) fn kind_and_name(&self) -> (&'static str, String) {
        match self {
            Source::Name(name) => ("dns", name.to_string()),
            Source::File(path) => ("file", path.display().to_string()),
        }
    }
}

/// What the sources last said. One that has said nothing yet is missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    names: HashMap<Box<str>, Arc<[IpAddr]>>,
    files: HashMap<PathBuf, Arc<[ReplicaUrl]>>,
}

/// All sources that are in use, and who asks them.
#[derive(Debug, Default)]
pub struct Discovery {
    resolver: Arc<Resolver>,
    watches: Mutex<BTreeMap<Source, Watch>>,
    news: Arc<Notify>,
}

impl Discovery {
    fn watches(&self) -> MutexGuard<'_, BTreeMap<Source, Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these name servers are asked; the system's, where there are none.
    pub(crate) fn ask_at(&self, servers: Vec<SocketAddr>) {
        self.resolver.ask_at(servers);
    }

    /// Has these sources asked too, and waits for the first word of each, but no longer than [`FIRST`].
    pub(crate) async fn watch(&self, wanted: &BTreeSet<Source>) {
        let mut first = Vec::new();
        for source in wanted {
            let mut watches = self.watches();
            let watch = watches
                .entry(source.clone())
                .or_insert_with(|| Watch::start(source.clone(), self.resolver.clone(), self.news.clone()));
            first.push(watch.heard.clone());
        }
        let all = async {
            for mut heard in first {
                let _ = heard.wait_for(|heard| heard.tries > 0).await;
            }
        };
        let _ = tokio::time::timeout(FIRST, all).await; // it goes on without: news will tell
    }

    /// Has a name asked for too, and waits a moment for the first word of it. For who has no table.
    pub async fn follow(&self, name: &str) {
        self.watch(&BTreeSet::from([Source::Name(name.into())])).await;
    }

    /// The addresses of a name that is followed.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub fn addresses(&self, name: &str) -> Result<Arc<[IpAddr]>, String> {
        self.lead(name).addresses
    }

    /// Lets go all other sources.
    pub(crate) fn keep(&self, wanted: &BTreeSet<Source>) {
        self.watches().retain(|source, _| wanted.contains(source));
    }

    /// Resolves when a source has said something new since the last time.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// What each source last said, and how it is.
    pub(crate) fn heard(&self) -> Vec<(Source, Heard)> {
        self.watches().iter().map(|(source, watch)| (source.clone(), watch.heard.borrow().clone())).collect()
    }

    /// What the sources last said.
    pub(crate) fn found(&self) -> Found {
        let mut found = Found::default();
        for (source, heard) in self.heard() {
            match (source, heard.said) {
                (Source::Name(name), Some(Said::Addresses(addresses))) => {
                    found.names.insert(name, addresses);
                }
                (Source::File(path), Some(Said::Urls(urls))) => {
                    found.files.insert(path, urls);
                }
                _ => {}
            }
        }
        found
    }

    /// Where a name leads.
    pub(crate) fn lead(&self, name: &str) -> Lead {
        let watches = self.watches();
        let Some(watch) = watches.get(&Source::Name(name.into())) else {
            let why = Err("the name has not been asked for yet".to_owned());
            return Lead { addresses: why, hurry: Arc::default() };
        };
        let heard = watch.heard.borrow().clone();
        let addresses = match (heard.said, heard.why) {
            (Some(Said::Addresses(addresses)), _) if !addresses.is_empty() => Ok(addresses),
            (_, Some(why)) => Err(why),
            (_, None) => Err("the name servers have not answered yet".to_owned()),
        };
        Lead { addresses, hurry: watch.hurry.clone() }
    }
}

/// Where a name leads.
#[derive(Clone, Debug)]
pub(crate) struct Lead {
    /// The addresses, or why there are none, for people.
    pub(crate) addresses: Result<Arc<[IpAddr]>, String>,
    /// Has it asked for again soon: nobody can be reached there.
    pub(crate) hurry: Arc<Notify>,
}
