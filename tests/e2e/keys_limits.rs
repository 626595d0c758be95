//! How much a key may ask: requests and tokens in a minute, requests at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Running, Scope};
use tutti_tests::scripts::{passes, python};
use tutti_tests::{Answer, Client, Keyed, eventually, inference, pool, quick, reached, simulator, simulator_with};

const OPENAI: &str = "/v1/chat/completions";
const OLLAMA: &str = "/api/chat";

fn chat(stream: bool) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

fn number(answer: &Answer, name: &str) -> Option<f64> {
    answer.header(name)?.parse().ok()
}

/// A duration in OpenAI's form, if it is of seconds alone.
fn seconds(answer: &Answer, name: &str) -> Option<f64> {
    answer.header(name)?.strip_suffix('s')?.parse().ok()
}

#[test]
fn requests_in_a_minute_are_counted_told_and_bounded() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--requests-per-minute", "3"]);
    for left in [2.0, 1.0, 0.0] {
        let answer = keyed.ask(&key, "POST", OPENAI, &chat(left == 1.0));
        assert_eq!((answer.status, answer.header("x-ratelimit-limit-requests")), (200, Some("3")));
        assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), Some(left), "{:?}", answer.headers);
        assert!(answer.header("x-ratelimit-limit-tokens").is_none());
    }
    let begun = Instant::now();
    let refused = keyed.ask(&key, "POST", OPENAI, &chat(false));
    let error = &refused.json()["error"];
    assert_eq!(
        (refused.status, &error["code"], &error["type"]),
        (429, &json!("rate_limited"), &json!("rate_limit_error"))
    );
    assert_eq!(
        (refused.header("x-should-retry"), number(&refused, "x-ratelimit-remaining-requests")),
        (Some("true"), Some(0.0))
    );
    let (after, millis) = (number(&refused, "retry-after").unwrap(), number(&refused, "retry-after-ms").unwrap());
    assert!((1.0..=20.0).contains(&after) && after == (millis / 1000.0).ceil(), "{:?}", refused.headers);
    let reset = seconds(&refused, "x-ratelimit-reset-requests").unwrap_or(60.0);
    assert!((40.0..=60.0).contains(&reset) && begun.elapsed() < Duration::from_secs(20), "{:?}", refused.headers);
    let refused = keyed.ask(&key, "POST", OLLAMA, &chat(false));
    assert_eq!(refused.status, 429);
    assert!(
        refused.json()["error"].as_str().is_some_and(|error| error.contains("3 requests a minute")),
        "{}",
        refused.text()
    );

    let listed = keyed.ask(&key, "GET", "/v1/models", "");
    assert_eq!((listed.status, number(&listed, "x-ratelimit-remaining-requests")), (200, Some(0.0)), "lists are free");
    assert_eq!(keyed.ask(&keyed.new_key(&[]), "POST", OPENAI, &chat(false)).status, 200, "each key has its own");
    assert_eq!(inference(&replica.seen()).len(), 4);
    assert_eq!(keyed.tutti.metric("tutti_requests", &["code=\"rate_limited\""]), 2.0);
    assert_eq!(keyed.tutti.metric("tutti_limit_hits", &["key_requests"]), 2.0);
    // A file that is read again gives nothing back: `new_key` had it read.
    assert_eq!(keyed.ask(&key, "POST", OPENAI, &chat(false)).status, 429);
}

#[test]
fn a_refusal_comes_before_the_body_and_is_no_request() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--requests-per-minute", "1"]);
    assert_eq!(keyed.ask(&key, "POST", OPENAI, &chat(false)).status, 200);
    let mut client = keyed.tutti.client();
    let head = format!("POST {OPENAI} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: 1000000000\r\n\r\n");
    client.send_raw(head.as_bytes()).unwrap();
    let refused = client.head().unwrap();
    assert_eq!((refused.status, refused.header("x-should-retry")), (429, Some("true")));
}

