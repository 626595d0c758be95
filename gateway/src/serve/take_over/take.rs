//! The side of the gateway that starts.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::time::timeout;
use tutti_api::{Address, TrafficWord};

use super::wire::{Offer, Talk, Word};
use super::{Port, WITHIN, folder, private, same_user};

/// The gateway that has given its sockets, and serves until it is told.
#[derive(Debug)]
pub(in crate::serve) struct Predecessor {
    talk: Talk,
    pid: u32,
    /// By which the two know that they are one gateway.
    pub(in crate::serve) instance: String,
    /// The URLs of replicas that are drained.
    pub(in crate::serve) drained: Vec<String>,
    /// The driver's word that it goes by.
    pub(in crate::serve) word: Option<TrafficWord>,
}

impl Predecessor {
    /// Tells it that this process accepts now, and waits a while until it does not any more. One that takes longer, on a
    /// machine that was paused, is still listened to: it leaves only where it can say so. Yields the driver's word that it
    /// went by last.
    pub(in crate::serve) async fn relieve(mut self) -> Option<TrafficWord> {
        if let Err(error) = self.talk.say(Word::Serves {}, &[]).await {
            return self.has_left(Err(error));
        }
        match timeout(WITHIN, self.talk.hear_at_last()).await {
            Ok(heard) => self.has_left(heard),
            Err(_) => {
                tracing::warn!(predecessor = self.pid, "the one before does not leave yet: both serve");
                tokio::spawn(async move {
                    let heard = self.talk.hear_at_last().await;
                    self.has_left(heard)
                });
                None
            }
        }
    }

    fn has_left(&self, heard: io::Result<Word>) -> Option<TrafficWord> {
        match heard {
            Ok(Word::Leaves { word }) => {
                tracing::info!(predecessor = self.pid, "it has taken over: the one before drains");
                return word;
            }
            Ok(word) => tracing::warn!(predecessor = self.pid, ?word, "the one before says what it should not"),
            Err(error) => tracing::warn!(predecessor = self.pid, %error, "the one before has ended without a word"),
        }
        None
    }
}

/// Finds the gateway that has some of these addresses and takes its sockets for them; `bind` is given the others first.
/// `None`: there is none.
///
/// # Errors
/// What stands in the way, for a person. Then the other one serves on.
pub(in crate::serve) async fn take<E: From<String>>(
    token_file: &Path,
    wanted: &[(&'static str, &str)],
    bind: impl Fn(&str) -> Result<TcpListener, E>,
) -> Result<Option<(Vec<Port>, Predecessor)>, E> {
    let Some((mut talk, offer, shared)) = find(&folder(token_file), wanted).await? else { return Ok(None) };
    let failed = |error: io::Error| format!("process {} does not give its ports: {error}", offer.pid);
    let mut own = Vec::new(); // the others, before anything is asked for
    for (name, text) in wanted {
        own.push(if shared.contains(name) { None } else { Some(bind(text)?) });
    }
    let ports = shared.iter().map(|name| (*name).to_owned()).collect();
    talk.say(Word::Take { ports }, &[]).await.map_err(failed)?;
    match talk.hear(WITHIN).await.map_err(failed)? {
        Word::Given {} => {}
        Word::Refuses { why } => return Err(why.into()),
        _ => return Err(failed(io::Error::other("it says what it should not")).into()),
    }
    let given = talk.take_sockets();
    let came = given.len();
    // In the order of `shared`, which is that of `wanted`.
    let mut listeners = given.into_iter().map(TcpListener::from);
    let port = |(&(name, text), own): (&(&'static str, &str), Option<TcpListener>)| {
        Some(Port { name, configured: text.to_owned(), listener: own.or_else(|| listeners.next())? })
    };
    let ports: Vec<Port> = wanted.iter().zip(own).filter_map(port).collect();
    if came != shared.len() || ports.len() != wanted.len() {
        return Err(failed(io::Error::other(format!("{came} sockets came for {}", shared.len()))).into());
    }
    let Offer { pid, instance, drained, word, .. } = offer;
    Ok(Some((ports, Predecessor { talk, pid, instance, drained, word })))
}

/// The gateway among those in the folder that has some of these addresses, and the names of the ports they are.
async fn find<'w>(folder: &Path, wanted: &[(&'w str, &str)]) -> Result<Option<(Talk, Offer, Vec<&'w str>)>, String> {
    if !folder.exists() {
        return Ok(None);
    }
    private(folder).map_err(|error| format!("nobody is taken over from: {error}"))?;
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for path in sockets(folder) {
        match greet(&path).await {
            Ok(Some((talk, offer))) => {
                let shared = shared(wanted, &offer);
                if !shared.is_empty() {
                    found.push((talk, offer, shared));
                }
            }
            Ok(None) => {}
            Err(error) => failed.push(format!("{}: {error}", path.display())),
        }
    }
    match (found.len(), failed.is_empty()) {
        (0, true) => Ok(None),
        // It may well be the one.
        (0, false) => Err(format!("a gateway does not come to terms: {}", failed.join("; "))),
        (1, _) => Ok(found.pop()),
        _ => {
            let pids: Vec<String> = found.iter().map(|(_, offer, _)| offer.pid.to_string()).collect();
            Err(format!("processes {} each have some of the addresses: end one of them", pids.join(" and ")))
        }
    }
}

