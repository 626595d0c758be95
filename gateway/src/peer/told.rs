//! What a driver of releases says to a gateway, and asks of it, on the port for peers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tutti_api::TrafficWord;
use tutti_control_plane::{Floor, Heard};

use super::Peers;
use super::line::connected;
use super::offer::Upward;
use crate::control::Control;
use crate::releases::{self, NotTaken};
use crate::shared::Shared;
use crate::tls::Mutual;

/// Where a driver's word is given (PUT) and asked for (GET).
pub(super) const TRAFFIC: &str = "/1/traffic";
/// Where a gateway says what it has seen (GET), also to who drives (POST).
pub(super) const HEARD: &str = "/1/heard";
/// Longest word, and longest answer. Unit: bytes.
const MAX: usize = 16 << 20;

/// What came of a word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Acknowledged {
    /// Why it is not taken; else every queue of the gateway goes by it.
    pub(crate) refused: Option<String>,
    /// Somebody else drives.
    #[serde(default)]
    pub(crate) superseded: bool,
    /// Term and generation of what every queue goes by now, where it is taken.
    #[serde(default)]
    pub(crate) in_force: Option<(u64, u64)>,
}

/// Why a gateway does not go by a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untold {
    /// It did not answer.
    #[error("{0}")]
    Unreached(String),
    /// It does not take it.
    #[error("{0}")]
    Refused(String),
    /// It goes by somebody else's.
    #[error("{0}")]
    Superseded(String),
}

/// What a gateway tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    /// Its number: another at each start.
    pub(crate) gateway: String,
    /// Of its models' revisions.
    pub(crate) heard: Heard,
    /// The driver that asked it last, and how long ago. Unit: milliseconds.
    pub(crate) driver: Option<(String, u64)>,
    /// The highest term that it knows.
    pub(crate) term: u64,
}

/// What a driver says when it asks. Gateways and drivers alone reach this port, so it is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asks {
    /// Its name.
    pub(crate) driver: String,
    /// What pools need for the releases that are under way.
    #[serde(default)]
    pub(crate) floors: Vec<Floor>,
}

/// The driver that asked last, and when.
pub(crate) type Asker = Mutex<Option<(Box<str>, Instant)>>;

/// What this gateway has seen, for a driver: that is remembered, and so is what it needs.
pub(super) async fn told_to(shared: Arc<Shared>, peers: Arc<Peers>, body: Incoming) -> Bytes {
    let Ok(asks) = read::<Asks>(body).await else { return Bytes::new() };
    let told = told(&shared, &peers);
    shared.demand.floors.say(&asks.floors, Instant::now());
    *peers.asker.lock().unwrap_or_else(PoisonError::into_inner) = Some((asks.driver.into(), Instant::now()));
    told
}

/// What this gateway has seen.
pub(super) fn told(shared: &Shared, peers: &Peers) -> Bytes {
    let asker = peers.asker.lock().unwrap_or_else(PoisonError::into_inner);
    let ago = |at: &Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
    let told = Told {
        gateway: peers.id.to_string(),
        heard: releases::heard(&shared.table()),
        driver: asker.as_ref().map(|(name, at)| (name.to_string(), ago(at))),
        term: peers.word.load().as_ref().map_or(0, |word| word.term),
    };
    serde_json::to_vec(&told).unwrap_or_default().into()
}

/// The word that this gateway goes by; nothing where there is none.
pub(super) fn word(peers: &Peers) -> Bytes {
    let word = peers.word.load();
    word.as_ref().and_then(|word| serde_json::to_vec(&**word).ok()).unwrap_or_default().into()
}

/// Goes by a word; answers once every queue does.
pub(super) async fn taken(control: Option<Control>, body: Incoming) -> Bytes {
    let refused = |why: String| Acknowledged { refused: Some(why), ..Acknowledged::default() };
    let said = match (read::<TrafficWord>(body).await, control) {
        (Ok(word), Some(control)) => match control.word(word).await {
            Some(Ok(age)) => Acknowledged { in_force: Some(age), ..Acknowledged::default() },
            Some(Err(why)) => {
                let superseded = matches!(why, NotTaken::Older { .. } | NotTaken::Another { .. });
                Acknowledged { superseded, ..refused(why.to_string()) }
            }
            None => refused("it is shutting down".to_owned()),
        },
        (Ok(_), None) => refused("it has not started yet".to_owned()),
        (Err(why), _) => refused(why),
    };
    serde_json::to_vec(&said).unwrap_or_default().into()
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, String> {
    let body = Limited::new(body, MAX).collect().await.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| format!("this is no word of a driver: {error}"))
}

/// Asks a gateway.
///
/// # Errors
/// It does not answer, or with an error.
async fn ask(
    mutual: &Mutual,
    address: SocketAddr,
    (method, path): (Method, &str),
    body: Bytes,
) -> Result<Bytes, String> {
    let mut sender = connected(mutual, address).await?;
    let mut request = Request::new(Upward::raw(body));
    *request.method_mut() = method;
    *request.uri_mut() = format!("https://peer{path}").parse().map_err(|error| format!("{error}"))?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX).collect().await.map_err(|error| error.to_string())?;
    Ok(body.to_bytes())
}

/// What a gateway has seen. A driver that drives says so.
///
/// # Errors
/// It does not say.
pub(crate) async fn hear(mutual: &Mutual, address: SocketAddr, asks: Option<&Asks>) -> Result<Told, String> {
    let said = asks.map(|asks| serde_json::to_vec(asks).unwrap_or_default());
    let method = if said.is_some() { Method::POST } else { Method::GET };
    let body = ask(mutual, address, (method, HEARD), said.unwrap_or_default().into()).await?;
    serde_json::from_slice(&body).map_err(|error| format!("it tells what cannot be read: {error}"))
}

/// Has a gateway go by a word of this age.
///
/// # Errors
/// It does not answer, does not take it, or goes by an older one.
pub(crate) async fn tell(mutual: &Mutual, address: SocketAddr, (age, word): ((u64, u64), Bytes)) -> Result<(), Untold> {
    let body = ask(mutual, address, (Method::PUT, TRAFFIC), word).await.map_err(Untold::Unreached)?;
    let unreadable = |_| Untold::Unreached("it answers nothing readable".to_owned());
    match serde_json::from_slice(&body).map_err(unreadable)? {
        Acknowledged { refused: None, in_force: Some(now), .. } if now < age => {
            Err(Untold::Refused(format!("it goes by term {}, generation {}", now.0, now.1)))
        }
        Acknowledged { refused: None, .. } => Ok(()),
        Acknowledged { refused: Some(why), superseded: true, .. } => Err(Untold::Superseded(why)),
        Acknowledged { refused: Some(why), .. } => Err(Untold::Refused(why)),
    }
}

/// The word that a gateway goes by.
///
/// # Errors
/// It does not say.
pub(crate) async fn spoken(mutual: &Mutual, address: SocketAddr) -> Result<Option<TrafficWord>, String> {
    let body = ask(mutual, address, (Method::GET, TRAFFIC), Bytes::new()).await?;
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&body).map(Some).map_err(|error| format!("it tells what cannot be read: {error}"))
}
