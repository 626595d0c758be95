//! A client that writes its bytes by hand, so that a test can say and see anything.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::PATIENCE;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

/// An answer's head and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body without its transfer coding.
    pub body: Vec<u8>,
    /// Whether the body came to the end that its framing promises.
    pub complete: bool,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The lines of a stream, those of SSE without `data: `, blank ones left out.
    pub fn lines(&self) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), host: address.to_owned() })
    }

    /// Sends these very bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a request with a body and further header lines.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("host: {}\r\n", self.host));
        }
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.send_raw(format!("{head}\r\n{body}").as_bytes())
    }

    /// Reads a whole answer.
    ///
    /// # Errors
    /// No answer, or one that is no HTTP.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.head()?;
        let chunked = answer.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        answer.complete = match (chunked, length) {
            _ if matches!(answer.status, 204 | 304) => true, // without a body, whatever the header says
            (true, _) => self.chunks(&mut answer.body)?,
            (false, Some(length)) => {
                let read = self.stream.by_ref().take(length as u64).read_to_end(&mut answer.body);
                read.is_ok() && answer.body.len() == length
            }
            (false, None) => self.stream.read_to_end(&mut answer.body).is_ok(),
        };
        Ok(answer)
    }

    /// Reads an answer's head; its body is left on the connection.
    ///
    /// # Errors
    /// No answer, or one that is no HTTP.
    pub fn head(&mut self) -> io::Result<Answer> {
        let strange = |what: &str| io::Error::other(format!("no HTTP answer: {what:?}"));
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| strange(&line))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(strange("an end in the head"));
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Answer { status, headers, body: Vec::new(), complete: false });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| strange(line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The last chunk of a chunked body, with which it ended or broke off.
    pub fn last_chunk(&mut self) -> Vec<u8> {
        let mut last = Vec::new();
        while let Some(chunk) = self.chunk().ok().filter(|chunk| !chunk.is_empty()) {
            last = chunk;
        }
        last
    }

    /// One chunk of a chunked body; empty at its end.
    ///
    /// # Errors
    /// The connection broke.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut size = String::new();
        if self.stream.read_line(&mut size)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk)?;
        chunk.truncate(size);
        Ok(chunk)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            match self.chunk() {
                Ok(chunk) if chunk.is_empty() => return Ok(true),
                Ok(chunk) => body.extend_from_slice(&chunk),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the other side has closed; true if it has within `bound`, whatever it sent before.
    pub fn closed_within(&mut self, bound: Duration) -> bool {
        let mut rest = Vec::new();
        self.stream.get_ref().set_read_timeout(Some(bound)).is_ok() && self.stream.read_to_end(&mut rest).is_ok()
    }

    /// Sends a request and reads its answer.
    ///
    /// # Panics
    /// Where there is none: the test cannot go on.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let answer = self.send(method, path, headers, body).and_then(|()| self.answer());
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }
}
