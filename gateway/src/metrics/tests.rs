//! What is counted, and under which names.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::sets::{CountsKey, OTHER, SHOWN};
use super::*;
use crate::classify::Api;
use crate::dialect::Usage;
use crate::errors::{Code, Failure};
use crate::registry::{Registry, Served};
use crate::settle::Settlement;
use tutti_api::{Engine, PoolSpec};

const SECOND: Duration = Duration::from_secs(1);

/// Counts a request on a core, as `count` does.
fn ask(metrics: &Arc<Metrics>, core: usize, served: Option<&Arc<Served>>, tenant: Option<&Arc<str>>, now: Instant) {
    let who = Who { served, api: Some(Api::OllamaChat), tenant };
    metrics.place(&who, core, now).counts.ends[0].add(1);
}

fn served(registry: &mut Registry, model: &str, revision: &str) -> Arc<Served> {
    registry.served(model, revision, "p", Engine::Ollama, false)
}

fn pool() -> PoolSpec {
    PoolSpec { name: "p".to_owned(), ..PoolSpec::default() }
}

/// Model, tenant and how many requests, of all that is shown.
fn shown(metrics: &Metrics, now: Instant) -> Vec<(String, String, u64)> {
    let counts = metrics.read(now).counts;
    let row = |key: &CountsKey, sum| (key.names.model.to_string(), key.tenant.to_string(), sum);
    counts.iter().map(|(key, set)| row(key, set.cores().map(|counts| counts.ends[0].get()).sum())).collect()
}

fn row(model: &str, tenant: &str, sum: u64) -> (String, String, u64) {
    (model.to_owned(), tenant.to_owned(), sum)
}

#[test]
fn cores_count_apart_and_are_shown_together() {
    let (metrics, mut registry, now) = (Arc::<Metrics>::default(), Registry::default(), Instant::now());
    let risk = served(&mut registry, "risk", "v1");
    let acme: Arc<str> = "acme".into();
    for core in [0, 1, 1, 2] {
        ask(&metrics, core, Some(&risk), Some(&acme), now);
    }
    ask(&metrics, 0, Some(&risk), None, now);
    ask(&metrics, 0, None, None, now);
    assert_eq!(shown(&metrics, now), [row("", "", 1), row("risk", "", 1), row("risk", "acme", 4)]);
}

#[test]
fn what_replicas_invent_is_bounded_and_what_is_configured_has_its_name() {
    let (metrics, mut registry, now) = (Arc::<Metrics>::default(), Registry::default(), Instant::now());
    metrics.set_limit(3);
    let invented: Vec<_> = (0..1000).map(|n| served(&mut registry, &format!("evil-{n}"), "")).collect();
    for served in &invented {
        ask(&metrics, 0, Some(served), None, now);
        ask(&metrics, 1, Some(served), None, now);
    }
    let risk = served(&mut registry, "risk", "v1");
    ask(&metrics, 0, Some(&risk), None, now);
    let rows =
        [row(OTHER, "", 1994), row("evil-0", "", 2), row("evil-1", "", 2), row("evil-2", "", 2), row("risk", "", 1)];
    assert_eq!(shown(&metrics, now), rows);
}

#[test]
fn tenants_are_bounded_apart_from_models() {
    let (metrics, mut registry, now) = (Arc::<Metrics>::default(), Registry::default(), Instant::now());
    metrics.set_limit(1);
    let risk = served(&mut registry, "risk", "v1");
    let tenants: [Arc<str>; 3] = ["a", "b", "c"].map(Into::into);
    for tenant in &tenants {
        ask(&metrics, 0, Some(&risk), Some(tenant), now);
    }
    assert_eq!(shown(&metrics, now), [row("risk", OTHER, 2), row("risk", "a", 1)]);
}

#[test]
fn what_is_gone_is_shown_for_a_while_and_makes_room_then() {
    let (metrics, mut registry, mut now) = (Arc::<Metrics>::default(), Registry::default(), Instant::now());
    metrics.set_limit(1);
    let first = served(&mut registry, "first", "");
    let second = served(&mut registry, "second", "");
    ask(&metrics, 0, Some(&first), None, now);
    ask(&metrics, 0, Some(&second), None, now);
    drop(first);
    now += SHOWN * 2; // seen gone only now, so shown for as long from now on
    assert_eq!(shown(&metrics, now), [row(OTHER, "", 1), row("first", "", 1)]);
    assert_eq!(shown(&metrics, now + SHOWN - SECOND).len(), 2);
    let epoch = metrics.epoch.load(Relaxed);
    assert_eq!(shown(&metrics, now + SHOWN), [row(OTHER, "", 1)]);
    assert_ne!(metrics.epoch.load(Relaxed), epoch, "cores look for room again");
    ask(&metrics, 0, Some(&second), None, now);
    assert_eq!(shown(&metrics, now + SHOWN), [row(OTHER, "", 1), row("second", "", 1)]);
}

