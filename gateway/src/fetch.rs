//! Small questions of the gateway's own to a replica, apart from the hot path.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::exchange::{Line, Outgoing};
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

/// GETs a path, all within `within`.
pub(crate) async fn get(replica: &Replica, path: &str, within: Duration) -> Result<Fetched, String> {
    let fetch = async {
        let mut request = Request::get(path).body(Outgoing::default()).map_err(|error| error.to_string())?;
        replica.introduce(request.headers_mut());
        let (response, mut line) = Line::send(replica, request, within).await.map_err(|no_head| no_head.to_string())?;
        let (head, body) = response.into_parts();
        let body = line.through(Limited::new(body, MAX_ANSWER).collect()).await.map_err(|error| error.to_string())?;
        Ok(Fetched { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    tokio::time::timeout(within, fetch).await.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}
