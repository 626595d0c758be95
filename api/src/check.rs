//! What a schema cannot say: names that must be unique or exist, addresses, and numbers that depend on each other.

mod adapters;
mod endpoint;
mod peer;
mod scale;
mod traffic;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::address::{is_name, name_server};
use crate::problem::{Problem, offer};
use crate::yaml::{Node, Step, dotted};
use crate::{
    Address, Auth, Config, Engine, EngineName, GatewaySpec, HumanDuration, KeepAlive, ModelSpec, MutualTlsSpec,
    PoolSpec, RevisionSpec, canonical,
};

/// Longest name of a model. Unit: bytes.
const MAX_NAME: usize = 256;

/// Finds what is wrong with a configuration whose fields are each right. Where something was refused, nothing is said
/// again: what stands there now nobody wrote.
pub(crate) fn config(config: &Config, root: &Node, refused: &HashSet<Vec<Step>>, problems: &mut Vec<Problem>) {
    let mut report = Report { root, refused, problems };
    let here = [Step::Field("gateway".to_owned())];
    let listeners = gateway(&config.gateway, &here, &mut report);
    let mut names = HashMap::new();
    for (number, spec) in config.pools.iter().enumerate() {
        let here = item(&[], "pools", number);
        pool(spec, &here, &listeners, &mut report);
        report.once(&mut names, spec.name.as_str(), field(&here, "name"));
    }
    let all = report.knows(&[], "pools", config.pools.len());
    let engines = config.pools.iter().map(|pool| (pool.name.as_str(), pool.engine)).collect();
    let has_none = |(number, pool): &(usize, &PoolSpec)| {
        pool.adapters.is_none() && !report.is_refused(&field(&item(&[], "pools", *number), "adapters"))
    };
    let without = config.pools.iter().enumerate().filter(has_none).map(|(_, pool)| pool.name.as_str()).collect();
    let single =
        config.pools.iter().filter(|pool| traffic::has_one_replica(pool)).map(|pool| pool.name.as_str()).collect();
    let pools = Pools { names: Names { all, names }, engines, without_adapters: without, single };
    adapters::one_digest_a_path(&config.models, &mut report);
    let mut names = HashMap::new();
    for (number, spec) in config.models.iter().enumerate() {
        let here = item(&[], "models", number);
        model(spec, &pools, &here, &mut report);
        report.once(&mut names, canonical(&spec.name), field(&here, "name"));
        for (number, alias) in spec.aliases.iter().enumerate() {
            report.once(&mut names, canonical(alias), item(&here, "aliases", number));
        }
    }
}

/// The names of a list, and where they stand.
struct Names<'c> {
    names: HashMap<&'c str, Vec<Step>>,
    /// Whether they are all there are: none was refused.
    all: bool,
}

impl Names<'_> {
    /// Whether a name is surely none of them.
    fn lack(&self, name: &str) -> bool {
        self.all && !self.names.contains_key(name)
    }

    fn offer(&self, name: &str) -> Option<String> {
        let mut known: Vec<&str> = self.names.keys().copied().collect();
        known.sort_unstable();
        offer(name, known)
    }
}

/// The pools' names, and what each pool speaks.
struct Pools<'c> {
    names: Names<'c>,
    engines: HashMap<&'c str, Engine>,
    /// Those that surely have none.
    without_adapters: HashSet<&'c str>,
    /// Those that surely have one replica, which holds one model's weights at a time.
    single: HashSet<&'c str>,
}