#[test]
fn tokens_are_charged_when_a_request_is_over_and_then_paid_back() {
    let replica = simulator_with(Config { answer_tokens: 16, ..quick() });
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--tokens-per-minute", "10"]);
    let answer = keyed.ask(&key, "POST", OLLAMA, &chat(false));
    assert_eq!((answer.status, answer.header("x-ratelimit-limit-tokens")), (200, Some("10")));
    let json = answer.json();
    let spent = json["prompt_eval_count"].as_f64().unwrap() + json["eval_count"].as_f64().unwrap();
    assert!(spent >= 16.0, "{json}");
    let refused = eventually("the tokens are charged", || {
        let answer = keyed.ask(&key, "POST", OPENAI, &chat(false));
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(refused.json()["error"]["code"], "tokens_limited");
    // Beyond the ten there is a debt, and one more must come: six seconds each.
    let after = number(&refused, "retry-after").unwrap();
    let owed = spent - 10.0 + 1.0;
    assert!(after > 6.0 * owed - 20.0 && after <= 6.0 * owed, "{after} s for {owed} tokens");
    assert_eq!(refused.header("x-should-retry"), Some(if after > 60.0 { "false" } else { "true" }));
    assert_eq!(keyed.tutti.metric("tutti_limit_hits", &["key_tokens"]), 1.0);
}

#[test]
fn a_stream_that_does_not_count_its_prompt_is_charged_by_its_length() {
    let replica = simulator_with(Config { answer_tokens: 1, ..quick() });
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--tokens-per-minute", "100000"]);
    let left = || number(&keyed.ask(&key, "GET", "/v1/models", ""), "x-ratelimit-remaining-tokens").unwrap();
    let long = chat(true).replace("hi", &"x".repeat(40_000));
    assert_eq!(left(), 100_000.0);
    let answer = keyed.ask(&key, "POST", OPENAI, &long);
    assert!(answer.status == 200 && !answer.text().contains("usage\":{"), "{}", answer.text());
    let left = eventually("the charge", || Some(left()).filter(|left| *left < 100_000.0));
    // Some have come back since: 1,667 a second.
    assert!((89_900.0..=95_000.0).contains(&left), "{left}");
}

#[test]
fn never_more_at_once_than_a_key_may() {
    let replica = simulator_with(quick());
    replica.set_fault(Some((Fault::SlowFirstByte(Duration::from_millis(20)), Scope::Inference)));
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--concurrency", "3"]);
    let bearer = format!("Bearer {key}");
    let (done, refused) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|number| {
                let (bearer, keyed) = (&bearer, &keyed);
                scope.spawn(move || {
                    let mut client = keyed.tutti.client();
                    let mut refused = 0;
                    for round in 0..3 {
                        eventually("a place", || {
                            let stream = (number + round) % 2 == 0;
                            let answer = client.ask("POST", OLLAMA, &[("authorization", bearer)], &chat(stream));
                            assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
                            refused += u32::from(answer.status == 429);
                            (answer.status == 200).then_some(())
                        });
                    }
                    refused
                })
            })
            .collect();
        let refused: u32 = threads.into_iter().map(|thread| thread.join().expect("a thread")).sum();
        (64 * 3, refused)
    });
    let seen = inference(&replica.seen());
    assert_eq!(seen.len(), done);
    assert!(refused > 0, "the limit was never reached");
    let most = seen.iter().map(|one| overlapping(&seen, one.arrived)).max().unwrap();
    assert_eq!(most, 3, "as many as it may, and no more");
    assert_eq!(keyed.tutti.metric("tutti_requests", &["code=\"concurrency_limited\""]), f64::from(refused));
}

/// How many requests the replica worked on at this moment.
fn overlapping(seen: &[tutti_simulator::Seen], at: Instant) -> usize {
    seen.iter().filter(|seen| seen.arrived <= at && seen.finished.is_none_or(|finished| at < finished)).count()
}

/// Whether the key has a place left; where it has, the request that finds out is answered.
fn has_place(keyed: &Keyed, key: &str) -> bool {
    let answer = keyed.ask(key, "POST", OLLAMA, &chat(false));
    match answer.status {
        429 => assert!(answer.text().contains("1 requests at once"), "{}", answer.text()),
        status => assert_eq!(status, 200, "{}", answer.text()),
    }
    answer.status == 200
}

