//! What is asked of Kubernetes' API server, by the Pod's own account. Nothing is kept between two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::discover::Service;

/// Where a Pod has its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long one look may take.
const WITHIN: Duration = Duration::from_secs(5);
/// The longest list that is read. Unit: bytes.
const MAX_LIST: usize = 16 << 20;

#[derive(Deserialize)]
struct List {
    items: Vec<Slice>,
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
struct Conditions {
    serving: Option<bool>,
    ready: Option<bool>,
}

/// The addresses of the Pods of a Service that serve, also of those that end.
///
/// # Errors
/// Why they are not known, for people.
pub(crate) async fn endpoints(service: &Service) -> Result<BTreeSet<String>, String> {
    let listed = tokio::time::timeout(WITHIN, list(service)).await;
    let body = listed.map_err(|_| format!("the API server did not answer within {WITHIN:?}"))??;
    read(&body, service.port)
}

fn read(body: &[u8], port: u16) -> Result<BTreeSet<String>, String> {
    let list: List = serde_json::from_slice(body).map_err(|_| "the API server sent no EndpointSlices".to_owned())?;
    let endpoints = list.items.into_iter().filter_map(|slice| slice.endpoints).flatten();
    // One that ends has requests to tell of still.
    let serving = endpoints.filter(|of| of.conditions.serving.or(of.conditions.ready).unwrap_or(true));
    let ips = serving.flat_map(|endpoint| endpoint.addresses).filter_map(|address| address.parse::<IpAddr>().ok());
    Ok(ips.map(|ip| SocketAddr::new(ip, port).to_string()).collect())
}

fn account(name: &str) -> Result<String, String> {
    std::fs::read_to_string(format!("{ACCOUNT}/{name}")).map_err(|error| format!("{ACCOUNT}/{name}: {error}"))
}

/// The EndpointSlices of a Service.
async fn list(service: &Service) -> Result<Bytes, String> {
    let Service { namespace, name, .. } = service;
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    call(Method::GET, &format!("{slices}?labelSelector=kubernetes.io%2Fservice-name%3D{name}"), None).await
}

/// The annotation that says what it costs to end a Pod.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Says what it costs to end the Pod at this address. One that is not there is none.
///
/// # Errors
/// Why it is not said, for people.
pub(crate) async fn mark(namespace: &str, ip: IpAddr, cost: i32) -> Result<(), String> {
    let marked = async {
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let found = call(Method::GET, &format!("{pods}?fieldSelector=status.podIP%3D{ip}"), None).await?;
        let found: Pods = serde_json::from_slice(&found).map_err(|_| "the API server sent no Pods".to_owned())?;
        for Metadata { name, annotations } in found.items.into_iter().map(|pod| pod.metadata) {
            if annotations.get(COST).is_some_and(|known| *known == cost.to_string()) {
                continue;
            }
            let patch = serde_json::json!({ "metadata": { "annotations": { COST: cost.to_string() } } });
            call(Method::PATCH, &format!("{pods}/{name}"), Some(patch.to_string())).await?;
        }
        Ok(())
    };
    let late = |_| Err(format!("the API server did not answer within {WITHIN:?}"));
    tokio::time::timeout(WITHIN, marked).await.unwrap_or_else(late)
}

/// Asks the API server, by the Pod's own account.
async fn call(method: Method, path: &str, patch: Option<String>) -> Result<Bytes, String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set: this is no Pod"));
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let ip: IpAddr = host.parse().map_err(|_| format!("KUBERNETES_SERVICE_HOST: {host} is no address"))?;
    let port: u16 = port.parse().map_err(|_| format!("KUBERNETES_SERVICE_PORT: {port} is no port"))?;
    let failed = |error: std::io::Error| format!("the API server at {ip}: {error}");
    let socket = TcpStream::connect(SocketAddr::new(ip, port)).await.map_err(failed)?;
    let tls = TlsConnector::from(Arc::new(trusting()?)).connect(ServerName::from(ip), socket).await.map_err(failed)?;
    let broken = |error: hyper::Error| format!("the API server: {error}");
    let (mut send, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(broken)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(&method)
        .uri(path)
        .header(HOST, format!("{host}:{port}"))
        .header(AUTHORIZATION, format!("Bearer {}", account("token")?.trim()))
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/merge-patch+json")
        .body(Full::<Bytes>::from(patch.unwrap_or_default()));
    let request = request.map_err(|error| error.to_string())?;
    let answer = send.send_request(request).await.map_err(broken)?;
    if !answer.status().is_success() {
        let path = path.split('?').next().unwrap_or_default();
        return Err(format!("the API server answered {}: may this account {method} {path}?", answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_LIST).collect().await;
    Ok(body.map_err(|error| format!("the API server: {error}"))?.to_bytes())
}

/// Who the Pod's account says the API server is.
fn trusting() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(account("ca.crt")?.as_bytes()) {
        let added = authority.map_err(|error| error.to_string()).map(|authority| roots.add(authority));
        added?.map_err(|error| error.to_string())?;
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_serve_are_gateways_and_those_that_do_not_yet_are_none() {
        let body = br#"{"items":[{"endpoints":[
            {"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":true}},
            {"addresses":["10.0.0.2"],"conditions":{"ready":false,"serving":true,"terminating":true}},
            {"addresses":["10.0.0.3"],"conditions":{"ready":false,"serving":false}},
            {"addresses":["fd00::4"]}]},{"endpoints":null}]}"#;
        let found: Vec<String> = read(body, 1).unwrap().into_iter().collect();
        assert_eq!(found, ["10.0.0.1:1", "10.0.0.2:1", "[fd00::4]:1"]);
        assert!(read(b"{}", 1).is_err() && read(b"<html>", 1).is_err());
    }
}
