//! Pools: interchangeable replicas of one engine with one base model. Also the spec of the custom resource `Pool`.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{AdaptersSpec, HealthSpec, HumanDuration, Share};

/// A pool of replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(feature = "kube", kube(group = "tutti.dev", version = "v1alpha1", kind = "Pool", namespaced))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolSpec {
    /// Its name, once among the pools: letters, digits, `-`, at most 63. A custom resource has it from its metadata.
    pub name: String,
    /// What its replicas are: Ollamas, or any servers of the OpenAI API (`openai`: vLLM, llama-server, SGLang, …).
    /// Clients of either API reach both: what they say is translated where it must be, and what cannot be is refused
    /// by name.
    pub engine: Engine,
    /// The base model that its adapters are for, by the engine's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Where its replicas are.
    pub endpoints: Vec<Endpoint>,
    /// Which models clients see: those that `models` names, or all that the replicas have, under their own names.
    pub expose: Expose,
    /// Requests a replica works on at once for one model: a number, or `auto`: what tutti started it with, or what
    /// it is seen to take.
    pub slots: Slots,
    /// Those who wait for a slot.
    pub queue: QueueSpec,
    /// How long a replica may take.
    pub timeouts: TimeoutsSpec,
    /// When a request is sent again.
    pub retries: RetriesSpec,
    /// When a replica is left alone, and how it comes back.
    pub health: HealthSpec,
    /// Ollama's options that make it load a model again: a field given is pinned for all, in place of what a client says; a
    /// field absent is the client's. An answer's `x-tutti-adjusted` names what was changed. OpenAI's API has no such
    /// options: its requests for chats, completions and embeddings then go to the replicas by Ollama's own API; those of
    /// `/v1/responses` and `/v1/messages` go as they are, without them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerSpec>,
    /// How long a model stays loaded after its last request: the client's word (`client`), or a duration for all, in place
    /// of what a client says.
    pub keep_alive: KeepAlive,
    /// How requests for several adapters of one base take turns.
    pub batching: BatchingSpec,
    /// Where the adapters come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters: Option<AdaptersSpec>,
    /// How many replicas there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleSpec>,
}

/// What a pool's replicas are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    /// Ollama.
    #[default]
    Ollama,
    /// Any server of the OpenAI API (vLLM, llama-server, SGLang, …). Clients of Ollama's API reach it too: what they say
    /// is translated, and what cannot be is refused by name.
    Openai,
}

/// Where a replica is, or where a list of them is: exactly one of `url`, `dns` and `file`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// A replica, as `http://host:port`. Where the host is a name it is one replica, at whichever of the name's addresses
    /// answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A name whose addresses (A and AAAA) are each a replica, as `host:port`: a headless Service in Kubernetes. It is
    /// asked again when its TTL ends, after 1 s at the soonest and 30 s at the latest. While the name servers fail, the
    /// last addresses stay; a name that does not exist, or has no address, is no replica. At most 1024 addresses are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// A file with a URL a line, as `http://host:port`; what follows `#` is a comment. It is taken up again when it
    /// changes; one with a line that is wrong, or without any line, changes nothing: that there is no replica, a comment says
    /// (`# none`). At most 1 MiB and 1024 URLs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The adapter-loader beside the replica: `http://host:port` (`https://`, where `adapters.tls` is written), or `:port` on the replica's own host, which is how
    /// those that `dns` and `file` find have theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loader: Option<String>,
    /// A file with the key that the replica wants, one line; it is sent as `Authorization: Bearer`. A changed key is
    /// taken up without a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<String>,
}

/// Which models clients see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Expose {
    /// Those that `models` names.
    #[default]
    Named,
    /// Also all that the replicas have, under their own names.
    All,
}

/// Requests a replica works on at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    /// What tutti started it with, or what it is seen to take.
    #[default]
    Auto,
    /// This many, from 1 to 4096.
    Count(u16),
}

impl Slots {
    /// Most slots of a replica.
    pub const MAX: u16 = 4096;

    /// The number, where one is given.
    pub fn count(self) -> Option<u16> {
        match self {
            Slots::Auto => None,
            Slots::Count(count) => Some(count),
        }
    }
}

impl Serialize for Slots {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Slots::Auto => serializer.serialize_str("auto"),
            Slots::Count(count) => serializer.serialize_u16(*count),
        }
    }
}

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Slots;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`auto` or a number from 1 to {}", Slots::MAX)
            }
            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Slots, E> {
                let count = u16::try_from(count).ok().filter(|count| (1..=Slots::MAX).contains(count));
                count
                    .map(Slots::Count)
                    .ok_or_else(|| E::custom(format!("slots are `auto` or a number from 1 to {}", Slots::MAX)))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Slots, E> {
                if text == "auto" {
                    Ok(Slots::Auto)
                } else {
                    Err(E::custom(format!("{text:?} is neither `auto` nor a number")))
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Slots {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Slots".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// int-or-string: the one union that structural schemas know.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "x-form": "`auto`, or a number from 1 to 4096" })
    }
}

/// Those who wait for a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct QueueSpec {
    /// How many may wait; others get a 429. Unit: requests.
    pub size: u32,
    /// How long one may wait; then it gets a 503 that may be retried.
    pub wait: HumanDuration,
    /// How long one may wait in all while its weights load, or while the pool has no replica (`dns` or `file` name none).
    /// Clients of SSE streams get a comment every 10 s meanwhile.
    pub cold_wait: HumanDuration,
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self { size: 1024, wait: HumanDuration::from_secs(30), cold_wait: HumanDuration::from_secs(300) }
    }
}

