//! One accepts and hands each socket to the core with the fewest connections (docs/decisions/how-sockets-reach-cores.md).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpStream;

use super::core::Door;
use crate::ending::Phase;
use crate::limits::{self, Seldom};
use crate::shared::Shared;

/// Pause after an accept that failed: others will be closed meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
static FAILED: Seldom = Seldom::new();

/// Accepts until the gateway drains, `limits.connections` at a time and no more than there are files for.
pub(super) async fn accept(listener: TcpListener, doors: Vec<Door>, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot wait for connections"),
    };
    let wanted = shared.table().config.gateway.limits.connections as usize;
    if shared.files < wanted {
        tracing::warn!(
            wanted,
            allowed = shared.files,
            "the limit on open files (ulimit -n) is too low for limits.connections"
        );
    }
    let mut draining = pin!(shared.ending.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            biased; // none more where both are ready
            () = draining.as_mut() => break,
            accepted = listener.accept() => accepted,
        };
        // Out of files, mostly.
        if let Err(error) = accepted.and_then(|(socket, peer)| admit(socket, peer, &doors, &shared)) {
            if let Some(unsaid) = FAILED.say() {
                tracing::warn!(%error, unsaid, "cannot accept a connection");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    // Who came before the port closes is served; with a successor the port stays open, and it is the one to accept.
    let mut now = Context::from_waker(Waker::noop());
    while !shared.ending.is_succeeded()
        && let Poll::Ready(Ok((socket, peer))) = listener.poll_accept(&mut now)
    {
        let _ = admit(socket, peer, &doors, &shared); // no file left for it: it closes
    }
}

/// Hands a connection to a core, if there is room for it; closing it at once says more than letting it wait.
fn admit(socket: TcpStream, peer: SocketAddr, doors: &[Door], shared: &Arc<Shared>) -> io::Result<()> {
    let socket = socket.into_std()?;
    if let Some(limit) = shared.full() {
        limits::hit(limit);
        return Ok(());
    }
    if let Some(door) = doors.iter().min_by_key(|door| door.open()) {
        door.hand(socket, peer, shared);
    }
    Ok(())
}
