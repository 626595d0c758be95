//! Vectors, whose numbers go from one API to the other as they were printed.

use std::ops::Range;

use super::answer::{Moment, Usage, count};
use super::openai::message_of;
use crate::json::{self, Kind, Malformed, Node, Scan, Writer};

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

/// What an answer says, before it is looked at whether that is what was asked for.
#[derive(Default)]
struct Said<'a> {
    /// OpenAI's: of each item its `index` and its vector.
    data: Option<Vec<Item<'a>>>,
    /// Ollama's.
    embeddings: Vec<Node<'a>>,
    usage: Option<u64>,
    error: Option<Node<'a>>,
}

/// The `index` of an item of OpenAI's `data`, and its vector.
type Item<'a> = (Option<Node<'a>>, Option<Node<'a>>);

/// Reads an answer to `texts` texts in vectors of `dimensions` numbers, in either API's words. `coded`: they may be text.
pub(super) fn read(body: &[u8], texts: usize, dimensions: Option<u32>, coded: bool) -> Result<Vectors<'_>, NoVectors> {
    let mut said = Said::default();
    // Once over all of it: there may be megabytes of numbers.
    json::read(body, |scan, key| said.member(scan, key)).map_err(NoVectors::Malformed)?;
    let Said { data, embeddings, usage, error } = said;
    if let Some(error) = error.filter(|error| !error.is_null()) {
        return Err(NoVectors::Said(message_of(error)));
    }
    let (rows, in_order) = match data {
        Some(data) => by_index(data)?,
        None => (embeddings, true),
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

impl<'a> Said<'a> {
    /// Takes note of a member. Of several of one name the last counts. What stands in the place of a list has no vectors.
    fn member(&mut self, scan: &mut Scan<'a>, key: Range<usize>) -> Result<(), Malformed> {
        match scan.bytes(key) {
            b"data" if scan.opens(b'[') => {
                let data = self.data.insert(Vec::new());
                scan.array(|scan| {
                    data.push(item(scan)?);
                    Ok(())
                })?;
            }
            b"embeddings" if scan.opens(b'[') => {
                self.embeddings.clear();
                scan.array(|scan| {
                    self.embeddings.push(scan.node()?);
                    Ok(())
                })?;
            }
            key => {
                let value = scan.node()?;
                match key {
                    b"data" => self.data = Some(Vec::new()),
                    b"embeddings" => self.embeddings.clear(),
                    b"usage" => self.usage = count(value, "prompt_tokens").or(self.usage),
                    b"prompt_eval_count" => {
                        let tokens = value.integer().and_then(|count| u64::try_from(count).ok());
                        self.usage = tokens.or(self.usage);
                    }
                    b"error" => self.error = Some(value),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Goes over an item of OpenAI's `data`.
fn item<'a>(scan: &mut Scan<'a>) -> Result<Item<'a>, Malformed> {
    let (mut index, mut vector) = (None, None);
    if !scan.opens(b'{') {
        scan.node()?;
        return Ok((index, vector));
    }
    scan.object(|scan, key| {
        let value = scan.node()?;
        match scan.bytes(key) {
            b"index" => index = Some(value),
            b"embedding" => vector = Some(value),
            _ => {}
        }
        Ok(())
    })?;
    Ok((index, vector))
}

/// The vectors of OpenAI's `data` in the order of their `index`es, and whether they stood so. Where nobody says an index,
/// they are taken to.
fn by_index(data: Vec<Item<'_>>) -> Result<(Vec<Node<'_>>, bool), NoVectors> {
    let items: Option<Vec<_>> = data.into_iter().map(|(index, row)| Some((index, row?))).collect();
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

/// Prints vectors, which are JSON, under the name that the client asked for; `tokens`: those of their texts. Each stands there
/// as it is.
pub(super) fn print<R: AsRef<[u8]>>(rows: &[R], tokens: u64, (shape, model): (Shape, &str), now: Moment) -> Vec<u8> {
    let size: usize = rows.iter().map(|row| row.as_ref().len() + 64).sum();
    let mut out = Writer::with_capacity(size + 256);
    out.open(b'{');
    match shape {
        Shape::OllamaOne => {
            out.key("embedding").verbatim(rows.first().map_or(&b"[]"[..], AsRef::as_ref));
        }
        Shape::Ollama => {
            out.key("model").string(model).key("embeddings").open(b'[');
            for row in rows {
                out.verbatim(row.as_ref());
            }
            out.close(b']').key("total_duration").number(u64::try_from(now.since.as_nanos()).unwrap_or(u64::MAX));
            if tokens > 0 {
                out.key("prompt_eval_count").number(tokens);
            }
        }
        Shape::OpenAi => {
            out.key("object").string("list").key("data").open(b'[');
            for (index, row) in rows.iter().enumerate() {
                out.open(b'{').key("object").string("embedding").key("embedding").verbatim(row.as_ref());
                out.key("index").number(index as u64).close(b'}');
            }
            out.close(b']').key("model").string(model).key("usage").open(b'{');
            out.key("prompt_tokens").number(tokens).key("total_tokens").number(tokens).close(b'}');
        }
    }
    out.close(b'}');
    out.finish()
}
