//! One answer for several callers, shared out; the answers to one caller's pieces, joined. Pure.

use bytes::Bytes;

use crate::classify::{Api, Dialect};
use crate::dialect::{Moment, Shape, Usage, Vectors, print_vectors, read_vectors};
use crate::errors::Failure;

fn shape(api: Api) -> Shape {
    if api.dialect() == Dialect::OpenAi { Shape::OpenAi } else { Shape::Ollama }
}

/// An answer by this API for each of the callers, who had so many texts of such a weight. Tokens are told for all of them
/// together: each has its share by weight, which is an estimate.
///
/// # Errors
/// It does not hold one vector for each text.
pub(crate) fn share(
    answer: &[u8],
    callers: &[(usize, usize)],
    (api, model): (Api, &str),
    now: Moment,
) -> Result<Vec<Bytes>, Failure> {
    let texts = callers.iter().map(|(texts, _)| texts).sum();
    let vectors = read_vectors(answer, texts, false)?;
    let mut tokens = shares(vectors.usage.input, callers.iter().map(|(_, weight)| *weight as u64)).into_iter();
    let mut rows = vectors.rows.into_iter();
    let own = callers.iter().map(|(texts, _)| {
        let rows = rows.by_ref().take(*texts).collect();
        let usage = Usage { input: tokens.next().unwrap_or_default(), ..Usage::default() };
        print_vectors(&Vectors { rows, usage, in_order: true }, shape(api), model, now).into()
    });
    Ok(own.collect())
}

/// One answer by this API of those to the pieces, which had so many texts.
///
/// # Errors
/// One does not hold one vector for each text.
pub(crate) fn join(answers: &[(Bytes, usize)], (api, model): (Api, &str), now: Moment) -> Result<Bytes, Failure> {
    let mut all = Vectors { rows: Vec::new(), usage: Usage::default(), in_order: true };
    for (answer, texts) in answers {
        let Vectors { rows, usage, .. } = read_vectors(answer, *texts, false)?;
        all.rows.extend(rows);
        all.usage.input += usage.input;
    }
    Ok(print_vectors(&all, shape(api), model, now).into())
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
    Ok(print_vectors(&vectors, shape(api), model, now).into())
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
            for (answer, (texts, _)) in answers.iter().zip(&callers) {
                let expected: Vec<Value> = (next..next + texts).map(|index| json!([index, 0.5])).collect();
                prop_assert_eq!(rows(answer), expected);
                next += texts;
                let answer: Value = serde_json::from_slice(answer).unwrap();
                let told = answer.get("prompt_eval_count").or_else(|| answer["usage"].get("prompt_tokens"));
                tokens += told.and_then(Value::as_u64).unwrap_or_default();
            }
            prop_assert_eq!(tokens, 100);
            let pieces: Vec<(Bytes, usize)> = answers.into_iter().zip(callers.iter().map(|(texts, _)| *texts)).collect();
            let joined = join(&pieces, (api, "m"), NOW).unwrap();
            prop_assert_eq!(rows(&joined), (0..texts).map(|index| json!([index, 0.5])).collect::<Vec<_>>());
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
