//! Adapters: where a pool's come from, and that a revision is one, or what the engine has already.

use std::collections::HashMap;

use super::{Report, field, item};
use crate::yaml::{Step, dotted};
use crate::{AdapterPath, AdaptersSpec, Digest, Engine, LoaderAt, ModelSpec, PoolSpec, RevisionSpec};

/// Finds what is wrong with a pool's adapters.
pub(super) fn pool(spec: &PoolSpec, here: &[Step], report: &mut Report<'_>) {
    loaders(spec, here, report);
    let Some(adapters) = &spec.adapters else { return };
    let steps = field(here, "adapters");
    if spec.engine != Engine::Ollama {
        report.add(&steps, "an Ollama alone takes adapters so far", Some("leave it out"));
    }
    if spec.base.is_none() && !report.is_refused(&field(here, "base")) {
        let help = "name the base model that they are for as the pool's `base`, by the engine's name for it";
        report.add(&steps, "these adapters are for no base", Some(help));
    }
    source(adapters, &steps, report);
    report.positive(&field(&steps, "poll"), adapters.poll);
    if adapters.probe_share.fraction() <= 0.0 {
        let help = "write at least a little, such as 0.1%: what is not probed never serves";
        report.add(&field(&steps, "probeShare"), "in no time nothing is proven", Some(help));
    }
    report.file(&field(&steps, "tokenFile"), adapters.token_file.as_deref());
    if let Some(tls) = &adapters.tls {
        report.mutual(&field(&steps, "tls"), tls);
    }
    for (name, file) in [("caFile", &adapters.s3.ca_file), ("credentialsFile", &adapters.s3.credentials_file)] {
        report.file(&field(&field(&steps, "s3"), name), file.as_deref());
    }
    if let Some(Err(error)) = adapters.base_from.as_deref().map(str::parse::<AdapterPath>) {
        report.add(&field(&steps, "baseFrom"), error.to_string(), None);
    }
}

/// Refuses revisions that insist on different digests of what lies at one path.
pub(super) fn one_digest_a_path(models: &[ModelSpec], report: &mut Report<'_>) {
    let mut known: HashMap<(&str, &str), (Digest, Vec<Step>)> = HashMap::new();
    for (number, model) in models.iter().enumerate() {
        let here = item(&[], "models", number);
        for (number, revision) in model.revisions.iter().enumerate() {
            let steps = field(&item(&here, "revisions", number), "digest");
            let digest = revision.digest.as_deref().and_then(|digest| digest.parse::<Digest>().ok());
            let (Some(path), Some(digest)) = (revision.adapter.as_deref(), digest) else { continue };
            match known.get(&(&*revision.pool, path)) {
                Some((first, place)) if *first != digest => {
                    let message = format!("{} insists on another digest of {path}, {first}", dotted(place));
                    report.add(
                        &steps,
                        message,
                        Some("one of the two never serves: another version lies at another path"),
                    );
                }
                Some(_) => {}
                None => drop(known.insert((&revision.pool, path), (digest, steps))),
            }
        }
    }
}

/// Finds what is wrong with where a pool's loaders are said to be.
fn loaders(spec: &PoolSpec, here: &[Step], report: &mut Report<'_>) {
    for (number, endpoint) in spec.endpoints.iter().enumerate() {
        let Some(text) = &endpoint.loader else { continue };
        let steps = field(&item(here, "endpoints", number), "loader");
        match text.parse::<LoaderAt>() {
            Err(error) => {
                let help = "write http://host:port (https://, with adapters.tls), or :port on the replica's own host";
                report.add(&steps, format!("this is no loader's address: {error}"), Some(help));
            }
            Ok(LoaderAt::Url { .. }) if endpoint.url.is_none() => {
                let help = "write :port on the replicas' own hosts";
                report.add(&steps, "each replica has a loader of its own, and this is one for all", Some(help));
            }
            Ok(_) if spec.adapters.is_none() && !report.is_refused(&field(here, "adapters")) => {
                let help =
                    "say where the pool's adapters come from, as adapters: { from: s3://models/ }, or leave it out";
                report.add(&steps, "a loader brings adapters, and this pool has none", Some(help));
            }
            Ok(LoaderAt::Url { tls, .. })
                if spec.adapters.as_ref().is_some_and(|adapters| adapters.tls.is_some() != tls) =>
            {
                let (message, help) = match tls {
                    true => {
                        ("this speaks TLS, and nothing says by which certificates", "write the pool's adapters.tls")
                    }
                    false => ("the pool's loaders speak TLS (adapters.tls)", "write https://host:port"),
                };
                report.add(&steps, message, Some(help));
            }
            Ok(_) => {}
        }
    }
}

