//! Classes of requests: in a queue a higher one goes first, and a key says how high.

use serde_json::{Value, json};
use tutti_simulator::{Fault, Running, Scope};
use tutti_tests::{Client, Keyed, Tutti, eventually, inference, pool, reached, simulator};

const OLLAMA: &str = "/api/chat";

fn chat(text: &str) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": text }], "stream": false }).to_string()
}

/// What the replica was asked, in order; the first held the only slot.
fn order(replica: &Running, count: usize) -> Vec<String> {
    let text = |body: &[u8]| -> String {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        body["messages"][0]["content"].as_str().unwrap_or_default().to_owned()
    };
    reached(replica, count).iter().skip(1).map(|seen| text(&seen.body)).collect()
}

/// Has one hold the only slot, then these wait in this order, then the slot be free.
fn line(tutti: &Tutti, replica: &Running, key: &str, waiting: &[(&str, Option<&str>, &str)]) {
    let begin = |text: &str, class: Option<&str>, key: &str| -> Client {
        let mut headers = vec![("x-api-key", key)];
        headers.extend(class.map(|class| ("x-tutti-priority", class)));
        let mut client = tutti.client();
        client.send("POST", OLLAMA, &headers, &chat(text)).unwrap_or_else(|error| panic!("{text}: {error}"));
        client
    };
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let holds = begin("holds", None, key);
    reached(replica, 1);
    let mut clients = Vec::new();
    for (number, (text, class, key)) in waiting.iter().enumerate() {
        clients.push(begin(text, *class, key));
        let queued = number as f64 + 1.0;
        eventually("it waits", || (tutti.metric("tutti_requests_queued", &[]) == queued).then_some(()));
    }
    replica.set_fault(None);
    drop(holds);
    for mut client in clients {
        assert_eq!(client.answer().map(|answer| answer.status).ok(), Some(200));
    }
}

#[test]
fn in_a_queue_a_higher_class_goes_first() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let waiting = [
        ("bulk", Some("bulk"), "any"),
        ("first", None, "any"),
        ("soon", Some("interactive"), "any"),
        ("second", Some("normal"), "any"),
    ];
    line(&tutti, &replica, "any", &waiting);
    assert_eq!(order(&replica, 5), ["soon", "first", "second", "bulk"]);
}

#[test]
fn a_key_says_how_high() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all\n    slots: 1"));
    let bulk = keyed.new_key(&["--priority", "bulk"]);
    let normal = keyed.new_key(&[]);
    let interactive = keyed.new_key(&["--priority", "interactive"]);
    let waiting = [
        ("bulk that asks for more", Some("interactive"), &*bulk),
        ("normal", None, &normal),
        ("normal that asks for more", Some("interactive"), &normal),
        ("interactive that asks for nothing", None, &interactive),
        ("interactive", Some("interactive"), &interactive),
    ];
    line(&keyed.tutti, &replica, &normal, &waiting);
    let expected = [
        "interactive",
        "normal",
        "normal that asks for more",
        "interactive that asks for nothing",
        "bulk that asks for more",
    ];
    assert_eq!(order(&replica, 6), expected);
}

#[test]
fn in_a_full_queue_a_higher_class_has_the_place_of_who_came_last_of_a_lower_one() {
    let replica = simulator();
    let tutti = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 1\n    queue: { size: 3 }"));
    let begin = |text: &str, class: &str| -> Client {
        let mut client = tutti.client();
        client.send("POST", OLLAMA, &[("x-tutti-priority", class)], &chat(text)).unwrap();
        client
    };
    let wait = |queued: f64| {
        eventually("they wait", || (tutti.metric("tutti_requests_queued", &[]) == queued).then_some(()));
    };
    replica.set_fault(Some((Fault::Silent, Scope::Inference)));
    let holds = begin("holds", "bulk");
    reached(&replica, 1);
    let mut bulk: Vec<Client> = Vec::new();
    for number in 1..=3 {
        bulk.push(begin(&format!("bulk {number}"), "bulk"));
        wait(f64::from(number));
    }
    let refused = tutti.client().ask("POST", OLLAMA, &[("x-tutti-priority", "bulk")], &chat("bulk 4"));
    assert_eq!(refused.status, 429, "it is full: {}", refused.text());
    let mut soon = begin("soon", "interactive");
    let last = bulk.pop().unwrap().answer().unwrap();
    assert_eq!(last.status, 429, "{}", last.text());
    assert!(last.text().contains("as many requests wait"), "{}", last.text());
    assert!(last.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after >= 1)));
    wait(3.0);
    replica.set_fault(None);
    drop(holds);
    assert_eq!(soon.answer().unwrap().status, 200);
    for mut client in bulk {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    assert_eq!(order(&replica, 4), ["soon", "bulk 1", "bulk 2"]);
}

#[test]
fn what_is_no_class_is_refused() {
    let replica = simulator();
    let tutti = Tutti::before(&[replica.url()]);
    let ask = |headers: &[(&str, &str)]| tutti.client().ask("POST", OLLAMA, headers, &chat("hi"));
    for headers in [
        &[("x-tutti-priority", "high")][..],
        &[("x-tutti-priority", "")],
        &[("x-tutti-priority", "Bulk")],
        &[("x-tutti-priority", "bulk"), ("x-tutti-priority", "normal")],
    ] {
        let answer = ask(headers);
        assert!(answer.status == 400 && answer.text().contains("x-tutti-priority"), "{headers:?}: {}", answer.text());
    }
    assert_eq!(ask(&[("x-tutti-priority", "bulk")]).status, 200);
    let seen = inference(&replica.seen());
    assert!(seen.len() == 1 && seen[0].header("x-tutti-priority").next().is_none(), "it goes no further");
}
