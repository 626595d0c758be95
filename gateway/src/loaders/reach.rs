//! How a loader is asked: one exchange a connection, bounded in time and size.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tutti_api::ReplicaUrl;

use crate::credential::Credential;
use crate::discovery::Lead;
use crate::exchange::{prepare, reach};
use crate::tls::Mutual;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// Largest answer that is read: 10,000 adapters fit. Unit: bytes.
pub(super) const MAX_ANSWER: usize = 8 << 20;

/// Where a loader is, and what it wants to hear of whoever asks.
#[derive(Debug)]
pub(crate) struct Reach {
    url: ReplicaUrl,
    authority: HeaderValue,
    /// Where to connect; or why that is not known.
    addresses: ArcSwap<Result<Vec<SocketAddr>, String>>,
    token: Option<Arc<Credential>>,
    /// What both show, where they speak TLS.
    tls: Option<Arc<Mutual>>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.url.address())
    }
}

impl Reach {
    /// # Errors
    /// Why the address cannot be sent as a header.
    pub(crate) fn new(
        url: ReplicaUrl,
        token: Option<Arc<Credential>>,
        tls: Option<Arc<Mutual>>,
    ) -> Result<Self, String> {
        let authority = HeaderValue::try_from(url.address().to_string()).map_err(|error| format!("{url}: {error}"))?;
        let known = match url.address().name() {
            None => Ok(url.address().addresses()),
            Some(_) => Err("its name has not been asked for yet".to_owned()),
        };
        Ok(Self { url, authority, addresses: ArcSwap::from_pointee(known), token, tls })
    }

    /// The name to ask DNS for, where it has one.
    pub(super) fn name(&self) -> Option<&str> {
        self.url.address().name()
    }

    /// Takes note of what DNS said of its name.
    pub(super) fn locate(&self, lead: Lead) {
        let port = self.url.address().port();
        let addresses = lead.addresses.map(|ips| ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
        self.addresses.store(Arc::new(addresses));
    }

    /// Asks, all within `within`. The answer of another status than a success is an error, with what it says. A loader that does
    /// not know a changed token yet is shown the one before.
    ///
    /// # Errors
    /// Why there is no answer that is of use, for people.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
        within: Duration,
    ) -> Result<Bytes, Unasked> {
        let mut request = Request::new(Full::new(Bytes::from(json.unwrap_or_default())));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|error| Unasked::Failed(format!("{path}: {error}")))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.header());
        }
        let all = async {
            let (status, body) = self.exchange(request.clone()).await?;
            let before = self.token.as_ref().and_then(|token| token.before(Instant::now()));
            let Some(before) = before.filter(|_| status == StatusCode::UNAUTHORIZED) else { return Ok((status, body)) };
            request.headers_mut().insert(AUTHORIZATION, before);
            self.exchange(request).await
        };
        let late = |_| Err(Unasked::Failed(format!("no answer within {within:?}")));
        let (status, body) = tokio::time::timeout(within, all).await.unwrap_or_else(late)?;
        if status.is_success() { Ok(body) } else { Err(Unasked::Refused(status)) }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Unasked> {
        let failed = |why: &dyn std::fmt::Display| Unasked::Failed(why.to_string());
        let addresses = self.addresses.load_full();
        let addresses = addresses.as_ref().as_ref().map_err(|why| failed(why))?;
        let stream = reach(addresses, CONNECT).await.map_err(|error| failed(&error))?;
        prepare(&stream).map_err(|error| failed(&error))?;
        let Some(tls) = &self.tls else { return spoken(stream, request).await };
        let name = stream.peer_addr().map_err(|error| failed(&error))?.ip().into();
        let secured = TlsConnector::from(tls.client()).connect(ServerName::IpAddress(name), stream).await;
        spoken(secured.map_err(|error| failed(&format!("{error}: do adapters.tls of both sides fit?")))?, request).await
    }
}

/// One exchange on a connection.
async fn spoken(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Unasked> {
    let failed = |why: &dyn std::fmt::Display| Unasked::Failed(why.to_string());
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let mut driver = JoinSet::new(); // it ends with this exchange
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
        let large = error.is::<LengthLimitError>();
        if large { failed(&format!("an answer of more than {MAX_ANSWER} bytes")) } else { failed(&error) }
    })?;
    Ok((head.status, body.to_bytes()))
}

/// Why there is no answer that is of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unasked {
    /// There is none.
    #[error("{0}")]
    Failed(String),
    /// It is a refusal.
    #[error("{}", refusal(*.0))]
    Refused(StatusCode),
}

fn refusal(status: StatusCode) -> String {
    match status {
        StatusCode::UNAUTHORIZED => {
            "it does not take the token, or wants a certificate: are adapters.tokenFile and adapters.tls the same on both sides?"
                .to_owned()
        }
        StatusCode::NOT_FOUND => "it has no such page: this is no adapter-loader, or one of another version".to_owned(),
        other => format!("it answers {other}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks whoever answers this to any request, and then says nothing more.
    async fn asked(answer: Vec<u8>, within: Duration) -> Result<Bytes, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let answers = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
            std::future::pending::<()>().await
        };
        let reach = Reach::new(url, None, None).unwrap();
        tokio::select! {
            asked = reach.ask(Method::GET, "/v1/adapters", None, within) => asked.map_err(|why| why.to_string()),
            () = answers => unreachable!(),
        }
    }

    #[tokio::test]
    async fn whatever_a_loader_does_is_over_in_time_and_small_enough() {
        let long = Duration::from_secs(20);
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec();
        assert_eq!(asked(whole, long).await.as_deref(), Ok(&b"{}"[..]));
        let huge =
            [&b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"[..], &vec![b'['; MAX_ANSWER + 1]].concat();
        let refused = [
            (huge, long, "more than"),
            (b"SSH-2.0-OpenSSH\r\n".to_vec(), long, ""),
            (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n".to_vec(), long, "tokenFile"),
            (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_vec(), long, "no adapter-loader"),
            (Vec::new(), Duration::from_millis(50), "no answer within"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec(), Duration::from_millis(50), "no answer within"),
        ];
        for (answer, within, says) in refused {
            let why = asked(answer, within).await.unwrap_err();
            assert!(why.contains(says), "{says}: {why}");
        }
    }
}
