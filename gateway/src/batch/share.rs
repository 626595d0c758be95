//! One answer for several callers, shared out; the answers to one caller's pieces, joined. Pure.

use bytes::Bytes;

use crate::classify::{Api, Dialect};
use crate::dialect::{Moment, Shape, Usage, print_vectors, read_vectors};
use crate::errors::Failure;

fn shape(api: Api) -> Shape {
    if api.dialect() == Dialect::OpenAi { Shape::OpenAi } else { Shape::Ollama }
}

/// An answer by this API for each of the callers, who had so many texts of such a weight, and its tokens. Those are told for all
/// of them together: each has its share by weight, which is an estimate. Vectors stay as the replica wrote them.
///
/// # Errors
/// It does not hold one vector for each text.
pub(crate) fn share(
    answer: &[u8],
    callers: &[(usize, usize)],
    (api, model): (Api, &str),
    now: Moment,
) -> Result<Vec<(Bytes, Usage)>, Failure> {
    let texts = callers.iter().map(|(texts, _)| texts).sum();
    let vectors = read_vectors(answer, texts, false)?;
    let tokens = shares(vectors.usage.input, callers.iter().map(|(_, weight)| *weight as u64));
    let mut rows = &*vectors.rows;
    let own = callers.iter().zip(tokens).map(|((texts, _), tokens)| {
        let (own, others) = rows.split_at(*texts);
        rows = others;
        printed(own, tokens, (api, model), now)
    });
    Ok(own.collect())
}

fn printed<R: AsRef<[u8]>>(rows: &[R], tokens: u64, (api, model): (Api, &str), now: Moment) -> (Bytes, Usage) {
    let body = print_vectors(rows, tokens, (shape(api), model), now);
    (body, Usage { input: tokens, ..Usage::default() })
}

/// The vectors of a piece in the order of its texts: slices of the replica's answer.
#[derive(Debug)]
pub(crate) struct Rows {
    rows: Vec<Bytes>,
    tokens: u64,
}

impl Rows {
    /// Those of an answer to so many texts.
    ///
    /// # Errors
    /// It does not hold one vector for each.
    pub(crate) fn read(answer: &Bytes, texts: usize) -> Result<Self, Failure> {
        let vectors = read_vectors(answer, texts, false)?;
        let rows = vectors.rows.iter().map(|row| answer.slice_ref(row.as_bytes())).collect();
        Ok(Self { rows, tokens: vectors.usage.input })
    }
}

/// One answer by this API of those to the pieces, in their order, and its tokens. Vectors stay as the replicas wrote them.
pub(crate) fn join(pieces: Vec<Rows>, of: (Api, &str), now: Moment) -> (Bytes, Usage) {
    let tokens = pieces.iter().map(|piece| piece.tokens).fold(0, u64::saturating_add);
    let rows: Vec<Bytes> = pieces.into_iter().flat_map(|piece| piece.rows).collect();
    printed(&rows, tokens, of, now)
}

/// An answer by this API to so many texts, its vectors in their order: mostly the very bytes.
///
/// # Errors
/// It does not hold one vector for each text.
pub(crate) fn in_order(answer: Bytes, texts: usize, (api, model): (Api, &str), now: Moment) -> Result<Bytes, Failure> {
    let vectors = read_vectors(&answer, texts, true)?;
    if vectors.in_order {
        return Ok(answer);
    }
    Ok(print_vectors(&vectors.rows, vectors.usage.input, (shape(api), model), now))
}

