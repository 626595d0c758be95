//! Who may ask, where the gateway wants keys.

use std::time::Duration;

use tutti_simulator::{Fault, Scope};
use tutti_tests::{Answer, Client, Keyed, eventually, id_of, inference, pool, reached, simulator};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"a secret prompt"}],"stream":false}"#;
const STREAM: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
const OPENAI: &str = "/v1/chat/completions";
const OLLAMA: &str = "/api/chat";

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn without_a_good_key_everything_is_refused_in_the_clients_words() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let good = keyed.new_key(&[]);
    let revoked = keyed.new_key(&[]);
    assert_eq!(keyed.key(&["revoke", &id_of(&revoked)]).code, Some(0));
    let (wrong, half) = (good.to_uppercase(), good[..40].to_owned());

    for path in [OPENAI, OLLAMA] {
        let missing = keyed.tutti.ask("POST", path, CHAT);
        assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert_eq!(missing.header("x-should-retry"), Some("false"));
        let refused: Vec<Answer> = [&wrong, &half, &revoked].map(|key| keyed.ask(key, "POST", path, CHAT)).into();
        for answer in &refused {
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
            assert_eq!(answer.body, refused[0].body, "which of them it was is not told");
        }
        if path == OPENAI {
            assert_eq!((code(&missing), code(&refused[0])), ("missing_api_key".into(), "invalid_api_key".into()));
        } else {
            assert!(missing.json()["error"].as_str().is_some_and(|error| error.contains("Authorization: Bearer")));
            assert_eq!(refused[0].json()["error"], "this API key is not valid");
        }
        assert_eq!(keyed.ask(&good, "POST", path, CHAT).status, 200, "{path}");
    }
    let missing = keyed.tutti.ask("POST", "/v1/messages", CHAT).json();
    assert_eq!((&missing["type"], &missing["error"]["type"]), (&"error".into(), &"authentication_error".into()));
    for path in ["/v1/models", "/v1/models/m", "/api/tags", "/api/ps", "/api/version", "/nowhere", "/api/pull"] {
        assert_eq!(keyed.tutti.ask("GET", path, "").status, 401, "{path}");
        assert_ne!(keyed.ask(&good, "GET", path, "").status, 401, "{path}");
    }
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(keyed.tutti.ask("GET", path, "").status, 200, "{path}");
        let mut client = keyed.tutti.client();
        client.send("HEAD", path, &[], "").unwrap();
        assert_eq!(client.head().unwrap().status, 200, "{path}");
    }
    assert_eq!(keyed.tutti.ask("OPTIONS", OPENAI, "").status, 204);
    assert_eq!(inference(&replica.seen()).len(), 2, "nothing that was refused reached a replica");
    assert!(keyed.tutti.metric("tutti_requests", &["code=\"missing_api_key\""]) >= 9.0);
    assert_eq!(keyed.tutti.metric("tutti_requests", &["code=\"invalid_api_key\""]), 6.0);
}

#[test]
fn every_clients_header_will_do_and_none_goes_further() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&[]);
    let bearer = format!("bearer {key}");
    for (name, value) in [("authorization", &bearer), ("x-api-key", &key), ("api-key", &key)] {
        let answer = keyed.tutti.client().ask("POST", OLLAMA, &[(name, value)], CHAT);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    let answer = keyed.tutti.client().ask("POST", OLLAMA, &[("authorization", "Basic abc"), ("x-api-key", &key)], CHAT);
    assert_eq!(answer.status, 200);
    let secret = key.rsplit('_').next().unwrap();
    for seen in inference(&replica.seen()) {
        let all: Vec<u8> = seen.headers.iter().flat_map(|(_, value)| value.clone()).collect();
        assert!(!String::from_utf8_lossy(&all).contains(secret), "{seen:?}");
        assert!(seen.header("authorization").next().is_none());
    }
    let line = keyed.tutti.wait_logged("a request with a key", |line| line["status"] == 200);
    assert_eq!((&line["tenant"], &line["key"]), (&"acme".into(), &id_of(&key).into()));
    eventually("a line each", || (keyed.tutti.logged().len() == 4).then_some(()));
    assert!(!format!("{:?}", keyed.tutti.logged()).contains(secret));
}

