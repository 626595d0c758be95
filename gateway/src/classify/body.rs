//! What an inference body says, and where.
//!
//! The replica's reader is Go's `encoding/json`, which folds the case of keys (also `ſ` to `s` and the Kelvin sign to
//! `k`) and takes the last of duplicates. Whatever could be read one way here and another way there is refused.

use super::Api;
use crate::errors::{Code, Failure};
use crate::json::{self, Kind, Member};
use crate::limits::{self, Limit};

/// Longest model name that is looked up. Unit: bytes.
const MAX_MODEL_NAME: usize = 256;

/// Top-level keys that the gateway reads, or that change what a replica loads. They stand at most once, spelled so.
const CONTROLLED: [&str; 12] = [
    "model",
    "stream",
    NAME,
    "encoding_format",
    "max_tokens",
    "max_completion_tokens",
    "options",
    "keep_alive",
    PROMPT,
    MAX_OUTPUT,
    "stream_options",
    "dimensions",
];

/// What `/api/show` called `model` before; Ollama's command line still does. A key as any other to the other APIs.
const NAME: &str = "name";

/// What `/v1/completions` goes on from. A key as any other to the other APIs.
const PROMPT: &str = "prompt";

/// How much `/v1/responses` may answer. A key as any other to the other APIs.
const MAX_OUTPUT: &str = "max_output_tokens";

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
    /// Whether vectors are wanted as base64.
    pub base64: bool,
}

/// A body that was read: its facts, and where what may be changed stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the body says.
    pub facts: Facts,
    /// `model`, and whether its value is the name in [`Facts`] to the letter.
    pub(super) model: Option<(Member, bool)>,
    pub(super) max_tokens: Option<Member>,
    pub(super) max_completion_tokens: Option<Member>,
    /// That of `/v1/responses`.
    pub(super) max_output_tokens: Option<Member>,
    pub(super) options: Option<Member>,
    pub(super) keep_alive: Option<Member>,
    /// OpenAI's `prompt`.
    pub(super) prompt: Option<Member>,
    /// Where the first member stands, or would.
    pub(super) begin: usize,
    /// Whether the body has no member.
    pub(super) empty: bool,
}

/// Reads `body` in one pass. `named` is the model's name from the header or the path, which goes before the body's.
///
/// # Errors
/// The [`Failure`] to answer with: no JSON object, an ambiguous one, a controlled value of the wrong type, no model.
pub fn read(api: Api, named: Option<String>, body: &[u8]) -> Result<Reading, Failure> {
    let mut found: [Option<Member>; CONTROLLED.len()] = Default::default();
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
    let [model, stream, name, encoding, max_tokens, max_completion_tokens, options, keep_alive, prompt, output, ..] =
        found;
    let stream = stream_of(api, stream)?;
    let base64 = api == Api::OpenAiEmbeddings && base64_of(body, encoding)?;
    let in_body = string(body, "model", model.as_ref())?;
    let is_the_bodys = named.is_none() && in_body.is_some();
    let found = match named.or(in_body) {
        None => string(body, NAME, name.as_ref())?,
        found => found,
    };
    let Some(name) = found else {
        return Err(Failure::new(
            Code::ModelRequired,
            "model is required: name it in the body, the path or x-tutti-model",
        ));
    };
    check_name(&name)?;
    let plain = |member: &Member| is_the_bodys && inner(body, member) == name.as_bytes();
    Ok(Reading {
        model: model.map(|member| (member.clone(), plain(&member))),
        facts: Facts { api, model: name, stream, base64 },
        max_tokens,
        max_completion_tokens,
        max_output_tokens: output,
        options,
        keep_alive,
        prompt,
        begin: body.iter().position(|byte| *byte == b'{').unwrap_or(0) + 1,
        empty,
    })
}

