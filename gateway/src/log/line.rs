//! The line of a request, field by field.
//!
//! One table says what a field is called, what it says and how it is got; the line is written by it, and
//! `docs/reference/log.md` from it. Written by hand, for a line is a good part of what a request costs the gateway.

use std::time::{Duration, SystemTime};

use crate::record::{Outcome, Phase, Record};

/// What a line tells of.
struct Told<'a> {
    record: &'a Record,
    outcome: Outcome,
    took: Duration,
    now: Duration,
}

/// What a field holds.
enum Value<'a> {
    /// Anything that is text.
    Text(&'a str),
    /// A word of ours.
    Word(&'static str),
    Number(u64),
    /// Thousandths, as a number with three digits behind the point.
    Thousandths(u64),
}

/// A field of the line.
struct Field {
    name: &'static str,
    /// The name as the line has it, with what goes before and after.
    key: &'static [u8],
    form: &'static str,
    about: &'static str,
    get: for<'a> fn(&Told<'a>) -> Option<Value<'a>>,
}

macro_rules! fields {
    ($($name:literal $form:literal $about:literal |$told:ident| $get:expr;)*) => {
        /// Every field, in the order of the line.
        static FIELDS: &[Field] = &[$(Field { name: $name, key: concat!(",\"", $name, "\":").as_bytes(), form: $form, about: $about, get: |$told| $get }),*];
    };
}

fields! {
    "ts" "number" "When the request was over. Unit: seconds since 1970."
        |told| Some(Value::Thousandths(whole(told.now.as_millis())));
    "level" "`info`, `error`" "`error` where the gateway or a replica is to blame."
        |told| Some(Value::Word(match told.outcome {
            Outcome::Failed(code) if code.row().status >= 500 => "error",
            Outcome::ReplicaError if told.record.status >= 500 => "error",
            _ => "info",
        }));
    "msg" "`request`" "What the line is."
        |_told| Some(Value::Word("request"));
    "request_id" "text" "The `x-request-id`: the client's, or one that was made."
        |told| told.record.request_id.to_str().ok().map(Value::Text);
    "trace_id" "32 hex digits" "Of the client's `traceparent` (W3C), where it is one."
        |told| told.record.traceparent.as_ref().and_then(|parent| trace_id(parent.as_bytes())).map(Value::Text);
    "tenant" "text" "Who has the key that it came with."
        |told| told.record.caller.as_ref().map(|caller| Value::Text(&caller.tenant));
    "key" "text" "The id of that key, which need not be good any more: then `code` is `invalid_api_key`."
        |told| told.record.caller.as_ref().map(|caller| Value::Text(&caller.id));
    "api" "a path" "Which API, where it was one."
        |told| told.record.api.map(|api| Value::Word(api.path()));
    "model" "text" "The model's name in the configuration or at the replica, once it was found."
        |told| told.record.served.as_ref().map(|served| Value::Text(&served.model));
    "revision" "text" "Its revision; empty where only replicas name it."
        |told| told.record.served.as_ref().map(|served| Value::Text(&served.revision));
    "pool" "text" "The pool."
        |told| told.record.served.as_ref().map(|served| Value::Text(&served.pool));
    "replica" "a URL" "The last replica that it was sent to."
        |told| told.record.replica.as_ref().map(|replica| Value::Text(&replica.url));
    "status" "number" "The answer's status; 0 where none went out."
        |told| Some(Value::Number(told.record.status.into()));
    "outcome" "`ok`, `failed`, `replica_error`, `cancelled`" "How it ended: well, with an error of the gateway's, with the replica's own error status, or by the client's leaving."
        |told| Some(Value::Word(match told.outcome {
            Outcome::Ok => "ok",
            Outcome::ReplicaError => "replica_error",
            Outcome::Failed(_) => "failed",
            Outcome::Cancelled => "cancelled",
        }));
    "code" "a code of [errors](errors.md)" "Where it failed."
        |told| match told.outcome {
            Outcome::Failed(code) => Some(Value::Word(code.row().name)),
            _ => None,
        };
    "error" "text" "Where it failed, and why; not where that quotes a client or a replica."
        |told| {
            let failure = told.record.failure.as_ref().filter(|failure| !failure.quotes);
            failure.map(|failure| Value::Text(&failure.message))
        };
    "phase" "`reading`, `queued`, `waiting`, `answering`" "Where it was cancelled: while its body arrived, in the queue, before the replica's answer, or within it."
        |told| match (told.outcome, told.record.phase) {
            (Outcome::Cancelled, Phase::Reading) => Some(Value::Word("reading")),
            (Outcome::Cancelled, Phase::Queued) => Some(Value::Word("queued")),
            (Outcome::Cancelled, Phase::Waiting) => Some(Value::Word("waiting")),
            (Outcome::Cancelled, Phase::Answering | Phase::Finished) => Some(Value::Word("answering")),
            _ => None,
        };
    "received" "number" "The length of the request's body. Unit: bytes."
        |told| Some(Value::Number(told.record.received as u64));
    "sent" "number" "What was sent of the answer's body. Unit: bytes."
        |told| Some(Value::Number(told.record.sent as u64));
    "queued_ms" "number" "How long it waited for a slot. Unit: milliseconds."
        |told| Some(millis(told.record.queued));
    "ttft_ms" "number" "From the request's head to the first byte of the answer's body. Unit: milliseconds."
        |told| told.record.first_byte.map(millis);
    "duration_ms" "number" "From the request's head to the end. Unit: milliseconds."
        |told| Some(millis(told.took));
    "input_tokens" "number" "Tokens of the prompt, as the replica counted them; 0 where it did not say."
        |told| Some(Value::Number(told.record.usage.input));
    "cached_tokens" "number" "Those of them that the replica had in memory from before, where it says so and there were any."
        |told| Some(told.record.usage.cached).filter(|cached| *cached > 0).map(Value::Number);
    "output_tokens" "number" "Tokens of the answer, as the replica counted them; an event a token where a stream did not say."
        |told| Some(Value::Number(told.record.usage.output));
    "retries" "number" "How often it was sent again."
        |told| Some(Value::Number(told.record.retries.into()));
    "callers" "number" "Of embeddings: how many requests shared its call, where it was not alone. Its tokens are a share by length then."
        |told| Some(told.record.callers as u64).filter(|callers| *callers > 1).map(Value::Number);
    "calls" "number" "Of embeddings: how many calls its array was cut into, where it was."
        |told| Some(told.record.calls as u64).filter(|calls| *calls > 1).map(Value::Number);
}

