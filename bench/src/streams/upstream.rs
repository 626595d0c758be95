//! A replica of little cost: it holds thousands of streams open and says a token on each now and then. Each token names
//! its stream and its number, so that one that is lost, doubled or given to another is seen.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::http::MODEL;

/// The longest request. Unit: bytes.
const REQUEST_MAX: usize = 64 << 10;
/// What stands before a stream's number in a request.
pub(super) const PROMPT: &str = "stream ";

/// How slowly streams go, and how long.
#[derive(Debug, Clone, Args)]
pub struct Slow {
    /// Addresses that it listens on, each as if it were a replica of its own.
    #[arg(long, default_value_t = 1)]
    pub addresses: usize,
    /// Tokens of each stream.
    #[arg(long, default_value_t = 20)]
    pub tokens: u32,
    /// The shortest time between two tokens, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    pub least_ms: u64,
    /// The longest.
    #[arg(long, default_value_t = 5000)]
    pub most_ms: u64,
}

impl Slow {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Slow { addresses, tokens, least_ms, most_ms } = self;
        let words = format!("slow --addresses {addresses} --tokens {tokens} --least-ms {least_ms} --most-ms {most_ms}");
        words.split(' ').map(str::to_owned).collect()
    }

    /// The time before a token of a stream: drawn, and the same in every run.
    fn pause(&self, stream: u32, token: u32) -> Duration {
        let mut hash = (u64::from(stream) << 32 | u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The first one comes at any time, so that streams that begin together do not go in step.
        let (from, to) = if token == 0 { (0, self.most_ms) } else { (self.least_ms, self.most_ms.max(self.least_ms)) };
        Duration::from_millis(from + (hash ^ (hash >> 31)) % (to - from + 1))
    }
}

/// Serves from a thread of its own, as long as this process lives; yields its addresses.
pub(crate) fn start(slow: &Slow) -> io::Result<Vec<SocketAddr>> {
    let listeners = (0..slow.addresses.max(1)).map(|_| std::net::TcpListener::bind("127.0.0.1:0"));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let addrs = listeners.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let slow = slow.clone();
    std::thread::Builder::new().name("slow-replica".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, async {
            let slow = Rc::new(slow);
            for listener in listeners {
                if let Ok(listener) = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
                    spawn_local(accept(listener, slow.clone()));
                }
            }
            std::future::pending::<()>().await;
        });
    })?;
    Ok(addrs)
}

async fn accept(listener: TcpListener, slow: Rc<Slow>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let slow = slow.clone();
                spawn_local(async move { serve(stream, &slow).await });
            }
            // Out of files is the one error that lasts; a pause lets others close.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves a connection to its end, however that comes.
async fn serve(mut stream: TcpStream, slow: &Slow) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some((head, end)) = request(&mut stream, &mut buffer).await? else { return Ok(()) };
        let body = String::from_utf8_lossy(&buffer[head..end]).into_owned();
        let line = String::from_utf8_lossy(&buffer[..head]).lines().next().unwrap_or_default().to_owned();
        buffer = Vec::new(); // an open stream needs none
        match line.split(' ').nth(1).unwrap_or_default() {
            "/v1/chat/completions" => tell(&mut stream, slow, number(&body)).await?,
            "/api/version" => reply(&mut stream, r#"{"version":"0.11.4-simulated"}"#).await?,
            "/api/tags" => {
                let model = format!(r#"{{"name":"{MODEL}","model":"{MODEL}","modified_at":"2026-01-01T00:00:00Z"}}"#);
                reply(&mut stream, &format!(r#"{{"models":[{model}]}}"#)).await?;
            }
            _ => reply(&mut stream, r#"{"models":[]}"#).await?,
        }
    }
}

/// Reads a request: where its head ends, and where its body does. `None` where no further one comes.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<(usize, usize)>> {
    loop {
        if let Some(head) = memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4) {
            let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let end = head + length.unwrap_or(0);
            if buffer.len() >= end {
                return Ok(Some((head, end)));
            }
        }
        if buffer.len() > REQUEST_MAX || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn reply(stream: &mut TcpStream, body: &str) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
    stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await
}

/// A whole stream, as an Ollama's.
async fn tell(stream: &mut TcpStream, slow: &Slow, number: u32) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    tokio::time::sleep(slow.pause(number, 0)).await; // an Ollama sends its head with the first token
    stream.write_all(head.as_bytes()).await?;
    for token in 0..slow.tokens {
        if token > 0 {
            tokio::time::sleep(slow.pause(number, token)).await;
        }
        stream.write_all(chunk(&event(&text(number, token), None)).as_bytes()).await?;
    }
    let last = event("", Some("stop")) + "data: [DONE]\n\n";
    stream.write_all((chunk(&last) + "0\r\n\r\n").as_bytes()).await
}

/// What a token of a stream says.
pub(super) fn text(stream: u32, token: u32) -> String {
    format!("{stream}:{token} ")
}

fn event(text: &str, reason: Option<&str>) -> String {
    let reason = reason.map_or("null".to_owned(), |reason| format!("{reason:?}"));
    format!(
        r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764000000,"model":"{MODEL}","system_fingerprint":"fp_ollama","choices":[{{"index":0,"delta":{{"role":"assistant","content":"{text}"}},"finish_reason":{reason}}}]}}"#
    ) + "\n\n"
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// The number of the stream that a request asks for.
fn number(body: &str) -> u32 {
    let digits = body.split(PROMPT).nth(1).unwrap_or_default();
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_within_its_bounds_and_the_same_again() {
        let slow = Slow { addresses: 1, tokens: 20, least_ms: 2000, most_ms: 5000 };
        let pauses: Vec<_> = (0..1000).map(|stream| slow.pause(stream, 3)).collect();
        assert!(pauses.iter().all(|p| (2000..=5000).contains(&p.as_millis())));
        assert!(pauses.iter().any(|p| p.as_millis() < 2300) && pauses.iter().any(|p| p.as_millis() > 4700));
        assert_eq!(slow.pause(7, 3), pauses[7]);
        assert!((0..1000).any(|stream| slow.pause(stream, 0).as_millis() < 500));
    }

    #[test]
    fn a_request_names_its_stream() {
        assert_eq!(number(r#"{"messages":[{"content":"stream 417"}]}"#), 417);
        assert_eq!(number("{}"), u32::MAX);
    }
}
