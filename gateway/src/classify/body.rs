//! What an inference body says, and the edits that make it say what the replica shall read.
//!
//! The replica's reader is Go's `encoding/json`, which folds the case of keys (also `ſ` to `s` and the Kelvin sign to
//! `k`) and takes the last of duplicates. Whatever could be read one way here and another way there is refused.

use std::ops::Range;

use bytes::Bytes;

use super::{Api, Edits};
use crate::errors::{Code, Failure};
use crate::json::{self, Kind, Member};
use crate::limits::{self, Limit};

/// Longest model name that is looked up. Unit: bytes.
const MAX_MODEL_NAME: usize = 256;

/// Top-level keys that the gateway reads, or that change what a replica loads. They stand at most once, spelled so.
const CONTROLLED: [&str; 9] = [
    "model",
    "stream",
    NAME,
    "stream_options",
    "options",
    "keep_alive",
    "dimensions",
    "max_tokens",
    "max_completion_tokens",
];

/// What `/api/show` called `model` before; Ollama's command line still does. A key as any other to the other APIs.
const NAME: &str = "name";

/// The longest raw form of a controlled key: every character a `\u` escape.
const MAX_RAW_KEY: usize = 6 * "max_completion_tokens".len();

/// What the gateway needs to know of a request, and all it ever remembers of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which API.
    pub api: Api,
    /// The model's name as the client gave it.
    pub model: String,
    /// Whether the answer is a stream.
    pub stream: bool,
}

/// A body that was read: its facts, and where its model's name stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the body says.
    pub facts: Facts,
    model_at: ModelAt,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ModelAt {
    /// This range is the value, quotes included; `plain`: it is the name in [`Facts`], without escapes.
    Value { range: Range<usize>, plain: bool },
    /// The body has no `model`: it is inserted here, before other members or alone.
    Insert { at: usize, alone: bool },
}

impl Reading {
    /// The edits that make the body name `model`, the name its replica knows it by; none where it does already.
    pub fn edits(&self, model: &str) -> Edits {
        let mut edits = Edits::default();
        let quoted = || serde_json::Value::from(model).to_string();
        match &self.model_at {
            ModelAt::Value { plain: true, .. } if model == self.facts.model => {}
            ModelAt::Value { range, .. } => edits.replace(range.clone(), Bytes::from(quoted())),
            ModelAt::Insert { at, alone } => {
                let comma = if *alone { "" } else { "," };
                edits.replace(*at..*at, Bytes::from(format!("\"model\":{}{comma}", quoted())));
            }
        }
        edits
    }
}

/// Reads `body` in one pass. `named` is the model's name from the header or the path, which goes before the body's.
///
/// # Errors
/// The [`Failure`] to answer with: no JSON object, an ambiguous one, a controlled value of the wrong type, no model.
pub fn read(api: Api, named: Option<String>, body: &[u8]) -> Result<Reading, Failure> {
    let mut found: [Option<(Range<usize>, Kind)>; CONTROLLED.len()] = Default::default();
    let mut wrong = None;
    let mut empty = true;
    let scanned = json::members(body, |member| {
        empty = false;
        if let Err(failure) = note(api, body, member, &mut found) {
            wrong.get_or_insert(failure);
        }
    });
    if let Err(malformed) = scanned {
        if malformed.what == json::TOO_DEEP {
            limits::hit(Limit::JsonDepth);
        }
        return Err(Failure::new(Code::InvalidBody, format!("the body is no JSON object: {malformed}")));
    }
    if let Some(failure) = wrong {
        return Err(failure);
    }
    let [model, stream, name, ..] = found;
    let stream = stream_of(api, stream)?;
    let (in_body, model_at) = model_of(body, model, empty)?;
    let is_the_bodys = named.is_none() && in_body.is_some();
    let model_at = match model_at {
        ModelAt::Value { range, plain } => ModelAt::Value { range, plain: plain && is_the_bodys },
        insert => insert,
    };
    let Some(model) = named.or(in_body).map_or_else(|| string(body, NAME, name), |model| Ok(Some(model)))? else {
        return Err(Failure::new(
            Code::ModelRequired,
            "model is required: name it in the body, the path or x-tutti-model",
        ));
    };
    check_name(&model)?;
    Ok(Reading { facts: Facts { api, model, stream }, model_at })
}

/// Keeps a controlled member; refuses one that stands twice or is spelled in another case.
fn note(api: Api, body: &[u8], member: Member, found: &mut [Option<(Range<usize>, Kind)>]) -> Result<(), Failure> {
    let raw = &body[member.key.clone()];
    if raw.len() > MAX_RAW_KEY {
        return Ok(());
    }
    let Some((index, exact)) = controlled(raw) else { return Ok(()) };
    let key = CONTROLLED[index];
    if key == NAME && api != Api::OllamaShow {
        return Ok(());
    }
    if !exact {
        let message =
            format!("the key at byte {} reads as `{key}` to some and not to others: spell it so", member.key.start);
        return Err(Failure::new(Code::InvalidBody, message));
    }
    if found[index].replace((member.value, member.kind)).is_some() {
        return Err(Failure::new(Code::InvalidBody, format!("`{key}` stands twice in the body")));
    }
    Ok(())
}

