//! What is answered by HTTP.

use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::fleet::{Answer, Sources};
use crate::metrics;
use crate::scaler::Shared;
use crate::wanted::terms;

/// `GET /v1/metrics/{pool}`: what KEDA's metrics-api scaler reads, by `valueLocation: replicasWanted`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolPage {
    pool: String,
    replicas_wanted: f64,
    active: bool,
    queued: u64,
    in_flight: u64,
    work: f64,
    oldest_ms: u64,
    ready: u32,
    replicas: u32,
    guard: Option<f64>,
    by_work: f64,
    by_guard: f64,
    by_floor: f64,
    by_release: f64,
    gateways: Heard,
}

#[derive(Debug, Serialize)]
struct Heard {
    discovered: usize,
    fresh: usize,
    held: usize,
    silent: usize,
}

impl From<Sources> for Heard {
    fn from(of: Sources) -> Self {
        Self { discovered: of.discovered, fresh: of.fresh, held: of.held, silent: of.silent }
    }
}

/// `GET /status`: which gateways there are.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayPage {
    address: String,
    /// Unit: milliseconds; absent before the first word.
    #[serde(skip_serializing_if = "Option::is_none")]
    heard_ms_ago: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failing: Option<String>,
}

pub(crate) type Page = Response<Full<Bytes>>;

pub(crate) fn respond(method: &Method, path: &str, shared: &Shared) -> Page {
    if method != Method::GET && method != Method::HEAD {
        let mut page = text(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, please\n");
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return page;
    }
    let now = Instant::now();
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        // Also without a gateway: one that is not ready is asked by nobody, and says nothing of why.
        "/readyz" => text(StatusCode::OK, "ready\n"),
        "/metrics" => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics::page(shared, now)),
        "/status" => json(&status(shared, now)),
        _ => match path.strip_prefix("/v1/metrics/") {
            Some(pool) => of_pool(pool, shared, now),
            None => text(StatusCode::NOT_FOUND, "there is no such page\n"),
        },
    }
}

fn of_pool(pool: &str, shared: &Shared, now: Instant) -> Page {
    let fleet = shared.fleet();
    let (wanted, active) = match fleet.answer(pool, now) {
        Answer::Known { wanted, is_active } => (wanted, is_active),
        Answer::Blind(why) => return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
        Answer::NoSuchPool(why) => return text(StatusCode::NOT_FOUND, &format!("{why}\n")),
    };
    let stand = fleet.stand(pool, now).unwrap_or_default();
    let by = terms(&stand);
    json(&PoolPage {
        pool: pool.to_owned(),
        replicas_wanted: wanted,
        active,
        queued: stand.queued,
        in_flight: stand.in_flight,
        work: stand.work,
        oldest_ms: stand.oldest_ms,
        ready: stand.ready,
        replicas: stand.replicas,
        guard: stand.guard,
        by_work: by.work,
        by_guard: by.guard,
        by_floor: by.floor,
        by_release: by.release,
        gateways: fleet.sources(now).into(),
    })
}

fn status(shared: &Shared, now: Instant) -> Vec<GatewayPage> {
    let fleet = shared.fleet();
    let page = |(address, age, failing): (&str, Option<std::time::Duration>, Option<&str>)| GatewayPage {
        address: address.to_owned(),
        heard_ms_ago: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        failing: failing.map(str::to_owned),
    };
    fleet.gateways(now).map(page).collect()
}

fn json(of: &impl Serialize) -> Page {
    typed(StatusCode::OK, "application/json", serde_json::to_string(of).unwrap_or_default())
}

pub(crate) fn text(status: StatusCode, text: &str) -> Page {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Page {
    let mut page = Response::new(Full::from(body));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
