//! Connections to other gateways: one to each from each core, with as many requests on it as there are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::offer::Upward;
use crate::tls::Mutual;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(1);
/// After one that did not, how long the next is not tried.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a peer may say nothing before it is asked whether it is there, and how long it may take to say so.
pub(super) const PROBE: Duration = Duration::from_secs(1);
/// What a peer may send of an answer before the client has taken it. Unit: bytes.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same of all answers on a connection: clients that take nothing must not stop the others. Unit: bytes.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Where requests go out.
pub(super) type Sender = SendRequest<Upward>;

/// A connection to a peer, or that there was none a moment ago.
#[derive(Default)]
struct Line {
    sender: Option<Sender>,
    failed: Option<(Instant, String)>,
}

thread_local! {
    static LINES: RefCell<HashMap<SocketAddr, Arc<Mutex<Line>>>> = RefCell::default();
}

/// This core's connection to a peer; a new one where there is none. Of those who want one at once one connects.
///
/// # Errors
/// Why there is none.
pub(super) async fn connected(mutual: &Mutual, address: SocketAddr) -> Result<Sender, String> {
    let line = LINES.with_borrow_mut(|lines| lines.entry(address).or_default().clone());
    let mut line = line.lock().await;
    if let Some(sender) = line.sender.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok(sender.clone());
    }
    line.sender = None;
    if let Some((at, why)) = &line.failed
        && at.elapsed() < PAUSE
    {
        return Err(why.clone());
    }
    let connecting = tokio::time::timeout(CONNECT, connect(mutual, address)).await;
    match connecting.unwrap_or_else(|_| Err(format!("no connection within {CONNECT:?}"))) {
        Ok(sender) => {
            line.sender = Some(sender.clone());
            // Those that nobody uses any more go with the next that comes.
            LINES.with_borrow_mut(|lines| lines.retain(|at, line| *at == address || lives(line)));
            Ok(sender)
        }
        Err(why) => {
            line.failed = Some((Instant::now(), why.clone()));
            Err(why)
        }
    }
}

/// Whether somebody uses a connection, or could.
fn lives(line: &Mutex<Line>) -> bool {
    line.try_lock().map_or(true, |line| line.sender.as_ref().is_some_and(|sender| !sender.is_closed()))
}

async fn connect(mutual: &Mutual, address: SocketAddr) -> Result<Sender, String> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        TlsConnector::from(mutual.client()).connect(name, stream).await
    };
    let stream = connect.await.map_err(|error| error.to_string())?;
    let handshake = Builder::new(Tasks)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PROBE)
        .keep_alive_timeout(PROBE)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, peer = %address, "a connection to a peer ended early");
        }
    });
    Ok(sender)
}

/// Runs what a connection has to do beside.
#[derive(Clone)]
pub(super) struct Tasks;

impl<F: Future + Send + 'static> Executor<F> for Tasks
where
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}
