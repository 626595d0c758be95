//! The Ollama on this machine: where it is, and whether it is there.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tutti_api::{Address, Config, Endpoint, Expose, InvalidAddress, PoolSpec, ReplicaUrl};

/// Where Ollama listens if nothing is said.
const DEFAULT_PORT: u16 = 11434;
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How long a change may take: the gateway may just be asking replicas that do not answer.
const CHANGE_WITHIN: Duration = Duration::from_secs(15);

/// Where the Ollama of this machine is, by `OLLAMA_HOST` as a client reads it.
///
/// # Errors
/// It is nowhere that the gateway could ask.
pub(crate) fn ollama_host() -> Result<ReplicaUrl> {
    let given = std::env::var_os("OLLAMA_HOST").unwrap_or_default();
    usable(given.to_str().context("OLLAMA_HOST is not UTF-8")?)
}

/// What is given is not shown where it is wrong: a password may be in it.
fn usable(given: &str) -> Result<ReplicaUrl> {
    let read = normalize(given).parse();
    read.map_err(|error: InvalidAddress| anyhow!("OLLAMA_HOST is no replica's URL: {error}; write http://host:port"))
}

/// Reads `OLLAMA_HOST` as Ollama does (envconfig.Host, 0.11.4): scheme, host and port are each optional, a bare scheme
/// brings its own port, and a server's "any address" is a client's loopback.
fn normalize(host: &str) -> String {
    let host = host.trim().trim_matches(['"', '\'']);
    let (scheme, rest, port) = match host.split_once("://") {
        Some(("https", rest)) => ("https", rest, 443),
        Some((_, rest)) => ("http", rest, 80),
        None => ("http", host, DEFAULT_PORT),
    };
    let rest = rest.split('/').next().unwrap_or_default();
    let (name, given) = match rest.rsplit_once(':') {
        // The last colon of an IPv6 address without a port is part of it.
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, Some(digits)),
        _ => (rest, None),
    };
    let port =
        given.and_then(|digits| digits.parse().ok()).unwrap_or(if given.is_some() { DEFAULT_PORT } else { port });
    let name = name.trim_matches(['[', ']']);
    let name = match name {
        "" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        v6 if v6.contains(':') => format!("[{v6}]"),
        name => name.to_owned(),
    };
    format!("{scheme}://{name}:{port}")
}

/// The configuration without a file: every model of this Ollama, unchanged in behaviour.
pub(crate) fn zero_config(ollama: &str) -> Config {
    let endpoint = Endpoint { url: Some(ollama.to_owned()), ..Endpoint::default() };
    let pool =
        PoolSpec { name: "ollama".to_owned(), endpoints: vec![endpoint], expose: Expose::All, ..PoolSpec::default() };
    Config { pools: vec![pool], ..Config::default() }
}

/// The configuration; where it lists no pools, with that of the Ollama on this machine.
///
/// # Errors
/// There can be no such Ollama.
pub(crate) fn completed(mut config: Config) -> Result<Config> {
    if config.pools.is_empty() {
        config.pools = zero_config(&ollama_host()?.to_string()).pools;
    }
    Ok(config)
}

/// Who answers at an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// An Ollama of this version.
    Ollama(String),
    /// A tutti.
    Tutti,
    /// Something else.
    Other,
    /// Nobody.
    Nobody,
}

/// Asks who answers at an address.
pub(crate) fn who(address: &Address) -> Answers {
    let Ok(answer) = ask(address, "GET", "/api/version", None) else { return Answers::Nobody };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.to_ascii_lowercase().contains("\r\nx-tutti-instance:") {
        return Answers::Tutti;
    }
    let body: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
    match body["version"].as_str() {
        Some(version) => Answers::Ollama(version.to_owned()),
        None => Answers::Other,
    }
}

/// Asks for a page by plain HTTP, with a connection of its own; a GET within 2 s, once a name is resolved.
///
/// # Errors
/// There is no whole answer.
pub(crate) fn ask(address: &Address, method: &str, path: &str, token: Option<&str>) -> io::Result<String> {
    const MAX_ANSWER: usize = 8 << 20;
    let within = if method == "GET" { WITHIN } else { CHANGE_WITHIN };
    let until = Instant::now() + within;
    let mut stream = connect(address, until)?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    stream.set_write_timeout(Some(left(until)?))?; // the kernel takes so few bytes at once
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\n{length}{authorization}\r\n")?;
    let (mut answer, mut part) = (Vec::new(), [0; 16 << 10]);
    while answer.len() < MAX_ANSWER {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut part) {
            Ok(0) if answer.is_empty() => return Err(io::Error::other("the connection ended without an answer")),
            Ok(0) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(late()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the answer is too large"))
}

/// Connects to one of a name's addresses.
fn connect(address: &Address, until: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("the name has no address");
    let mut addresses = address.addresses(); // of localhost too: a static binary has no other way to it
    if addresses.is_empty() {
        addresses = address.to_string().to_socket_addrs()?.collect();
    }
    for address in addresses {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The time until then; an error once there is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::other("no whole answer within the time that it may take")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollama_host_is_read_as_ollama_reads_it() {
        for (given, expected) in [
            ("", "http://127.0.0.1:11434"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            (":11435", "http://127.0.0.1:11435"),
            ("gpu", "http://gpu:11434"),
            ("gpu:1", "http://gpu:1"),
            ("gpu:notaport", "http://gpu:11434"),
            ("http://gpu", "http://gpu:80"),
            ("https://gpu", "https://gpu:443"),
            ("http://gpu:9/path", "http://gpu:9"),
            ("[::1]:9", "http://[::1]:9"),
            ("::1", "http://[::1]:11434"),
            ("::", "http://[::1]:11434"),
            (" \"gpu:2\" ", "http://gpu:2"),
        ] {
            assert_eq!(normalize(given), expected, "{given:?}");
        }
    }

    #[test]
    fn an_ollama_host_that_no_replica_can_be_is_refused() {
        for (given, why) in [
            ("https://gpu.example", "http://"),
            ("127.0.0.1:0", "port 0"),
            ("http://user:secret@127.0.0.1:1", "a password"),
            ("a b", "the host"),
        ] {
            let error = usable(given).unwrap_err().to_string();
            assert!(error.contains("OLLAMA_HOST") && error.contains(why), "{given}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(usable("gpu").unwrap().to_string(), "http://gpu:11434");
    }

    #[test]
    fn an_answer_that_does_not_end_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        // A byte every 20 ms, until its client goes.
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            while sent.is_ok() {
                std::thread::park_timeout(Duration::from_millis(20));
                sent = stream.write_all(b" ");
            }
        });
        let begun = Instant::now();
        let error = ask(&address, "GET", "/", None).unwrap_err();
        assert!(error.to_string().contains("within"), "{error}");
        assert!(begun.elapsed() < WITHIN * 5);
    }
}
