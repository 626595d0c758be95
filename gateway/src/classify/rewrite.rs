//! The edits that make a body say what its replica shall read.

use bytes::Bytes;
use http::HeaderValue;
use tutti_api::Engine;

use super::pins::{Pins, insert};
use super::{Api, Edits, Reading};
use crate::adjusted::Adjusted;
use crate::errors::Failure;
use crate::json::{self, Kind, Member};

/// What a body shall say.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The name that the replica knows the model by.
    pub model: &'a str,
    /// What the replica speaks.
    pub engine: Engine,
    /// What its pool pins.
    pub pins: &'a Pins,
}

/// How a body is made to say what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The edits; none where it does already.
    pub edits: Edits,
    /// Which of the client's options were changed, for `x-tutti-adjusted`.
    pub adjusted: Option<HeaderValue>,
}

/// What of a request an Ollama's load goes by, as the client wrote it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadWith {
    /// An object in JSON.
    pub(crate) options: Option<Bytes>,
}

impl Reading {
    /// What makes the body say what is wanted. `body` is what was read.
    ///
    /// # Errors
    /// A value that is needed and is of the wrong type, or ambiguous.
    pub fn rewrite(&self, body: &Bytes, wanted: &Wanted<'_>) -> Result<Rewrite, Failure> {
        let mut edits = Edits::default();
        let mut adjusted = None;
        let mut missing = String::new();
        match &self.model {
            Some((_, true)) if wanted.model == self.facts.model => {}
            Some((member, _)) => edits.replace(member.value.clone(), quoted(wanted.model).into()),
            None => insert(&mut missing, "model", &quoted(wanted.model)),
        }
        if let Some(newer) = &self.max_completion_tokens {
            self.max_tokens(body, newer, wanted, &mut edits)?;
        }
        self.prompt(body, wanted, &mut edits);
        if !wanted.pins.is_empty() && self.facts.api.takes_options() {
            let both = (&mut edits, &mut missing);
            let mut by = Adjusted::default();
            wanted.pins.edit(body, self.options.as_ref(), self.keep_alive.as_ref(), both, &mut by)?;
            adjusted = by.header();
        }
        if !missing.is_empty() {
            if self.empty {
                missing.pop(); // its last comma
            }
            edits.replace(self.begin..self.begin, missing.into());
        }
        Ok(Rewrite { edits, adjusted })
    }

    /// What the client says that a load is to be done with.
    pub(crate) fn loads_with(&self, body: &Bytes) -> LoadWith {
        let options =
            self.options.as_ref().filter(|options| options.kind != Kind::Null && self.facts.api.takes_options());
        LoadWith { options: options.map(|options| body.slice(options.value.clone())) }
    }

    /// How many tokens an answer may have, as far as the body says so in its API's words; vectors have none. Below zero
    /// `num_predict` bounds nothing, which is as though it were not said.
    pub(crate) fn most_tokens(&self, body: &[u8]) -> Option<u64> {
        if self.facts.api.operation() == "embeddings" {
            return Some(0);
        }
        let (mut said, value) = (None, |member: &Member| member.value.clone());
        if self.facts.api.takes_options() {
            let options = value(self.options.as_ref().filter(|options| options.kind == Kind::Object)?);
            // It is well formed: the body around it was read already. Of duplicates the replica takes the last.
            let _ = json::members(&body[options.clone()], |member| {
                if member.kind == Kind::Number && body[options.clone()][member.key.clone()] == *b"num_predict" {
                    said = Some(options.start + member.value.start..options.start + member.value.end);
                }
            });
        } else {
            // The newer name is OpenAI's chat's alone, and goes before the older there.
            let newer = self.max_completion_tokens.as_ref().filter(|_| self.facts.api == Api::OpenAiChat);
            let names = [newer, self.max_tokens.as_ref(), self.max_output_tokens.as_ref()];
            said = names.into_iter().flatten().find(|said| said.kind != Kind::Null).map(value);
        }
        std::str::from_utf8(&body[said?]).ok()?.parse().ok()
    }

