//! A connection to a replica, driven by whoever uses it.
//!
//! hyper's client comes in two halves, one that asks and one that moves the bytes. Others give the second half to a
//! task of its own; here it is polled by the request that uses it. That saves two task switches a request, and a
//! request that is dropped drops the connection with it: the replica sees its client leave at once, in every phase.
//! Idle connections lie in a pool a core, unpolled, and are looked at before they are used again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;

use super::Outgoing;
use super::reach::{prepare, reach};
use super::wire::{Look, Wire};
use crate::replica::Replica;

/// How many idle connections a core keeps to one replica.
const MAX_IDLE: usize = 1024;
/// How long a connection may lie idle: not as long as servers keep one. Node's, uvicorn (vLLM) and cpp-httplib
/// (llama-server) close theirs after 5 s; Go's (Ollama) keeps it.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// One that has lain idle so long is looked at closely, for a system call (0.3 µs): it may have been closed meanwhile.
const LOOK_AFTER: Duration = Duration::from_micros(100);
/// What is read of an answer at a time. Each open stream has as much memory for it, and a token is far shorter. Unit: bytes.
const READ: usize = 2 << 10;

type Driver = Connection<TokioIo<Wire>, Outgoing>;

/// A connection between two requests, or in one.
pub(crate) struct Line {
    sender: SendRequest<Outgoing>,
    driver: Option<Pin<Box<Driver>>>,
    look: Look,
    /// Whom it leads to.
    peer: SocketAddr,
}

/// Why no answer's head came.
#[derive(Debug)]
pub(crate) enum NoHead {
    /// No connection; nothing was sent, so another replica may be asked.
    Connect(String),
    /// This machine has no file, port or memory left for a connection; the replica has nothing to do with it.
    Local(String),
    /// The connection was there, and broke or spoke no HTTP.
    Broken(String),
}

impl NoHead {
    /// Of an attempt to connect that failed.
    fn of(error: &std::io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM) => {
                Self::Local(error.to_string())
            }
            _ => Self::Connect(error.to_string()),
        }
    }
}

impl std::fmt::Display for NoHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (NoHead::Connect(why) | NoHead::Local(why) | NoHead::Broken(why)) = self;
        f.write_str(why)
    }
}

thread_local! {
    static IDLE: RefCell<HashMap<u64, Vec<(Instant, Line)>>> = RefCell::default();
    /// Of the times that files ran out, those that this core has heard of.
    static HEARD: Cell<u64> = const { Cell::new(0) };
}

/// How often files have run out. Each core then closes what lies idle with it, at its next [`sweep`].
static RAN_OUT: AtomicU64 = AtomicU64::new(0);
/// How long that takes at most.
const LET_GO: Duration = Duration::from_millis(250);

/// Has the files of idle connections given back: this core's at once, the others' in [`LET_GO`].
async fn let_go() {
    HEARD.set(RAN_OUT.fetch_add(1, Relaxed) + 1);
    if IDLE.take().is_empty() {
        tokio::time::sleep(LET_GO).await;
    }
}

impl Line {
    /// An idle connection to the replica that still stands, if there is one.
    fn idle(replica: &Replica) -> Option<Self> {
        IDLE.with_borrow_mut(|idle| {
            let lines = idle.get_mut(&replica.id)?;
            let now = Instant::now();
            while let Some((since, mut line)) = lines.pop() {
                if !replica.is_at(line.peer) {
                    continue;
                }
                if now.saturating_duration_since(since) >= LOOK_AFTER {
                    line.look.closely();
                }
                line.drive(&mut Context::from_waker(Waker::noop()));
                if line.driver.is_some() && line.sender.is_ready() {
                    return Some(line);
                }
            }
            None
        })
    }

    /// A new connection, for whose file idle ones go if need be.
    async fn new(replica: &Replica, timeout: Duration) -> Result<Self, NoHead> {
        match Self::connect(replica, timeout).await {
            Err(NoHead::Local(_)) => {
                let_go().await;
                Self::connect(replica, timeout).await
            }
            other => other,
        }
    }

