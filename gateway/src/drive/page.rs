//! The driver's admin port.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tutti_control_plane::Report;

use super::{Ask, ReleaseMetrics};
use crate::releases::{Disobeyed, Releasing, Wish};
use crate::serve::pages;

/// Connections to the port. Further ones wait.
const CONNECTIONS: usize = 64;
/// How long a head may take to arrive.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

impl Releasing for mpsc::Sender<Ask> {
    async fn release(&self, wish: Wish) -> Result<Report, Disobeyed> {
        let (reply, outcome) = oneshot::channel();
        told(self.send(Ask::Release(wish, reply)).await.is_ok(), outcome).await
    }

    async fn report(&self, model: String) -> Result<Report, Disobeyed> {
        let (reply, outcome) = oneshot::channel();
        told(self.send(Ask::Report(model, reply)).await.is_ok(), outcome).await
    }
}

async fn told(asked: bool, outcome: oneshot::Receiver<Result<Report, Disobeyed>>) -> Result<Report, Disobeyed> {
    let gone = || Disobeyed::Failed("the driver has ended".to_owned());
    if asked { outcome.await.map_err(|_| gone())? } else { Err(gone()) }
}

/// Serves the pages on this runtime.
pub(super) fn start(listener: TcpListener, token: String, asks: mpsc::Sender<Ask>, metrics: ReleaseMetrics) {
    tokio::spawn(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot wait for connections"),
        };
        let (places, token) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(token));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (asks, token, metrics) = (asks.clone(), token.clone(), metrics.clone());
            let service = service_fn(move |request| {
                let (asks, token, metrics) = (asks.clone(), token.clone(), metrics.clone());
                async move { Ok::<_, Infallible>(respond(&asks, &token, &metrics, &request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(socket), service);
            tokio::spawn(async move {
                let _ = connection.await; // who leaves early wants no answer
                drop(place);
            });
        }
    });
}

/// `/healthz` and `/metrics` for all, `/traffic` for those with the token.
async fn respond(
    asks: &mpsc::Sender<Ask>,
    token: &str,
    metrics: &ReleaseMetrics,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/healthz" | "/readyz" => pages::text(StatusCode::OK, "ok\n"),
        "/metrics" => pages::text(StatusCode::OK, &metrics.page()),
        path if !pages::authorized(request, token) => pages::unauthorized(path),
        "/traffic" => pages::traffic(asks, request).await,
        _ => pages::text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}
