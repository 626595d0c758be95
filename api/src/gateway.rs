//! The gateway's own part of the configuration. No custom resource carries it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, HumanDuration};

/// The gateway itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySpec {
    /// Where clients reach it, as `host:port`. An address off loopback is refused without keys, unless `auth: none` is
    /// written. Taken at the start only.
    pub listen: String,
    /// Where `/metrics`, `/healthz` and `/readyz` are, as `host:port`. It may leave loopback. Taken at the start only.
    pub ops: String,
    /// Where the gateway is told what to do and asked about itself.
    pub admin: AdminSpec,
    /// Who may ask: `none`, which is anybody who reaches the port, or a file of keys. Absent: anybody on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Host headers that are answered, beside addresses and localhost, while there are no keys. Others get a 403, so
    /// that no stranger's web page reaches the gateway through a browser (DNS rebinding).
    pub allowed_hosts: Vec<String>,
    /// Who is asked for the addresses of names, as `ip:port`, or `ip` for port 53. Absent: whom `/etc/resolv.conf` names,
    /// after `/etc/hosts`, with its search domains; both are read again when they change. Where some are written, only
    /// they are asked, for names as they stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Certificate and key, to serve TLS to clients: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2. The ops and admin ports stay
    /// in clear. Changed files are taken up without a restart; whether there is TLS, and by which files, is taken at the
    /// start only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// What it takes at most.
    pub limits: LimitsSpec,
    /// What it writes of requests.
    pub log: LogSpec,
    /// How long it serves on after SIGTERM while `/readyz` says 503, so that whoever balances sends new work elsewhere
    /// before the port closes. Each answer over HTTP/1.1 is its connection's last then. In Kubernetes a few seconds.
    pub shutdown_delay: HumanDuration,
    /// How long requests may take to end after that. What is left then gets a 503 that may be retried, or, in the middle
    /// of a stream, an error.
    pub drain: HumanDuration,
    /// The other gateways, where there are several: each pool of Ollamas is scheduled by one of them, and the others hand
    /// it their requests, by mutual TLS. Absent: a lone gateway. Taken at the start only; changed certificates are taken
    /// up without a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerSpec>,
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:11500".to_owned(),
            ops: "127.0.0.1:11501".to_owned(),
            admin: AdminSpec::default(),
            auth: None,
            allowed_hosts: vec!["localhost".to_owned()],
            nameservers: Vec::new(),
            tls: None,
            limits: LimitsSpec::default(),
            log: LogSpec::default(),
            shutdown_delay: HumanDuration::from_secs(0),
            drain: HumanDuration::from_secs(30),
            peer: None,
        }
    }
}

impl GatewaySpec {
    /// Whether who asks needs a key.
    pub fn auth_has_keys(&self) -> bool {
        matches!(self.auth, Some(Auth::Keys { .. }))
    }
}

/// The admin port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AdminSpec {
    /// Where it listens, as `host:port`. Taken at the start only.
    pub listen: String,
    /// The file that holds the token it wants; made at the first start, readable by its owner alone. Absent:
    /// `tutti/admin-token` in the user's state folder. Taken at the start only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

impl Default for AdminSpec {
    fn default() -> Self {
        Self { listen: "127.0.0.1:11502".to_owned(), token_file: None }
    }
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Auth {
    /// Anybody who reaches the port.
    None(NoAuth),
    /// Who has a key.
    #[serde(rename_all = "camelCase")]
    Keys {
        /// The file with the keys' hashes, which `tutti key` makes and changes. A changed one is taken up without a
        /// restart; a broken one is refused, and the keys stay as they were.
        keys_file: String,
    },
}

/// The word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NoAuth {
    /// Anybody who reaches the port may ask.
    None,
}

/// A certificate and its key, in PEM. Read again when they change; a pair that is broken or does not belong together is
/// refused, and the one before stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsSpec {
    /// The certificate's file: the server's own certificate first, then its chain.
    pub cert: String,
    /// The file of the certificate's private key, not encrypted. Whoever reads it can pass for this gateway: mode 0600.
    pub key: String,
}

/// What the gateway takes at most. The metric `tutti_limit_hits_total` counts by each limit who ran into it. A request's
/// body also nests at most 128 levels deep, and a model's name has at most 256 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsSpec {
    /// Largest body of a request.
    pub body: ByteSize,
    /// All bodies in memory together; what comes beyond gets a 503 that may be retried.
    pub buffered_bodies: ByteSize,
    /// Connections that are open at once; others are closed. Of a connection's requests over HTTP/2 all but the first
    /// count as one more each; what is too much gets a 503. Unit: connections.
    #[schemars(range(min = 1))]
    pub connections: u32,
    /// Largest head of a request: its line and all headers, of which there are at most 100.
    pub header: ByteSize,
    /// Requests that an HTTP/2 connection may have at work at once; a client that knows waits with others. Unit: streams.
    #[schemars(range(min = 1))]
    pub h2_streams: u32,
    /// How long a head may take to arrive, and how long a connection may lie idle before it.
    pub header_timeout: HumanDuration,
    /// TLS handshakes in progress at once; further ones wait. Taken at the start only. Unit: handshakes.
    #[schemars(range(min = 1))]
    pub handshakes: u32,
    /// How long a TLS handshake may take, with that wait.
    pub handshake_timeout: HumanDuration,
    /// How long a client may pause within its body.
    pub body_pause: HumanDuration,
    /// How long all of a body may take to arrive.
    pub body_timeout: HumanDuration,
    /// How long a client may take nothing of its answer.
    pub write_stall: HumanDuration,
    /// So many tenants, and so many models that only replicas name (`expose: all`), have series of their own in the
    /// metrics; what comes beyond is counted together, as `(other)`. Unit: names.
    #[schemars(range(min = 1))]
    pub label_values: u32,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            body: ByteSize::new(32 << 20),
            buffered_bodies: ByteSize::new(512 << 20),
            connections: 20_000,
            header: ByteSize::new(32 << 10),
            h2_streams: 100,
            header_timeout: HumanDuration::from_secs(75),
            handshakes: 2000,
            handshake_timeout: HumanDuration::from_secs(10),
            body_pause: HumanDuration::from_secs(30),
            body_timeout: HumanDuration::from_secs(600),
            write_stall: HumanDuration::from_secs(120),
            label_values: 100,
        }
    }
}

/// The log of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LogSpec {
    /// Which requests have a line on standard output: `all`, those that ended otherwise than well (`errors`; also those
    /// whose client left), or `none`.
    pub requests: LoggedRequests,
}

/// Which requests have a line in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum LoggedRequests {
    /// Every one.
    #[default]
    All,
    /// Those that did not end well.
    Errors,
    /// None.
    None,
}

/// The other gateways. They are at the addresses of a name, at listed ones, or both; this gateway's own may be among
/// them: it knows itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerSpec {
    /// Where they reach this one, as `host:port`.
    pub listen: String,
    /// By which certificates they know each other.
    pub tls: MutualTlsSpec,
    /// A name whose addresses are the gateways', as `host:port`, such as that of a headless Service in Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// Where gateways are, as `ip:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// Mutual TLS between processes of tutti's, in PEM. Read again when they change; what is broken or does not belong together
/// is refused, and what was in force stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MutualTlsSpec {
    /// This process's certificate, its chain behind it. Whatever names it has: the others are known by who signed.
    pub cert: String,
    /// Its key, not encrypted.
    pub key: String,
    /// The certificates of those who sign for the others, and for nobody else: who has a certificate of theirs is one of them.
    pub ca: String,
}