/// Which controlled key a raw one reads as, and whether it is that key to the letter.
fn controlled(raw: &[u8]) -> Option<(usize, bool)> {
    if raw.is_ascii() && !raw.contains(&b'\\') {
        let index = CONTROLLED.iter().position(|key| key.as_bytes().eq_ignore_ascii_case(raw))?;
        return Some((index, CONTROLLED[index].as_bytes() == raw));
    }
    let key = json::unescape(raw)?;
    let folded: String = key
        .chars()
        .map(|char| match char {
            'ſ' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        })
        .collect();
    let index = CONTROLLED.iter().position(|key| *key == folded)?;
    Some((index, CONTROLLED[index] == key))
}

fn stream_of(api: Api, found: Option<(Range<usize>, Kind)>) -> Result<bool, Failure> {
    let Some(default) = api.streams_by_default() else { return Ok(false) };
    match found.map(|(_, kind)| kind) {
        None | Some(Kind::Null) => Ok(default),
        Some(Kind::True) => Ok(true),
        Some(Kind::False) => Ok(false),
        Some(_) => Err(Failure::new(Code::InvalidBody, "`stream` must be true or false")),
    }
}

fn model_of(
    body: &[u8],
    found: Option<(Range<usize>, Kind)>,
    empty: bool,
) -> Result<(Option<String>, ModelAt), Failure> {
    match found {
        None => {
            let open = body.iter().position(|byte| *byte == b'{').unwrap_or(0);
            Ok((None, ModelAt::Insert { at: open + 1, alone: empty }))
        }
        Some((range, kind)) => {
            let name = string(body, "model", Some((range.clone(), kind)))?;
            let plain = name.as_ref().is_some_and(|name| name.as_bytes() == &body[range.start + 1..range.end - 1]);
            Ok((name, ModelAt::Value { range, plain }))
        }
    }
}

