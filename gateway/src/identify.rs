//! Who asks. With keys, whoever has one. Without, whether a browser was tricked into asking: by a name that was bound to
//! this machine's address (DNS rebinding), or by a page of another site. Ollama guards itself the same way; it sees
//! neither Host nor Origin of our clients, so the guard is here. A page of another site is refused with keys too.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Uri, Version};

use crate::classify::Ask;
use crate::errors::{Code, Failure};
use crate::handle::copied;
use crate::keys::{Key, KeySet};

/// Where Anthropic's clients put their key, and Azure's.
const API_KEYS: [HeaderName; 2] = [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// Schemes of pages that come with an application or a browser's extension: Ollama's own list (its envconfig, 0.11.4),
/// and what its CORS library calls browser extensions.
const APPLICATIONS: [&str; 8] =
    ["app", "file", "tauri", "vscode-webview", "vscode-file", "chrome-extension", "moz-extension", "safari-extension"];

/// Whether an answer is for everybody: whoever runs the gateway asks for these, and Ollama's clients before all else.
pub(crate) fn is_open(ask: &Ask) -> bool {
    matches!(ask, Ask::Root | Ask::Health | Ask::Ready)
}

/// The key that a request came with, good or not.
///
/// # Errors
/// There is none, or it is nobody's.
pub(crate) fn key<'k>(headers: &HeaderMap, keys: &'k KeySet) -> Result<&'k Arc<Key>, Failure> {
    let presented = presented(headers).ok_or_else(|| {
        Failure::new(Code::MissingApiKey, "this gateway wants an API key: send it as Authorization: Bearer KEY")
    })?;
    keys.find(presented).ok_or_else(not_valid)
}

/// The refusal of a key, the same for one that never was and one that was: who tries learns nothing.
pub(crate) fn not_valid() -> Failure {
    Failure::new(Code::InvalidApiKey, "this API key is not valid")
}

/// The first key in the headers.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
    });
    let named = API_KEYS.into_iter().filter_map(|name| headers.get(name)).map(HeaderValue::as_bytes);
    bearer.into_iter().chain(named).map(<[u8]>::trim_ascii).find(|key| !key.is_empty())
}

/// Refuses a Host that is neither an address, nor local, nor in `allowed`: a page of a stranger whose name was bound to
/// this machine's address sends the stranger's name. `None`: any that can be read.
///
/// # Errors
/// The refusal.
pub(crate) fn host(head: &Parts, allowed: Option<&[String]>) -> Result<(), Failure> {
    let unreadable = || Failure::new(Code::InvalidHeader, "the Host header cannot be read");
    let mut hosts = head.headers.get_all(HOST).iter();
    let named: Option<Authority> = match hosts.next() {
        Some(host) => Some(parsed(host).ok_or_else(unreadable)?),
        None if head.version < Version::HTTP_11 => None,
        None if head.version == Version::HTTP_2 && head.uri.authority().is_some() => None, // RFC 9113, 8.3.1
        None => return Err(Failure::new(Code::InvalidHeader, "no Host header (RFC 9112, 3.2)")),
    };
    if hosts.next().is_some() {
        return Err(Failure::new(Code::InvalidHeader, "more than one Host header"));
    }
    if let (Version::HTTP_2, Some(authority), Some(named)) = (head.version, head.uri.authority(), &named)
        && !same(authority, named)
    {
        return Err(Failure::new(Code::InvalidHeader, "Host says something else than :authority (RFC 9113, 8.3.1)"));
    }
    // A target in absolute form goes before the header (RFC 9112, 3.2.2), and so does :authority.
    let Some(authority) = head.uri.authority().or(named.as_ref()) else { return Ok(()) };
    if allowed.is_none_or(|allowed| is_ours(authority.host(), allowed)) {
        return Ok(());
    }
    Err(Failure::new(Code::HostNotAllowed, "this Host is not in gateway.allowedHosts"))
}