/// Collects problems with their places.
struct Report<'a> {
    root: &'a Node,
    refused: &'a HashSet<Vec<Step>>,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, steps: &[Step], message: impl Into<String>, help: Option<&str>) {
        if !self.is_refused(steps) {
            let place = &self.root.nearest(steps).place;
            self.problems.push(Problem::new(place, dotted(steps), message, help.map(str::to_owned)));
        }
    }

    /// Whether what stands there was refused, alone or with what it is in.
    fn is_refused(&self, steps: &[Step]) -> bool {
        (1..=steps.len()).any(|length| self.refused.contains(&steps[..length]))
    }

    /// Whether the names of all items of a list are those that were written.
    fn knows(&self, here: &[Step], list: &str, items: usize) -> bool {
        !self.is_refused(&field(here, list))
            && (0..items).all(|number| !self.is_refused(&field(&item(here, list, number), "name")))
    }

    /// Refuses a name that stands elsewhere already.
    fn once<N: std::hash::Hash + Eq>(&mut self, names: &mut HashMap<N, Vec<Step>>, name: N, here: Vec<Step>) {
        if let Some(first) = names.get(&name) {
            self.add(&here, format!("{} has this name already", dotted(first)), None);
        } else if !self.is_refused(&here) {
            names.insert(name, here);
        }
    }

    /// Whether a text, where there is one, can name a file.
    fn file(&mut self, steps: &[Step], file: Option<&str>) -> bool {
        let wrong = file.is_some_and(|file| file.is_empty() || file.starts_with('~'));
        if wrong {
            self.add(steps, "this names no file", Some("write its whole path; `~` means nothing here"));
        }
        !wrong
    }

    /// Whether mutual TLS can find its files.
    fn mutual(&mut self, steps: &[Step], tls: &MutualTlsSpec) {
        for (name, file) in [("cert", &tls.cert), ("key", &tls.key), ("ca", &tls.ca)] {
            self.file(&field(steps, name), Some(file));
        }
    }

    /// A model's name as its engine takes it.
    fn engine_name(&mut self, steps: &[Step], engine: Engine, name: Option<&str>) {
        let Some(name) = name else { return };
        match engine {
            Engine::Ollama => {
                if let Err(error) = name.parse::<EngineName>() {
                    self.add(steps, error.to_string(), None);
                }
            }
            // Each server has its own rules.
            Engine::Openai if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) => {
                self.add(steps, format!("a model's name has 1 to {MAX_NAME} bytes and no control characters"), None);
            }
            Engine::Openai => {}
        }
    }

    fn positive(&mut self, steps: &[Step], duration: HumanDuration) {
        if duration.get().is_zero() {
            self.add(steps, "0s is no time to do it in", Some("write at least 1ms"));
        }
    }
}

fn field(steps: &[Step], name: &str) -> Vec<Step> {
    steps.iter().cloned().chain([Step::Field(name.to_owned())]).collect()
}

fn item(steps: &[Step], list: &str, number: usize) -> Vec<Step> {
    field(steps, list).into_iter().chain([Step::Item(number)]).collect()
}

/// The addresses that the gateway listens on, by what they are called.
type Listeners = Vec<(Vec<Step>, Address)>;

fn gateway(spec: &GatewaySpec, here: &[Step], report: &mut Report<'_>) -> Listeners {
    let mut listeners = Listeners::new();
    let (admin, peers) = (field(here, "admin"), field(here, "peer"));
    let own = [
        (field(here, "listen"), &spec.listen),
        (field(here, "ops"), &spec.ops),
        (field(&admin, "listen"), &spec.admin.listen),
    ];
    let peer_port = spec.peer.as_ref().map(|peer| (field(&peers, "listen"), &peer.listen));
    for (steps, text) in own.into_iter().chain(peer_port) {
        match text.parse::<Address>() {
            _ if report.is_refused(&steps) => {}
            Err(error) => report.add(
                &steps,
                format!("this is no address to listen on: {error}"),
                Some("write host:port, such as 127.0.0.1:11500"),
            ),
            Ok(address) => {
                let other = listeners.iter().find(|(_, other)| address.meets(other) || other.meets(&address));
                if let Some((other, _)) = other {
                    report.add(&steps, format!("{} is the same address", dotted(other)), None);
                }
                listeners.push((steps, address));
            }
        }
    }
    for (steps, _) in listeners.iter().filter(|(_, address)| !address.is_loopback()) {
        if *steps == field(here, "listen") && spec.auth.is_none() && !report.is_refused(&field(here, "auth")) {
            let help = "name a file of keys as `auth: { keysFile: /path/to/keys.yaml }`, or write `auth: none` if whoever \
                        reaches the port may ask";
            report.add(steps, "an address off loopback wants keys", Some(help));
        }
        if steps.starts_with(&admin) {
            report.add(steps, "the admin port stays on loopback: its token would cross the network unprotected", None);
        }
    }
    report.file(&field(&admin, "tokenFile"), spec.admin.token_file.as_deref());
    if let Some(tls) = &spec.tls {
        report.file(&field(&field(here, "tls"), "cert"), Some(&tls.cert));
        report.file(&field(&field(here, "tls"), "key"), Some(&tls.key));
    }
    if let Some(spec) = &spec.peer {
        peer::check(spec, &peers, report);
    }
    for (number, server) in spec.nameservers.iter().enumerate() {
        if let Err(error) = name_server(server) {
            let help = "write an address, or ip:port, such as 10.96.0.10:53";
            report.add(&item(here, "nameservers", number), format!("this is no name server: {error}"), Some(help));
        }
    }
    if let Some(Auth::Keys { keys_file }) = &spec.auth {
        report.file(&field(&field(here, "auth"), "keysFile"), Some(keys_file));
    }
    for (number, host) in spec.allowed_hosts.iter().enumerate() {
        if !is_name(host) && host.parse::<IpAddr>().is_err() {
            let help = "write a name as in gateway.bank.example, without scheme and port";
            report.add(&item(here, "allowedHosts", number), "this is no name of a host", Some(help));
        }
    }
    limits(spec, &field(here, "limits"), report);
    listeners
}