#[test]
fn a_refusal_does_not_wait_for_the_body() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let mut client = keyed.tutti.client();
    client.send_raw(b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n").unwrap();
    assert_eq!(client.head().unwrap().status, 401);
}

#[test]
fn with_keys_a_strange_host_is_served_and_a_strange_page_is_not() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&[]);
    let ask = |headers: &[(&str, &str)]| keyed.tutti.client().ask("POST", OLLAMA, headers, CHAT);
    assert_eq!(ask(&[("host", "gateway.example"), ("x-api-key", &key)]).status, 200);
    assert_eq!(ask(&[("host", "a b"), ("x-api-key", &key)]).status, 400);
    assert_eq!(ask(&[("origin", "https://evil.example"), ("x-api-key", &key)]).status, 403);
    let answer = ask(&[("origin", "http://localhost:3000"), ("x-api-key", "wrong")]);
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"), "a page can read why");
}

#[test]
fn a_revoked_key_is_refused_at_once_and_its_stream_goes_on() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&[]);
    replica.set_fault(Some((Fault::SlowFirstByte(Duration::from_secs(1)), Scope::Inference)));
    let mut stream = keyed.begin(&key, OPENAI, STREAM);
    reached(&replica, 1);
    let mut idle = keyed.tutti.client();
    let bearer = format!("Bearer {key}");
    assert_eq!(idle.ask("GET", "/api/tags", &[("authorization", &bearer)], "").status, 200);

    let revoked = keyed.key(&["revoke", &id_of(&key)]);
    assert!(revoked.code == Some(0) && revoked.stderr.contains("goes by it"), "{}", revoked.stderr);
    assert_eq!(keyed.ask(&key, "POST", OLLAMA, CHAT).status, 401, "on a new connection");
    assert_eq!(idle.ask("GET", "/api/tags", &[("authorization", &bearer)], "").status, 401, "and on one that was open");
    let answer = stream.answer().unwrap();
    assert_eq!((answer.status, answer.lines().last().map(String::as_str)), (200, Some("[DONE]")));
    let line = keyed.tutti.wait_logged("who came with a revoked key", |line| line["code"] == "invalid_api_key");
    assert_eq!(line["key"], *id_of(&key));
}

#[test]
fn a_key_expires_while_the_gateway_runs() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&["--expires", "2s"]);
    eventually("the end of the key", || (keyed.ask(&key, "GET", "/api/tags", "").status == 401).then_some(()));
    assert_eq!(keyed.status()["keys"]["expired"], 1);
    assert!(keyed.key(&["list"]).stdout.contains("expired"));
}

#[test]
fn the_admin_port_takes_nothing_without_its_token() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let post = |path: &str, headers: &[(&str, &str)]| {
        Client::connect(&keyed.tutti.admin()).unwrap().ask("POST", path, headers, "").status
    };
    let token = format!("Bearer {}", std::fs::read_to_string(keyed.tutti.token_file()).unwrap().trim());
    assert_eq!(post("/keys/reload", &[]), 401);
    assert_eq!(post("/keys/reload", &[("authorization", "Bearer x")]), 401);
    assert_eq!(post("/keys/reload", &[("authorization", &token)]), 200);
    assert_eq!(post("/status", &[("authorization", &token)]), 405);
    let ops =
        Client::connect(&keyed.tutti.ops()).unwrap().ask("POST", "/keys/reload", &[("authorization", &token)], "");
    assert_eq!(ops.status, 405);
}

#[test]
fn a_gateway_knows_itself_though_it_wants_a_key() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let itself = format!("http://{}", keyed.tutti.listen());
    let yaml = pool(&[replica.url(), itself], "expose: all");
    keyed.tutti.write_config(&tutti_tests::with_keys(&keyed.file().display().to_string(), &yaml));
    let line = keyed.tutti.wait_said("the changed configuration is refused")["fields"]["message"].to_string();
    assert!(line.contains("is this gateway itself"), "{line}");
}