    /// Whether an Ollama loads the model anew for this body with options that nobody can see afterwards.
    pub fn is_strange(&self, body: &[u8], pins: &Pins) -> bool {
        let options = self.options.as_ref().filter(|_| self.facts.api.takes_options());
        options.is_some_and(|options| pins.leave_strange(&body[options.value.clone()]))
    }

    /// Ollama takes one text for a prompt, and no list. A list of one text is that text; LangChain sends no other.
    fn prompt(&self, body: &Bytes, wanted: &Wanted<'_>, edits: &mut Edits) {
        let list = self.prompt.as_ref().filter(|prompt| prompt.kind == Kind::Array);
        let Some(list) = list.filter(|_| wanted.engine == Engine::Ollama) else { return };
        let (start, mut texts, mut others) = (list.value.start, None, 0);
        // It is well formed: the body around it was read already.
        let _ = json::items(&body[list.value.clone()], |place, kind| match kind {
            Kind::String if texts.is_none() => texts = Some(start + place.start..start + place.end),
            _ => others += 1,
        });
        if let (Some(only), 0) = (texts, others) {
            edits.replace(list.value.clone(), body.slice(only));
        }
    }

    /// Ollama reads `max_tokens` alone. OpenAI calls that deprecated: the newer name goes before it.
    fn max_tokens(&self, body: &Bytes, newer: &Member, wanted: &Wanted<'_>, edits: &mut Edits) -> Result<(), Failure> {
        if self.facts.api != Api::OpenAiChat || wanted.engine != Engine::Ollama || newer.kind == Kind::Null {
            return Ok(());
        }
        if newer.kind != Kind::Number {
            return Err(Failure::of("max_completion_tokens", "`max_completion_tokens` must be a whole number"));
        }
        match &self.max_tokens {
            None => edits.replace(newer.key.clone(), Bytes::from_static(b"max_tokens")),
            Some(older) => edits.replace(older.value.clone(), body.slice(newer.value.clone())),
        }
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{Map, Value, json};
    use tutti_api::{HumanDuration, KeepAlive, PoolSpec, RunnerSpec};

    use super::*;
    use crate::classify::read;
    use crate::errors::Code;

    static NONE: LazyLock<Pins> = LazyLock::new(Pins::default);

    fn wanted(model: &str) -> Wanted<'_> {
        Wanted { model, engine: Engine::Ollama, pins: &NONE }
    }

