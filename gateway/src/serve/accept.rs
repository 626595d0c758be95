//! One accepts and hands each socket to the core with the fewest connections (docs/decisions/how-sockets-reach-cores.md).

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::core::Door;
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
    let mut draining = shared.drained();
    loop {
        let accepted = tokio::select! {
            biased; // none more where both are ready
            () = draining.begins() => return,
            accepted = listener.accept() => accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))),
        };
        match accepted {
            Ok((socket, peer)) => {
                if let Some(limit) = shared.full() {
                    limits::hit(limit);
                    continue; // closing it says more than letting it wait
                }
                let Some(door) = doors.iter().min_by_key(|door| door.open()) else { return };
                door.hand(socket, peer, &shared);
            }
            // Out of files, mostly.
            Err(error) => {
                if let Some(unsaid) = FAILED.say() {
                    tracing::warn!(%error, unsaid, "cannot accept a connection");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
