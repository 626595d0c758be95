//! The least HTTP/1.1 client that can measure: request bytes made once, answers skimmed for their end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer head in bytes.
const HEAD_MAX: usize = 64 << 10;

/// The model that every contender serves. It has a tag, so that all of them call it as the replica lists it.
pub const MODEL: &str = "m:1";

/// A POST of a JSON document over a keep-alive connection, as bytes; with a key where one is wanted.
pub fn post(host: &str, path: &str, body: &str, key: Option<&str>) -> Vec<u8> {
    post_with(host, path, body, &key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default())
}

/// The same with further header lines, each with its end.
pub(crate) fn post_with(host: &str, path: &str, body: &str, lines: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tutti-bench\r\nAccept: */*\r\n{lines}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An OpenAI chat request of exactly `bytes` bytes.
///
/// # Panics
/// `bytes` is less than the document around the text takes.
pub fn chat_body(bytes: usize) -> String {
    let (head, tail) = (format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":""#), r#""}]}"#);
    let room = bytes.checked_sub(head.len() + tail.len()).expect("room for the document around the text");
    let text: String = "the quick brown fox jumps over the lazy dog ".chars().cycle().take(room).collect();
    head + &text + tail
}

/// One connection, kept alive as long as the other side agrees.
#[derive(Debug)]
pub struct Connection {
    addr: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Connects without Nagle's delay.
    ///
    /// # Errors
    /// The connection is refused.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        Ok(Connection { addr, stream: connect(addr).await?, buffer: vec![0; 16 << 10], filled: 0 })
    }

    /// Opens the connection again after an error; false if that is refused.
    pub async fn reopen(&mut self) -> bool {
        self.filled = 0;
        match connect(self.addr).await {
            Ok(stream) => {
                self.stream = stream;
                true
            }
            Err(_) => false,
        }
    }

    /// Sends a request with `Expect: 100-continue`: its head, and its body once the other side has begun to read it; and
    /// does not wait for the answer. Whoever does not read that opens a new connection.
    ///
    /// # Errors
    /// The connection broke, or the body is not wanted.
    pub(crate) async fn send_once_expected(&mut self, request: &[u8]) -> io::Result<()> {
        let end = memchr::memmem::find(request, b"\r\n\r\n").ok_or_else(|| invalid("a request without a head"))?;
        let head = [&request[..end], b"\r\nExpect: 100-continue\r\n\r\n"].concat();
        self.stream.write_all(&head).await?;
        match self.read_head().await?.status {
            100 => self.stream.write_all(&request[end + 4..]).await,
            _ => Err(invalid("the body is not wanted")),
        }
    }

    /// Sends a request and reads its answer to the end; returns the status.
    ///
    /// # Errors
    /// The connection broke, or the answer is no HTTP/1.1 with a length or chunks. Open a new one then.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        let head = self.read_head().await?;
        match head.body {
            Length::Known(length) => self.read_at_least(head.bytes + length).await?,
            Length::Chunked => self.read_chunks(head.bytes).await?,
        };
        self.filled = 0;
        if head.closes {
            self.stream = connect(self.addr).await?;
        }
        Ok(head.status)
    }

    /// Sends a request and hands on its answer's body as it comes, without the transfer coding.
    ///
    /// # Errors
    /// No head came. Open a new connection then, and also after an answer that is not complete.
    pub(crate) async fn converse(&mut self, request: &[u8], mut part: impl FnMut(&[u8])) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let head = self.read_head().await?;
        let mut coding = match head.body {
            Length::Known(length) => Coding::Known(length),
            Length::Chunked => Coding::Chunked(Chunks::default()),
        };
        let (mut from, mut answer) = (head.bytes, Answer { status: head.status, complete: false });
        loop {
            match coding.take(&self.buffer[from..self.filled], &mut part) {
                Some(true) => break,
                Some(false) => self.filled = 0,
                None => return Ok(answer), // no chunks: it is cut
            }
            from = 0;
            match self.fill().await {
                Ok(()) => {}
                Err(_) => return Ok(answer),
            }
        }
        answer.complete = true;
        self.filled = 0;
        if head.closes {
            self.stream = connect(self.addr).await?;
        }
        Ok(answer)
    }

    async fn read_head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer[..self.filled], b"\r\n\r\n") {
                return Head::parse(&self.buffer[..end + 4]).ok_or_else(|| invalid("an answer head without its parts"));
            }
            if self.filled > HEAD_MAX {
                return Err(invalid("an endless answer head"));
            }
            self.fill().await?;
        }
    }

    /// Reads until `wanted` bytes are there, the body's rest being thrown away as it comes.
    async fn read_at_least(&mut self, wanted: usize) -> io::Result<()> {
        let mut left = wanted.saturating_sub(self.filled);
        while left > 0 {
            self.filled = 0;
            self.fill().await?;
            left = left.saturating_sub(self.filled);
        }
        Ok(())
    }

    async fn read_chunks(&mut self, mut at: usize) -> io::Result<()> {
        loop {
            let Some(line) = memchr::memchr(b'\n', &self.buffer[at..self.filled]) else {
                self.buffer.copy_within(at..self.filled, 0);
                self.filled -= at;
                at = 0;
                self.fill().await?;
                continue;
            };
            let size = std::str::from_utf8(&self.buffer[at..at + line]).ok();
            let size = size.and_then(|s| usize::from_str_radix(s.trim().split(';').next()?, 16).ok());
            let size = size.ok_or_else(|| invalid("a chunk without its size"))?;
            let end = at + line + 1 + size + 2;
            while self.filled < end {
                self.fill().await?;
            }
            if size == 0 {
                return Ok(());
            }
            at = end;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.filled += n;
                Ok(())
            }
        }
    }
}

/// Sends one request on a connection of its own; yields the status of its answer.
///
/// # Errors
/// No answer within the time.
pub(crate) fn ask(addr: SocketAddr, request: &[u8], within: Duration) -> io::Result<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exchange = async { Connection::open(addr).await?.exchange(request).await };
    runtime.block_on(async { tokio::time::timeout(within, exchange).await.map_err(io::Error::from)? })
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How an answer began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The body came to the end that its framing promised.
    pub(crate) complete: bool,
}

/// What is left of a body.
enum Coding {
    Known(usize),
    Chunked(Chunks),
}

impl Coding {
    /// Takes what has come and hands on what of it is body; true at the body's end, `None` where it is none.
    fn take(&mut self, bytes: &[u8], part: &mut impl FnMut(&[u8])) -> Option<bool> {
        match self {
            Coding::Known(left) => {
                let bytes = &bytes[..bytes.len().min(*left)];
                *left -= bytes.len();
                part(bytes);
                Some(*left == 0)
            }
            Coding::Chunked(chunks) => chunks.take(bytes, part),
        }
    }
}

/// A reader of chunks (RFC 9112, 7.1) that has seen so much of them.
#[derive(Debug, Default)]
struct Chunks {
    /// Bytes that are left of the chunk.
    left: usize,
    /// The line that is being read: a size, or the end of a chunk.
    line: Vec<u8>,
    /// A chunk's bytes have come, and its end has not.
    ends: bool,
    /// The last chunk has come, and the empty line has not.
    last: bool,
}

impl Chunks {
    fn take(&mut self, mut bytes: &[u8], part: &mut impl FnMut(&[u8])) -> Option<bool> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (chunk, rest) = bytes.split_at(bytes.len().min(self.left));
                part(chunk);
                self.left -= chunk.len();
                self.ends = self.left == 0;
                bytes = rest;
                continue;
            }
            let Some(at) = memchr::memchr(b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                return (self.line.len() < HEAD_MAX).then_some(false);
            };
            self.line.extend_from_slice(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let line = std::mem::take(&mut self.line);
            let line = std::str::from_utf8(&line).ok()?.trim_end_matches('\r');
            match (self.ends, self.last) {
                (true, _) if line.is_empty() => self.ends = false,
                (true, _) => return None,
                (_, true) if line.is_empty() => return Some(true),
                (_, true) => {} // a trailer
                _ => {
                    self.left = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
                    self.last = self.left == 0;
                }
            }
        }
        Some(false)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    body: Length,
    closes: bool,
}

impl Head {
    fn parse(head: &[u8]) -> Option<Head> {
        let text = std::str::from_utf8(head).ok()?;
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let mut found = Head { status, bytes: head.len(), body: Length::Known(0), closes: false };
        let mut has_length = matches!(status, 100 | 204 | 304);
        for (name, value) in lines.filter_map(|l| l.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                found.body = Length::Known(value.trim().parse().ok()?);
                has_length = true;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                found.body = Length::Chunked;
                has_length = true;
            } else if name.eq_ignore_ascii_case("connection") {
                found.closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        has_length.then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
        assert_eq!(
            Head::parse(head),
            Some(Head { status: 200, bytes: head.len(), body: Length::Known(5), closes: true })
        );
        let chunked = Head::parse(b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        assert_eq!((chunked.status, chunked.body), (503, Length::Chunked));
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n"), None, "an answer without a length cannot be kept alive");
    }

    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let sent = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nTrailer: 1\r\n\r\n";
        for cut in 0..=sent.len() {
            let (mut chunks, mut body) = (Chunks::default(), Vec::new());
            let mut part = |bytes: &[u8]| body.extend_from_slice(bytes);
            let first = chunks.take(&sent[..cut], &mut part).unwrap();
            assert_eq!(first, cut == sent.len());
            if !first {
                assert_eq!(chunks.take(&sent[cut..], &mut part), Some(true), "cut at {cut}");
            }
            assert_eq!(body, b"hello!", "cut at {cut}");
        }
        assert_eq!(Chunks::default().take(b"5\r\nhello!\r\n", &mut |_| ()), None, "more than was said");
        assert_eq!(Chunks::default().take(b"nothing\r\n", &mut |_| ()), None);
    }

    #[test]
    fn a_body_has_the_size_that_was_asked_for() {
        let body = chat_body(1024);
        assert_eq!(body.len(), 1024);
        assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok());
    }
}
