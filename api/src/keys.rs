//! The file of keys: who may ask, for what, and how much.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::problem::Problem;
use crate::yaml::{Node, Step, dotted};

/// The whole of a keys file. It holds no key, only what tells whether a text is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeysFile {
    /// The keys; with `[]` nobody may ask.
    pub keys: Vec<KeySpec>,
}

/// A key and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySpec {
    /// What logs, metrics and commands call it.
    #[schemars(regex(pattern = "^[A-Za-z0-9-]{1,63}$"), extend("x-form" = "1 to 63 letters, digits and `-`"))]
    pub id: String,
    /// What it is for, in a person's words.
    #[schemars(
        regex(pattern = r"^[^\x00-\x1f\x7f-\x9f]{1,128}$"),
        extend("x-form" = "1 to 128 characters without control characters")
    )]
    pub name: String,
    /// Who has it. Logs and metrics tell tenants apart by this.
    #[schemars(
        regex(pattern = "^[A-Za-z0-9._-]{1,63}$"),
        extend("x-form" = "1 to 63 letters, digits, `.`, `_` and `-`")
    )]
    pub tenant: String,
    /// SHA-256 of the whole key.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"), extend("x-form" = "64 hexadecimal digits in lower case"))]
    pub sha256: String,
    /// The models it may use: their names or aliases; a name that ends in `*` stands for all that begin so. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub models: Option<Vec<String>>,
    /// Most requests in a minute at this gateway, which may also come at once. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers in a minute at this gateway. They are charged once a request is over; with none
    /// left, no further one begins. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens_per_minute: Option<u32>,
    /// Most requests at once at this gateway, those that wait included. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// The highest class that its requests may have.
    #[serde(default)]
    pub priority: Priority,
    /// How much its tenant has of the slots that several tenants wait for in a class: one of 2 gets twice the tokens of one of 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
    /// Whether its requests may name the revision that answers them, by `x-tutti-revision`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pin_revisions: bool,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// From when on it is refused. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was revoked: it is refused, and kept so that logs can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// Whether a key is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It is.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl KeySpec {
    /// Whether it is good at this moment.
    pub fn state(&self, now: Timestamp) -> KeyState {
        match (self.revoked, self.expires) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(expires)) if expires <= now => KeyState::Expired,
            _ => KeyState::Active,
        }
    }
}

impl KeyState {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            KeyState::Active => "active",
            KeyState::Expired => "expired",
            KeyState::Revoked => "revoked",
        }
    }
}

impl KeySpec {
    /// The most that a key's weight may be.
    pub const MOST_WEIGHT: u32 = 100;
}

fn one() -> u32 {
    1
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

/// A class of requests: what waits in a higher one goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Priority {
    /// Somebody waits for the answer.
    Interactive,
    /// What says nothing.
    #[default]
    Normal,
    /// It has time.
    Bulk,
}

impl Priority {
    /// Every class, the first to go first.
    pub const ALL: [Priority; 3] = [Priority::Interactive, Priority::Normal, Priority::Bulk];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Priority::Interactive => "interactive",
            Priority::Normal => "normal",
            Priority::Bulk => "bulk",
        }
    }
}

