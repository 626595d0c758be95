//! The Ollama on this machine: where it is, and whether it is there.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use tutti_api::{Config, Endpoint, Expose, PoolSpec};

/// Where Ollama listens if nothing is said.
const DEFAULT_PORT: u16 = 11434;
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(2);

/// `OLLAMA_HOST` as a client reads it.
pub(crate) fn ollama_host() -> String {
    normalize(&std::env::var("OLLAMA_HOST").unwrap_or_default())
}

/// Reads `OLLAMA_HOST` as Ollama does (envconfig.Host, 0.11.4): scheme, host and port are each optional, a bare scheme
/// brings its own port, and a server's "any address" is a client's loopback.
pub(crate) fn normalize(host: &str) -> String {
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

/// Asks who answers at `http://host:port`.
pub(crate) fn who(url: &str) -> Answers {
    let Some(answer) = get(url, "/api/version", None) else { return Answers::Nobody };
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

/// GETs a page with a connection of its own; the whole answer, or nothing if there was none within 2 s.
pub(crate) fn get(url: &str, path: &str, token: Option<&str>) -> Option<String> {
    const MAX_ANSWER: u64 = 8 << 20;
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    let until = Instant::now() + WITHIN;
    let mut stream = authority.to_socket_addrs().ok()?.find_map(|at| TcpStream::connect_timeout(&at, WITHIN).ok())?;
    stream
        .set_read_timeout(Some(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))))
        .ok()?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {authority}\r\n{authorization}\r\n").ok()?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
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
}
