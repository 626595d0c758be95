//! What types cannot say: names that must be unique or exist, addresses, and what this version does not do yet.

use std::collections::HashMap;

use serde_json::Value;

use crate::load::dotted;
use crate::problem::Problem;
use crate::yaml::{Kind, Node, Step};
use crate::{Config, EngineName, ModelSpec, PoolSpec, RevisionSpec};

/// Fields that this version knows and does not obey, with the one value that changes nothing. They are refused rather
/// than ignored: who writes one counts on it.
const NOT_YET: &[(&str, Option<&str>)] = &[
    ("gateway.auth.keysFile", None),
    ("gateway.tls", None),
    ("gateway.peer", None),
    ("pools[].engine", Some("ollama")),
    ("pools[].endpoints[].dns", None),
    ("pools[].endpoints[].file", None),
    ("pools[].endpoints[].loader", None),
    ("pools[].endpoints[].apiKeyFile", None),
    ("pools[].queue.coldWait", Some("5m")),
    ("pools[].runner", None),
    ("pools[].keepAlive", Some("client")),
    ("pools[].batching.maxWait", Some("auto")),
    ("pools[].batching.quantum", Some("auto")),
    ("pools[].adapters", None),
    ("pools[].scale", None),
    ("models[].revisions[].adapter", None),
    ("models[].revisions[].digest", None),
    ("models[].traffic.strategy", None),
    ("models[].traffic.mirror", None),
    ("models[].traffic.sticky", None),
    ("models[].slo", None),
];

/// Refuses what stands in [`NOT_YET`].
pub(crate) fn not_yet(root: &Node, problems: &mut Vec<Problem>) {
    visit(root, &mut Vec::new(), &mut String::new(), problems);
}

fn visit(node: &Node, steps: &mut Vec<Step>, pattern: &mut String, problems: &mut Vec<Problem>) {
    let length = pattern.len();
    match &node.kind {
        Kind::Scalar(_) => {}
        Kind::List(items) => {
            pattern.push_str("[]");
            for (at, item) in items.iter().enumerate() {
                steps.push(Step::Item(at));
                visit(item, steps, pattern, problems);
                steps.pop();
            }
        }
        Kind::Map(fields) => {
            for field in fields {
                let before = pattern.len();
                if !pattern.is_empty() {
                    pattern.push('.');
                }
                pattern.push_str(&field.name);
                steps.push(Step::Field(field.name.clone()));
                match NOT_YET.iter().find(|(refused, _)| refused == pattern) {
                    Some((_, harmless))
                        if harmless.is_none_or(|value| field.value.kind != Kind::Scalar(Value::from(value))) =>
                    {
                        let help = harmless.map(|value| format!("leave it out, or write `{value}`"));
                        problems.push(Problem::new(
                            &field.place,
                            dotted(steps),
                            "not yet: this version of tutti does not do this",
                            help,
                        ));
                    }
                    _ => visit(&field.value, steps, pattern, problems),
                }
                steps.pop();
                pattern.truncate(before);
            }
        }
    }
    pattern.truncate(length);
}

/// Collects problems with their places.
struct Report<'a> {
    root: &'a Node,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, steps: &[Step], message: impl Into<String>, help: Option<String>) {
        self.problems.push(Problem::new(&self.root.nearest(steps).place, dotted(steps), message, help));
    }
}

fn at(parts: &[(&str, Option<usize>)]) -> Vec<Step> {
    let steps = parts.iter().flat_map(|(name, item)| [Some(Step::Field((*name).to_owned())), item.map(Step::Item)]);
    steps.flatten().collect()
}

/// Finds what is wrong with a configuration whose fields are each right.
pub(crate) fn config(config: &Config, root: &Node, problems: &mut Vec<Problem>) {
    let mut report = Report { root, problems };
    gateway(config, &mut report);
    let mut names = HashMap::new();
    for (number, spec) in config.pools.iter().enumerate() {
        let here = at(&[("pools", Some(number))]);
        pool(spec, &here, &mut report);
        if let Some(first) = names.insert(&spec.name, number) {
            report.add(&join(&here, "name"), format!("pools[{first}] has the name {:?} already", spec.name), None);
        }
    }
    let mut names = HashMap::new();
    for (number, spec) in config.models.iter().enumerate() {
        let here = at(&[("models", Some(number))]);
        model(spec, config, &here, &mut report);
        for name in std::iter::once(&spec.name).chain(&spec.aliases) {
            if let Some(first) = names.insert(canonical(name), number) {
                report.add(&here, format!("models[{first}] has the name {name:?} already"), None);
            }
        }
    }
}

fn join(steps: &[Step], name: &str) -> Vec<Step> {
    steps.iter().cloned().chain([Step::Field(name.to_owned())]).collect()
}

/// Names as clients' are compared: case and `:latest` say nothing.
fn canonical(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    lower.strip_suffix(":latest").unwrap_or(&lower).to_owned()
}

