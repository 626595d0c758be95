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
    /// They stood in the order of the texts.
    pub(crate) in_order: bool,
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

/// Reads an answer to `texts` texts in vectors of `dimensions` numbers, in either API's words. `coded`: they may be text.
pub(super) fn read(body: &[u8], texts: usize, dimensions: Option<u32>, coded: bool) -> Result<Vectors<'_>, NoVectors> {
    let body = Node::object(body).map_err(NoVectors::Malformed)?;
    let (mut data, mut embeddings, mut usage, mut error) = (None, None, None, None);
    // Once over all of it: there may be megabytes of numbers.
    for (key, value) in body.members() {
        match &*key {
            "data" => data = Some(value),
            "embeddings" => embeddings = Some(value),
            "usage" => usage = count(value, "prompt_tokens").or(usage),
            "prompt_eval_count" => usage = value.integer().and_then(|count| u64::try_from(count).ok()).or(usage),
            "error" => error = Some(value),
            _ => {}
        }
    }
    if let Some(error) = error.filter(|error| !error.is_null()) {
        return Err(NoVectors::Said(message_of(error)));
    }
    let (rows, in_order) = match data {
        Some(data) => by_index(data)?,
        None => (embeddings.into_iter().flat_map(Node::elements).collect(), true),
    };
    if rows.len() != texts || !rows.iter().all(|row| row.kind() == Kind::Array || (coded && row.kind() == Kind::String))
    {
        return Err(NoVectors::Strange);
    }
    let as_asked = |row: &Node<'_>| dimensions.is_none_or(|wanted| row.elements().count() == wanted as usize);
    if !rows.iter().all(as_asked) {
        return Err(NoVectors::OtherLength);
    }
    let rows = rows.into_iter().map(Node::raw).collect();
    Ok(Vectors { rows, usage: Usage { input: usage.unwrap_or(0), ..Usage::default() }, in_order })
}

/// The vectors of OpenAI's `data` in the order of their `index`es, and whether they stood so. Where nobody says an index,
/// they are taken to.
fn by_index(data: Node<'_>) -> Result<(Vec<Node<'_>>, bool), NoVectors> {
    let items: Option<Vec<_>> = data.elements().map(|item| Some((item.get("index"), item.get("embedding")?))).collect();
    let items = items.ok_or(NoVectors::Strange)?;
    if items.iter().all(|(index, _)| index.is_none()) {
        return Ok((items.into_iter().map(|(_, row)| row).collect(), true));
    }
    let (mut rows, mut in_order) = (vec![None; items.len()], true);
    for (at, (index, row)) in items.into_iter().enumerate() {
        let index = index.and_then(Node::integer).and_then(|index| usize::try_from(index).ok());
        let place = index.and_then(|index| rows.get_mut(index)).ok_or(NoVectors::Strange)?;
        if place.replace(row).is_some() {
            return Err(NoVectors::Strange);
        }
        in_order &= index == Some(at);
    }
    Ok((rows.into_iter().flatten().collect(), in_order))
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