    fn edited(api: Api, body: &str, named: Option<&str>, model: &str) -> Result<String, Failure> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reading = read(api, named.map(str::to_owned), &body)?;
        let edits = reading.rewrite(&body, &wanted(model))?.edits;
        Ok(String::from_utf8(edits.apply(&body).concat()).unwrap())
    }

    #[test]
    fn options_that_nobody_sees_afterwards_are_strange() {
        let runner = RunnerSpec { num_thread: Some(2), ..RunnerSpec::default() };
        let pins = Pins::of(&PoolSpec { runner: Some(runner), ..PoolSpec::default() });
        for (api, options, free, pinned) in [
            (Api::OllamaChat, r#"{"num_ctx":8192,"stop":["\n","num_batch"]}"#, false, false),
            (Api::OllamaChat, r#"{"num_thread":4}"#, true, false),
            (Api::OllamaChat, r#"{"num_thread":4,"num_batch":1}"#, true, true),
            (Api::OllamaChat, r#"{"num\u005fbatch":1}"#, true, true),
            (Api::OpenAiChat, r#"{"num_batch":1}"#, false, false),
            (Api::OllamaEmbed, "null", false, false),
        ] {
            let body = Bytes::from(format!(r#"{{"model":"m","options":{options}}}"#));
            let reading = read(api, None, &body).unwrap();
            assert_eq!(
                (reading.is_strange(&body, &NONE), reading.is_strange(&body, &pins)),
                (free, pinned),
                "{options}"
            );
        }
    }

    #[test]
    fn the_model_is_replaced_in_place_and_nothing_else() {
        let edited = |body, named, to| edited(Api::OllamaChat, body, named, to).unwrap();
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
    fn show_names_the_model_whatever_it_was_called() {
        let edited = |body| edited(Api::OllamaShow, body, None, "engine").unwrap();
        assert_eq!(edited(r#"{"model":"","name":"a"}"#), r#"{"model":"engine","name":"a"}"#);
        assert_eq!(edited(r#"{"name":"engine"}"#), r#"{"model":"engine","name":"engine"}"#);
    }

    #[test]
    fn the_newer_bound_of_tokens_goes_before_the_older_one() {
        let edited = |fields: &str| {
            let body = format!(r#"{{"model":"a",{fields}}}"#);
            let edited = edited(Api::OpenAiChat, &body, None, "a")?;
            Ok::<_, Failure>(edited.replace(r#"{"model":"a","#, "").trim_end_matches('}').to_owned())
        };
        for (fields, expected) in [
            (r#""max_completion_tokens":5"#, r#""max_tokens":5"#),
            (r#""max_completion\u005ftokens" : 5"#, r#""max_tokens" : 5"#),
            (r#""max_tokens":7,"max_completion_tokens":5"#, r#""max_tokens":5,"max_completion_tokens":5"#),
            (r#""max_completion_tokens":5,"max_tokens":null"#, r#""max_completion_tokens":5,"max_tokens":5"#),
            (r#""max_completion_tokens":null,"max_tokens":7"#, r#""max_completion_tokens":null,"max_tokens":7"#),
        ] {
            assert_eq!(edited(fields).unwrap(), expected);
        }
        let failure = edited(r#""max_completion_tokens":"5""#).unwrap_err();
        assert_eq!((failure.code, failure.param), (Code::InvalidParameter, Some("max_completion_tokens")));
    }

    #[test]
    fn a_list_of_one_prompt_is_that_prompt() {
        let edited =
            |api, prompt: &str| edited(api, &format!(r#"{{"model":"a","prompt":{prompt}}}"#), None, "a").unwrap();
        for (prompt, expected) in [
            (r#"[ "x, \"y\"" ]"#, r#""x, \"y\"""#),
            (r#""x""#, r#""x""#),
            (r#"["x","y"]"#, r#"["x","y"]"#),
            ("[]", "[]"),
            ("[1,2]", "[1,2]"),
            (r#"[["x"]]"#, r#"[["x"]]"#),
        ] {
            assert_eq!(edited(Api::OpenAiCompletions, prompt), format!(r#"{{"model":"a","prompt":{expected}}}"#));
        }
        assert_eq!(edited(Api::OllamaGenerate, r#"["x"]"#), r#"{"model":"a","prompt":["x"]}"#);
        let twice = read(Api::OpenAiCompletions, None, br#"{"model":"a","prompt":"x","Prompt":"y"}"#);
        assert_eq!(twice.unwrap_err().code, Code::InvalidBody);
        assert!(read(Api::OllamaGenerate, None, br#"{"model":"a","prompt":"x","Prompt":"y"}"#).is_ok());
    }

    #[test]
    fn an_openai_server_reads_both_bounds_itself() {
        let body = Bytes::from_static(br#"{"model":"a","max_completion_tokens":5,"max_tokens":7,"prompt":["x"]}"#);
        let reading = read(Api::OpenAiChat, None, &body).unwrap();
        let wanted = Wanted { engine: Engine::Openai, ..wanted("a") };
        assert_eq!(reading.rewrite(&body, &wanted).unwrap(), Rewrite::default());
    }

    #[test]
    fn what_an_answer_may_have_is_read_in_the_words_of_each_api() {
        let most = |api, fields: &str| {
            let body = format!(r#"{{"model":"a",{fields}}}"#);
            read(api, None, body.as_bytes()).unwrap().most_tokens(body.as_bytes())
        };
        for (api, fields, expected) in [
            (Api::OllamaChat, r#""options":{"num_ctx":1,"num_predict":8000}"#, Some(8000)),
            (Api::OllamaGenerate, r#""options":{"num_predict":1,"num_predict":2}"#, Some(2)),
            (Api::OllamaChat, r#""options":{"num_predict":-1}"#, None),
            (Api::OllamaChat, r#""options":{"num_predict":"9"}"#, None),
            (Api::OllamaChat, r#""options":null,"max_tokens":7"#, None),
            (Api::OllamaEmbed, r#""options":{"num_predict":7}"#, Some(0)),
            (Api::OpenAiChat, r#""max_tokens":7,"max_completion_tokens":5"#, Some(5)),
            (Api::OpenAiChat, r#""max_output_tokens":5"#, None),
            (Api::OpenAiResponses, r#""max_output_tokens":5"#, Some(5)),
            (Api::OpenAiResponses, r#""max_output_tokens":null"#, None),
            (Api::AnthropicMessages, r#""max_tokens":7"#, Some(7)),
        ] {
            assert_eq!(most(api, fields), expected, "{api:?} {fields}");
        }
    }

    fn pinning() -> Pins {
        Pins::of(&PoolSpec {
            runner: Some(RunnerSpec { num_ctx: Some(8192), use_mmap: Some(true), ..RunnerSpec::default() }),
            keep_alive: KeepAlive::For(HumanDuration::from_secs(300)),
            ..PoolSpec::default()
        })
    }

    /// The body as a pool that pins gets it, and what is said of that.
    fn pinned(api: Api, body: &str) -> Result<(String, String), Failure> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let Rewrite { edits, adjusted } =
            read(api, None, &body)?.rewrite(&body, &Wanted { pins: &pinning(), ..wanted("a") })?;
        let said = adjusted.map(|header| header.to_str().unwrap().to_owned()).unwrap_or_default();
        Ok((String::from_utf8(edits.apply(&body).concat()).unwrap(), said))
    }

    #[test]
    fn what_a_pool_pins_is_put_in_place_of_what_the_client_says() {
        let all = "num_ctx=8192, use_mmap=true, keep_alive=5m0s";
        for (body, expected, said) in [
            (
                r#"{"model":"a"}"#,
                r#"{"options":{"num_ctx":8192,"use_mmap":true},"keep_alive":"5m0s","model":"a"}"#,
                all,
            ),
            (
                r#"{"model":"a","options":null,"keep_alive":-1}"#,
                r#"{"model":"a","options":{"num_ctx":8192,"use_mmap":true},"keep_alive":"5m0s"}"#,
                all,
            ),
            (
                r#"{"model":"a","options":{ },"keep_alive":"5m"}"#,
                r#"{"model":"a","options":{"num_ctx":8192,"use_mmap":true },"keep_alive":"5m"}"#,
                "num_ctx=8192, use_mmap=true",
            ),
            (
                r#"{"keep_alive":300,"options":{"seed":1,"num_ctx":4096},"model":"a"}"#,
                r#"{"keep_alive":300,"options":{"use_mmap":true,"seed":1,"num_ctx":8192},"model":"a"}"#,
                "num_ctx=8192, use_mmap=true",
            ),
            (
                r#"{"model":"a","options":{"num\u005fctx":1,"use_mmap":true,"NUM_CTX":2,"n":{"num_ctx":3}},"keep_alive":"1h"}"#,
                r#"{"model":"a","options":{"num\u005fctx":8192,"use_mmap":true,"NUM_CTX":2,"n":{"num_ctx":3}},"keep_alive":"5m0s"}"#,
                "num_ctx=8192, keep_alive=5m0s",
            ),
            (
                r#"{"model":"a","options":{"num_ctx":8192.0,"use_mmap":true},"keep_alive":"5m0s"}"#,
                r#"{"model":"a","options":{"num_ctx":8192.0,"use_mmap":true},"keep_alive":"5m0s"}"#,
                "",
            ),
        ] {
            assert_eq!(pinned(Api::OllamaEmbed, body).unwrap(), (expected.to_owned(), said.to_owned()));
        }
        let untouched = r#"{"model":"a","options":{"num_ctx":1}}"#;
        for api in [Api::OpenAiChat, Api::OllamaShow] {
            assert_eq!(pinned(api, untouched).unwrap(), (untouched.to_owned(), String::new()));
        }
        let named = Bytes::from_static(b" { }");
        let reading = read(Api::OllamaChat, Some("n".into()), &named).unwrap();
        let edits = reading.rewrite(&named, &Wanted { pins: &pinning(), ..wanted("a") }).unwrap().edits;
        let expected = r#" {"model":"a","options":{"num_ctx":8192,"use_mmap":true},"keep_alive":"5m0s" }"#;
        assert_eq!(edits.apply(&named).concat(), expected.as_bytes());
    }

    #[test]
    fn options_that_cannot_be_pinned_are_refused() {
        let refused = |options: &str| {
            let failure = pinned(Api::OllamaChat, &format!(r#"{{"model":"a","options":{options}}}"#)).unwrap_err();
            (failure.code, failure.message)
        };
        for options in ["5", "[]", r#""num_ctx""#, "true"] {
            assert_eq!(refused(options), (Code::InvalidParameter, "`options` must be an object".into()), "{options}");
        }
        let twice = (Code::InvalidBody, "`num_ctx` stands twice in `options`".into());
        assert_eq!(refused(r#"{"num_ctx":8192,"num\u005fctx":8192}"#), twice);
        let others = pinned(Api::OllamaChat, r#"{"model":"a","options":{"seed":1,"seed":2}}"#);
        assert!(others.is_ok(), "what is not pinned is the client's");
    }

    proptest! {
        /// After the edits a reader that takes the last of duplicates finds what was wanted, and all else as it was.
        #[test]
        fn edits_change_what_is_wanted_alone(
            rest in prop::collection::btree_map("[a-z_\u{17f}\u{212a}\"\\\\]{0,12}", any::<i32>(), 0..5),
            model in prop::option::of(any::<String>()), to in "[a-z:/.-]{1,20}",
            older in prop::option::of(prop::option::of(any::<u32>())),
            newer in prop::option::of(prop::option::of(any::<u32>())),
            api in prop::sample::select(Api::ALL)) {
            let mut object = json!(rest);
            let fields = [("model", json!(model), model.is_some()), ("max_tokens", json!(older), older.is_some()),
                ("max_completion_tokens", json!(newer), newer.is_some())];
            for (key, value, _) in fields.into_iter().filter(|(.., there)| *there) {
                object[key] = value;
            }
            let body = Bytes::from(object.to_string());
            // A key that only nearly is one that counts may have been made: then it is refused.
            let Ok(reading) = read(api, Some("named".into()), &body) else { return Ok(()) };
            let Rewrite { edits, adjusted } = reading.rewrite(&body, &wanted(&to)).unwrap();
            prop_assert_eq!(adjusted, None);
            let mut after: Map<String, Value> = serde_json::from_slice(&edits.apply(&body).concat()).unwrap();
            prop_assert_eq!(after.remove("model"), Some(json!(to)));
            let mut before = object.as_object().unwrap().clone();
            before.remove("model");
            if let Some(Some(bound)) = newer.filter(|_| api == Api::OpenAiChat) {
                prop_assert_eq!(after.remove("max_tokens"), Some(json!(bound)));
                after.remove("max_completion_tokens");
                before.retain(|key, _| key != "max_tokens" && key != "max_completion_tokens");
            }
            prop_assert_eq!(after, before);
        }
    }
}