/// The Origin to let a page of it read the answer; `None` where no page asks.
///
/// # Errors
/// The refusal of a page of another site.
pub(crate) fn origin(uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> Result<Option<HeaderValue>, Failure> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(None) };
    let (scheme, site) = origin.to_str().ok().and_then(|origin| origin.split_once("://")).unwrap_or_default();
    let is_web = scheme == "http" || scheme == "https";
    let authority: Option<Authority> = site.parse().ok().filter(|_| is_web);
    let is_known = authority.is_some_and(|authority| {
        let name = authority.host();
        let asked = || uri.authority().map(Authority::as_str).or_else(|| headers.get(HOST)?.to_str().ok());
        let here = || asked() == Some(site);
        match address(name) {
            Some(address) => address.is_loopback() || address.is_unspecified() || here(),
            None => is_ours(name, allowed),
        }
    });
    if is_known || APPLICATIONS.contains(&scheme) {
        return Ok(Some(copied(origin)));
    }
    Err(Failure::new(
        Code::OriginNotAllowed,
        "a page of another site may not ask: its Origin is not in gateway.allowedHosts",
    ))
}

fn parsed(host: &HeaderValue) -> Option<Authority> {
    std::str::from_utf8(host.as_bytes()).ok()?.parse().ok()
}

/// Whether two authorities name the same.
fn same(one: &Authority, other: &Authority) -> bool {
    one.host().eq_ignore_ascii_case(other.host()) && one.port_u16() == other.port_u16()
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
        host(&head, Some(&allowed())).err().map(|failure| failure.code)
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
    fn with_keys_any_host_that_can_be_read_will_do() {
        let check = |host: &str| {
            let request = Request::builder().uri("/").header(HOST, host).body(()).unwrap();
            super::host(&request.into_parts().0, None).err().map(|failure| failure.code)
        };
        assert_eq!(check("evil.example"), None);
        assert_eq!(check("a b"), Some(Code::InvalidHeader));
    }

    #[test]
    fn a_key_is_where_clients_put_it() {
        let presented = |headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            super::presented(&HeaderMap::from_iter(headers)).map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        for headers in [
            &[("authorization", "Bearer k")][..],
            &[("authorization", "bearer   k ")],
            &[("x-api-key", "k")],
            &[("api-key", "k")],
            &[("authorization", "Basic b"), ("x-api-key", "k")],
            &[("authorization", "Bearer "), ("api-key", "k")],
            &[("authorization", "Bearer k"), ("x-api-key", "other")],
        ] {
            assert_eq!(presented(headers).as_deref(), Some("k"), "{headers:?}");
        }
        for headers in [&[][..], &[("authorization", "Bearer")], &[("authorization", "k")], &[("api-key", " ")]] {
            assert_eq!(presented(headers), None, "{headers:?}");
        }
    }

    #[test]
    fn over_http2_the_authority_is_the_host() {
        let check = |uri: &str, host: Option<&str>| host_code(uri, host, Version::HTTP_2);
        for host in [None, Some("localhost:1"), Some("LOCALHOST:1")] {
            assert_eq!(check("https://localhost:1/", host), None, "{host:?}");
        }
        for host in ["127.0.0.1:1", "localhost", "localhost:2", "evil.example:1"] {
            assert_eq!(check("https://localhost:1/", Some(host)), Some(Code::InvalidHeader), "{host}");
        }
        assert_eq!(check("https://evil.example/", None), Some(Code::HostNotAllowed));
        assert_eq!(check("https://evil.example/", Some("localhost")), Some(Code::InvalidHeader));
        assert_eq!(check("/", Some("localhost")), None);
        assert_eq!(check("/", Some("evil.example")), Some(Code::HostNotAllowed));
        assert_eq!(check("/", None), Some(Code::InvalidHeader));
        let origin = |origin: &'static str| {
            let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
            super::origin(&Uri::from_static("https://10.0.0.1:11500/"), &headers, &[]).is_ok()
        };
        assert!(origin("https://10.0.0.1:11500") && !origin("https://10.0.0.2:11500"));
    }

    #[test]
    fn pages_of_this_machine_and_of_applications_may_ask_and_strangers_may_not() {
        let check = |origin: &str| {
            let headers = [(ORIGIN, origin.parse().unwrap()), (HOST, HeaderValue::from_static("10.0.0.1:11500"))];
            super::origin(&Uri::from_static("/"), &HeaderMap::from_iter(headers), &allowed())
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
        assert_eq!(super::origin(&Uri::from_static("/"), &HeaderMap::new(), &[]).unwrap(), None);
    }
}