fn gateway(config: &Config, report: &mut Report<'_>) {
    let gateway = &config.gateway;
    let here = at(&[("gateway", None)]);
    for (steps, address) in [
        (join(&here, "listen"), &gateway.listen),
        (join(&here, "ops"), &gateway.ops),
        (join(&join(&here, "admin"), "listen"), &gateway.admin.listen),
    ] {
        if !is_address(address) {
            report.add(
                &steps,
                format!("{address:?} is no address to listen on"),
                Some("write host:port, such as 127.0.0.1:11500".to_owned()),
            );
        }
    }
    if gateway.auth.is_none() && !is_loopback(&gateway.listen) {
        let help = "give keys (`auth: { keysFile: … }`), or write `auth: none` where whoever reaches the port may ask";
        report.add(&join(&here, "listen"), "an address off loopback wants keys", Some(help.to_owned()));
    }
    if !is_loopback(&gateway.admin.listen) {
        let admin = join(&join(&here, "admin"), "listen");
        report.add(&admin, "the admin port stays on loopback: its token would cross the network unprotected", None);
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Whether only this machine reaches it. A name other than localhost may mean anything, later if not now.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let numeric = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || numeric.is_ok_and(|ip| ip.is_loopback()) || !is_address(address)
}

fn pool(spec: &PoolSpec, here: &[Step], report: &mut Report<'_>) {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if spec.name.is_empty() || spec.name.len() > 63 || !spec.name.bytes().all(good) {
        report.add(
            &join(here, "name"),
            format!("{:?} is no pool's name", spec.name),
            Some("write 1 to 63 letters, digits and `-`".to_owned()),
        );
    }
    if spec.endpoints.is_empty() {
        report.add(here, "a pool has endpoints", Some("write `endpoints: [{ url: http://host:port }]`".to_owned()));
    }
    let mut seen = HashMap::new();
    for (number, endpoint) in spec.endpoints.iter().enumerate() {
        let steps: Vec<Step> = join(here, "endpoints").into_iter().chain([Step::Item(number)]).collect();
        let given = [&endpoint.url, &endpoint.dns, &endpoint.file].into_iter().flatten().count();
        if given != 1 {
            report.add(&steps, "an endpoint has exactly one of `url`, `dns` and `file`", None);
        }
        let Some(url) = &endpoint.url else { continue };
        let authority = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let good =
            authority.is_some_and(|authority| !authority.is_empty() && !authority.contains(['/', '@', '?', '#', ' ']));
        if !good {
            report.add(
                &join(&steps, "url"),
                format!("{url:?} is no replica's URL"),
                Some("write http://host:port".to_owned()),
            );
        }
        if let Some(first) = seen.insert(url, number) {
            report.add(&join(&steps, "url"), format!("endpoints[{first}] is the same replica"), None);
        }
    }
}

fn model(spec: &ModelSpec, config: &Config, here: &[Step], report: &mut Report<'_>) {
    for name in std::iter::once(&spec.name).chain(&spec.aliases) {
        if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
            let help = "write 1 to 256 bytes without control characters".to_owned();
            report.add(&join(here, "name"), format!("{name:?} is no model's name"), Some(help));
        }
    }
    if spec.revisions.is_empty() {
        let help = "write `revisions: [{ name: v1, pool: …, upstream: … }]`".to_owned();
        report.add(here, "a model has at least one revision", Some(help));
    }
    let mut names = HashMap::new();
    for (number, revision) in spec.revisions.iter().enumerate() {
        let steps: Vec<Step> = join(here, "revisions").into_iter().chain([Step::Item(number)]).collect();
        self::revision(revision, config, &steps, report);
        if let Some(first) = names.insert(&revision.name, number) {
            report.add(
                &join(&steps, "name"),
                format!("revisions[{first}] has the name {:?} already", revision.name),
                None,
            );
        }
    }
    let wanted = spec.traffic.as_ref().and_then(|traffic| traffic.revision.as_ref());
    if let Some(wanted) = wanted.filter(|wanted| !names.contains_key(wanted)) {
        let steps = join(&join(here, "traffic"), "revision");
        report.add(&steps, format!("there is no revision {wanted:?}"), among(names.keys().map(|name| name.as_str())));
    }
}

fn revision(revision: &RevisionSpec, config: &Config, here: &[Step], report: &mut Report<'_>) {
    let visible = |byte: u8| byte.is_ascii_graphic();
    if revision.name.is_empty() || revision.name.len() > 63 || !revision.name.bytes().all(visible) {
        report.add(
            &join(here, "name"),
            format!("{:?} is no revision's name", revision.name),
            Some("write 1 to 63 visible ASCII characters".to_owned()),
        );
    }
    if !config.pools.iter().any(|pool| pool.name == revision.pool) {
        let names = config.pools.iter().map(|pool| pool.name.as_str());
        report.add(&join(here, "pool"), format!("there is no pool {:?}", revision.pool), among(names));
    }
    match (&revision.adapter, &revision.upstream) {
        (Some(_), Some(_)) | (None, None) => {
            report.add(here, "a revision has exactly one of `adapter` and `upstream`", None)
        }
        (None, Some(upstream)) => {
            if let Err(error) = upstream.parse::<EngineName>() {
                report.add(&join(here, "upstream"), error.to_string(), None);
            }
        }
        (Some(_), None) => {}
    }
}

fn among<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| format!("there are {}", names.join(", ")))
}