#[test]
fn a_name_that_comes_back_while_it_is_shown_goes_on_where_it_was() {
    let (metrics, mut registry, mut now) = (Arc::<Metrics>::default(), Registry::default(), Instant::now());
    for round in 1..=5 {
        let risk = served(&mut registry, "risk", "v1");
        ask(&metrics, 0, Some(&risk), None, now);
        drop(risk);
        assert_eq!(shown(&metrics, now), [row("risk", "", round)]);
        now += SHOWN - SECOND;
        assert_eq!(shown(&metrics, now), [row("risk", "", round)]);
    }
    let counts = metrics.read(now).counts;
    assert_eq!(counts.values().map(|set| set.cores().count()).sum::<usize>(), 1, "the same cells each time");
    assert_eq!(shown(&metrics, now + SECOND), []);
}

proptest! {
    /// Whatever comes and goes: what is shown of a name never falls, but to be gone for [`SHOWN`] at least.
    #[test]
    fn no_counter_falls(steps in prop::collection::vec((0..4usize, 0..3usize, 0..20u64), 1..60)) {
        let (metrics, mut registry, mut now) = (Arc::<Metrics>::default(), Registry::default(), Instant::now());
        let mut held: [Option<Arc<Served>>; 4] = [const { None }; 4];
        let mut counted = [0u64; 4];
        let mut gone_at = [now; 4];
        for (name, what, minutes) in steps {
            now += SECOND * 60 * u32::try_from(minutes).unwrap();
            let label = name.to_string();
            if what == 0 {
                gone_at[name] = if held[name].take().is_some() { now } else { gone_at[name] };
            } else {
                let served = held[name].get_or_insert_with(|| served(&mut registry, &label, "v1"));
                let known = shown(&metrics, now).iter().any(|(model, _, _)| *model == label);
                ask(&metrics, what, Some(served), None, now);
                counted[name] = if known { counted[name] + 1 } else { 1 };
            }
            let rows = shown(&metrics, now);
            for at in 0..4 {
                match rows.iter().find(|(model, _, _)| *model == at.to_string()) {
                    Some((_, _, sum)) => prop_assert_eq!(*sum, counted[at]),
                    None => prop_assert!(counted[at] == 0 || (held[at].is_none() && now - gone_at[at] >= SHOWN)),
                }
                if !rows.iter().any(|(model, _, _)| *model == at.to_string()) {
                    counted[at] = 0;
                }
            }
        }
    }
}

/// Settles a request whose record is made so, on a thread that counts into these metrics.
fn settle(metrics: &Arc<Metrics>, make: impl FnOnce(&mut Record) + Send) {
    let metrics = metrics.clone();
    let count = move || {
        enter(metrics);
        let mut settlement = Settlement::begin(http::HeaderValue::from_static("1"));
        make(&mut settlement.record);
    };
    std::thread::scope(|scope| scope.spawn(count).join().unwrap());
}

fn text(metrics: &Metrics) -> String {
    let mut page = text::Page::new(Format::Plain);
    page::requests(metrics, &mut page);
    page.finish()
}

