//! Where a pool's adapters come from, and how they get to its engines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, HumanDuration, MutualTlsSpec, Share};

/// Where a pool's adapters come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptersSpec {
    /// A bucket and prefix (`s3://models/`) or a folder.
    pub from: String,
    /// How the engine gets them.
    #[serde(default)]
    pub strategy: Strategy,
    /// What a merged model is written as.
    #[serde(default)]
    pub merge_to: MergeTo,
    /// Whether every adapter must bring a manifest.
    #[serde(default)]
    pub manifest: ManifestRule,
    /// Disk that they may take; the least recently used go first.
    #[serde(default = "disk")]
    pub disk: ByteSize,
    /// The share of a serving replica's time that probes may take.
    #[serde(default = "probe_share")]
    pub probe_share: Share,
    /// How often `from` is looked at.
    #[serde(default = "poll")]
    pub poll: HumanDuration,
    /// How long a starting replica waits for what was wanted first; then it starts with what is there.
    #[serde(default = "startup_budget")]
    pub startup_budget: HumanDuration,
    /// Where the base model itself comes from, by its path below `from`: for sites that reach nothing else. There lie one GGUF
    /// and a manifest (`tutti adapter pack --kind base`). Absent: the engine has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_from: Option<String>,
    /// What an adapter must show before it serves.
    #[serde(default)]
    pub probe: AdapterProbeSpec,
    /// How fast files come.
    #[serde(default)]
    pub fetch: FetchSpec,
    /// How the object store is reached, where `from` is `s3://…`.
    #[serde(default)]
    pub s3: S3Spec,
    /// A file with the token that gateways and loaders show each other, one line. A loader that listens beyond loopback wants
    /// one, or `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Mutual TLS between gateways and loaders, each by its own files: a loader's address is `https://host:port` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<MutualTlsSpec>,
}

/// What an adapter must show before it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterProbeSpec {
    /// What it is asked, where its manifest has no probe of its own.
    pub prompt: String,
    /// Whether its answer must differ from the base's.
    pub must_differ: bool,
}

impl Default for AdapterProbeSpec {
    fn default() -> Self {
        Self { prompt: "Hello".to_owned(), must_differ: true }
    }
}

/// How fast files come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FetchSpec {
    /// Parts of files on the way at once.
    #[schemars(range(min = 1, max = 64))]
    pub parallel: u16,
    /// Bytes a second, in all; absent: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<ByteSize>,
}

impl Default for FetchSpec {
    fn default() -> Self {
        Self { parallel: 8, bandwidth: None }
    }
}

/// How an object store is reached. Credentials come as AWS's tools take them: environment, `~/.aws`, web identity, the
/// machine's role; those from files are taken up again when they change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Spec {
    /// Its address, `https://minio.example:9000`; absent: AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its region.
    pub region: String,
    /// Whether the bucket stands in the path (MinIO) or before the host (AWS). Absent: in the path where there is an
    /// `endpoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// A file with the authorities that sign its certificate, PEM; absent: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// A file with credentials as AWS's tools write them (`[default] aws_access_key_id = …`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<String>,
}

impl Default for S3Spec {
    fn default() -> Self {
        Self { endpoint: None, region: "us-east-1".to_owned(), path_style: None, ca_file: None, credentials_file: None }
    }
}

fn disk() -> ByteSize {
    ByteSize::new(50 << 30)
}

fn poll() -> HumanDuration {
    HumanDuration::from_secs(30)
}

fn startup_budget() -> HumanDuration {
    HumanDuration::from_secs(600)
}

fn probe_share() -> Share {
    Share::percent(1.0)
}

/// How an engine gets adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// As adapters where it takes them, else merged.
    #[default]
    Auto,
    /// As adapters.
    Adapter,
    /// Merged into the base.
    Merge,
}

/// What a merged model is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergeTo {
    /// 8-bit blocks.
    #[default]
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 16-bit floats.
    F16,
}

/// Whether every adapter must bring a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ManifestRule {
    /// Yes.
    #[default]
    Required,
    /// No: two equal lists 30 s apart stand for it.
    Optional,
}
