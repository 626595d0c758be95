//! From what is written and what was found to the replicas of a pool. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tutti_api::{Address, Config, Endpoint, InvalidAddress, LoaderAt, PoolSpec, ReplicaUrl};

use super::{Found, Source};

/// Who said where a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// For people: `url`, `dns ollama.svc:11434`, `file /etc/tutti/replicas`; all that did.
    pub shown: String,
    /// Whether the configuration itself names it.
    pub written: bool,
}

/// A replica of a pool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// Where it is.
    pub(crate) url: ReplicaUrl,
    /// The file with the key that it wants.
    pub(crate) key_file: Option<PathBuf>,
    /// Where its loader is, where one is named.
    pub(crate) loader: Option<ReplicaUrl>,
    /// Who said so.
    pub(crate) origin: Origin,
}

/// The replicas of a pool, each once, in the order in which they are first named.
///
/// # Errors
/// Why an endpoint is none.
pub(crate) fn endpoints(spec: &PoolSpec, found: &Found) -> Result<Vec<Located>, String> {
    let mut located: Vec<Located> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for endpoint in &spec.endpoints {
        let (shown, urls) = of(endpoint, found)?;
        let written = endpoint.url.is_some();
        let loader: Option<LoaderAt> = endpoint.loader.as_deref().map(str::parse).transpose().map_err(no_loader)?;
        for url in urls {
            let at = *index.entry(url.clone()).or_insert(located.len());
            let beside = loader.as_ref().map(|loader| loader.beside(&url));
            if let Some(Located { origin, loader, .. }) = located.get_mut(at) {
                *loader = loader.take().or(beside);
                *origin = Origin { shown: format!("{}, {shown}", origin.shown), written: origin.written || written };
            } else {
                let key_file = endpoint.api_key_file.as_ref().map(PathBuf::from);
                let origin = Origin { shown: shown.clone(), written };
                located.push(Located { url, key_file, loader: beside, origin });
            }
        }
    }
    Ok(located)
}

fn no_loader(error: InvalidAddress) -> String {
    format!("this is no loader's address: {error}")
}

/// The replicas that an endpoint stands for, and what it is called.
fn of(endpoint: &Endpoint, found: &Found) -> Result<(String, Vec<ReplicaUrl>), String> {
    if let Some(url) = &endpoint.url {
        let url = url.parse().map_err(|error| format!("this is no replica's URL: {error}"))?;
        return Ok(("url".to_owned(), vec![url]));
    }
    if let Some(dns) = &endpoint.dns {
        let address: Address = dns.parse().map_err(|error| format!("this is no name to ask for: {error}"))?;
        let ips = address.name().and_then(|name| found.names.get(name));
        let urls = ips.iter().flat_map(|ips| ips.iter()).map(|ip| ReplicaUrl::at(*ip, address.port())).collect();
        return Ok((format!("dns {address}"), urls));
    }
    if let Some(file) = &endpoint.file {
        let urls = found.files.get(Path::new(file)).map(|urls| urls.to_vec());
        return Ok((format!("file {file}"), urls.unwrap_or_default()));
    }
    Err("an endpoint says neither url nor dns nor file".to_owned())
}

