//! KEDA's external scaler, by gRPC.
//!
//! KEDA asks GetMetrics and IsActive at each poll and takes an error for "not known", which is what is answered where
//! nothing is known. GetMetricSpec is answered whatever is known: where it fails, KEDA makes an HPA by CPU
//! (kedacore/keda#7729). So what is wrong with a trigger is said by the other two, and KEDA's events show it.

mod messages;
mod metadata;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

pub(crate) use messages::{GetMetricsRequest, IsActiveResponse, ScaledObjectRef};

use self::messages::{GetMetricSpecResponse, GetMetricsResponse, MetricSpec, MetricValue};
use crate::fleet::Answer;
use crate::scaler::Shared;

/// The service's name.
pub(crate) const SERVICE: &str = "externalscaler.ExternalScaler";

/// The metric's name, for all pools: KEDA makes it the ScaledObject's own.
const METRIC: &str = "tutti-replicas-wanted";
/// It counts replicas, so one of it is one replica.
const TARGET: i64 = 1;

/// The file that describes it.
pub(crate) fn descriptor() -> Vec<u8> {
    messages::descriptor()
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct ExternalScaler {
    shared: Arc<Shared>,
}

impl NamedService for ExternalScaler {
    const NAME: &'static str = SERVICE;
}

type Answered<T> = Result<tonic::Response<T>, Status>;

impl ExternalScaler {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What is known of the pool that a ScaledObject asks for.
    fn answer(&self, of: &ScaledObjectRef) -> Result<(f64, bool), Status> {
        let pool = metadata::pool(&of.metadata).map_err(|wrong| Status::invalid_argument(wrong.to_string()))?;
        match self.shared.fleet().answer(pool, Instant::now()) {
            Answer::Known { wanted, is_active } => Ok((wanted, is_active)),
            Answer::Blind(why) => Err(Status::unavailable(why)),
            Answer::NoSuchPool(why) => Err(Status::not_found(why)),
        }
    }

    fn is_active(&self, of: &ScaledObjectRef) -> Answered<IsActiveResponse> {
        let answered = self.answer(of);
        self.shared.asked("IsActive", answered.is_ok());
        answered.map(|(_, result)| tonic::Response::new(IsActiveResponse { result }))
    }

    fn metric_spec(&self) -> Answered<GetMetricSpecResponse> {
        self.shared.asked("GetMetricSpec", true);
        let spec = MetricSpec { name: METRIC.to_owned(), target: TARGET, target_float: TARGET as f64 };
        Ok(tonic::Response::new(GetMetricSpecResponse { specs: vec![spec] }))
    }

    fn metrics(&self, request: &GetMetricsRequest) -> Answered<GetMetricsResponse> {
        let nobody = ScaledObjectRef::default();
        let answered = self.answer(request.of.as_ref().unwrap_or(&nobody));
        self.shared.asked("GetMetrics", answered.is_ok());
        let (wanted, _) = answered?;
        let name = if request.name.is_empty() { METRIC.to_owned() } else { request.name.clone() };
        // Small and not negative: it is no more than there may be, or than there is work.
        let value = MetricValue { name, value: wanted.ceil() as i64, value_float: wanted };
        Ok(tonic::Response::new(GetMetricsResponse { values: vec![value] }))
    }

    /// Tells whenever the pool comes to have something to do. Only then: KEDA looks for the end itself, and a second
    /// `true` would delay it.
    fn stream(&self, of: &ScaledObjectRef) -> Answered<ReceiverStream<Result<IsActiveResponse, Status>>> {
        let checked = metadata::pool(&of.metadata).map(str::to_owned);
        self.shared.asked("StreamIsActive", checked.is_ok());
        let pool = checked.map_err(|wrong| Status::invalid_argument(wrong.to_string()))?;
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(push(self.shared.clone(), pool, send));
        Ok(tonic::Response::new(ReceiverStream::new(receive)))
    }
}

async fn push(shared: Arc<Shared>, pool: String, send: mpsc::Sender<Result<IsActiveResponse, Status>>) {
    let mut heard: watch::Receiver<()> = shared.heard.subscribe();
    let mut was_active = false;
    loop {
        let is_active = shared.fleet().is_active(&pool, Instant::now());
        if is_active && !was_active {
            if send.send(Ok(IsActiveResponse { result: true })).await.is_err() {
                return;
            }
            shared.pushed();
        }
        was_active = is_active;
        tokio::select! {
            changed = heard.changed() => if changed.is_err() { return },
            () = send.closed() => return,
        }
    }
}

fn unary<Q, A>(
    call: impl Fn(Q) -> Answered<A> + Clone,
) -> impl Service<tonic::Request<Q>, Response = tonic::Response<A>, Error = Status, Future = Ready<Answered<A>>> + Clone
{
    service_fn(move |request: tonic::Request<Q>| ready(call(request.into_inner())))
}

fn grpc<A: Message + Default + 'static, Q: Message + Default + 'static>() -> Grpc<ProstCodec<A, Q>> {
    Grpc::new(ProstCodec::default())
}

impl ExternalScaler {
    async fn call<B>(self, request: Request<B>) -> Response<Body>
    where
        B: http_body_util::BodyExt + hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        match method.as_str() {
            "IsActive" => grpc().unary(unary(move |of: ScaledObjectRef| self.is_active(&of)), request).await,
            "GetMetricSpec" => grpc().unary(unary(move |_: ScaledObjectRef| self.metric_spec()), request).await,
            "GetMetrics" => grpc().unary(unary(move |of: GetMetricsRequest| self.metrics(&of)), request).await,
            "StreamIsActive" => {
                let stream = service_fn(move |request: tonic::Request<ScaledObjectRef>| {
                    ready(self.stream(&request.into_inner()))
                });
                grpc::<IsActiveResponse, ScaledObjectRef>().server_streaming(stream, request).await
            }
            _ => Status::unimplemented("there is no such call").into_http(),
        }
    }
}

impl<B> Service<Request<B>> for ExternalScaler
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let scaler = self.clone();
        Box::pin(async move { Ok(ExternalScaler::call(scaler, request).await) })
    }
}