/// Appends a request's line.
pub(super) fn write(record: &Record, outcome: Outcome, took: Duration, line: &mut Vec<u8>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let told = Told { record, outcome, took, now };
    let start = line.len();
    for field in FIELDS {
        let Some(value) = (field.get)(&told) else { continue };
        line.extend_from_slice(field.key);
        match value {
            Value::Number(number) => digits(number, 1, line),
            Value::Thousandths(thousandths) => {
                digits(thousandths / 1000, 1, line);
                line.push(b'.');
                digits(thousandths % 1000, 3, line);
            }
            Value::Word(word) => {
                line.push(b'"');
                line.extend_from_slice(word.as_bytes());
                line.push(b'"');
            }
            Value::Text(text) => quoted(text, line),
        }
    }
    line[start] = b'{'; // there is always a first field, and a comma before it
    line.extend_from_slice(b"}\n");
}

/// A number of at least `least` digits.
fn digits(mut number: u64, least: usize, line: &mut Vec<u8>) {
    let mut text = [b'0'; 20]; // u64::MAX has as many
    let mut at = text.len();
    while number > 0 || text.len() - at < least {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    line.extend_from_slice(&text[at..]);
}

fn quoted(text: &str, line: &mut Vec<u8>) {
    line.push(b'"');
    // All bytes are looked at, for that goes many at a time.
    if text.bytes().fold(true, |plain, byte| plain & (byte >= 0x20) & (byte != b'"') & (byte != b'\\')) {
        line.extend_from_slice(text.as_bytes());
    } else {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
                0..0x20 => line.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => line.push(byte),
            }
        }
    }
    line.push(b'"');
}

/// Milliseconds with microseconds behind the point.
fn millis<'a>(duration: Duration) -> Value<'a> {
    Value::Thousandths(whole(duration.as_micros()))
}

fn whole(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The trace's id in a `traceparent` (W3C Trace Context, 3.2): `VV-TRACE-SPAN-FL`, of which no part may be other than
/// lower-case hex, and the trace not all zero.
fn trace_id(parent: &[u8]) -> Option<&str> {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (version, rest) = parent.split_at_checked(2)?;
    let id = rest.strip_prefix(b"-")?.get(..32)?;
    let good = is_hex(version) && version != b"ff" && is_hex(id) && id.iter().any(|byte| *byte != b'0');
    std::str::from_utf8(id).ok().filter(|_| good && rest.get(33) == Some(&b'-'))
}

/// `docs/reference/log.md`, from the table.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# The log of requests\n\n\
         One JSON object a line and request on standard output, in this order; what tutti says of itself goes to standard\n\
         error. A line never holds a prompt, an answer, a key or a name that only a client knows. Lines that nobody takes in\n\
         time are dropped and counted (`tutti_log_lines_dropped_total`). `gateway.log.requests` says which requests have a\n\
         line. This page is generated from the table in `gateway/src/log/line.rs`.\n\n\
         | field | form | what it says |\n|---|---|---|\n",
    );
    for Field { name, form, about, .. } in FIELDS {
        page.push_str(&format!("| `{name}` | {form} | {about} |\n"));
    }
    page
}

