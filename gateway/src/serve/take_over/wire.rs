//! What the two processes say to each other: a line of JSON each, sockets beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tutti_api::TrafficWord;

/// The protocol's number. It changes with whatever another version could misunderstand; fields may be added without.
const PROTOCOL: u32 = 1;
/// Longest line. Unit: bytes.
const MAX_LINE: usize = 64 << 10;
/// Most sockets that go with a line.
const MAX_SOCKETS: usize = 8;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Word {
    /// The new one: who it is.
    Hello { pid: u32, version: String },
    /// The old one: what it has.
    Offers(Offer),
    /// The old one: it gives nothing.
    Refuses { why: String },
    /// The new one: the names of the ports that it wants.
    Take { ports: Vec<String> },
    /// The old one: here they are, in that order, beside this line.
    Given {},
    /// The new one: it accepts.
    Serves {},
    /// The old one: it does not any more.
    Leaves {
        /// What it went by last of a driver's, which may have come since it offered what it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        word: Option<TrafficWord>,
    },
}

/// What a gateway has to give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) pid: u32,
    pub(super) version: String,
    /// By which the two know that they are one gateway.
    pub(super) instance: String,
    pub(super) ports: Vec<Offered>,
    /// The URLs of replicas that are drained.
    #[serde(default)]
    pub(super) drained: Vec<String>,
    /// The driver's word that it goes by, where there is one and a line has room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) word: Option<TrafficWord>,
}

/// A port to give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offered {
    pub(super) name: String,
    /// The address as it is configured.
    pub(super) configured: String,
    /// The address that it has.
    pub(super) bound: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    tutti: u32,
    #[serde(flatten)]
    word: Word,
}

/// The number alone: whatever else is in a line of another version.
#[derive(Deserialize)]
struct Numbered {
    tutti: u32,
}

fn printed(word: Word) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Line { tutti: PROTOCOL, word })?;
    line.push(b'\n');
    Ok(line)
}

fn read(line: &[u8]) -> io::Result<Word> {
    let Numbered { tutti } = serde_json::from_slice(line)?;
    if tutti != PROTOCOL {
        let why = format!("it takes over by protocol {tutti}, this tutti by {PROTOCOL}: end it by SIGTERM instead");
        return Err(io::Error::other(why));
    }
    Ok(serde_json::from_slice::<Line>(line)?.word)
}

/// A talk with the other process.
#[derive(Debug)]
pub(super) struct Talk {
    stream: UnixStream,
    heard: Vec<u8>,
    /// Sockets that came, and were not taken yet.
    sockets: Vec<OwnedFd>,
}

impl Talk {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, heard: Vec::new(), sockets: Vec::new() }
    }

    /// Says a word, with these sockets beside it.
    pub(super) async fn say(&mut self, word: Word, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let line = printed(word)?;
        let mut sent = 0;
        while sent < line.len() {
            let with = if sent == 0 { sockets } else { &[] };
            sent += self.stream.async_io(Interest::WRITABLE, || self.send(&line[sent..], with)).await?;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("too many sockets"));
        }
        Ok(sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
    }

    /// Hears a word.
    ///
    /// # Errors
    /// None came in time, the other side has ended, or speaks another protocol.
    pub(super) async fn hear(&mut self, within: Duration) -> io::Result<Word> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("it does not answer within {within:?}"));
        timeout(within, self.hear_at_last()).await.unwrap_or_else(|_| Err(late()))
    }

    /// Hears a word, whenever it comes. Nothing is lost where this is dropped before.
    ///
    /// # Errors
    /// The other side has ended, or speaks another protocol.
    pub(super) async fn hear_at_last(&mut self) -> io::Result<Word> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return read(&line);
            }
            if self.heard.len() > MAX_LINE {
                return Err(io::Error::other("it says too much"));
            }
            self.stream.readable().await?;
            let (bytes, sockets) = match self.stream.try_io(Interest::READABLE, || receive(&self.stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                received => received?,
            };
            if bytes.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended"));
            }
            self.heard.extend(bytes);
            self.sockets.extend(sockets);
        }
    }

    /// The sockets that have come.
    pub(super) fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }
}

fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::empty();
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut beside, flags)?;
    bytes.truncate(received.bytes);
    let mut sockets = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            sockets.extend(files);
        }
    }
    Ok((bytes, sockets))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn words_and_sockets_arrive() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Talk::new(one), Talk::new(other));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        one.say(Word::Hello { pid: 7, version: "0".to_owned() }, &[]).await.unwrap();
        one.say(Word::Given {}, &[listener.as_fd()]).await.unwrap();
        one.say(Word::Refuses { why: "x".repeat(20_000) }, &[]).await.unwrap();
        let within = Duration::from_secs(5);
        assert_eq!(other.hear(within).await.unwrap(), Word::Hello { pid: 7, version: "0".to_owned() });
        assert_eq!(other.hear(within).await.unwrap(), Word::Given {});
        assert_eq!(other.hear(within).await.unwrap(), Word::Refuses { why: "x".repeat(20_000) });
        let [socket] = <[OwnedFd; 1]>::try_from(other.take_sockets()).unwrap();
        assert_eq!(TcpListener::from(socket).local_addr().unwrap(), listener.local_addr().unwrap());
        drop(one);
        assert_eq!(other.hear(within).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn another_version_is_known_whatever_it_says() {
        let wrong = |line: &str| read(line.as_bytes()).unwrap_err().to_string();
        assert!(wrong(r#"{"tutti":2,"hi":[]}"#).contains("by protocol 2"));
        wrong(r#"{"tutti":1,"hi":[]}"#);
        wrong("GET / HTTP/1.1");
        assert_eq!(read(br#"{"tutti":1,"leaves":{}}"#).unwrap(), Word::Leaves { word: None }, "what an older one says");
        let more = r#"{"tutti":1,"serves":{"since":5},"more":{}}"#;
        assert_eq!(read(more.as_bytes()).unwrap(), Word::Serves {}, "what is added later is no harm");
    }
}
