//! Who asks. Without keys, that is whether a browser was tricked into asking (DNS rebinding).

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;

use crate::errors::{Code, Failure};

/// Refuses a Host header that is neither an address, nor local, nor in `allowed`: a page of a stranger whose name was
/// bound to this machine's address sends the stranger's name. Ollama guards itself the same way.
///
/// # Errors
/// The refusal.
pub(crate) fn host(headers: &HeaderMap, allowed: &[String]) -> Result<(), Failure> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else { return Ok(()) }; // HTTP/1.0
    if hosts.next().is_some() {
        return Err(Failure::new(Code::InvalidHeader, "more than one Host header"));
    }
    let authority: Option<Authority> = std::str::from_utf8(host.as_bytes()).ok().and_then(|host| host.parse().ok());
    let Some(authority) = authority else {
        return Err(Failure::new(Code::InvalidHeader, "the Host header cannot be read"));
    };
    let name = authority.host().trim_matches(['[', ']']);
    let local = |name: &str| name.eq_ignore_ascii_case("localhost") || ends_with(name, ".localhost");
    if name.parse::<IpAddr>().is_ok() || local(name) || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    {
        return Ok(());
    }
    Err(Failure::new(Code::HostNotAllowed, "this Host is not in gateway.allowedHosts"))
}

fn ends_with(name: &str, suffix: &str) -> bool {
    name.len() > suffix.len() && name.as_bytes()[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_listed_names_pass_and_others_do_not() {
        let check = |host: &str| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            host_code(&headers)
        };
        for good in ["localhost", "LocalHost:11500", "127.0.0.1:1", "[::1]:1", "10.1.2.3", "x.localhost", "Gate.Bank"] {
            assert_eq!(check(good), None, "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example", "xlocalhost", "127.0.0.1.evil.example"] {
            assert_eq!(check(bad), Some(Code::HostNotAllowed), "{bad}");
        }
        assert_eq!(check("a b"), Some(Code::InvalidHeader));
        assert_eq!(host_code(&HeaderMap::new()), None);
    }

    fn host_code(headers: &HeaderMap) -> Option<Code> {
        host(headers, &["gate.bank".to_owned()]).err().map(|failure| failure.code)
    }
}