#[test]
fn a_request_is_counted_by_how_it_ended() {
    let metrics = Arc::<Metrics>::default();
    let mut registry = Registry::default();
    let risk = served(&mut registry, "risk", "v1");
    let replica = registry.replica(&pool(), "http://localhost:1".parse().unwrap(), None).unwrap();
    let ms = Duration::from_millis;
    settle(&metrics, |record| {
        record.api = Some(Api::OpenAiChat);
        record.served = Some(risk.clone());
        record.replica = Some(replica.clone());
        (record.status, record.phase) = (200, Phase::Finished);
        (record.first_byte, record.last_byte, record.streamed) = (Some(ms(100)), Some(ms(1000)), true);
        record.usage = Usage { input: 5, cached: 3, output: 10, ..Usage::default() };
        record.retries = 1;
    });
    settle(&metrics, |record| {
        record.api = Some(Api::OpenAiChat);
        record.served = Some(risk.clone());
        (record.status, record.phase) = (404, Phase::Finished);
    });
    settle(&metrics, |record| {
        record.api = Some(Api::OpenAiChat);
        record.failure = Some(Failure::new(Code::QueueFull, ""));
    });
    settle(&metrics, |record| {
        record.api = Some(Api::OpenAiChat);
        record.phase = Phase::Queued;
    });
    let page = text(&metrics);
    let risk = "model=\"risk\",revision=\"v1\",pool=\"p\",api=\"/v1/chat/completions\"";
    let otel = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"ollama\",gen_ai_request_model=\"risk\",revision=\"v1\",pool=\"p\"";
    for line in [
        format!("tutti_requests_total{{{risk},code=\"ok\"}} 1"),
        format!("tutti_requests_total{{{risk},code=\"replica_error\",status=\"404\"}} 1"),
        "tutti_requests_total{api=\"/v1/chat/completions\",code=\"queue_full\",status=\"429\"} 1".to_owned(),
        "tutti_requests_total{api=\"/v1/chat/completions\",code=\"cancelled\"} 1".to_owned(),
        "tutti_requests_cancelled_total{api=\"/v1/chat/completions\",phase=\"queued\"} 1".to_owned(),
        format!("tutti_retries_total{{{risk}}} 1"),
        format!("tutti_input_tokens_total{{{risk}}} 5"),
        format!("tutti_cached_input_tokens_total{{{risk}}} 3"),
        format!("tutti_output_tokens_total{{{risk}}} 10"),
        format!("gen_ai_server_time_to_first_token_seconds_bucket{{{otel},le=\"0.08\"}} 0"),
        format!("gen_ai_server_time_to_first_token_seconds_bucket{{{otel},le=\"0.1\"}} 1"),
        format!("gen_ai_server_time_per_output_token_seconds_sum{{{otel}}} 0.1"), // 900 ms over 9 tokens
        format!("gen_ai_server_time_per_output_token_seconds_count{{{otel}}} 1"),
        format!("gen_ai_client_token_usage_bucket{{{otel},gen_ai_token_type=\"input\",le=\"4.0\"}} 0"),
        format!("gen_ai_client_token_usage_bucket{{{otel},gen_ai_token_type=\"output\",le=\"16.0\"}} 1"),
        format!("gen_ai_server_request_duration_seconds_count{{{otel}}} 1"),
        format!("gen_ai_server_request_duration_seconds_count{{{otel},error_type=\"404\"}} 1"),
        "gen_ai_server_request_duration_seconds_count{gen_ai_operation_name=\"chat\",error_type=\"queue_full\"} 1"
            .to_owned(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\nin {page}");
    }
}

#[test]
fn what_needs_two_tokens_or_a_stream_is_not_measured_without() {
    let metrics = Arc::<Metrics>::default();
    let replica = Registry::default().replica(&pool(), "http://localhost:1".parse().unwrap(), None).unwrap();
    for (output, last) in [(1, Some(SECOND)), (0, Some(SECOND)), (9, None)] {
        settle(&metrics, |record| {
            record.api = Some(Api::OllamaChat);
            record.replica = Some(replica.clone());
            (record.status, record.phase) = (200, Phase::Finished);
            (record.first_byte, record.last_byte) = (Some(SECOND), last);
            record.usage.output = output;
        });
    }
    let page = text(&metrics);
    assert!(!page.contains("per_output_token_seconds_count") && !page.contains("first_token_seconds_count"), "{page}");
}

#[test]
fn what_is_told_of_a_model_has_no_first_token() {
    let metrics = Arc::<Metrics>::default();
    let replica = Registry::default().replica(&pool(), "http://localhost:1".parse().unwrap(), None).unwrap();
    settle(&metrics, |record| {
        record.api = Some(Api::OllamaShow);
        record.replica = Some(replica.clone());
        (record.status, record.phase, record.first_byte) = (200, Phase::Finished, Some(SECOND));
    });
    let page = text(&metrics);
    assert!(page.contains("gen_ai_server_request_duration_seconds_count{gen_ai_operation_name=\"show\"} 1"), "{page}");
    assert!(!page.contains("first_token_seconds_count"), "{page}");
}

#[test]
fn a_core_forgets_what_nobody_can_ask_for_any_more() {
    let metrics = Arc::<Metrics>::default();
    enter(metrics.clone());
    let mut registry = Registry::default();
    for n in 0..10 * TIDY_FROM {
        let served = served(&mut registry, &n.to_string(), "");
        let mut settlement = Settlement::begin(http::HeaderValue::from_static("1"));
        settlement.record.served = Some(served);
    }
    OWN.with_borrow(|own| assert!(own.as_ref().unwrap().places.len() <= TIDY_FROM));
    metrics.set_limit(1_000_000);
    tidy();
    OWN.with_borrow(|own| assert!(own.as_ref().unwrap().places.is_empty()));
}

#[test]
fn names_are_well_formed_and_told_once() {
    let mut names = BTreeSet::new();
    for metric in ALL {
        assert!(names.insert(metric.name), "{} is there twice", metric.name);
        assert!(metric.unit.is_empty() || metric.name.ends_with(&format!("_{}", metric.unit)), "{}", metric.name);
        assert!(!metric.name.ends_with("_total"), "{}: its kind says that", metric.name);
        assert!(!metric.help.contains(['\n', '\\', '"', '|']) && !metric.help.ends_with('.'), "{}", metric.name);
    }
}