/// How long a replica may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeoutsSpec {
    /// For a connection to come about.
    pub connect: HumanDuration,
    /// From the request to the first byte of the answer; an Ollama loads the model in this time.
    pub first_byte: HumanDuration,
    /// Between two pieces of an answer.
    pub idle: HumanDuration,
}

impl Default for TimeoutsSpec {
    fn default() -> Self {
        Self {
            connect: HumanDuration::from_secs(2),
            first_byte: HumanDuration::from_secs(600),
            idle: HumanDuration::from_secs(120),
        }
    }
}

/// When a request is sent again: only where the replica could not be reached, answered 503, or (Ollama) 404 for a model that
/// it has, and never once its body was sent and the connection broke.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RetriesSpec {
    /// How often, on another replica (after a 404, where there is no other, on the same): 0 or 1.
    #[schemars(range(max = 1))]
    pub max: u32,
    /// How many retries the pool makes at most, as a share of its requests of the last seconds; beside that, ten at once
    /// and one a second. When they are used up, the first error is the answer.
    pub budget: Share,
}

impl Default for RetriesSpec {
    fn default() -> Self {
        Self { max: 1, budget: Share::percent(20.0) }
    }
}

/// Ollama's reloading options.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RunnerSpec {
    /// Context length of one request (`num_ctx`); Ollama takes none below 4. Unit: tokens.
    #[schemars(range(min = 4))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_ctx: Option<u32>,
    /// Tokens of a prompt that are worked on together (`num_batch`). Unit: tokens.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_batch: Option<u32>,
    /// Layers on the GPU (`num_gpu`); -1: as many as fit.
    #[schemars(range(min = -1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_gpu: Option<i32>,
    /// The GPU that holds what is not spread (`main_gpu`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main_gpu: Option<u32>,
    /// Whether weights are mapped from the file (`use_mmap`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_mmap: Option<bool>,
    /// Threads on the CPU (`num_thread`); 0: as many as Ollama thinks right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_thread: Option<u32>,
}

macro_rules! word_or_duration {
    ($(#[$about:meta])* $name:ident, $word:literal, $variant:ident, $(#[$word_about:meta])*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            $(#[$word_about])*
            #[default]
            $variant,
            /// This long.
            For(HumanDuration),
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                if text == $word {
                    return Ok(Self::$variant);
                }
                text.parse().map(Self::For).map_err(|_| format!("{text:?} is neither `{}` nor a duration such as 30s", $word))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::$variant => f.write_str($word),
                    Self::For(duration) => duration.fmt(f),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "pattern": HumanDuration::pattern_or(concat!($word, "|")),
                    "x-form": concat!("`", $word, "`, or a duration such as 30s"),
                })
            }
        }
    };
}
pub(crate) use word_or_duration;

word_or_duration! {
    /// How long a model stays loaded after its last request.
    KeepAlive, "client", Client, /// As long as the client says.
}

word_or_duration! {
    /// A duration that tutti may choose.
    AutoOrDuration, "auto", Auto, /// As follows from what is measured.
}

impl AutoOrDuration {
    /// The duration; `None`: as follows from what is measured.
    pub fn duration(self) -> Option<std::time::Duration> {
        match self {
            AutoOrDuration::Auto => None,
            AutoOrDuration::For(duration) => Some(duration.get()),
        }
    }
}

/// How requests for several adapters of one base take turns on a replica that holds one of them at a time (an Ollama).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchingSpec {
    /// How long requests for an adapter may wait before it is late: then it goes before all that are not, and one that was not
    /// late itself gives way to it. `auto`: four times what a load takes, and no less than 1 s.
    pub max_wait: AutoOrDuration,
    /// How long an adapter serves while others wait. `auto`: twice what a load takes, so that loads take no more than a third
    /// of a replica's time however many wait.
    pub quantum: AutoOrDuration,
}

/// How many replicas there shall be. The gateway tells it to `tutti scaler-metrics`, which tells KEDA; `slots` must be a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaleSpec {
    /// At least, whatever the work; as `minReplicaCount` of the ScaledObject. Unit: replicas.
    pub min: u32,
    /// At most: more are not asked for; as `maxReplicaCount` of the ScaledObject. Unit: replicas.
    pub max: u32,
    /// The share of the slots that shall be in use.
    pub target: Share,
}

impl Default for ScaleSpec {
    fn default() -> Self {
        Self { min: 0, max: 4, target: Share::percent(80.0) }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, load};

    fn of(fields: &str) -> Result<Config, Vec<String>> {
        let text = format!("pools:\n  - name: p\n    endpoints: [{{ url: http://h:1 }}]\n{fields}");
        load(&text, "t", []).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_a_pool_pins_is_an_ollamas() {
        let text = "    runner: { numCtx: 8192, useMmap: false, numGpu: -1 }\n    keepAlive: 1h\n";
        let runner = of(text).unwrap().pools.remove(0).runner.unwrap();
        assert_eq!((runner.num_ctx, runner.num_gpu, runner.use_mmap), (Some(8192), Some(-1), Some(false)));
        for (text, expected) in [
            (
                text.replace("8192", "3").replace("-1", "-2"),
                ["runner.numCtx: 3 does not fit", "runner.numGpu: -2 does not fit"],
            ),
            (
                format!("    engine: openai\n{text}"),
                ["pools[0].runner: these are options of an Ollama", "pools[0].keepAlive: an Ollama alone loads"],
            ),
        ] {
            let problems = of(&text).unwrap_err();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (expected, problem) in expected.iter().zip(&problems) {
                assert!(problem.contains(expected), "{problem}");
            }
        }
    }
}