#[test]
fn who_goes_in_whatever_phase_gives_back_the_place() {
    let machine = Machine { token_time: Duration::from_millis(5), ..Machine::instant() };
    let replica = simulator_with(Config { machine, answer_tokens: 50, ..quick() });
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let key = keyed.new_key(&["--concurrency", "1"]);
    let left = |client: Client, phase: &str| {
        assert!(!has_place(&keyed, &key), "{phase}");
        drop(client);
        replica.set_fault(None);
        eventually(&format!("the place of who was {phase}"), || has_place(&keyed, &key).then_some(()));
    };

    let mut reading = keyed.tutti.client();
    let head = format!(
        "POST {OLLAMA} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n"
    );
    reading.send_raw(head.as_bytes()).unwrap();
    assert_eq!(reading.head().unwrap().status, 100, "its body is wanted");
    left(reading, "reading");

    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let before = inference(&replica.seen()).len();
    let waiting = keyed.begin(&key, OLLAMA, &chat(true));
    reached(&replica, before + 1);
    left(waiting, "waiting");

    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let before = inference(&replica.seen()).len();
    let holds = keyed.begin(&keyed.new_key(&[]), OLLAMA, &chat(true));
    reached(&replica, before + 1);
    let queued = keyed.begin(&key, OLLAMA, &chat(true));
    eventually("it waits", || (keyed.tutti.metric("tutti_requests_queued", &[]) == 1.0).then_some(()));
    assert!(!has_place(&keyed, &key), "queued");
    drop(queued);
    eventually("it has left", || (keyed.tutti.metric("tutti_requests_queued", &[]) == 0.0).then_some(()));
    replica.set_fault(None);
    drop(holds);
    eventually("the place of who was queued", || has_place(&keyed, &key).then_some(()));

    let mut answering = keyed.begin(&key, OLLAMA, &chat(true));
    assert_eq!(answering.head().unwrap().status, 200);
    left(answering, "answering");

    replica.set_fault(Some((Fault::Stall, Scope::Inference)));
    let before = inference(&replica.seen()).len();
    let whole = keyed.begin(&key, OPENAI, &chat(false));
    reached(&replica, before + 1);
    left(whole, "being answered in one piece");
}

#[test]
fn a_place_is_held_to_the_last_byte() {
    let machine = Machine { token_time: Duration::from_millis(5), ..Machine::instant() };
    let replica: Running = simulator_with(Config { machine, answer_tokens: 200, ..quick() });
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--concurrency", "1"]);
    let mut stream = keyed.begin(&key, OLLAMA, &chat(true));
    assert_eq!(stream.head().unwrap().status, 200);
    assert!(!has_place(&keyed, &key), "its head went out, and not its end");
    while !stream.chunk().unwrap().is_empty() {}
    eventually("the end of the stream", || has_place(&keyed, &key).then_some(()));
}

#[test]
fn the_official_clients_know_what_a_key_is_told() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--requests-per-minute", "60", "--models", "m"]);
    let checks = [
        "openai_with_its_key",
        "openai_with_a_wrong_key",
        "openai_with_another_model",
        "ollama_with_its_key",
        "ollama_without_a_key",
        "openai_waits_as_long_as_it_is_told",
    ];
    let mut script = python("with_keys.py");
    script.env("TUTTI_KEY", &key);
    passes(script, &[format!("http://{}", keyed.tutti.listen())], &checks);
    let outcomes = |request: &str, count: usize| {
        eventually(request, || {
            let mut by_request: BTreeMap<String, Vec<_>> = BTreeMap::new();
            for line in keyed.tutti.logged() {
                let id = line["request_id"].as_str().unwrap_or_default().to_owned();
                by_request.entry(id).or_default().push((line["outcome"].clone(), line["code"].clone()));
            }
            by_request.into_iter().find(|(id, codes)| id.starts_with(request) && codes.len() == count)
        })
    };
    assert_eq!(outcomes("wrong", 1).1, [(json!("failed"), json!("invalid_api_key"))], "it does not try again");
    // It asks once more, and not before there is a request left.
    assert_eq!(outcomes("waits-", 2).1, [(json!("failed"), json!("rate_limited")), (json!("ok"), json!(null))]);
}