/// What the schema cannot say: ids and hashes stand once, and a `*` only at the end.
pub(crate) fn check(file: &KeysFile, root: &Node, problems: &mut Vec<Problem>) {
    let mut add = |steps: &[Step], message: String, help: Option<&str>| {
        let place = &root.nearest(steps).place;
        problems.push(Problem::new(place, dotted(steps), message, help.map(str::to_owned)));
    };
    let (mut ids, mut hashes) = (HashMap::new(), HashMap::new());
    for (number, key) in file.keys.iter().enumerate() {
        let here = [Step::Field("keys".to_owned()), Step::Item(number)];
        let field = |name: &str| [&here[..], &[Step::Field(name.to_owned())]].concat();
        if let Some(first) = ids.insert(&key.id, number) {
            add(&field("id"), format!("keys[{first}] has this id already"), None);
        }
        if let Some(first) = hashes.insert(&key.sha256, number) {
            add(&field("sha256"), format!("keys[{first}] is the same key"), None);
        }
        for (number, name) in key.models.iter().flatten().enumerate() {
            if name.strip_suffix('*').unwrap_or(name).contains('*') {
                let steps = [&field("models")[..], &[Step::Item(number)]].concat();
                add(&steps, "`*` stands only at the end of a name".to_owned(), Some("write a name, or acme/*"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys_json_schema, load_keys};

    fn of(text: &str) -> Result<KeysFile, Vec<String>> {
        load_keys(text, "keys.yaml").map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    fn one(fields: &str) -> String {
        let sha256 = "0f".repeat(32);
        format!("keys:\n  - {{ id: a, name: n, tenant: t, sha256: \"{sha256}\"{fields} }}\n")
    }

    #[test]
    fn a_key_needs_little_and_says_much() {
        let least = of(&one("")).unwrap();
        assert_eq!((&least.keys[0].models, least.keys[0].priority), (&None, Priority::Normal));
        let more = one(
            ", models: [risk, acme/*], requestsPerMinute: 60, tokensPerMinute: 1000, concurrency: 2, priority: bulk, expires: 2026-12-31T00:00:00Z",
        );
        let more = of(&more).unwrap().keys.remove(0);
        assert_eq!(more.models.as_deref(), Some(&["risk".to_owned(), "acme/*".to_owned()][..]));
        assert_eq!(
            (more.requests_per_minute, more.tokens_per_minute, more.concurrency),
            (Some(60), Some(1000), Some(2))
        );
        assert_eq!(more.expires.map(|at| at.to_string()).as_deref(), Some("2026-12-31T00:00:00Z"));
        assert_eq!(of("keys: []"), Ok(KeysFile::default()));
        let as_json = serde_json::to_string(&KeysFile { keys: vec![more.clone()] }).unwrap();
        assert_eq!(of(&as_json), Ok(KeysFile { keys: vec![more] }), "JSON is YAML");
    }

    #[test]
    fn the_pages_example_is_right() {
        assert_eq!(of(crate::reference::KEYS_EXAMPLE).unwrap().keys.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            ("", "keys.yaml:1:1: `keys` is missing"),
            ("keys:", "keys.yaml:1:1: `keys` is missing"),
            (&one(", tenat: x"), "keys.yaml:2:110: keys[0]: unknown field `tenat`; did you mean `tenant`?"),
            (&one(", models: []"), "keys[0].models: there is nothing in it; write a list of"),
            (
                &one(", models: [\"\"]"),
                "keys[0].models[0]: this text does not fit; write 1 to 256 bytes without control characters",
            ),
            (
                &one(", models: [a*b]"),
                "keys[0].models[0]: `*` stands only at the end of a name; write a name, or acme/*",
            ),
            (
                &one(", concurrency: 0"),
                "keys[0].concurrency: 0 does not fit; write a whole number from 1 to 4294967295",
            ),
            (&one(", priority: high"), "write `interactive` or `normal` or `bulk`"),
            (&one(", expires: 2026-02-30T00:00:00Z"), "write a time as 2026-12-31T23:59:59Z"),
            (&one("").replace("id: a", "id: a_b"), "keys[0].id: this text does not fit; write 1 to 63 letters"),
            (&one("").replace("id: a, ", ""), "keys[0]: `id` is missing"),
            (&format!("{}{}", one(""), &one("")[6..]), "keys[1].id: keys[0] has this id already"),
            (
                &format!("{}{}", one(""), &one("")[6..].replace("id: a", "id: b")),
                "keys[1].sha256: keys[0] is the same key",
            ),
        ] {
            let problems = of(text).expect_err(text);
            assert!(problems[0].contains(expected), "{text}\n{problems:?}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_shown() {
        let key = "tutti_abcdefgh_0123456789";
        for text in [
            format!("keys: [{{ sha256: {key} }}]"),
            format!("keys: [{{ id: a, name: n, tenant: t, sha256: {key}, more: 1 }}]"),
            format!("keys: {key}"),
            format!("keys: [{key}]"),
            format!("keys: [{{ {key}0123456789012345: x }}]"),
            format!("{key}\nkeys: ["),
        ] {
            let problems = of(&text).expect_err(&text);
            assert!(problems.iter().all(|problem| !problem.contains("012345")), "{problems:?}");
        }
    }

    #[test]
    fn a_key_is_good_until_its_time_is_over() {
        let mut key = of(&one(", expires: 2026-12-31T00:00:00Z")).unwrap().keys.remove(0);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(key.state(at("2026-12-30T23:59:59Z")), KeyState::Active);
        assert_eq!(key.state(at("2026-12-31T00:00:00Z")), KeyState::Expired);
        key.revoked = Some(at("2030-01-01T00:00:00Z"));
        assert_eq!(key.state(at("2026-12-30T23:59:59Z")), KeyState::Revoked, "whatever the clock says");
    }

    #[test]
    fn the_schema_is_what_is_read() {
        let schema = keys_json_schema();
        assert_eq!(schema["required"], serde_json::json!(["keys"]));
        let fields = schema["properties"]["keys"]["items"]["properties"].as_object().unwrap();
        assert_eq!(fields["sha256"]["pattern"], "^[0-9a-f]{64}$");
        assert_eq!(fields["concurrency"]["minimum"], 1);
        assert!(!schema.to_string().contains("$ref"), "{schema}");
    }
}
