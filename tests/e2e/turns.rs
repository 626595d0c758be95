//! Whose turn it is, and who is told that it will not come in time.

use std::time::Duration;

use serde_json::{Value, json};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{Answer, Client, Keyed, Tutti, eventually, pool, quick, reached, simulator, simulator_with};

fn chat(model: &str, text: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": text }], "stream": false }).to_string()
}

/// A replica with two adapters on one base, that takes a second to load one.
fn adapters() -> Running {
    let base = Model::chat("base", 1 << 20);
    let models = vec![base.with_adapter("a"), base.with_adapter("b"), base];
    let machine = Machine { load_fixed: Duration::from_secs(1), ..Machine::instant() };
    simulator_with(Config { models, machine, ..quick() })
}

fn within(tutti: &Tutti, model: &str, deadline: &str) -> Answer {
    tutti.client().ask("POST", "/v1/chat/completions", &[("x-tutti-deadline-ms", deadline)], &chat(model, "hi"))
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_at_once() {
    let replica = adapters();
    let tutti = Tutti::before(&[replica.url()]);
    assert_eq!(within(&tutti, "a", "60000").status, 200, "nothing is known yet, and there is time");
    let refused = within(&tutti, "b", "300");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("too_late")), "{}", refused.text());
    let after: u64 = refused.header("retry-after").and_then(|after| after.parse().ok()).unwrap();
    assert!((1..60).contains(&after), "{after}");
    let loads = || replica.seen().iter().filter(|seen| seen.path == "/api/generate").count();
    assert_eq!(loads(), 1, "not even a load was spent on it");
    assert_eq!((within(&tutti, "a", "300").status, within(&tutti, "b", "60000").status), (200, 200));
    assert_eq!(tutti.metric("tutti_requests_too_late_total", &[]), 1.0);
}

#[test]
fn who_waits_when_the_time_is_over_is_told_so() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let mut holds = tutti.client();
    holds.send("POST", "/api/chat", &[], &chat("m", "holds")).unwrap();
    reached(&replica, 1);
    let refused = within(&tutti, "m", "50");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("too_late")), "{}", refused.text());
}

#[test]
fn a_deadline_that_is_none_is_refused() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    for wrong in ["soon", "0", "-1", "1.5", "86400001", ""] {
        let refused = within(&tutti, "m", wrong);
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("invalid_header")), "{wrong}");
    }
    assert_eq!(within(&tutti, "m", "86400000").status, 200);
}

/// What the replica was asked, but for the first, who held the only slot.
fn order(replica: &Running, count: usize) -> Vec<String> {
    let text = |body: &[u8]| -> String {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        body["messages"][0]["content"].as_str().unwrap_or_default().to_owned()
    };
    reached(replica, count).iter().skip(1).map(|seen| text(&seen.body)).collect()
}

#[test]
fn a_flood_of_one_tenant_delays_no_other() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let [flood, calm, heavy] = ["flood", "calm", "heavy"].map(|tenant| {
        let weight = if tenant == "heavy" { "4" } else { "1" };
        keyed.new_key_of(tenant, &["--weight", weight])
    });
    let tutti = &keyed.tutti;
    let begin = |key: &str, text: &str| -> Client {
        let mut client = tutti.client();
        client.send("POST", "/api/chat", &[("x-api-key", key)], &chat("m", text)).unwrap();
        client
    };
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let holds = begin(&flood, "holds");
    reached(&replica, 1);
    let mut clients = Vec::new();
    let asks = (0..20)
        .map(|_| (&flood, "flood"))
        .chain((0..2).map(|_| (&calm, "calm")))
        .chain((0..8).map(|_| (&heavy, "heavy")));
    for (number, (key, text)) in asks.enumerate() {
        clients.push(begin(key, text));
        let queued = number as f64 + 1.0;
        eventually("it waits", || (tutti.metric("tutti_requests_queued", &[]) == queued).then_some(()));
    }
    replica.set_fault(None);
    drop(holds);
    for mut client in clients {
        assert_eq!(client.answer().map(|answer| answer.status).ok(), Some(200));
    }
    let order = order(&replica, 31);
    let first = |count: usize, of: &str| order[..count].iter().filter(|text| *text == of).count();
    assert_eq!(first(12, "calm"), 2, "{order:?}");
    assert_eq!(first(12, "heavy"), 8, "four times the share of the others: {order:?}");
}

#[test]
fn what_was_decided_and_why_is_told_to_who_may_know() {
    let replica = adapters();
    let tutti = Tutti::before(&[replica.url()]);
    for model in ["a", "b"] {
        assert_eq!(tutti.ask("POST", "/api/chat", &chat(model, "hi")).status, 200);
    }
    let token = std::fs::read_to_string(tutti.token_file()).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let ask =
        |path: &str, headers: &[(&str, &str)]| Client::connect(&tutti.admin()).unwrap().ask("GET", path, headers, "");
    assert_eq!(ask("/debug/schedule", &[]).status, 401);
    assert_eq!(ask("/debug/schedule?pool=nobody", &[("authorization", &bearer)]).status, 404);
    let told = ask("/debug/schedule", &[("authorization", &bearer)]).json();
    let [pool] = told.as_array().unwrap().as_slice() else { panic!("{told}") };
    let said: Vec<&str> =
        pool["decisions"].as_array().unwrap().iter().filter_map(|told| told["what"].as_str()).collect();
    assert!(
        said.iter().any(|said| said.starts_with("is loaded: 1 wait") && said.ends_with("instead of a")),
        "{said:?}"
    );
    assert_eq!(pool["runners"][0]["loaded"], json!(["b"]), "{told}");
    let group = pool["groups"].as_array().unwrap().iter().find(|group| group["models"] == json!(["b"]));
    assert_eq!(group.map(|group| &group["serving"]), Some(&json!([replica.url()])), "{told}");
}

#[test]
fn status_says_who_waits_for_what() {
    let replica = adapters();
    let tutti = Tutti::before(&[replica.url()]);
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let mut waits = tutti.client();
    waits.send("POST", "/api/chat", &[], &chat("a", "hi")).unwrap();
    eventually("it waits for its weights", || {
        tutti.command(&["status"]).stdout.contains("1 wait for a to be loaded").then_some(())
    });
}
