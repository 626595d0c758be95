//! Asks gateways for their demand: each again and again, on a connection that stays.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tutti_api::demand::{MAX_SNAPSHOT, PROTOBUF};

use crate::scaler::Shared;

/// How long one answer may take, the connection included.
const WITHIN: Duration = Duration::from_secs(1);
/// How often a gateway is asked, where there are few.
pub(crate) const EVERY: Duration = Duration::from_millis(250);
/// How much longer it takes for each gateway there is, up to a second.
const EACH: Duration = Duration::from_millis(5);
const RARELY: Duration = Duration::from_secs(1);
/// How often it is looked whether all are still asked.
const TEND: Duration = Duration::from_secs(1);

/// Asks those that there are, and lets go those that there are not any more.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut known = shared.known.subscribe();
    let mut tasks: HashMap<String, JoinHandle<()>> = HashMap::new();
    loop {
        let addresses = known.borrow_and_update().clone();
        let every = (EACH * u32::try_from(addresses.len()).unwrap_or(u32::MAX)).clamp(EVERY, RARELY);
        shared.set_every(every);
        tend(&mut tasks, &addresses, |address| tokio::spawn(ask(address, shared.clone())));
        // Also where nothing changes it is looked whether all are still asked.
        if let Ok(Err(_)) = tokio::time::timeout(TEND, known.changed()).await {
            return;
        }
    }
}

/// Has one task for each of these addresses, and none for others.
fn tend(
    tasks: &mut HashMap<String, JoinHandle<()>>,
    addresses: &BTreeSet<String>,
    start: impl Fn(String) -> JoinHandle<()>,
) {
    tasks.retain(|address, task| {
        if !addresses.contains(address) {
            task.abort();
            return false;
        }
        if task.is_finished() {
            // None ends by itself: it has panicked, and its gateway would never be asked again.
            tracing::error!(address, "the task that asks a gateway has died, and begins anew");
            return false;
        }
        true
    });
    for address in addresses {
        tasks.entry(address.clone()).or_insert_with(|| start(address.clone()));
    }
}

/// A connection to a gateway.
type Line = SendRequest<Empty<Bytes>>;

async fn ask(address: String, shared: Arc<Shared>) {
    let mut line: Option<Line> = None;
    let mut since: Option<u64> = None;
    loop {
        let begun = tokio::time::Instant::now();
        let answer = tokio::time::timeout(WITHIN, once(&address, &mut line, since)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")));
        match answer {
            Ok(body) => match shared.hear(&address, &body, Instant::now()) {
                Ok(next) => since = next,
                Err(_) => since = None,
            },
            Err(why) => {
                line = None;
                shared.failed(&address, why);
            }
        }
        tokio::time::sleep_until(begun + shared.every()).await;
    }
}

async fn once(address: &str, line: &mut Option<Line>, since: Option<u64>) -> Result<Bytes, String> {
    if line.as_ref().is_none_or(SendRequest::is_closed) {
        *line = Some(connect(address).await?);
    }
    let Some(send) = line else { return Err("there is no connection".to_owned()) };
    let path = since.map_or_else(|| "/demand".to_owned(), |since| format!("/demand?since={since}"));
    let request = Request::get(path).header(HOST, address).header(ACCEPT, PROTOBUF).body(Empty::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = send.send_request(request).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answered {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_SNAPSHOT).collect().await.map_err(|error| error.to_string())?;
    Ok(body.to_bytes())
}

async fn connect(address: &str) -> Result<Line, String> {
    let address: SocketAddr = address.parse().map_err(|_| "its name has no address".to_owned())?;
    let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let _ = socket.set_nodelay(true); // at worst it is slower
    let (send, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(send)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_died_is_started_anew_and_the_others_stay() {
        let both: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
        let mut tasks = HashMap::new();
        let dies = |address: String| {
            tokio::spawn(async move {
                assert_ne!(address, "a", "as a bug would");
                std::future::pending().await
            })
        };
        tend(&mut tasks, &both, dies);
        while !tasks["a"].is_finished() {
            tokio::task::yield_now().await;
        }
        let stays = tasks["b"].id();
        tend(&mut tasks, &both, |_| tokio::spawn(std::future::pending()));
        assert!(!tasks["a"].is_finished() && tasks["b"].id() == stays);
        tend(&mut tasks, &["b".to_owned()].into(), |_| tokio::spawn(std::future::pending()));
        assert_eq!(tasks.keys().collect::<Vec<_>>(), ["b"]);
    }
}
