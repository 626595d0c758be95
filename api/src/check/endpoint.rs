//! An endpoint says in one way where replicas are.

use std::collections::HashMap;

use super::{Listeners, Report, field};
use crate::yaml::{Step, dotted};
use crate::{Address, Endpoint, ReplicaUrl};

/// Where replicas are, by one of the ways of saying it.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Place<'c> {
    Url(ReplicaUrl),
    Dns(Address),
    File(&'c str),
}

/// Finds what is wrong with an endpoint. `places` are those of the same pool before it.
pub(super) fn check<'c>(
    spec: &'c Endpoint,
    number: usize,
    here: &[Step],
    listeners: &Listeners,
    places: &mut HashMap<Place<'c>, usize>,
    report: &mut Report<'_>,
) {
    report.file(&field(here, "apiKeyFile"), spec.api_key_file.as_deref());
    let written = [("url", &spec.url), ("dns", &spec.dns), ("file", &spec.file)];
    let written: Vec<(&str, &str)> =
        written.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))).collect();
    let (name, text) = match written[..] {
        [only] => only,
        [] if ["url", "dns", "file"].iter().any(|name| report.is_refused(&field(here, name))) => return,
        [] => return report.add(here, "it does not say where", Some("write url, dns or file")),
        [first, second, ..] => {
            let message = format!("`{}` and `{}` are two endpoints", first.0, second.0);
            return report.add(&field(here, second.0), message, Some("make each an item of its own"));
        }
    };
    let steps = field(here, name);
    let place = match name {
        "url" => url(text, &steps, listeners, report).map(Place::Url),
        "dns" => dns(text, &steps, report).map(Place::Dns),
        _ => report.file(&steps, Some(text)).then_some(Place::File(text)),
    };
    let Some(place) = place else { return };
    let same = if matches!(place, Place::Url(_)) { "is the same replica" } else { "says the same" };
    if let Some(first) = places.insert(place, number) {
        report.add(&steps, format!("endpoints[{first}] {same}"), None);
    }
}

fn url(text: &str, steps: &[Step], listeners: &Listeners, report: &mut Report<'_>) -> Option<ReplicaUrl> {
    let url = match text.parse::<ReplicaUrl>() {
        Ok(url) => url,
        Err(error) => {
            report.add(steps, format!("this is no replica's URL: {error}"), Some("write http://host:port"));
            return None;
        }
    };
    if let Some((listener, _)) = listeners.iter().find(|(_, listener)| url.address().meets(listener)) {
        report.add(steps, format!("this is the gateway itself: {}", dotted(listener)), None);
    }
    Some(url)
}

fn dns(text: &str, steps: &[Step], report: &mut Report<'_>) -> Option<Address> {
    let (message, help) = match text.parse::<Address>() {
        _ if text.contains("://") => ("a name to ask for has no scheme".to_owned(), "write host:port"),
        Err(error) => (format!("this is no name to ask for: {error}"), "write host:port"),
        Ok(address) if address.port() == 0 => ("nobody listens on port 0".to_owned(), "write host:port"),
        Ok(address) if address.name().is_none() => {
            ("this is one replica, and no name to ask for".to_owned(), "write it as url: http://host:port")
        }
        Ok(address) => return Some(address),
    };
    report.add(steps, message, Some(help));
    None
}

#[cfg(test)]
mod tests {
    fn of(endpoints: &str) -> Vec<String> {
        let text = format!("pools: [{{ name: p, endpoints: [{endpoints}] }}]");
        let problems = crate::load(&text, "t", []).err().unwrap_or_default();
        problems.iter().map(|problem| problem.to_string().lines().next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn each_way_of_saying_where_is_taken() {
        let all = "{ url: 'http://h:1' }, { dns: 'h:1' }, { dns: 'h:2' }, { file: h }, { file: '/h' }";
        assert_eq!(of(all), <[&str; 0]>::default());
    }

    #[test]
    fn what_is_wrong_with_an_endpoint_is_said() {
        for (endpoints, place, why) in [
            ("{}", "[0]", "it does not say where; write url, dns or file"),
            ("{ dns: 'h:1', file: x }", "[0].file", "`dns` and `file` are two endpoints; make each an item of its own"),
            ("{ url: 'http://h:1', dns: 'h:1' }", "[0].dns", "`url` and `dns` are two endpoints"),
            ("{ dns: h }", "[0].dns", "this is no name to ask for: the port is missing; write host:port"),
            ("{ dns: 'http://h:1' }", "[0].dns", "a name to ask for has no scheme; write host:port"),
            ("{ dns: 'h:0' }", "[0].dns", "nobody listens on port 0"),
            (
                "{ dns: '10.0.0.7:1' }",
                "[0].dns",
                "this is one replica, and no name to ask for; write it as url: http://h",
            ),
            ("{ dns: 'localhost:1' }", "[0].dns", "this is one replica"),
            ("{ file: '' }", "[0].file", "this names no file"),
            ("{ file: ~/replicas }", "[0].file", "this names no file"),
            ("{ dns: 'h:1' }, { dns: 'H:1' }", "[1].dns", "endpoints[0] says the same"),
            ("{ file: x }, { url: 'http://h:1' }, { file: x }", "[2].file", "endpoints[0] says the same"),
            ("{ dns: 'h:1', apiKeyFile: '' }", "[0].apiKeyFile", "this names no file"),
            ("{ dns: 3 }", "[0].dns", "3 does not fit"),
        ] {
            let problems = of(endpoints);
            assert_eq!(problems.len(), 1, "{endpoints}: {problems:?}");
            let said = format!("pools[0].endpoints{place}: {why}");
            assert!(problems[0].contains(&said), "{endpoints}: {problems:?}");
        }
    }
}