    async fn connect(replica: &Replica, timeout: Duration) -> Result<Self, NoHead> {
        let addresses = replica.addresses();
        if let Some(why) = addresses.why.as_ref().filter(|_| addresses.list.is_empty()) {
            // Clients may read this: the name itself is in the status.
            return Err(NoHead::Connect(format!("its name cannot be resolved: {why}")));
        }
        let connect = async {
            let stream = reach(&addresses.list, timeout).await?;
            prepare(&stream)?;
            let peer = stream.peer_addr()?;
            Ok((stream, peer))
        };
        let (stream, peer) = connect.await.map_err(|error| {
            if let Some(hurry) = &addresses.hurry {
                hurry.notify_one(); // the name may lead elsewhere by now
            }
            NoHead::of(&error)
        })?;
        let (wire, look) = Wire::new(stream);
        let mut builder = hyper::client::conn::http1::Builder::new();
        let handshake = builder.read_buf_exact_size(Some(READ)).handshake(TokioIo::new(wire)).await;
        let (sender, connection) = handshake.map_err(|error| NoHead::Broken(error.to_string()))?;
        Ok(Self { sender, driver: Some(Box::pin(connection)), look, peer })
    }

    /// Moves bytes, as far as they go now.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Sends a request over an idle or a new connection and waits for the answer's head.
    pub(crate) async fn send(
        replica: &Replica,
        mut request: Request<Outgoing>,
        connect: Duration,
    ) -> Result<(Response<Incoming>, Line), NoHead> {
        loop {
            let (mut line, reused) = match Self::idle(replica) {
                Some(line) => (line, true),
                None => (Self::new(replica, connect).await?, false),
            };
            let answer = line.sender.try_send_request(request);
            match line.through(answer).await {
                Ok(response) => return Ok((response, line)),
                // The connection had closed while it lay idle and nothing was written: no attempt was made.
                Err(mut error) if reused && error.message().is_some() => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(NoHead::Broken(error.into_error().to_string())),
                },
                Err(error) => return Err(NoHead::Broken(error.into_error().to_string())),
            }
        }
    }

    /// Waits for something that this connection brings.
    pub(crate) async fn through<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.drive(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Keeps the connection for the next request, if it can take one.
    pub(super) fn keep(mut self, replica: &Replica) {
        self.drive(&mut Context::from_waker(Waker::noop()));
        if self.driver.is_none() || !self.sender.is_ready() {
            return;
        }
        IDLE.with_borrow_mut(|idle| {
            let lines = idle.entry(replica.id).or_default();
            if lines.len() < MAX_IDLE {
                lines.push((Instant::now(), self));
            }
        });
    }
}

/// Closes this core's connections that have lain idle too long. Called now and then on each core.
pub(crate) fn sweep(now: Instant) {
    let ran_out = RAN_OUT.load(Relaxed);
    if HEARD.replace(ran_out) != ran_out {
        IDLE.take();
    }
    IDLE.with_borrow_mut(|idle| {
        idle.retain(|_, lines| {
            lines.retain(|(since, _)| now.saturating_duration_since(*since) < IDLE_FOR);
            !lines.is_empty()
        });
    });
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::{Arc, mpsc};

    use tutti_api::PoolSpec;

    use super::*;
    use crate::budget::{Budget, Room};
    use crate::exchange::collect;

    /// A replica that answers one request and closes when it is told to.
    fn closes() -> (Arc<Replica>, mpsc::Sender<()>, std::thread::JoinHandle<()>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (close, closes) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            closes.recv().unwrap();
        });
        (Replica::new(&PoolSpec::default(), &url, None).unwrap(), close, thread)
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_the_runtime_did_not_look_is_not_used() {
        let (replica, close, thread) = closes();
        let request = Request::get("/").header("host", "h").body(Outgoing::default()).unwrap();
        let (response, line) = Line::send(&replica, request, Duration::from_secs(5)).await.unwrap();
        let mut room = Room { held: Arc::<Budget>::default().hold(), limit: 1 << 20 };
        collect(line, response.into_body(), &replica, Duration::from_secs(5), &mut room).await.unwrap();
        let line = Line::idle(&replica).expect("it stands");
        line.keep(&replica);
        // Nothing below waits: the runtime hears nothing of what the kernel knows.
        close.send(()).unwrap();
        thread.join().unwrap();
        std::thread::sleep(LOOK_AFTER);
        assert!(Line::idle(&replica).is_none());
    }
}
