//! One accepts and hands each socket to the core with the fewest connections (docs/decisions/how-sockets-reach-cores.md).

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::core::Door;
use crate::shared::Shared;

/// Pause after an accept that failed: others will be closed meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
/// How often that is said.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Accepts until the gateway drains, `limits.connections` at a time and no more than there are files for.
pub(super) async fn accept(listener: TcpListener, doors: Vec<Door>, files: usize, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot wait for connections"),
    };
    if files < wanted(&shared) {
        tracing::warn!(
            wanted = wanted(&shared),
            allowed = files,
            "the limit on open files (ulimit -n) is too low for limits.connections"
        );
    }
    let mut draining = shared.drained();
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased; // none more where both are ready
            () = draining.begins() => return,
            accepted = listener.accept() => accepted.and_then(|(socket, _)| socket.into_std()),
        };
        match accepted {
            Ok(socket) => {
                if shared.connections.load(Relaxed) >= wanted(&shared).min(files) {
                    shared.refused_connections.fetch_add(1, Relaxed);
                    continue; // closing it says more than letting it wait
                }
                let Some(door) = doors.iter().min_by_key(|door| door.open()) else { return };
                door.hand(socket, &shared);
            }
            // Out of files, mostly.
            Err(error) => {
                if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    tracing::warn!(%error, "cannot accept a connection");
                    said = Some(Instant::now());
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn wanted(shared: &Shared) -> usize {
    shared.table().config.gateway.limits.connections as usize
}