/// Keeps a controlled member; refuses one that stands twice or is spelled in another case.
fn note(api: Api, body: &[u8], member: Member, found: &mut [Option<Member>]) -> Result<(), Failure> {
    let raw = &body[member.key.clone()];
    if raw.len() > MAX_RAW_KEY {
        return Ok(());
    }
    let Some((index, exact)) = controlled(raw) else { return Ok(()) };
    let key = CONTROLLED[index];
    let only = match key {
        NAME => Some(Api::OllamaShow),
        PROMPT => Some(Api::OpenAiCompletions),
        MAX_OUTPUT => Some(Api::OpenAiResponses),
        _ => None,
    };
    if only.is_some_and(|only| only != api) {
        return Ok(());
    }
    if !exact {
        let message =
            format!("the key at byte {} reads as `{key}` to some and not to others: spell it so", member.key.start);
        return Err(Failure::new(Code::InvalidBody, message));
    }
    if found[index].replace(member).is_some() {
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

fn stream_of(api: Api, found: Option<Member>) -> Result<bool, Failure> {
    let Some(default) = api.streams_by_default() else { return Ok(false) };
    match found.map(|member| member.kind) {
        None | Some(Kind::Null) => Ok(default),
        Some(Kind::True) => Ok(true),
        Some(Kind::False) => Ok(false),
        Some(_) => Err(Failure::new(Code::InvalidBody, "`stream` must be true or false")),
    }
}

/// Whether OpenAI's `encoding_format` wants base64; numbers are the default.
fn base64_of(body: &[u8], found: Option<Member>) -> Result<bool, Failure> {
    let Some(member) = found.filter(|member| member.kind != Kind::Null) else { return Ok(false) };
    let text = json::unescape(inner(body, &member)).filter(|_| member.kind == Kind::String);
    match text.map(|text| text.to_ascii_lowercase()).as_deref() {
        Some("float" | "") => Ok(false), // what an Ollama takes, too
        Some("base64") => Ok(true),
        _ => Err(Failure::of("encoding_format", "`encoding_format` must be \"float\" or \"base64\"")),
    }
}

/// A string's raw text between its quotes; nothing of what is no string.
fn inner<'b>(body: &'b [u8], member: &Member) -> &'b [u8] {
    if member.kind == Kind::String { &body[member.value.start + 1..member.value.end - 1] } else { &[] }
}

/// A string that is not empty; `None` for one that is, for null, and for what is not there.
fn string(body: &[u8], key: &str, found: Option<&Member>) -> Result<Option<String>, Failure> {
    match found {
        None => Ok(None),
        Some(member) if member.kind == Kind::Null => Ok(None),
        Some(member) if member.kind == Kind::String => json::unescape(inner(body, member))
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

    fn reading(body: &str) -> Result<Reading, Failure> {
        read(Api::OllamaChat, None, body.as_bytes())
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
        let named = |body: &str| read(Api::OllamaShow, None, body.as_bytes()).map(|reading| reading.facts.model);
        for (body, name) in [
            (r#"{"model":"","name":"a"}"#, "a"),
            (r#"{"model":null,"name":"a"}"#, "a"),
            (r#"{"name":"a"}"#, "a"),
            (r#"{"model":"b","name":"a"}"#, "b"),
            (r#"{"model":"b","name":null}"#, "b"),
        ] {
            assert_eq!(named(body).unwrap(), name, "{body}");
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
    fn vectors_come_as_numbers_or_as_base64() {
        let base64 = |value: &str| {
            let body = format!(r#"{{"model":"a","encoding_format":{value}}}"#);
            read(Api::OpenAiEmbeddings, None, body.as_bytes()).map(|reading| reading.facts.base64)
        };
        for (value, expected) in [
            ("null", false),
            (r#""""#, false),
            (r#""float""#, false),
            (r#""base64""#, true),
            (r#""Base\u00364""#, true),
        ] {
            assert_eq!(base64(value).unwrap(), expected, "{value}");
        }
        for value in [r#""hex""#, "1", "true", "[]", r#""\ud800""#] {
            let failure = base64(value).unwrap_err();
            assert_eq!((failure.code, failure.param), (Code::InvalidParameter, Some("encoding_format")), "{value}");
        }
        assert!(reading(r#"{"model":"a","encoding_format":1}"#).is_ok(), "another API's own");
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
}
