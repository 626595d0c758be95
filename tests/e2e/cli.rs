//! The commands, as a person meets them.

use std::time::Duration;

use tutti_simulator::Config;
use tutti_tests::{Client, Tutti, pool, quick, run, simulator, simulator_with};

#[test]
fn up_finds_the_ollama_and_says_how_to_use_it() {
    let ollama = simulator();
    let tutti = Tutti::start_with(&["up"], "", &[("OLLAMA_HOST", &ollama.url())]);
    let line = tutti.wait_said("curl -s http://")["fields"]["message"].as_str().unwrap().to_owned();
    assert!(line.contains(&format!("http://{}/v1/chat/completions", tutti.listen())), "{line}");
    let body = line.split('\'').nth(1).unwrap();
    let answer = tutti.ask("POST", "/v1/chat/completions", body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["choices"][0]["message"]["content"].as_str().unwrap().contains("simulated"));
}

#[test]
fn up_simulate_needs_nothing() {
    let tutti = Tutti::start_with(&["up", "--simulate"], "", &[]);
    assert!(tutti.ask("GET", "/api/version", "").text().contains("simulated"));
}

#[test]
fn up_without_an_ollama_says_the_ways_on() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = run(&["up"], &[("OLLAMA_HOST", &nobody.to_string()), ("PATH", "")]);
    assert_eq!(ended.code, Some(1));
    for way in ["install it", "OLLAMA_HOST", "tutti.yaml", "--simulate"] {
        assert!(ended.stderr.contains(way), "{way} in {}", ended.stderr);
    }
}

#[test]
fn tutti_does_not_ask_itself() {
    let ollama = simulator();
    let first = Tutti::before(&[ollama.url()]);
    let ended = run(&["up"], &[("OLLAMA_HOST", &first.listen())]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("answers a tutti"), "{}", ended.stderr);

    // A port that is free now is the gateway's own in a moment.
    let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.yaml");
    std::fs::write(&file, pool(&[format!("http://{own}")], "")).unwrap();
    let addresses = [
        ("TUTTI__GATEWAY__LISTEN", &*own),
        ("TUTTI__GATEWAY__OPS", "127.0.0.1:0"),
        ("TUTTI__GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let ended = run(&["gateway", "--config", file.to_str().unwrap()], &addresses);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("this is the gateway itself: gateway.listen"), "{}", ended.stderr);
}

#[test]
fn a_second_start_on_the_same_port_names_the_first() {
    let ollama = simulator();
    let first = Tutti::before(&[ollama.url()]);
    let ended = run(&["gateway"], &[("TUTTI__GATEWAY__LISTEN", &first.listen())]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(&format!("in use by process {}", first.pid())), "{}", ended.stderr);
    assert_eq!(first.ask("GET", "/readyz", "").status, 200);
}

#[test]
fn check_says_what_is_wrong_and_schema_prints_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.yaml");
    std::fs::write(&file, "gateway: { lisen: x }\n").unwrap();
    let ended = run(&["check", "--config", file.to_str().unwrap()], &[]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("t.yaml:1:12: gateway: unknown field `lisen`; did you mean `listen`?"),
        "{}",
        ended.stderr
    );
    std::fs::write(&file, pool(&["http://127.0.0.1:1".to_owned()], "")).unwrap();
    assert_eq!(run(&["check"], &[("TUTTI_CONFIG", file.to_str().unwrap())]).code, Some(0));
    assert_eq!(run(&["check"], &[]).code, Some(1));
    let schema: serde_json::Value = serde_json::from_str(&run(&["schema"], &[]).stdout).unwrap();
    assert!(schema["properties"]["gateway"].is_object());
}

#[test]
fn status_wants_the_token_and_shows_the_replicas() {
    let ollama = simulator();
    let tutti = Tutti::before(&[ollama.url()]);
    let (admin, token) = (format!("http://{}", tutti.admin()), tutti.token_file());
    let ask = ["status", "--admin", &admin, "--token-file", token.to_str().unwrap()];
    let page = run(&ask, &[]).stdout;
    assert!(page.contains(&ollama.url()) && page.contains("reachable") && page.contains("m:latest"), "{page}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);

    let mut client = Client::connect(&tutti.admin()).unwrap();
    assert_eq!(client.ask("GET", "/status", &[], "").status, 401);
    assert_eq!(client.ask("GET", "/status", &[("authorization", "Bearer 0")], "").status, 401);
}

#[test]
fn sigterm_lets_requests_end_and_takes_no_new_ones() {
    let slow = Config {
        machine: tutti_simulator::engine::Machine {
            token_time: Duration::from_millis(20),
            ..tutti_simulator::engine::Machine::instant()
        },
        ..quick()
    };
    let ollama = simulator_with(slow);
    let mut tutti = Tutti::before(&[ollama.url()]);
    let mut client = tutti.client();
    client.send("POST", "/api/chat", &[], r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#).unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.status, 200);
    tutti.signal(rustix::process::Signal::TERM);
    tutti.wait_said("draining");
    let mut last = Vec::new();
    loop {
        let chunk = client.chunk().unwrap();
        if chunk.is_empty() {
            break;
        }
        last = chunk;
    }
    assert!(String::from_utf8_lossy(&last).contains("\"done\":true"), "the stream ended whole");
    assert_eq!(tutti.wait_ended(), Some(0));
    let line = tutti.wait_logged("the request's", |line| line["api"] == "/api/chat");
    assert_eq!(line["outcome"], "ok");
}