/// A string that is not empty; `None` for one that is, for null, and for what is not there.
fn string(body: &[u8], key: &str, found: Option<(Range<usize>, Kind)>) -> Result<Option<String>, Failure> {
    match found {
        None | Some((_, Kind::Null)) => Ok(None),
        Some((range, Kind::String)) => json::unescape(&body[range.start + 1..range.end - 1])
            .map(|text| Some(text).filter(|text| !text.is_empty()))
            .ok_or_else(|| Failure::new(Code::InvalidBody, format!("`{key}` holds half of a surrogate pair"))),
        Some(_) => Err(Failure::new(Code::InvalidBody, format!("`{key}` must be a string"))),
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.len() > MAX_MODEL_NAME {
        limits::hit(Limit::ModelName);
    }
    if name.is_empty() || name.len() > MAX_MODEL_NAME || name.chars().any(char::is_control) {
        let message = format!("a model's name has 1 to {MAX_MODEL_NAME} bytes and no control characters");
        return Err(Failure::new(Code::InvalidModelName, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn reading(body: &str) -> Result<Reading, Failure> {
        read(Api::OllamaChat, None, body.as_bytes())
    }

    fn edited(body: &str, named: Option<&str>, to: &str) -> String {
        let reading = read(Api::OllamaChat, named.map(str::to_owned), body.as_bytes()).unwrap();
        let pieces = reading.edits(to).apply(&Bytes::copy_from_slice(body.as_bytes()));
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn the_model_is_replaced_in_place_and_nothing_else() {
        assert_eq!(edited(r#"{ "model" : "a" , "x":1}"#, None, "b:1"), r#"{ "model" : "b:1" , "x":1}"#);
        assert_eq!(edited(r#"{"model":"a"}"#, None, "a"), r#"{"model":"a"}"#);
        assert_eq!(edited(r#"{"model":"\u0061"}"#, None, "a"), r#"{"model":"a"}"#);
        assert_eq!(edited(r#"{"model":"other"}"#, Some("a"), "a"), r#"{"model":"a"}"#);
        assert_eq!(edited(r#"{"model":null}"#, Some("a"), "a"), r#"{"model":"a"}"#);
        assert_eq!(edited(r#" {"x":1}"#, Some("a"), "a"), r#" {"model":"a","x":1}"#);
        assert_eq!(edited(r"{ }", Some("a"), "a"), r#"{"model":"a" }"#);
        assert_eq!(edited(r#"{"mod\u0065l":"x"}"#, None, "a"), r#"{"mod\u0065l":"a"}"#);
    }

    #[test]
    fn what_reads_two_ways_is_refused() {
        for body in [
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MODEL":"b"}"#,
            r#"{"model":"a","model":"a"}"#,
            r#"{"model":"a","\u0053tream":true}"#,
            "{\"model\":\"a\",\"\u{17f}tream\":true}",
            "{\"model\":\"a\",\"\u{212a}eep_alive\":1}",
            r#"{"model":"a","ſtream_option\u017F":{}}"#,
            r#"{"model":1}"#,
            r#"{"model":"a","stream":"true"}"#,
            r#"{"model":"\ud800"}"#,
            "[]",
            "",
        ] {
            assert_eq!(reading(body).map_err(|failure| failure.code), Err(Code::InvalidBody), "{body}");
        }
        assert_eq!(reading("{}").unwrap_err().code, Code::ModelRequired);
        assert_eq!(reading(r#"{"model":""}"#).unwrap_err().code, Code::ModelRequired);
        assert_eq!(reading(r#"{"model":"a\nb"}"#).unwrap_err().code, Code::InvalidModelName);
    }

    #[test]
    fn show_takes_the_name_that_was_the_models_before() {
        let named = |body: &str| {
            let reading = read(Api::OllamaShow, None, body.as_bytes())?;
            let pieces = reading.edits("engine").apply(&Bytes::copy_from_slice(body.as_bytes()));
            Ok::<_, Failure>((reading.facts.model, String::from_utf8(pieces.concat()).unwrap()))
        };
        let both = |model: &str, body: &str| (model.to_owned(), body.to_owned());
        let cases = [
            (r#"{"model":"","name":"a"}"#, both("a", r#"{"model":"engine","name":"a"}"#)),
            (r#"{"model":null,"name":"a"}"#, both("a", r#"{"model":"engine","name":"a"}"#)),
            (r#"{"name":"a"}"#, both("a", r#"{"model":"engine","name":"a"}"#)),
            (r#"{"model":"b","name":"a"}"#, both("b", r#"{"model":"engine","name":"a"}"#)),
            (r#"{"model":"b","name":null}"#, both("b", r#"{"model":"engine","name":null}"#)),
        ];
        for (body, expected) in cases {
            assert_eq!(named(body).unwrap(), expected, "{body}");
        }
        for (body, code) in [
            (r#"{"name":"a","Name":"b"}"#, Code::InvalidBody),
            (r#"{"name":"a","name":"b"}"#, Code::InvalidBody),
            (r#"{"name":1}"#, Code::InvalidBody),
            (r#"{"model":"","name":""}"#, Code::ModelRequired),
        ] {
            assert_eq!(named(body).unwrap_err().code, code, "{body}");
        }
        assert_eq!(reading(r#"{"name":"a"}"#).unwrap_err().code, Code::ModelRequired);
        assert!(reading(r#"{"model":"a","name":1,"Name":2}"#).is_ok(), "a key as any other");
    }

    #[test]
    fn stream_has_the_default_of_its_api() {
        let stream = |api, body: &str| read(api, None, body.as_bytes()).unwrap().facts.stream;
        assert!(stream(Api::OllamaChat, r#"{"model":"a"}"#));
        assert!(stream(Api::OllamaChat, r#"{"model":"a","stream":null}"#));
        assert!(!stream(Api::OpenAiChat, r#"{"model":"a"}"#));
        let late = format!(r#"{{"model":"a","prompt":"{}","stream":true}}"#, "x".repeat(1 << 20));
        assert!(stream(Api::OpenAiChat, &late));
        assert!(!stream(Api::OllamaEmbed, r#"{"model":"a","stream":true}"#));
    }

    proptest! {
        /// After the edits a reader that takes the last of duplicates finds the model that was asked for, and all else
        /// as it was.
        #[test]
        fn edits_change_the_model_alone(mut rest in prop::collection::btree_map("[a-z_\u{17f}\u{212a}\"\\\\]{0,12}", any::<i32>(), 0..5),
            model in prop::option::of(any::<String>()), to in "[a-z:/.-]{1,20}") {
            rest.retain(|key, _| controlled(serde_json::to_string(key).unwrap().trim_matches('"').as_bytes()).is_none());
            let mut object = json!(rest);
            if let Some(model) = &model {
                object["model"] = json!(model);
            }
            let text = object.to_string();
            let Ok(reading) = read(Api::OllamaChat, Some("named".into()), text.as_bytes()) else {
                return Err(TestCaseError::fail(text));
            };
            let pieces = reading.edits(&to).apply(&Bytes::from(text.clone()));
            let read_again: Value = serde_json::from_slice(&pieces.concat()).unwrap();
            object["model"] = json!(to);
            prop_assert_eq!(read_again, object);
        }
    }
}
