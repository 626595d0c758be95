//! What an Ollama says of a pool's base.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value};
use tutti_api::{Digest, EngineName};

use crate::base::Base;

/// The digest under which an engine that has these models lists a base; nothing where it has no such base.
pub(crate) fn listed_base<'h>(has: &'h HashMap<EngineName, String>, base: &str) -> Option<&'h String> {
    base.parse::<EngineName>().ok().and_then(|base| has.get(&base))
}

/// A base, as its engine has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BaseFacts {
    /// The digest under which the engine lists it: another when anything of it is another.
    pub(crate) listed: String,
    /// Of its weights: the name of its blob.
    pub(crate) digest: Digest,
    /// Where the engine has its weights, on the engine's own disk.
    pub(crate) blob: PathBuf,
    /// What of it an adapter must fit.
    pub(crate) base: Base,
    /// What makes another model behave like it, in the words of `/api/create`.
    pub(crate) like: Map<String, Value>,
    /// Blobs that it is made of beside its weights: what turns pictures into tokens.
    pub(crate) projectors: Vec<Digest>,
}

impl BaseFacts {
    /// Of what `/api/show` says with `verbose`.
    ///
    /// # Errors
    /// Its weights are named nowhere, or it does not say what they are.
    pub(crate) fn read(listed: &str, shown: &Value) -> Result<Self, String> {
        let modelfile = shown["modelfile"].as_str().unwrap_or_default();
        let from = modelfile.lines().filter_map(|line| line.strip_prefix("FROM "));
        let mut blobs =
            from.filter_map(|path| Some((path, path.rsplit_once("sha256-").or(path.rsplit_once("sha256:"))?.1)));
        let (path, hex) = blobs.next().ok_or("its modelfile names no blob in FROM")?;
        let read = |hex: &str| hex.trim().parse::<Digest>().map_err(|error| format!("its modelfile's FROM: {error}"));
        let digest = read(hex)?;
        let projectors = blobs.map(|(_, hex)| read(hex)).collect::<Result<_, _>>()?;
        if modelfile.lines().any(|line| line.starts_with("ADAPTER ")) {
            return Err("it has an adapter itself: name the model beneath it".to_owned());
        }
        let (blob, base) = (PathBuf::from(path.trim()), Base::of_show(shown, Some(digest))?);
        Ok(Self { listed: listed.to_owned(), digest, blob, base, like: like(shown, modelfile), projectors })
    }
}

fn like(shown: &Value, modelfile: &str) -> Map<String, Value> {
    let mut like = Map::new();
    // A later engine (0.34.2) shows as `template` what the weights bring themselves, in another language than it takes: whatever
    // is made of them brings it too. Its Modelfile has what somebody gave it.
    let is_own = |name: &str, text: &str| name != "template" || modelfile.contains(text.trim_end());
    for name in ["template", "system", "license", "renderer", "parser", "requires"] {
        if let Some(text) = shown[name].as_str().filter(|text| !text.is_empty() && is_own(name, text)) {
            like.insert(name.to_owned(), text.into());
        }
    }
    if let Some(messages) = shown["messages"].as_array().filter(|messages| !messages.is_empty()) {
        like.insert("messages".to_owned(), messages.clone().into());
    }
    let parameters = parameters(shown["parameters"].as_str().unwrap_or_default());
    if !parameters.is_empty() {
        like.insert("parameters".to_owned(), parameters.into());
    }
    like
}

/// Reads parameters as `/api/show` prints them: a name and a value a line, text in quotes, lists by repetition.
fn parameters(text: &str) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, value) in text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace)) {
        let value = value.trim();
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(unquoted(value)));
        match all.get_mut(name) {
            None => drop(all.insert(name.to_owned(), if name == "stop" { Value::Array(vec![value]) } else { value })),
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    all
}