/// The sources that a configuration speaks of, and those that its files do.
pub(crate) fn wanted(config: &Config, found: &Found) -> BTreeSet<Source> {
    let mut wanted = BTreeSet::new();
    let mut name = |address: &Address| wanted.extend(address.name().map(|name| Source::Name(name.into())));
    let endpoints = || config.pools.iter().flat_map(|pool| &pool.endpoints);
    for endpoint in endpoints() {
        let url: Option<ReplicaUrl> = endpoint.url.as_deref().and_then(|url| url.parse().ok());
        let dns: Option<Address> = endpoint.dns.as_deref().and_then(|dns| dns.parse().ok());
        let listed = endpoint.file.as_ref().and_then(|file| found.files.get(Path::new(file)));
        let loader: Option<ReplicaUrl> = endpoint.loader.as_deref().and_then(|url| url.parse().ok());
        let listed = listed.iter().flat_map(|urls| urls.iter());
        url.iter().chain(listed).chain(&loader).for_each(|url| name(url.address()));
        dns.iter().for_each(&mut name);
    }
    let peers = config.gateway.peer.as_ref().and_then(|peer| peer.dns.as_ref()?.parse().ok());
    peers.iter().for_each(&mut name);
    wanted.extend(endpoints().filter_map(|endpoint| endpoint.file.as_ref()).map(|file| Source::File(file.into())));
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoints: &str) -> Config {
        tutti_api::load(&format!("pools: [{{ name: p, endpoints: [{endpoints}] }}]"), "t", []).unwrap()
    }

    fn found() -> Found {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
        let urls = |list: &[&str]| list.iter().map(|url| url.parse().unwrap()).collect();
        Found {
            names: [("gpus".into(), ips(&["10.0.0.1", "10.0.0.2", "::9"])), ("a".into(), ips(&["10.0.0.9"]))].into(),
            files: [("/list".into(), urls(&["http://10.0.0.2:1", "http://b:1"]))].into(),
        }
    }

    fn located(endpoints: &str) -> Vec<(String, String)> {
        let located = super::endpoints(&config(endpoints).pools[0], &found()).unwrap();
        located.into_iter().map(|located| (located.url.to_string(), located.origin.shown)).collect()
    }

    #[test]
    fn a_list_may_be_mixed_and_who_is_named_twice_counts_once() {
        let mixed =
            "{ url: 'http://10.0.0.2:1' }, { dns: 'GPUs:1' }, { file: /list }, { dns: 'gone:1' }, { file: /gone }";
        let expected = [
            ("http://10.0.0.2:1", "url, dns gpus:1, file /list"),
            ("http://10.0.0.1:1", "dns gpus:1"),
            ("http://[::9]:1", "dns gpus:1"),
            ("http://b:1", "file /list"),
        ];
        assert_eq!(located(mixed), expected.map(|(url, origin)| (url.to_owned(), origin.to_owned())));
        assert_eq!(located("{ dns: 'gpus:1' }, { dns: 'gpus:2' }").len(), 6, "another port is another replica");
    }

    #[test]
    fn names_are_wanted_wherever_they_stand() {
        let config = config(
            "{ url: 'http://a:1' }, { url: 'http://localhost:1' }, { url: 'http://10.0.0.7:1' }, { dns: 'gpus:1' }, { dns: 'gpus:2' }, { file: /list }",
        );
        let name = |name: &str| Source::Name(name.into());
        let file = Source::File("/list".into());
        assert_eq!(wanted(&config, &Found::default()), [name("a"), name("gpus"), file.clone()].into());
        assert_eq!(wanted(&config, &found()), [name("a"), name("b"), name("gpus"), file].into());
    }
    #[test]
    fn a_replica_has_the_loader_that_somebody_names_for_it() {
        let all = "{ file: /list }, { dns: 'gpus:1', loader: ':9' }, { url: 'http://b:1', loader: 'http://l:8' }";
        let text = format!("pools: [{{ name: p, base: x, adapters: {{ from: /a }}, endpoints: [{all}] }}]");
        let config = tutti_api::load(&text, "t", []).unwrap();
        let located = super::endpoints(&config.pools[0], &found()).unwrap();
        let loaders = located.iter().map(|at| (at.url.to_string(), at.loader.as_ref().map(ToString::to_string)));
        let expected = [
            ("http://10.0.0.2:1", "http://10.0.0.2:9"),
            ("http://b:1", "http://l:8"),
            ("http://10.0.0.1:1", "http://10.0.0.1:9"),
            ("http://[::9]:1", "http://[::9]:9"),
        ];
        let expected = expected.map(|(url, loader)| (url.to_owned(), Some(loader.to_owned())));
        assert_eq!(loaders.collect::<Vec<_>>(), expected);
        assert!(wanted(&config, &Found::default()).contains(&Source::Name("l".into())));
    }
}