fn limits(spec: &GatewaySpec, here: &[Step], report: &mut Report<'_>) {
    let limits = &spec.limits;
    for (name, size) in [("body", limits.body), ("bufferedBodies", limits.buffered_bodies), ("header", limits.header)] {
        if size.bytes() == 0 {
            report.add(&field(here, name), "0B leaves room for nothing", None);
        }
    }
    for (name, duration) in [
        ("headerTimeout", limits.header_timeout),
        ("handshakeTimeout", limits.handshake_timeout),
        ("bodyPause", limits.body_pause),
        ("bodyTimeout", limits.body_timeout),
        ("writeStall", limits.write_stall),
    ] {
        report.positive(&field(here, name), duration);
    }
    if limits.body > limits.buffered_bodies && !report.is_refused(&field(here, "bufferedBodies")) {
        let message = format!("a body of {} never fits into bufferedBodies, {}", limits.body, limits.buffered_bodies);
        report.add(&field(here, "body"), message, None);
    }
}

fn pool(spec: &PoolSpec, here: &[Step], listeners: &Listeners, report: &mut Report<'_>) {
    report.engine_name(&field(here, "base"), spec.engine, spec.base.as_deref());
    let mut places = HashMap::new();
    for (number, spec) in spec.endpoints.iter().enumerate() {
        endpoint::check(spec, number, &item(here, "endpoints", number), listeners, &mut places, report);
    }
    if spec.engine != Engine::Ollama {
        let help = Some("leave it out, and say it where the engine is started");
        if spec.runner.is_some() {
            report.add(&field(here, "runner"), "these are options of an Ollama", help);
        }
        if spec.keep_alive != KeepAlive::Client {
            report.add(&field(here, "keepAlive"), "an Ollama alone loads and unloads models", help);
        }
    }
    adapters::pool(spec, here, report);
    scale::pool(spec, here, report);
    report.positive(&field(&field(here, "queue"), "wait"), spec.queue.wait);
    let timeouts = field(here, "timeouts");
    report.positive(&field(&timeouts, "connect"), spec.timeouts.connect);
    report.positive(&field(&timeouts, "firstByte"), spec.timeouts.first_byte);
    report.positive(&field(&timeouts, "idle"), spec.timeouts.idle);
    let health = field(here, "health");
    report.positive(&field(&health, "baseEjectionTime"), spec.health.base_ejection_time);
    report.positive(&field(&field(&health, "probe"), "timeout"), spec.health.probe.timeout);
}

fn model(spec: &ModelSpec, pools: &Pools<'_>, here: &[Step], report: &mut Report<'_>) {
    scale::model(spec, here, report);
    let aliases = spec.aliases.iter().enumerate().map(|(number, alias)| (item(here, "aliases", number), alias));
    for (steps, name) in aliases.chain([(field(here, "name"), &spec.name)]) {
        if name.len() > MAX_NAME {
            report.add(&steps, format!("a model's name has at most {MAX_NAME} bytes"), None);
        }
    }
    let mut names = HashMap::new();
    for (number, revision) in spec.revisions.iter().enumerate() {
        let steps = item(here, "revisions", number);
        self::revision(revision, pools, &steps, report);
        report.once(&mut names, revision.name.as_str(), field(&steps, "name"));
    }
    let revisions = Names { all: report.knows(here, "revisions", spec.revisions.len()), names };
    let wanted = spec.traffic.as_ref().and_then(|traffic| traffic.revision.as_deref());
    if let Some(wanted) = wanted.filter(|wanted| revisions.lack(wanted)) {
        let steps = field(&field(here, "traffic"), "revision");
        report.add(&steps, format!("there is no revision {wanted:?}"), revisions.offer(wanted).as_deref());
    }
    if let Some(traffic) = &spec.traffic {
        traffic::check(traffic, spec, pools, &field(here, "traffic"), report);
    }
}

fn revision(revision: &RevisionSpec, pools: &Pools<'_>, here: &[Step], report: &mut Report<'_>) {
    if pools.names.lack(&revision.pool) {
        let message = format!("there is no pool {:?}", revision.pool);
        report.add(&field(here, "pool"), message, pools.names.offer(&revision.pool).as_deref());
    }
    adapters::revision(revision, here, report);
    if revision.adapter.is_some() && pools.without_adapters.contains(&*revision.pool) {
        let help = Some("say where they come from, as the pool's `adapters: { from: s3://models/ }`");
        report.add(&field(here, "adapter"), format!("the pool {:?} has no adapters", revision.pool), help);
    }
    if let Some(engine) = pools.engines.get(&*revision.pool) {
        report.engine_name(&field(here, "upstream"), *engine, revision.upstream.as_deref());
    }
}
