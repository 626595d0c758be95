//! The side of the gateway that runs.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tutti_api::TrafficWord;

use super::wire::{Offer, Offered, Talk, Word};
use super::{Port, WITHIN, folder, private, same_user};
use crate::shared::Shared;

/// Longest word of a driver that is told of, so that a line has room for it; a longer one is on the disk, and others have it.
/// Unit: bytes.
const MAX_WORD: usize = 32 << 10;
/// Drained replicas that are told of at most, so that a line has room for them. Unit: URLs.
const MAX_DRAINED: usize = 128;
/// Talks at a time. Further ones wait.
const TALKS: usize = 8;

/// What is offered, until it is dropped.
#[derive(Debug)]
pub(in crate::serve) struct Offering {
    path: PathBuf,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    /// `None` once there is nothing to give any more.
    ports: Mutex<Option<Vec<Port>>>,
    shared: Arc<Shared>,
    /// One at a time may hold them.
    taker: Semaphore,
}

impl Drop for Offering {
    /// Closes the sockets: nobody else keeps the ports open then.
    fn drop(&mut self) {
        self.task.abort();
        *self.state.ports.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = fs::remove_file(&self.path);
    }
}

/// Offers these ports on the current runtime.
///
/// # Errors
/// Why that cannot be; a gateway can do without.
pub(in crate::serve) fn start(token_file: &Path, ports: Vec<Port>, shared: Arc<Shared>) -> io::Result<Offering> {
    let folder = folder(token_file);
    private(&folder)?;
    // Containers that share the folder may have the same number.
    let path = folder.join(format!("{}-{:016x}.sock", std::process::id(), crate::random()));
    let listener = UnixListener::bind(&path)?;
    let state = Arc::new(State { ports: Mutex::new(Some(ports)), shared, taker: Semaphore::new(1) });
    let task = tokio::spawn(answer(listener, state.clone()));
    Ok(Offering { path, state, task })
}

async fn answer(listener: UnixListener, state: Arc<State>) {
    let talks = Arc::new(Semaphore::new(TALKS));
    while let Ok(place) = talks.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(WITHIN).await;
            continue;
        };
        let state = state.clone();
        tokio::spawn(async move {
            if let Err(error) = state.talk(stream).await {
                tracing::debug!(%error, "somebody looked whether to take over");
            }
            drop(place);
        });
    }
}

impl State {
    /// From the other's first word to its last. An error before it has the sockets is nobody's concern.
    async fn talk(&self, stream: UnixStream) -> io::Result<()> {
        same_user(&stream)?;
        let mut talk = Talk::new(stream);
        let Word::Hello { pid, version } = talk.hear(WITHIN).await? else { return Err(unexpected()) };
        let Some(offer) = self.offer() else {
            let why = format!("process {} is about to end", std::process::id());
            return talk.say(Word::Refuses { why }, &[]).await;
        };
        talk.say(Word::Offers(offer), &[]).await?;
        let Word::Take { ports } = talk.hear(WITHIN).await? else { return Err(unexpected()) };
        let Ok(_one) = self.taker.try_acquire() else {
            let why = "another process is about to take over".to_owned();
            return talk.say(Word::Refuses { why }, &[]).await;
        };
        self.give(&mut talk, &ports).await?;
        tracing::info!(successor = pid, version, "a process has the ports, and is not ready yet: serving on");
        // Until it serves or ends, however long it builds: given up, it would come to serve beside this one.
        let served = match talk.hear_at_last().await {
            // It must be there to hear this.
            Ok(Word::Serves {}) => talk.say(Word::Leaves { word: self.word() }, &[]).await,
            Ok(_) => Err(unexpected()),
            Err(error) => Err(error),
        };
        match served {
            Ok(()) => self.shared.ending.succeed(pid),
            Err(error) => tracing::warn!(successor = pid, %error, "it did not take over: serving on as before"),
        }
        Ok(())
    }

    fn offer(&self) -> Option<Offer> {
        if self.shared.ending.is_succeeded() {
            return None; // they are another's by now
        }
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let offered = |port: &Port| Offered {
            name: port.name.to_owned(),
            configured: port.configured.clone(),
            bound: port.listener.local_addr().map(|bound| bound.to_string()).unwrap_or_default(),
        };
        Some(Offer {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.shared.instance.to_str().unwrap_or_default().to_owned(),
            ports: ports.as_ref()?.iter().map(offered).collect(),
            drained: self.shared.table().drained.iter().take(MAX_DRAINED).map(ToString::to_string).collect(),
            word: self.word(),
        })
    }

    /// The driver's word that this gateway goes by.
    fn word(&self) -> Option<TrafficWord> {
        let word = self.shared.peers.as_ref()?.word.load_full()?;
        let fits = serde_json::to_vec(&*word).is_ok_and(|text| text.len() <= MAX_WORD);
        fits.then(|| (*word).clone())
    }

    /// Gives copies of these ports' sockets.
    async fn give(&self, talk: &mut Talk, names: &[String]) -> io::Result<()> {
        let copies = {
            let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            let ports = ports.as_ref().ok_or_else(unexpected)?;
            let find = |name: &String| ports.iter().find(|port| port.name == name.as_str());
            let copy = |name| find(name).ok_or_else(unexpected)?.listener.try_clone();
            names.iter().map(copy).collect::<io::Result<Vec<_>>>()?
        };
        let sockets: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        talk.say(Word::Given {}, &sockets).await
    }
}

fn unexpected() -> io::Error {
    io::Error::other("it says what it should not")
}
