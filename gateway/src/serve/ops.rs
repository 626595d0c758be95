//! The ports for those who run the gateway.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::pages::{Port, respond};
use super::socket::Socket;
use crate::limits::{self, Limit};
use crate::shared::Shared;

/// Connections to one of the ports. Further ones wait.
const CONNECTIONS: usize = 256;
/// How long a head may take to arrive, and how long a connection may lie idle before it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long who asks may take nothing of the answer.
const STALLED: Duration = Duration::from_secs(10);
/// Pause after an accept that failed: out of files, mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves the pages on this runtime.
pub(super) fn start(listener: TcpListener, port: Port, shared: Arc<Shared>) {
    tokio::spawn(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot wait for connections"),
        };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            if places.available_permits() == 0 {
                limits::hit(Limit::OpsConnections);
            }
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                biased;
                () = shared.ending.succeeded() => return, // whoever has the ports answers there
                accepted = listener.accept() => accepted,
            };
            let Ok((socket, _)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (port, shared) = (port.clone(), shared.clone());
            let service = service_fn(move |request| {
                let (response, ending) = (respond(port.clone(), shared.clone(), request), shared.ending.clone());
                async move {
                    let mut response = response.await;
                    if ending.is_succeeded() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(Socket::new(socket, STALLED)), service);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the ops or admin port ended early");
                }
                drop(place);
            });
        }
    });
}
