//! Who asks. Without keys, that is whether a browser was tricked into asking: by a name that was bound to this machine's
//! address (DNS rebinding), or by a page of another site. Ollama guards itself the same way; it sees neither Host nor
//! Origin of our clients, so the guard is here.

use std::net::IpAddr;

use http::header::{HOST, HeaderValue, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Version};

use crate::errors::{Code, Failure};

/// Schemes of pages that come with an application or a browser's extension: Ollama's own list (its envconfig, 0.11.4),
/// and what its CORS library calls browser extensions.
const APPLICATIONS: [&str; 8] =
    ["app", "file", "tauri", "vscode-webview", "vscode-file", "chrome-extension", "moz-extension", "safari-extension"];

/// Refuses a Host that is neither an address, nor local, nor in `allowed`: a page of a stranger whose name was bound to
/// this machine's address sends the stranger's name.
///
/// # Errors
/// The refusal.
pub(crate) fn host(head: &Parts, allowed: &[String]) -> Result<(), Failure> {
    let unreadable = || Failure::new(Code::InvalidHeader, "the Host header cannot be read");
    let mut hosts = head.headers.get_all(HOST).iter();
    let named: Option<Authority> = match hosts.next() {
        Some(host) => Some(parsed(host).ok_or_else(unreadable)?),
        None if head.version < Version::HTTP_11 => None,
        None => return Err(Failure::new(Code::InvalidHeader, "no Host header (RFC 9112, 3.2)")),
    };
    if hosts.next().is_some() {
        return Err(Failure::new(Code::InvalidHeader, "more than one Host header"));
    }
    // A target in absolute form goes before the header (RFC 9112, 3.2.2).
    let Some(authority) = head.uri.authority().or(named.as_ref()) else { return Ok(()) };
    if is_ours(authority.host(), allowed) {
        return Ok(());
    }
    Err(Failure::new(Code::HostNotAllowed, "this Host is not in gateway.allowedHosts"))
}

/// The Origin to let a page of it read the answer; `None` where no page asks.
///
/// # Errors
/// The refusal of a page of another site.
pub(crate) fn origin(headers: &HeaderMap, allowed: &[String]) -> Result<Option<HeaderValue>, Failure> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(None) };
    let (scheme, site) = origin.to_str().ok().and_then(|origin| origin.split_once("://")).unwrap_or_default();
    let is_web = scheme == "http" || scheme == "https";
    let authority: Option<Authority> = site.parse().ok().filter(|_| is_web);
    let is_known = authority.is_some_and(|authority| {
        let name = authority.host();
        let here = || headers.get(HOST).is_some_and(|host| host == site);
        match address(name) {
            Some(address) => address.is_loopback() || address.is_unspecified() || here(),
            None => is_ours(name, allowed),
        }
    });
    if is_known || APPLICATIONS.contains(&scheme) {
        return Ok(Some(origin.clone()));
    }
    Err(Failure::new(
        Code::OriginNotAllowed,
        "a page of another site may not ask: its Origin is not in gateway.allowedHosts",
    ))
}

fn parsed(host: &HeaderValue) -> Option<Authority> {
    std::str::from_utf8(host.as_bytes()).ok()?.parse().ok()
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// An address, a local name, or a listed one.
fn is_ours(host: &str, allowed: &[String]) -> bool {
    let local = host.eq_ignore_ascii_case("localhost") || ends_with(host, ".localhost");
    address(host).is_some() || local || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
}

fn ends_with(name: &str, suffix: &str) -> bool {
    name.len() > suffix.len() && name.as_bytes()[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn allowed() -> Vec<String> {
        vec!["gate.bank".to_owned()]
    }

    fn host_code(uri: &str, host: Option<&str>, version: Version) -> Option<Code> {
        let mut request = Request::builder().uri(uri).version(version);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        host_of(request.body(()).unwrap().into_parts().0)
    }

    fn host_of(head: Parts) -> Option<Code> {
        host(&head, &allowed()).err().map(|failure| failure.code)
    }

    #[test]
    fn addresses_and_listed_hosts_pass_and_others_do_not() {
        let check = |host: &str| host_code("/", Some(host), Version::HTTP_11);
        for good in ["localhost", "LocalHost:11500", "127.0.0.1:1", "[::1]:1", "10.1.2.3", "x.localhost", "Gate.Bank"] {
            assert_eq!(check(good), None, "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example", "xlocalhost", "127.0.0.1.evil.example"] {
            assert_eq!(check(bad), Some(Code::HostNotAllowed), "{bad}");
        }
        assert_eq!(check("a b"), Some(Code::InvalidHeader));
        assert_eq!(host_code("/", None, Version::HTTP_10), None);
        assert_eq!(host_code("/", None, Version::HTTP_11), Some(Code::InvalidHeader));
        let absolute = host_code("http://evil.example/", Some("localhost"), Version::HTTP_11);
        assert_eq!(absolute, Some(Code::HostNotAllowed));
    }

    #[test]
    fn pages_of_this_machine_and_of_applications_may_ask_and_strangers_may_not() {
        let check = |origin: &str| {
            let headers = [(ORIGIN, origin.parse().unwrap()), (HOST, HeaderValue::from_static("10.0.0.1:11500"))];
            super::origin(&HeaderMap::from_iter(headers), &allowed())
        };
        for good in [
            "http://localhost:3000",
            "https://localhost",
            "http://127.0.0.1:8080",
            "http://[::1]:80",
            "http://0.0.0.0",
            "https://gate.bank",
            "http://10.0.0.1:11500",
            "app://obsidian.md",
            "chrome-extension://abc",
            "file://",
        ] {
            assert_eq!(check(good).unwrap().unwrap(), good);
        }
        for bad in [
            "https://evil.example",
            "null",
            "http://10.0.0.2:11500",
            "http://10.0.0.1:80",
            "http://110.0.0.1:11500",
            "http://localhost.evil.example",
            "http://evil.example?localhost",
            "ftp://localhost",
            "http://",
            "",
        ] {
            assert_eq!(check(bad).unwrap_err().code, Code::OriginNotAllowed, "{bad}");
        }
        assert_eq!(super::origin(&HeaderMap::new(), &[]).unwrap(), None);
    }
}
