//! Questions to an engine, a connection each: few are asked, and none waits for another.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tutti_api::ReplicaUrl;

use super::EngineError;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// Largest answer that is read: what an engine shows of a base holds its vocabulary. Unit: bytes.
const MAX_ANSWER: usize = 64 << 20;
/// Bytes of a file that are read at once.
const CHUNK: usize = 256 << 10;
/// Chunks of a file that wait to be sent.
const CHUNKS: usize = 4;

/// A status and what was said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Said {
    /// The answer as JSON; null where it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What an engine says of its error.
    pub(super) fn error(&self) -> String {
        let json = self.json();
        let text =
            json["error"].as_str().map_or_else(|| String::from_utf8_lossy(&self.body).into_owned(), str::to_owned);
        text.chars().take(300).collect()
    }
}

/// Asks with a body of JSON, or none; all within `within`.
pub(super) async fn ask(
    engine: &ReplicaUrl,
    method: Method,
    path: &str,
    body: Option<&Value>,
    within: Duration,
) -> Result<Said, EngineError> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len() as u64;
    exchange(engine, method, path, length, Full::new(Bytes::from(body)), within).await
}

/// Sends a file as it is; all within `within`.
pub(super) async fn send(engine: &ReplicaUrl, path: &str, file: &Path, within: Duration) -> Result<Said, EngineError> {
    let unreadable =
        |error: std::io::Error| EngineError::Unreadable { path: file.to_owned(), error: error.to_string() };
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let length = opened.metadata().map_err(unreadable)?.len();
    let (sender, chunks) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || read(opened, &sender));
    exchange(engine, Method::POST, path, length, FileBody { chunks, left: length }, within).await
}

fn read(mut file: std::fs::File, sender: &mpsc::Sender<std::io::Result<Bytes>>) {
    use std::io::Read;
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = file.read(&mut chunk).map(|read| {
            chunk.truncate(read);
            Bytes::from(chunk)
        });
        if read.as_ref().is_ok_and(Bytes::is_empty) {
            return;
        }
        let failed = read.is_err();
        if sender.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

async fn exchange<B>(
    engine: &ReplicaUrl,
    method: Method,
    path: &str,
    length: u64,
    body: B,
    within: Duration,
) -> Result<Said, EngineError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let unavailable = |why: String| EngineError::Unavailable { engine: engine.to_string(), path: path.to_owned(), why };
    let request = Request::builder().method(method).uri(path).header(HOST, engine.address().to_string());
    let request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, length).body(body);
    let request = request.map_err(|error| unavailable(error.to_string()))?;
    let all = async {
        let connect = tokio::time::timeout(CONNECT, connect(engine)).await;
        let socket =
            connect.map_err(|_| format!("no connection within {CONNECT:?}"))?.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
        let conversation = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body =
                Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>(Said { status, body: body.to_bytes() })
        };
        let mut conversation = std::pin::pin!(conversation);
        tokio::select! {
            biased;
            said = &mut conversation => said,
            // Who has closed it has said all that there will be.
            _ = connection => conversation.await,
        }
    };
    match tokio::time::timeout(within, all).await {
        Ok(said) => said.map_err(unavailable),
        Err(_) => Err(unavailable(format!("no answer within {within:?}"))),
    }
}

async fn connect(engine: &ReplicaUrl) -> std::io::Result<TcpStream> {
    let addresses = engine.address().addresses();
    if addresses.is_empty() {
        return TcpStream::connect(engine.address().to_string()).await;
    }
    TcpStream::connect(&*addresses).await
}

/// A file's bytes as they are read, as many as it had when it was opened.
struct FileBody {
    chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.chunks.poll_recv(cx).map(|chunk| {
            let chunk = chunk?;
            if let Ok(bytes) = &chunk {
                self.left = self.left.saturating_sub(bytes.len() as u64);
            }
            Some(chunk.map(Frame::data))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
