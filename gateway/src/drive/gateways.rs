//! Where the gateways are, and what they tell.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tutti_api::PeerSpec;

use crate::peer::{self, Asks, Told, Untold};
use crate::tls::Mutual;

/// Most gateways. Those beyond are told nothing, and that is said.
pub(super) const MAX: usize = 256;
/// How often each is asked.
const EVERY: Duration = Duration::from_millis(500);
/// How long a gateway may take to go by a word.
pub(super) const OBEYS_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(1);
/// How often a name is asked for.
const LOOK_UP: Duration = Duration::from_secs(5);
/// How soon a gateway that did not take a word is told again.
const AGAIN: Duration = Duration::from_secs(1);
/// A driver that a gateway has heard within this is alive.
const ALIVE: Duration = Duration::from_secs(3);

/// Term and generation of a word.
type Age = (u64, u64);

/// What was heard. Nobody is waited for: a gateway that hangs holds up no other.
#[derive(Debug)]
pub(super) enum News {
    /// What the gateway at an address told, or why it did not.
    Told(String, Result<Told, String>),
    /// What came of a word of this age there.
    Obeyed(String, Age, Result<(), Untold>),
    /// Where gateways are now.
    Found(Found),
}

/// Where gateways are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// No more than [`MAX`].
    pub(super) addresses: Vec<String>,
    /// How many there are beyond.
    pub(super) left_out: usize,
}

/// When who was asked.
#[derive(Debug, Default)]
pub(super) struct Poll {
    known: Found,
    looked: Option<Instant>,
    /// Who is being told what: one word a gateway, the newest.
    telling: HashMap<String, (Age, AbortHandle)>,
    /// When who was asked last, and that: of what is out twice the older answer might come last, and read as if that
    /// gateway had begun anew.
    asked: HashMap<String, (Instant, AbortHandle)>,
    heard: HashMap<String, Instant>,
    failed: HashMap<String, Instant>,
    /// Who drives now.
    pub(super) superseded: Option<String>,
}

/// Where gateways are now.
pub(super) async fn addresses(spec: &PeerSpec) -> Found {
    let mut all: Vec<SocketAddr> = spec.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    if let Some(name) = &spec.dns
        && let Ok(Ok(found)) = tokio::time::timeout(WITHIN, tokio::net::lookup_host(name.as_str())).await
    {
        all.extend(found);
    }
    Found::of(all)
}

impl Found {
    /// The same ones again while these are the same: the order is that of the addresses.
    fn of(mut all: Vec<SocketAddr>) -> Self {
        all.sort_unstable();
        all.dedup();
        let left_out = all.len().saturating_sub(MAX);
        all.truncate(MAX);
        Self { addresses: all.iter().map(ToString::to_string).collect(), left_out }
    }

    /// What people are told of those beyond, if there are any.
    pub(super) fn beyond(&self) -> Option<String> {
        let Self { addresses, left_out } = self;
        (*left_out > 0).then(|| {
            format!(
                "gateway.peer leads to {} gateways, and one driver drives {MAX} at most: {left_out} are told nothing, those \
                 with the highest addresses",
                addresses.len() + left_out
            )
        })
    }
}

/// The highest term that any gateway knows, once no other driver is alive: one that has just ended is waited for.
///
/// # Errors
/// A driver is alive, by name.
pub(super) async fn term_after_others(mutual: &Arc<Mutual>, addresses: &[String]) -> Result<u64, String> {
    let until = Instant::now() + ALIVE + AGAIN;
    loop {
        match highest_term(mutual, addresses).await {
            Err(_) if Instant::now() < until => tokio::time::sleep(AGAIN / 4).await,
            outcome => return outcome,
        }
    }
}

