//! The machine's clock is set while a gateway runs: forward, back, and to before 1970. What lasts is measured by the
//! monotonic clock, which nobody sets; only what is said as a time of day goes by the other.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tutti_simulator::Config;
use tutti_simulator::engine::Machine;
use tutti_tests::{Answer, Client, Clock, Tutti, eventually, inference, pool, quick, reached, run, simulator_with};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
const DAY: i64 = 86_400;

fn new_key(file: &Path, arguments: &[&str]) -> String {
    let file = file.display().to_string();
    let made = run(&[&["key", "new", "--name", "n", "--tenant", "t", "--keys-file", &file], arguments].concat(), &[]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    made.stdout.trim_end().to_owned()
}

fn begin(tutti: &Tutti, key: &str, body: &str) -> Client {
    let mut client = tutti.client();
    client.send("POST", "/api/chat", &[("authorization", &format!("Bearer {key}"))], body).expect("it is sent");
    client
}

fn chat(tutti: &Tutti, key: &str) -> Answer {
    begin(tutti, key, CHAT).answer().expect("an answer")
}

/// A request's line, by how its answer was asked for.
fn line(tutti: &Tutti, id: &Answer) -> Value {
    let id = id.header("x-request-id").expect("an id").to_owned();
    tutti.wait_logged("its line", |line| line["request_id"] == *id)
}

#[test]
fn a_clock_that_jumps_ends_nothing_and_gives_nothing_away() {
    let machine = Machine { token_time: Duration::from_millis(10), ..Machine::instant() };
    let replica = simulator_with(Config { machine, answer_tokens: 80, ..quick() });
    let clock = Clock::right();
    let keys = clock.file("keys.yaml");
    let (lasting, ending, limited) =
        (new_key(&keys, &[]), new_key(&keys, &["--expires", "2h"]), new_key(&keys, &["--requests-per-minute", "1"]));
    let gateway = format!("gateway: {{ auth: {{ keysFile: {:?} }} }}\n", keys.display().to_string());
    let yaml = |fields: &str| format!("{gateway}{}", pool(&[replica.url()], &format!("expose: all\n    {fields}")));
    let tutti = clock.start(&yaml("slots: 1\n    queue: { wait: 60s }"));
    assert_eq!(chat(&tutti, &limited).status, 200);

    let mut served = 1;
    for (turn, off) in [DAY, -DAY, 100 * 365 * DAY, -100 * 365 * DAY].into_iter().enumerate() {
        let mut works = begin(&tutti, &lasting, &CHAT.replace("false", "true"));
        reached(&replica, served + 1);
        let mut waits = begin(&tutti, &lasting, CHAT);
        eventually("one waits", || (tutti.metric("tutti_requests_queued", &[]) == 1.0).then_some(()));
        clock.set(off);
        // What is at work and what waits know nothing of it.
        let streamed = works.answer().expect("an answer");
        assert!(streamed.complete && streamed.text().trim_end().ends_with('}'), "{}", streamed.text());
        let waited = waits.answer().expect("an answer");
        assert_eq!((streamed.status, waited.status), (200, 200), "{off}");
        let seconds = |line: &Value, name: &str| line[name].as_f64().expect("a number") / 1e3;
        for line in [line(&tutti, &streamed), line(&tutti, &waited)] {
            assert_eq!(line["outcome"], "ok");
            assert!((0.1..60.0).contains(&seconds(&line, "duration_ms")), "{line}");
        }
        // A key ends by the day; a minute's worth does not come back by it.
        assert_eq!(chat(&tutti, &ending).status, if off > 0 { 401 } else { 200 }, "{off}");
        let refused = chat(&tutti, &limited);
        assert_eq!(refused.status, 429, "{off}");
        let after: u64 = refused.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
        assert!(after <= 60, "{after}");
        let told = line(&tutti, &chat(&tutti, &lasting))["ts"].as_f64().expect("a time");
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
        let expected = (now + off as f64).max(0.0); // there is no time before 1970
        assert!((told - expected).abs() < 60.0, "{told} for {expected}: the clock is as it was set");

        served = inference(&replica.seen()).len();
        tutti.write_config(&yaml(&format!("slots: 1\n    queue: {{ wait: {}s }}", 61 + turn)));
        let generation = "the changed configuration is in force";
        eventually("the changed file is taken up", || {
            let said = tutti.said();
            let taken = said.iter().filter(|line| line["fields"]["message"] == generation).count();
            (taken == turn + 1).then_some(())
        });
        let status = tutti.command(&["status"]);
        assert_eq!(status.code, Some(0), "{}", status.stderr);
        assert_eq!(Client::connect(&tutti.ops()).expect("a connection").ask("GET", "/readyz", &[], "").status, 200);
    }
}
