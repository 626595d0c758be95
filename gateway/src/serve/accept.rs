//! One accepts and hands each socket to the core with the fewest connections (docs/decisions/how-sockets-reach-cores.md).

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::core::Door;
use crate::shared::Shared;

/// Accepts until the gateway drains.
pub(super) async fn accept(listener: TcpListener, doors: Vec<Door>, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot wait for connections"),
    };
    let mut draining = shared.drained();
    loop {
        let accepted = tokio::select! {
            biased; // none more where both are ready
            () = draining.begins() => return,
            accepted = listener.accept() => accepted.and_then(|(socket, _)| socket.into_std()),
        };
        match accepted {
            Ok(socket) => {
                let max = shared.table().config.gateway.limits.connections as usize;
                if shared.connections.load(Relaxed) >= max {
                    shared.refused_connections.fetch_add(1, Relaxed);
                    continue; // closing it says more than letting it wait
                }
                let Some(door) = doors.iter().min_by_key(|door| door.open()) else { return };
                door.hand(socket, &shared);
            }
            // Out of files, mostly: others will be closed meanwhile.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}
