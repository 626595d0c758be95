//! Asks the other gateways how they stand, again and again, and lets [`membership`](super::membership) decide.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tutti_api::{Address, PeerSpec};

use super::hello::{Hello, MAX_HELLO};
use super::line::connected;
use super::membership::Membership;
use super::offer::Upward;
use super::{Peers, View, Whose, at_work};
use crate::ending::Phase;
use crate::limits::Seldom;
use crate::shared::Shared;

/// How often each is asked.
const EVERY: Duration = Duration::from_millis(500);
/// How soon again at most, however many want to know.
const NO_SOONER: Duration = Duration::from_millis(50);
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(1);
/// How often it is decided, if nothing was heard.
const TICK: Duration = Duration::from_millis(100);
/// Addresses at which peers are looked for. Unit: addresses.
const MAX_PEERS: usize = 64;
/// Where it is asked.
pub(super) const PATH: &str = "/1/hello";
const URI: &str = "https://peer/1/hello";

/// What was heard from where.
type News = (SocketAddr, Hello);

/// Starts to ask, on the current runtime, for as long as the gateway lives.
pub(crate) fn start(spec: PeerSpec, peers: Arc<Peers>, shared: Arc<Shared>) {
    tokio::spawn(async move {
        let mut membership = Membership::new(&peers.id, Instant::now());
        let (news, mut inbox) = mpsc::channel(MAX_PEERS);
        let mut asked: HashMap<SocketAddr, JoinHandle<()>> = HashMap::new();
        let mut leaving = std::pin::pin!(shared.ending.reached(Phase::Leaving));
        let mut is_leaving = false;
        loop {
            let addresses = addresses(&spec, &shared);
            membership.at(&addresses);
            asked.retain(|address, task| {
                addresses.contains(address) || {
                    task.abort();
                    false
                }
            });
            for address in addresses {
                let ask = || tokio::spawn(ask(address, peers.clone(), news.clone()));
                asked.entry(address).or_insert_with(ask);
            }
            decide(&mut membership, &peers, &shared, is_leaving);
            tokio::select! {
                Some((from, hello)) = inbox.recv() => membership.hear(from, hello, Instant::now()),
                () = leaving.as_mut(), if !is_leaving => is_leaving = true,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    });
}

/// Where peers may be: what is listed, and what the name leads to now.
fn addresses(spec: &PeerSpec, shared: &Shared) -> Vec<SocketAddr> {
    static BEYOND: Seldom = Seldom::new();
    let mut all: Vec<SocketAddr> = spec.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    if let Some(dns) = spec.dns.as_ref().and_then(|dns| dns.parse::<Address>().ok()) {
        match dns.name() {
            Some(name) => {
                let ips = shared.discovery.lead(name).addresses.unwrap_or_default();
                all.extend(ips.iter().map(|ip| SocketAddr::new(*ip, dns.port())));
            }
            None => all.extend(dns.addresses()),
        }
    }
    all.sort_unstable();
    all.dedup();
    if all.len() > MAX_PEERS
        && let Some(unsaid) = BEYOND.say()
    {
        let (of, most) = (all.len(), MAX_PEERS);
        tracing::error!(of, most, unsaid, "there are more gateways than know of each other: the others are not asked");
    }
    all.truncate(MAX_PEERS);
    all
}

fn decide(membership: &mut Membership, peers: &Peers, shared: &Shared, leaving: bool) {
    let pools = at_work(shared);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let before = peers.view();
    let view = membership.decide(&pools, leaving, clock, Instant::now());
    let hello = serde_json::to_vec(&membership.hello(&pools, leaving, &view)).unwrap_or_default();
    tell(&before, &view);
    peers.show(view, Bytes::from(hello));
}

/// Says what has changed.
fn tell(before: &View, now: &View) {
    let knows = |view: &View, id: &str| view.peers.iter().any(|(reach, _)| &*reach.id == id);
    for (reach, _) in now.peers.iter().filter(|(reach, _)| !knows(before, &reach.id)) {
        tracing::info!(peer = &*reach.id, at = %reach.address, through_another = reach.through_another, "a gateway is there");
    }
    for (reach, _) in before.peers.iter().filter(|(reach, _)| !knows(now, &reach.id)) {
        tracing::info!(peer = &*reach.id, at = %reach.address, "a gateway is gone");
    }
    for (pool, view) in &now.pools {
        let was = before.pools.get(pool).map(|view| &view.whose);
        if was == Some(&view.whose) {
            continue;
        }
        match &view.whose {
            Whose::Here => tracing::info!(pool = &**pool, epoch = view.epoch, "this gateway schedules the pool"),
            Whose::Soon => {}
            Whose::There(to) => tracing::info!(pool = &**pool, peer = &*to.id, "another gateway schedules the pool"),
        }
    }
    if now.conflicts > before.conflicts {
        tracing::warn!("two gateways schedule a pool: one of them yields");
    }
}

/// Asks one of them, until that is not wanted any more.
async fn ask(address: SocketAddr, peers: Arc<Peers>, news: mpsc::Sender<News>) {
    static SILENT: Seldom = Seldom::new();
    let mut answered = true;
    loop {
        let mut again = EVERY;
        match tokio::time::timeout(WITHIN, once(address, &peers)).await {
            Ok(Ok(hello)) => {
                answered = true;
                // Who has just started will say more in a moment.
                if !hello.own.settled {
                    again = NO_SOONER;
                }
                if news.send((address, hello)).await.is_err() {
                    return;
                }
            }
            failed => {
                let why =
                    failed.map_or_else(|_| format!("no answer within {WITHIN:?}"), |why| why.err().unwrap_or_default());
                if std::mem::replace(&mut answered, false)
                    && let Some(unsaid) = SILENT.say()
                {
                    tracing::warn!(peer = %address, why, unsaid, "no gateway answers at an address of the peers");
                }
            }
        }
        tokio::time::sleep(NO_SOONER).await;
        tokio::select! {
            () = tokio::time::sleep(again - NO_SOONER) => {}
            () = peers.hurry.notified() => {}
        }
    }
}

async fn once(address: SocketAddr, peers: &Peers) -> Result<Hello, String> {
    let mut sender = connected(&peers.mutual, address).await?;
    let mut request = Request::new(Upward::nothing());
    *request.uri_mut() = http::Uri::from_static(URI);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_HELLO).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("it says what is no hello: {error}"))
}
