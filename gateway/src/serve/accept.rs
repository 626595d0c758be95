//! How sockets reach the cores.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::core::{Cores, Door};
use super::listen::{self, StartError};
use crate::shared::Shared;

/// How sockets reach the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Every core listens; the kernel spreads connections by a hash of their addresses.
    ReusePort,
    /// One listens and hands each socket to the core with the fewest connections.
    HandOff,
}

/// The listening sockets, one or one a core.
pub(super) struct Sockets {
    pub(super) address: SocketAddr,
    listeners: Vec<TcpListener>,
}

pub(super) fn bind(address: &str, accept: Accept, cores: usize) -> Result<Sockets, StartError> {
    let first = listen::bind_with(address, accept == Accept::ReusePort)?;
    let bound = listen::address(&first)?;
    let mut listeners = vec![first];
    if accept == Accept::ReusePort {
        for _ in 1..cores {
            listeners.push(listen::bind_with(&bound.to_string(), true)?);
        }
    }
    Ok(Sockets { address: bound, listeners })
}

/// Starts accepting: on this runtime for one socket, on the cores' own for one a core.
pub(super) fn start(sockets: Sockets, cores: &Cores, shared: &Arc<Shared>) {
    if sockets.listeners.len() == 1 {
        for listener in sockets.listeners {
            tokio::spawn(accept(listener, cores.doors(), shared.clone()));
        }
    } else {
        for (listener, door) in sockets.listeners.into_iter().zip(cores.doors()) {
            door.clone().runtime().spawn(accept(listener, vec![door], shared.clone()));
        }
    }
}

/// Accepts until the gateway drains.
async fn accept(listener: TcpListener, doors: Vec<Door>, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot wait for connections"),
    };
    let mut draining = shared.drained();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.and_then(|(socket, _)| socket.into_std()),
            () = draining.begins() => return,
        };
        match accepted {
            Ok(socket) => {
                let max = shared.table().config.gateway.limits.connections as usize;
                if shared.connections.load(Relaxed) >= max {
                    shared.refused_connections.fetch_add(1, Relaxed);
                    continue; // closing it says more than letting it wait
                }
                let Some(door) = doors.iter().min_by_key(|door| door.open()) else { return };
                door.hand(socket);
            }
            // Out of files, mostly: others will be closed meanwhile.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}