/// Whole shares of a number, in proportion, which have it as their sum.
fn shares(of: u64, weights: impl Iterator<Item = u64> + Clone) -> Vec<u64> {
    let total = u128::from(weights.clone().sum::<u64>().max(1));
    let (mut passed, mut given) = (0, 0);
    let share = |weight| {
        passed += u128::from(weight);
        let upto = u64::try_from(u128::from(of) * passed / total).unwrap_or(of);
        let share = upto - given;
        given = upto;
        share
    };
    weights.map(share).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::json::Node;

    const NOW: Moment = Moment { at: SystemTime::UNIX_EPOCH, since: Duration::ZERO };

    fn openai(order: &[usize]) -> Bytes {
        let item = |index: &usize| json!({ "object": "embedding", "index": index, "embedding": [index, 0.5] });
        let data: Vec<Value> = order.iter().map(item).collect();
        let usage = json!({ "prompt_tokens": 100, "total_tokens": 100 });
        json!({ "object": "list", "data": data, "model": "r", "usage": usage }).to_string().into()
    }

    fn rows(answer: &Bytes) -> Vec<Value> {
        let answer: Value = serde_json::from_slice(answer).unwrap();
        match answer.get("data") {
            Some(data) => data.as_array().unwrap().iter().map(|item| item["embedding"].clone()).collect(),
            None => answer["embeddings"].as_array().unwrap().clone(),
        }
    }

    /// A vector as replicas may write it.
    fn vector() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            any::<f32>()
                .prop_filter("JSON has no others", |number| number.is_finite())
                .prop_map(|number| number.to_string()),
            any::<f64>()
                .prop_filter("JSON has no others", |number| number.is_finite())
                .prop_map(|number| format!("{number:e}")),
            "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?",
        ];
        let spaced = (number, "[ \\n\\r\\t]{0,2}", "[ \\n\\r\\t]{0,2}");
        let numbers =
            prop::collection::vec(spaced.prop_map(|(number, before, behind)| before + &number + &behind), 0..9);
        numbers.prop_map(|numbers| format!("[{}]", numbers.join(",")))
    }

    /// An answer of Ollama's.
    fn written_in_order(vectors: &[String]) -> Bytes {
        format!("{{\"model\":\"r\",\"embeddings\":[{}],\"prompt_eval_count\":7}}", vectors.join(" ,\n")).into()
    }

    /// An answer of OpenAI's, its items in this order.
    fn written_by_index(vectors: &[String], order: &[usize]) -> Bytes {
        let item = |index: &usize| format!("{{ \"embedding\": {}, \"index\": {index} }}", vectors[*index]);
        let items: Vec<String> = order.iter().map(item).collect();
        format!("{{\"data\":[{}],\"usage\":{{\"prompt_tokens\":7}}}}", items.join(",")).into()
    }

    /// The vectors of an answer as they stand there.
    fn raw(answer: &Bytes) -> Vec<String> {
        let answer = Node::object(answer).unwrap();
        let (data, own) = (answer.get("data"), answer.get("embeddings"));
        match data {
            Some(data) => {
                let mut items: Vec<Node<'_>> = data.elements().collect();
                items.sort_by_key(|item| item.get("index").and_then(Node::integer));
                items.iter().map(|item| item.get("embedding").unwrap().raw().to_owned()).collect()
            }
            None => own.unwrap().elements().map(|row| row.raw().to_owned()).collect(),
        }
    }

    proptest! {
        /// In whatever order a replica writes them: each has its own vectors, and all tokens are somebody's.
        #[test]
        fn each_has_its_own(callers in prop::collection::vec((1..5usize, 8..99usize), 1..6), native: bool, seed: u64) {
            let texts: usize = callers.iter().map(|(texts, _)| texts).sum();
            let mut order: Vec<usize> = (0..texts).collect();
            (0..texts).for_each(|at| order.swap(at, seed.rotate_left(at as u32) as usize % texts));
            let api = if native { Api::OllamaEmbed } else { Api::OpenAiEmbeddings };
            let answers = share(&openai(&order), &callers, (api, "m"), NOW).unwrap();
            let (mut next, mut tokens) = (0, 0);
            for ((answer, usage), (texts, _)) in answers.iter().zip(&callers) {
                let expected: Vec<Value> = (next..next + texts).map(|index| json!([index, 0.5])).collect();
                prop_assert_eq!(rows(answer), expected);
                next += texts;
                let answer: Value = serde_json::from_slice(answer).unwrap();
                let told = answer.get("prompt_eval_count").or_else(|| answer["usage"].get("prompt_tokens"));
                let told = told.and_then(Value::as_u64).unwrap_or_default();
                prop_assert_eq!(told, usage.input);
                tokens += told;
            }
            prop_assert_eq!(tokens, 100);
            let pieces = answers.iter().zip(&callers).map(|((answer, _), (texts, _))| Rows::read(answer, *texts).unwrap());
            let (joined, usage) = join(pieces.collect(), (api, "m"), NOW);
            prop_assert_eq!(rows(&joined), (0..texts).map(|index| json!([index, 0.5])).collect::<Vec<_>>());
            prop_assert_eq!(usage.input, 100);
        }

        /// However numbers are written, and whatever stands between them: each vector goes on byte for byte, shared out,
        /// joined, and put in order.
        #[test]
        fn vectors_stay_as_they_were_written(vectors in prop::collection::vec(vector(), 1..9), native: bool, seed: u64) {
            let texts = vectors.len();
            let mut order: Vec<usize> = (0..texts).collect();
            (0..texts).for_each(|at| order.swap(at, seed.rotate_left(at as u32) as usize % texts));
            let api = if native { Api::OllamaEmbed } else { Api::OpenAiEmbeddings };
            let answer = if native { written_in_order(&vectors) } else { written_by_index(&vectors, &order) };
            let first = texts.div_ceil(2);
            let shared = share(&answer, &[(first, 8), (texts - first, 8)], (api, "m"), NOW).unwrap();
            let own: Vec<String> = shared.iter().flat_map(|(answer, _)| raw(answer)).collect();
            prop_assert_eq!(&own, &vectors);
            let pieces = shared.iter().zip([first, texts - first]).map(|((answer, _), texts)| Rows::read(answer, texts).unwrap());
            let (joined, _) = join(pieces.collect(), (api, "m"), NOW);
            prop_assert_eq!(&raw(&joined), &vectors);
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&joined).is_ok());
            prop_assert_eq!(&raw(&in_order(answer, texts, (api, "m"), NOW).unwrap()), &vectors);
        }
    }

    #[test]
    fn what_is_not_one_vector_a_text_is_no_answer() {
        let strange = |answer: Bytes, texts| in_order(answer, texts, (Api::OpenAiEmbeddings, "m"), NOW).is_err();
        assert!(strange(openai(&[0, 1]), 3), "too few");
        assert!(strange(openai(&[0, 1, 2]), 2), "too many");
        assert!(strange(openai(&[0, 1, 1]), 3), "twice");
        assert!(strange(openai(&[1, 2, 3]), 3), "beyond the last");
        assert!(strange(Bytes::from_static(b"{\"data\":[]"), 0), "cut off");
        let answer = openai(&[0, 1]);
        assert_eq!(in_order(answer.clone(), 2, (Api::OpenAiEmbeddings, "m"), NOW).unwrap(), answer, "the very bytes");
        let turned = in_order(openai(&[1, 0]), 2, (Api::OpenAiEmbeddings, "m"), NOW).unwrap();
        assert_eq!(rows(&turned), [json!([0, 0.5]), json!([1, 0.5])]);
    }
}
