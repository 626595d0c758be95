//! Vectors, whose numbers go from one API to the other as they were printed.

use super::answer::{Moment, Usage, count};
use super::openai::message_of;
use crate::json::{Kind, Malformed, Node, Writer};

/// Vectors that a replica answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Vectors<'a> {
    /// A JSON array of numbers for each text, in the order of the texts.
    pub(crate) rows: Vec<&'a str>,
    pub(crate) usage: Usage,
}

/// Why an answer holds no vectors.
#[derive(Debug)]
pub(crate) enum NoVectors {
    /// It is none.
    Malformed(Malformed),
    /// The replica gave up, and why.
    Said(String),
    /// There is another number of them than of texts, or something else in their place.
    Strange,
    /// They are not as long as was asked for: some servers do not look at `dimensions`.
    OtherLength,
}

/// How vectors are printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// `/v1/embeddings`
    OpenAi,
    /// `/api/embed`
    Ollama,
    /// `/api/embeddings`: one vector.
    OllamaOne,
}

/// Reads an answer to `texts` texts in vectors of `dimensions` numbers, in either API's words.
pub(super) fn read(body: &[u8], texts: usize, dimensions: Option<u32>) -> Result<Vectors<'_>, NoVectors> {
    let body = Node::object(body).map_err(NoVectors::Malformed)?;
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(NoVectors::Said(message_of(error)));
    }
    let (rows, usage) = match body.get("data") {
        Some(data) => {
            let mut rows: Vec<(i64, Node<'_>)> = data.elements().filter_map(item).collect();
            rows.sort_by_key(|(index, _)| *index);
            let usage = body.get("usage").and_then(|usage| count(usage, "prompt_tokens"));
            (rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>(), usage)
        }
        None => {
            let rows = body.get("embeddings").into_iter().flat_map(Node::elements).collect();
            (rows, count(body, "prompt_eval_count"))
        }
    };
    if rows.len() != texts || rows.iter().any(|row| row.kind() != Kind::Array) {
        return Err(NoVectors::Strange);
    }
    let as_asked = |row: &Node<'_>| dimensions.is_none_or(|wanted| row.elements().count() == wanted as usize);
    if !rows.iter().all(as_asked) {
        return Err(NoVectors::OtherLength);
    }
    let rows = rows.into_iter().map(Node::raw).collect();
    Ok(Vectors { rows, usage: Usage { input: usage.unwrap_or(0), ..Usage::default() } })
}

fn item(item: Node<'_>) -> Option<(i64, Node<'_>)> {
    Some((item.get("index").and_then(Node::integer).unwrap_or(0), item.get("embedding")?))
}

/// Prints vectors under the name that the client asked for.
pub(super) fn print(vectors: &Vectors<'_>, shape: Shape, model: &str, now: Moment) -> Vec<u8> {
    let size: usize = vectors.rows.iter().map(|row| row.len() + 64).sum();
    let mut out = Writer::after(Vec::with_capacity(size + 256));
    out.open(b'{');
    match shape {
        Shape::OllamaOne => {
            out.key("embedding").raw(vectors.rows.first().unwrap_or(&"[]"));
        }
        Shape::Ollama => {
            out.key("model").string(model).key("embeddings").open(b'[');
            for row in &vectors.rows {
                out.raw(row);
            }
            out.close(b']').key("total_duration").number(u64::try_from(now.since.as_nanos()).unwrap_or(u64::MAX));
            if vectors.usage.input > 0 {
                out.key("prompt_eval_count").number(vectors.usage.input);
            }
        }
        Shape::OpenAi => {
            out.key("object").string("list").key("data").open(b'[');
            for (index, row) in vectors.rows.iter().enumerate() {
                out.open(b'{').key("object").string("embedding").key("embedding").raw(row);
                out.key("index").number(index as u64).close(b'}');
            }
            let tokens = vectors.usage.input;
            out.close(b']').key("model").string(model).key("usage").open(b'{');
            out.key("prompt_tokens").number(tokens).key("total_tokens").number(tokens).close(b'}');
        }
    }
    out.close(b'}');
    out.finish()
}