/// A text as Go quotes it (`strconv.Quote`), which has escapes that JSON has not.
fn unquoted(text: &str) -> String {
    let Some(within) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    let mut read = Vec::with_capacity(within.len());
    let mut rest = within.chars();
    while let Some(next) = rest.next() {
        let mut put = |c: char| read.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        match if next == '\\' { rest.clone().next() } else { None } {
            None => put(next),
            Some(escaped) => {
                rest.next();
                let mut coded =
                    |digits: usize| u32::from_str_radix(&rest.by_ref().take(digits).collect::<String>(), 16).ok();
                match escaped {
                    'a' => put('\u{7}'),
                    'b' => put('\u{8}'),
                    'f' => put('\u{c}'),
                    'n' => put('\n'),
                    'r' => put('\r'),
                    't' => put('\t'),
                    'v' => put('\u{b}'),
                    // A byte that is no text by itself.
                    'x' => read.extend(coded(2).and_then(|byte| u8::try_from(byte).ok())),
                    'u' => coded(4).and_then(char::from_u32).into_iter().for_each(put),
                    'U' => coded(8).and_then(char::from_u32).into_iter().for_each(put),
                    other => put(other),
                }
            }
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As Ollama 0.11.4 shows the rig's base.
    fn shown() -> Value {
        let blob = format!("sha256-{}", "1b".repeat(32));
        json!({
            "modelfile": format!("# FROM tutti-story:latest\n\nFROM /models/blobs/{blob}\nTEMPLATE {{{{ .Prompt }}}}\nPARAMETER num_thread 1\n"),
            "parameters": "num_predict                    1024\nstop                           \"<|im_end|>\"\nstop                           \"x\"\ntemperature                    0.5",
            "template": "{{ .Prompt }}",
            "model_info": { "general.architecture": "qwen2" },
            "tensors": [{ "name": "token_embd.weight", "type": "F16", "shape": [128, 600] }],
        })
    }

    #[test]
    fn a_base_is_what_its_modelfile_begins_from() {
        let base = BaseFacts::read("abc", &shown()).unwrap();
        assert_eq!(base.digest, Digest::new([0x1b; 32]));
        assert!(base.blob.starts_with("/models/blobs"));
        let mut adapted = shown();
        adapted["modelfile"] = format!("{}ADAPTER /x\n", shown()["modelfile"].as_str().unwrap()).into();
        assert!(BaseFacts::read("abc", &adapted).unwrap_err().contains("beneath"));
        assert!(BaseFacts::read("abc", &json!({})).is_err());
    }

    #[test]
    fn what_is_made_like_it_has_its_template_and_parameters() {
        let like = |shown: &Value| Value::from(BaseFacts::read("abc", shown).unwrap().like);
        let parameters = json!({ "num_predict": 1024, "stop": ["<|im_end|>", "x"], "temperature": 0.5 });
        assert_eq!(like(&shown()), json!({ "template": "{{ .Prompt }}", "parameters": parameters }));
        let mut more = shown();
        let messages = json!([{ "role": "user", "content": "hi" }]);
        (more["messages"], more["renderer"]) = (messages.clone(), json!("qwen3"));
        more["template"] = json!("{% for message in messages %}"); // its weights' own
        assert_eq!(like(&more), json!({ "messages": messages, "renderer": "qwen3", "parameters": parameters }));
    }

    #[test]
    fn a_base_may_be_made_of_more_than_its_weights() {
        let mut shown = shown();
        let second = format!("FROM /models/blobs/sha256-{}\n", "2c".repeat(32));
        shown["modelfile"] = format!("{}{second}", shown["modelfile"].as_str().unwrap()).into();
        let base = BaseFacts::read("abc", &shown).unwrap();
        assert_eq!((base.digest, base.projectors), (Digest::new([0x1b; 32]), vec![Digest::new([0x2c; 32])]));
    }

    #[test]
    fn text_is_read_as_go_quotes_it() {
        for (quoted, text) in [
            ("\"<|im_end|>\"", "<|im_end|>"),
            (r#""a\n\t\"\\\v\x1b\u98ce""#, "a\n\t\"\\\u{b}\u{1b}风"),
            (r#""\xe9\xa3\x8e\U0001F600""#, "风😀"),
            ("plain", "plain"),
            (r#""cut\"#, r#""cut\"#),
        ] {
            assert_eq!(unquoted(quoted), text, "{quoted}");
        }
    }
}