/// The names of the fields, in the order of the line.
pub fn field_names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|field| field.name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use std::sync::Arc;

    use super::*;
    use crate::classify::Api;
    use crate::errors::{Code, Failure};
    use crate::keys::Key;
    use crate::registry::Registry;
    use crate::settle::Settlement;

    fn line(make: impl FnOnce(&mut Record)) -> (Json, Vec<String>) {
        let mut settlement = Settlement::begin(HeaderValue::from_static("abc"));
        settlement.silence();
        make(&mut settlement.record);
        let mut line = Vec::new();
        write(&settlement.record, settlement.record.outcome(), Duration::from_micros(1_234_567), &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        let mut names = Vec::new();
        crate::json::members(&line, |member| {
            names.push(String::from_utf8_lossy(&line[member.key]).into_owned());
        })
        .unwrap();
        (serde_json::from_slice(&line).unwrap(), names)
    }

    #[test]
    fn every_field_is_written_in_the_order_of_the_table() {
        let served = Registry::default().served("risk", "v1", "p", tutti_api::Engine::Ollama, false);
        let pool = tutti_api::PoolSpec::default();
        let replica = Registry::default().replica(&pool, "http://localhost:1".parse().unwrap(), None).unwrap();
        let keys = format!("keys: [{{ id: k1, name: n, tenant: acme, sha256: \"{}\" }}]", "0".repeat(64));
        let key = Key::of(&tutti_api::load_keys(&keys, "").unwrap().keys[0], "acme".into(), None);
        let everything = |record: &mut Record| {
            record.api = Some(Api::OllamaChat);
            record.traceparent =
                Some(HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
            (record.served, record.replica) = (Some(served), Some(replica));
            record.caller = Some(Arc::new(key));
            record.first_byte = Some(Duration::from_micros(40));
            record.queued = Duration::from_millis(7);
            (record.usage.output, record.usage.cached) = (u64::MAX, 3);
            (record.callers, record.calls) = (7, 2);
        };
        let (json, mut names) = line(|record| {
            everything(record);
            record.status = 503;
            record.failure = Some(Failure::new(Code::QueueTimeout, "no \"slot\"\n\\ für \u{1}模型"));
        });
        assert_eq!(json["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            (&json["duration_ms"], &json["ttft_ms"], &json["queued_ms"]),
            (&json!(1234.567), &json!(0.04), &json!(7.0))
        );
        assert_eq!((&json["level"], &json["code"]), (&json!("error"), &json!("queue_timeout")));
        assert_eq!(
            (&json["error"], &json["output_tokens"]),
            (&json!("no \"slot\"\n\\ für \u{1}模型"), &json!(u64::MAX))
        );
        assert_eq!((&json["tenant"], &json["key"]), (&json!("acme"), &json!("k1")));
        assert_eq!((&json["model"], &json["replica"]), (&json!("risk"), &json!("http://localhost:1")));
        let (json, cancelled) = line(|record| record.phase = Phase::Queued);
        assert_eq!((&json["outcome"], &json["phase"]), (&json!("cancelled"), &json!("queued")));
        let phase = field_names().position(|name| name == "phase").unwrap();
        names.insert(phase, "phase".to_owned());
        assert_eq!(names, field_names().collect::<Vec<_>>());
        assert!(cancelled.iter().all(|name| field_names().any(|known| known == name)));
    }

    #[test]
    fn what_a_client_asked_wrongly_is_no_error_of_the_replica() {
        for (status, level) in [(400, "info"), (404, "info"), (500, "error"), (503, "error")] {
            let (json, _) = line(|record| (record.status, record.phase) = (status, Phase::Finished));
            assert_eq!((&json["outcome"], &json["level"]), (&json!("replica_error"), &json!(level)), "{status}");
        }
    }

    #[test]
    fn what_quotes_is_not_told() {
        let (json, _) = line(|record| record.failure = Some(Failure::quoting(Code::ModelNotFound, "model \"SECRET\"")));
        assert_eq!(
            (&json["code"], &json["error"], &json["level"]),
            (&json!("model_not_found"), &Json::Null, &json!("info"))
        );
    }

    #[test]
    fn only_a_traces_id_is_told_of_a_traceparent() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for good in [format!("00-{id}-b7ad6b7169203331-01"), format!("01-{id}-b7ad6b7169203331-01-more")] {
            assert_eq!(trace_id(good.as_bytes()), Some(id), "{good}");
        }
        for bad in [
            format!("ff-{id}-b7ad6b7169203331-01"),
            format!("00-{id}"),
            format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(),
            "00-my-account-number-1234-5678-90123-b7ad6b7169203331-01".to_owned(),
            "é".repeat(40),
            String::new(),
        ] {
            assert_eq!(trace_id(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(text in any::<String>()) {
            let mut line = Vec::new();
            quoted(&text, &mut line);
            prop_assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
        }

        #[test]
        fn numbers_are_written_as_they_are(number: u64) {
            let mut line = Vec::new();
            digits(number, 1, &mut line);
            prop_assert_eq!(String::from_utf8(line).unwrap(), number.to_string());
        }
    }
}