async fn highest_term(mutual: &Arc<Mutual>, addresses: &[String]) -> Result<u64, String> {
    let mut highest = 0;
    for address in addresses.iter().filter_map(|address| address.parse::<SocketAddr>().ok()) {
        let asked = tokio::time::timeout(WITHIN, peer::hear(mutual, address, None)).await;
        let Ok(Ok(told)) = asked else { continue };
        if let Some((driver, millis)) = told.driver.filter(|(_, millis)| Duration::from_millis(*millis) < ALIVE) {
            return Err(format!(
                "{driver} drives these gateways, and was heard {millis} ms ago: there is one driver at a time"
            ));
        }
        highest = highest.max(told.term);
    }
    Ok(highest)
}

impl Poll {
    /// Those that are known to be at these addresses.
    pub(super) fn at(known: Found) -> Self {
        say_beyond(&known);
        Self { known, looked: Some(Instant::now()), ..Self::default() }
    }

    /// Where gateways are; a name is asked for now and then.
    pub(super) fn addresses(&mut self, spec: &PeerSpec, news: &mpsc::Sender<News>) -> Vec<String> {
        if self.looked.is_none_or(|at| spec.dns.is_some() && at.elapsed() >= LOOK_UP) {
            self.looked = Some(Instant::now());
            let (spec, news) = (spec.clone(), news.clone());
            tokio::spawn(async move {
                let _ = news.send(News::Found(addresses(&spec).await)).await; // a driver that has ended hears nothing
            });
        }
        self.known.addresses.clone()
    }

    /// What people are told of gateways that are too many, if there are any.
    pub(super) fn beyond(&self) -> Option<String> {
        self.known.beyond()
    }

    /// Where gateways are is to be asked for anew.
    pub(super) fn look_again(&mut self) {
        self.looked = None;
    }

    /// Gateways are here. What was known stays where a name has no answer.
    pub(super) fn found(&mut self, now: Found) {
        if now.addresses.is_empty() {
            return;
        }
        if now.left_out != self.known.left_out {
            say_beyond(&now);
        }
        self.known = now;
    }

    /// Asks those whose turn it is.
    pub(super) fn ask(
        &mut self,
        addresses: &[String],
        mutual: &Arc<Mutual>,
        asks: impl Fn() -> Asks,
        news: &mpsc::Sender<News>,
    ) {
        self.keep(addresses);
        for address in addresses {
            if !self.is_due(address) {
                continue;
            }
            let (to, mutual, asks, news) = (address.clone(), mutual.clone(), asks(), news.clone());
            let asked = tokio::spawn(async move {
                let told = match to.parse() {
                    Ok(at) => tokio::time::timeout(WITHIN, peer::hear(&mutual, at, Some(&asks))).await,
                    Err(_) => return,
                };
                let told = told.unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")));
                let _ = news.send(News::Told(to, told)).await; // a driver that has ended hears nothing
            });
            self.asked.insert(address.clone(), (Instant::now(), asked.abort_handle()));
        }
    }

    /// Forgets those that are at none of these addresses any more.
    fn keep(&mut self, addresses: &[String]) {
        let all: HashSet<&String> = addresses.iter().collect();
        for (_, (_, asked)) in self.asked.extract_if(|address, _| !all.contains(address)) {
            asked.abort();
        }
        self.failed.retain(|address, _| all.contains(address));
    }

    /// Whether it is a gateway's turn to be asked: never while it still is, until the answer is on its way to the driver.
    fn is_due(&self, address: &str) -> bool {
        self.asked.get(address).is_none_or(|(at, asked)| at.elapsed() >= EVERY && asked.is_finished())
    }

