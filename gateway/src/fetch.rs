//! Small questions of the gateway's own to a replica, apart from the hot path.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::exchange::{Line, NoHead, Outgoing};
use crate::replica::Replica;

/// Largest answer that is read. Unit: bytes.
const MAX_ANSWER: usize = 8 << 20;

/// An answer and what it was.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfetched {
    #[error("{0}")]
    NoHead(NoHead),
    #[error("{0}")]
    Broken(String),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// GETs a path, all within `within`.
pub(crate) async fn get(replica: &Replica, path: &str, within: Duration) -> Result<Fetched, Unfetched> {
    exchange(replica, Request::get(path).body(Outgoing::default()), within).await
}

/// POSTs JSON, all within `within`.
pub(crate) async fn post(replica: &Replica, path: &str, json: String, within: Duration) -> Result<Fetched, Unfetched> {
    let mut request = Request::post(path).body(Outgoing::new(vec![Bytes::from(json)]));
    if let Ok(request) = &mut request {
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    exchange(replica, request, within).await
}

async fn exchange(
    replica: &Replica,
    request: http::Result<Request<Outgoing>>,
    within: Duration,
) -> Result<Fetched, Unfetched> {
    let mut request = request.map_err(|error| Unfetched::Broken(error.to_string()))?;
    replica.introduce(request.headers_mut());
    let fetch = async {
        let (response, mut line) = Line::send(replica, request, within).await.map_err(Unfetched::NoHead)?;
        let (head, body) = response.into_parts();
        let body = line.through(Limited::new(body, MAX_ANSWER).collect()).await;
        let body = body.map_err(|error| Unfetched::Broken(error.to_string()))?;
        Ok(Fetched { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    tokio::time::timeout(within, fetch).await.unwrap_or(Err(Unfetched::Late(within)))
}