fn sockets(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut sockets: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "sock")).collect();
    sockets.sort();
    sockets
}

/// Asks the process at a socket what it has; `None` where there is no process any more.
async fn greet(path: &Path) -> io::Result<Option<(Talk, Offer)>> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let _ = fs::remove_file(path); // left behind by one that was killed
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    same_user(&stream)?;
    let mut talk = Talk::new(stream);
    talk.say(Word::Hello { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() }, &[]).await?;
    match talk.hear(WITHIN).await? {
        Word::Offers(offer) => Ok(Some((talk, offer))),
        Word::Refuses { why } => {
            tracing::info!("no ports come from {}: {why}", path.display());
            Ok(None)
        }
        _ => Err(io::Error::other("it says what it should not")),
    }
}

/// The names of the wanted ports that another gateway has, at the same address as it is configured or as it came to be.
fn shared<'w>(wanted: &[(&'w str, &str)], offer: &Offer) -> Vec<&'w str> {
    let has = |name: &str, text: &str| {
        let address = text.parse::<Address>().ok();
        offer.ports.iter().filter(|port| port.name == name).any(|port| {
            let bound = port.bound.parse::<SocketAddr>().ok();
            port.configured == text
                || (address.is_some() && port.configured.parse().ok() == address)
                || address
                    .as_ref()
                    .is_some_and(|address| bound.is_some_and(|bound| address.addresses().contains(&bound)))
        })
    };
    wanted.iter().filter(|(name, text)| has(name, text)).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::wire::Offered;
    use super::*;

    #[test]
    fn a_port_is_shared_where_the_address_is_the_same() {
        let port = |name: &str, configured: &str, bound: &str| Offered {
            name: name.to_owned(),
            configured: configured.to_owned(),
            bound: bound.to_owned(),
        };
        let offer = Offer {
            pid: 1,
            version: String::new(),
            instance: String::new(),
            drained: Vec::new(),
            word: None,
            ports: vec![
                port("listen", "127.0.0.1:0", "127.0.0.1:4000"),
                port("ops", "localhost:4001", "127.0.0.1:4001"),
                port("admin", "127.0.0.1:4002", "127.0.0.1:4002"),
            ],
        };
        let check = |listen, ops, admin| shared(&[("listen", listen), ("ops", ops), ("admin", admin)], &offer);
        assert_eq!(check("127.0.0.1:0", "localhost:4001", "127.0.0.1:4002"), ["listen", "ops", "admin"]);
        assert_eq!(check("127.0.0.1:4000", "127.0.0.1:4001", "[::ffff:127.0.0.1]:4002"), ["listen", "ops", "admin"]);
        assert_eq!(check("127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4000"), <[&str; 0]>::default());
        assert_eq!(check("0.0.0.0:4000", "127.0.0.1:5001", "127.0.0.1:4002"), ["admin"]);
    }
}