    /// Has gateways go by a word. One that is being told it is not told again; what is older is not waited for.
    pub(super) fn tell(
        &mut self,
        due: Vec<String>,
        (age, word): (Age, &Bytes),
        mutual: &Arc<Mutual>,
        news: &mpsc::Sender<News>,
    ) {
        for address in due {
            if self.telling.get(&address).is_some_and(|(told, _)| *told == age) {
                continue;
            }
            let (mutual, word, news, to) = (mutual.clone(), word.clone(), news.clone(), address.clone());
            let told = tokio::spawn(async move {
                let told = match to.parse() {
                    Ok(at) => tokio::time::timeout(OBEYS_WITHIN, peer::tell(&mutual, at, (age, word))).await,
                    Err(_) => Ok(Err(Untold::Unreached("it has no address".to_owned()))),
                };
                let late = || Err(Untold::Unreached(format!("no answer within {OBEYS_WITHIN:?}")));
                let _ = news.send(News::Obeyed(to, age, told.unwrap_or_else(|_| late()))).await;
            });
            if let Some((_, before)) = self.telling.insert(address, (age, told.abort_handle())) {
                before.abort();
            }
        }
    }

    /// It is known what came of a word.
    pub(super) fn told(&mut self, address: &str, age: Age) {
        self.telling.retain(|known, (told, _)| known != address || *told != age);
    }

    /// Whether anybody is being told this, or what is newer.
    pub(super) fn is_telling(&self, age: Age) -> bool {
        self.telling.values().any(|(told, _)| *told >= age)
    }

    pub(super) fn heard(&mut self, address: &str) {
        self.heard.insert(address.to_owned(), Instant::now());
    }

    /// Those that have told nothing for so long; once.
    pub(super) fn gone(&mut self, after: Duration) -> Vec<String> {
        self.heard.extract_if(|_, at| at.elapsed() >= after).map(|(address, _)| address).collect()
    }

    pub(super) fn failed(&mut self, address: &str) {
        self.failed.insert(address.to_owned(), Instant::now());
    }

    /// Whether a gateway has not failed to take a word a moment ago.
    pub(super) fn may_tell(&self, address: &str) -> bool {
        self.failed.get(address).is_none_or(|at| at.elapsed() >= AGAIN)
    }
}

fn say_beyond(found: &Found) {
    if let Some(why) = found.beyond() {
        tracing::error!("{why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_asked_is_not_asked_again_and_who_is_gone_is_forgotten() {
        let mut poll = Poll::default();
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let asked = tokio::spawn(async move { _ = answered.await });
        let long_ago = Instant::now().checked_sub(EVERY).unwrap();
        assert!(poll.is_due("a"));
        poll.asked.insert("a".to_owned(), (long_ago, asked.abort_handle()));
        poll.failed("a");
        poll.failed("b");
        poll.keep(&["a".to_owned()]);
        assert!(!poll.is_due("a"), "its answer is still out");
        assert!(poll.failed.contains_key("a") && !poll.failed.contains_key("b"));
        answer.send(()).unwrap();
        asked.await.unwrap();
        assert!(poll.is_due("a"));

        let asked = tokio::spawn(std::future::pending::<()>());
        poll.asked.insert("a".to_owned(), (long_ago, asked.abort_handle()));
        poll.keep(&[]);
        assert!(asked.await.unwrap_err().is_cancelled() && poll.asked.is_empty() && poll.failed.is_empty());
    }

    #[test]
    fn those_beyond_the_most_are_said_and_always_the_same() {
        let all =
            |count: u16| -> Vec<SocketAddr> { (1..=count).rev().map(|port| ([127, 0, 0, 1], port).into()).collect() };
        let some = Found::of([all(256), all(256)].concat());
        assert_eq!((some.addresses.len(), some.left_out, some.beyond()), (256, 0, None), "each once");
        let found = Found::of(all(300));
        assert_eq!((found.addresses.len(), found.left_out), (256, 44));
        assert!(found.addresses == some.addresses);
        assert!(found.beyond().is_some_and(|why| why.contains("300 gateways") && why.contains("44 are told nothing")));
        let mut poll = Poll::at(found.clone());
        poll.found(Found::default());
        assert_eq!(poll.beyond(), found.beyond(), "a name without an answer changes nothing");
        poll.found(some);
        assert_eq!(poll.beyond(), None);
    }
}
