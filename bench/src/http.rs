//! The least HTTP/1.1 client that can measure: request bytes made once, answers skimmed for their end.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer head in bytes.
const HEAD_MAX: usize = 64 << 10;

/// A POST of a JSON document over a keep-alive connection, as bytes.
pub fn post(host: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tutti-bench\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An OpenAI chat request of exactly `bytes` bytes.
///
/// # Panics
/// `bytes` is less than the document around the text takes.
pub fn chat_body(model: &str, bytes: usize) -> String {
    let (head, tail) = (format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":""#), r#""}]}"#);
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

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
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
        let mut has_length = status == 204 || status == 304;
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
    fn a_body_has_the_size_that_was_asked_for() {
        let body = chat_body("m", 1024);
        assert_eq!(body.len(), 1024);
        assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok());
    }
}
