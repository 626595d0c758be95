//! The two ports: gRPC for KEDA, with health and reflection; HTTP for all others.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tower::{Service, ServiceExt};
use tutti_gateway::tls::Mutual;

use crate::keda::{self, ExternalScaler};
use crate::page;
use crate::scaler::Shared;

/// Connections to one of the ports. Further ones wait.
const CONNECTIONS: usize = 256;
/// Calls at once on a connection of KEDA: one a ScaledObject, and a stream each.
const CALLS: u32 = 1_000;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a head may take to arrive, and how long a connection may lie idle before it.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// How often a quiet connection of KEDA is looked at, and how long it may be silent then.
const ALIVE_EVERY: Duration = Duration::from_secs(20);
/// Pause after an accept that failed: out of files, mostly.
const PAUSE: Duration = Duration::from_millis(50);

async fn accepted(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return (socket, place),
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers by HTTP until it is dropped.
pub(crate) async fn http(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (socket, place) = accepted(&listener, &places).await;
        let shared = shared.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            ready(Ok::<_, Infallible>(page::respond(request.method(), request.uri().path(), &shared)))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(TokioIo::new(socket), service);
        tokio::spawn(async move {
            let _ = connection.await; // whoever asked has gone, or spoke no HTTP
            drop(place);
        });
    }
}

/// Answers KEDA until it is dropped.
pub(crate) async fn grpc(listener: TcpListener, tls: Option<Arc<Mutual>>, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(keda::SERVICE, tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let descriptor = keda::descriptor();
    let reflection = match reflection.register_encoded_file_descriptor_set(&descriptor).build_v1() {
        Ok(reflection) => reflection,
        Err(error) => return tracing::error!(%error, "the descriptor of KEDA's scaler is none"),
    };
    let scaler = ExternalScaler::new(shared);
    let route = move |request: hyper::Request<Incoming>| {
        let (scaler, health, reflection) = (scaler.clone(), health.clone(), reflection.clone());
        async move {
            let service = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
            let request = request.map(tonic::body::Body::new);
            let answer = match service.as_str() {
                keda::SERVICE => answered(scaler, request).await,
                "grpc.health.v1.Health" => answered(health, request).await,
                "grpc.reflection.v1.ServerReflection" => answered(reflection, request).await,
                _ => Status::unimplemented("there is no such service").into_http(),
            };
            Ok::<_, Infallible>(answer)
        }
    };
    loop {
        let (socket, place) = accepted(&listener, &places).await;
        let _ = socket.set_nodelay(true); // at worst it is slower
        let (tls, route) = (tls.clone(), route.clone());
        tokio::spawn(async move {
            let _place = place;
            let Some(tls) = tls else { return converse(socket, route).await };
            let acceptor = TlsAcceptor::from(tls.server());
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(socket)) => converse(socket, route).await,
                Ok(Err(error)) => tracing::info!(%error, "a TLS handshake came to nothing"),
                Err(_) => tracing::info!("a TLS handshake took too long"),
            }
        });
    }
}

type Answer = http::Response<tonic::body::Body>;

async fn answered<S>(service: S, request: http::Request<tonic::body::Body>) -> Answer
where
    S: Service<http::Request<tonic::body::Body>, Response = Answer, Error = Infallible>,
{
    service.oneshot(request).await.unwrap_or_else(|never| match never {})
}

async fn converse<F>(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    route: impl Fn(hyper::Request<Incoming>) -> F + Send,
) where
    F: Future<Output = Result<Answer, Infallible>> + Send + 'static,
{
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(ALIVE_EVERY)
        .max_concurrent_streams(CALLS)
        .serve_connection(TokioIo::new(socket), service_fn(route));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of KEDA's ended early");
    }
}
