//! A connection to a replica, driven by whoever uses it.
//!
//! hyper's client comes in two halves, one that asks and one that moves the bytes. Others give the second half to a
//! task of its own; here it is polled by the request that uses it. That saves two task switches a request, and a
//! request that is dropped drops the connection with it: the replica sees its client leave at once, in every phase.
//! Idle connections lie in a pool a core, unpolled, and are looked at before they are used again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::net::TcpStream;

use super::Outgoing;
use super::reach::reach;
use crate::replica::Replica;

/// How many idle connections a core keeps to one replica.
const MAX_IDLE: usize = 1024;
/// How long a connection may lie idle.
const IDLE_FOR: Duration = Duration::from_secs(60);

type Driver = Connection<TokioIo<TcpStream>, Outgoing>;

/// A connection between two requests, or in one.
pub(crate) struct Line {
    sender: SendRequest<Outgoing>,
    driver: Option<Pin<Box<Driver>>>,
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
}

impl Line {
    /// An idle connection to the replica that still stands, if there is one.
    fn idle(replica: &Replica) -> Option<Self> {
        IDLE.with_borrow_mut(|idle| {
            let lines = idle.get_mut(&replica.id)?;
            while let Some((_, mut line)) = lines.pop() {
                if !replica.is_at(line.peer) {
                    continue;
                }
                line.drive(&mut Context::from_waker(Waker::noop()));
                if line.driver.is_some() && line.sender.is_ready() {
                    return Some(line);
                }
            }
            None
        })
    }

    async fn connect(replica: &Replica, timeout: Duration) -> Result<Self, NoHead> {
        let addresses = replica.addresses();
        if let Some(why) = addresses.why.as_ref().filter(|_| addresses.list.is_empty()) {
            // Clients may read this: the name itself is in the status.
            return Err(NoHead::Connect(format!("its name cannot be resolved: {why}")));
        }
        let connect = async {
            let stream = reach(&addresses.list, timeout).await?;
            stream.set_nodelay(true)?; // Nagle against delayed acknowledgements costs 40 ms
            let peer = stream.peer_addr()?;
            Ok((stream, peer))
        };
        let (stream, peer) = connect.await.map_err(|error| NoHead::of(&error))?;
        let handshake = hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| NoHead::Broken(error.to_string()))?;
        Ok(Self { sender, driver: Some(Box::pin(connection)), peer })
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
                None => (Self::connect(replica, connect).await?, false),
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
    IDLE.with_borrow_mut(|idle| {
        idle.retain(|_, lines| {
            lines.retain(|(since, _)| now.saturating_duration_since(*since) < IDLE_FOR);
            !lines.is_empty()
        });
    });
}