fn source(spec: &AdaptersSpec, here: &[Step], report: &mut Report<'_>) {
    let bucket = spec.from.strip_prefix("s3://").map(|rest| rest.split('/').next().unwrap_or_default());
    let is_source = bucket.map_or(spec.from.starts_with('/'), |bucket| !bucket.is_empty());
    if !is_source {
        let help = "write a bucket and prefix, s3://models/prefix/, or the whole path of a folder";
        report.add(&field(here, "from"), "this is no place that adapters come from", Some(help));
    }
}

/// Finds what is wrong with what a revision is.
pub(super) fn revision(spec: &RevisionSpec, here: &[Step], report: &mut Report<'_>) {
    let refused = ["adapter", "upstream"].iter().any(|name| report.is_refused(&field(here, name)));
    match (&spec.adapter, &spec.upstream) {
        _ if refused => {}
        (Some(_), Some(_)) => {
            report.add(&field(here, "upstream"), "a revision is an `adapter` or an `upstream`, not both", None);
        }
        (None, None) => {
            let help = "write `upstream: NAME` of what the engine has, or `adapter: model/revision` below the pool's adapters.from";
            report.add(here, "it does not say what it is", Some(help));
        }
        _ => {}
    }
    if let Some(Err(error)) = spec.adapter.as_deref().map(str::parse::<AdapterPath>) {
        report.add(&field(here, "adapter"), error.to_string(), None);
    }
    match spec.digest.as_deref().map(str::parse::<Digest>) {
        Some(Err(error)) => report.add(&field(here, "digest"), error.to_string(), None),
        Some(Ok(_)) if spec.adapter.is_none() && !refused => {
            report.add(
                &field(here, "digest"),
                "this is the digest of an adapter's manifest, and there is no `adapter`",
                None,
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    fn of(endpoint: &str, adapters: &str) -> Vec<String> {
        let text = format!("pools: [{{ name: p, base: b, endpoints: [{endpoint}]{adapters} }}]");
        let problems = crate::load(&text, "t", []).err().unwrap_or_default();
        problems.iter().map(|problem| problem.to_string().lines().next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_loader_is_beside_its_replica() {
        let some = ", adapters: { from: /a }";
        for good in [
            "{ url: 'http://h:1', loader: 'http://h:2' }",
            "{ url: 'http://h:1', loader: ':2' }",
            "{ dns: 'h:1', loader: ':2' }",
            "{ file: /l, loader: ':2' }",
        ] {
            assert_eq!(of(good, some), <[&str; 0]>::default(), "{good}");
        }
        let tls = ", adapters: { from: /a, tls: { cert: /c, key: /k, ca: /a } }";
        for good in ["{ url: 'http://h:1', loader: 'https://h:2' }", "{ dns: 'h:1', loader: ':2' }"] {
            assert_eq!(of(good, tls), <[&str; 0]>::default(), "{good}");
        }
        for (endpoint, adapters, why) in [
            (
                "{ url: 'http://h:1', loader: 'h:2' }",
                some,
                "this is no loader's address: it does not begin with http://",
            ),
            ("{ url: 'http://h:1', loader: 'https://h:2' }", some, "this speaks TLS"),
            ("{ url: 'http://h:1', loader: 'http://h:2' }", tls, "the pool's loaders speak TLS"),
            ("{ dns: 'h:1', loader: ':x' }", some, "this is no loader's address: the port is no number"),
            ("{ dns: 'h:1', loader: 'http://h:2' }", some, "each replica has a loader of its own"),
            ("{ url: 'http://h:1', loader: ':2' }", "", "a loader brings adapters, and this pool has none"),
        ] {
            let problems = of(endpoint, adapters);
            let said = format!("pools[0].endpoints[0].loader: {why}");
            assert!(problems.len() == 1 && problems[0].contains(&said), "{endpoint}: {problems:?}");
        }
        let problems = of("{ url: 'http://h:1' }", ", adapters: { from: /a, probeShare: 0% }");
        assert!(problems.len() == 1 && problems[0].contains("adapters.probeShare: in no time"), "{problems:?}");
    }
}
