//! The commands, as a person meets them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tutti_simulator::Config;
use tutti_tests::{Client, Tutti, eventually, pool, quick, run, simulator, simulator_with};

/// An address where nobody listens.
fn nobody() -> io::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

#[test]
fn up_finds_the_ollama_and_says_how_to_use_it() {
    let ollama = simulator_with(quick());
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

/// Who closes the terminal ends what was started there, and what that has started: the Ollama too.
#[test]
fn up_ends_with_its_terminal_unless_that_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let start = |program: &str, before: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(before).arg(tutti_tests::binary()).args(["up", "--simulate"]).current_dir(folder.path());
        command.envs(["HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"].map(|name| (name, folder.path())));
        let free = ["TUTTI__GATEWAY__LISTEN", "TUTTI__GATEWAY__OPS", "TUTTI__GATEWAY__ADMIN__LISTEN"];
        let tutti = Tutti::of(command.envs(free.map(|name| (name, "127.0.0.1:0"))));
        tutti.wait_said("tutti serves");
        tutti
    };
    // Whatever has become of the signal where the tests were started.
    let mut tutti = start("env", &["--default-signal=HUP"]);
    tutti.signal(rustix::process::Signal::HUP);
    assert_eq!(tutti.wait_ended(), Some(0));

    let tutti = start("env", &["--ignore-signal=HUP"]);
    tutti.signal(rustix::process::Signal::HUP);
    assert_eq!(tutti.ask("GET", "/readyz", "").status, 200);
}

#[test]
fn up_without_an_ollama_says_the_ways_on() {
    let ended = run(&["up"], &[("OLLAMA_HOST", &nobody().unwrap()), ("PATH", "")]);
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
    let own = nobody().unwrap();
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

    // With a state folder of its own it finds no gateway to take over, and is not told to take over.
    let ended = run(&["gateway", "--take-over"], &[("TUTTI__GATEWAY__LISTEN", &first.listen())]);
    assert_eq!(ended.code, Some(1));
    let said = ended.stderr.lines().last().unwrap();
    assert!(said.contains(&format!("in use by process {}, which gives its place to nobody", first.pid())), "{said}");
    assert!(!said.contains("take its place with"), "{said}");
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

/// A command does its work, and its exit code tells of it, also where what it says cannot be written: on a full disk, or
/// to a reader that has gone.
#[test]
fn who_cannot_be_heard_works_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.yaml");
    let end = |arguments: &[&str]| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(tutti_tests::binary());
        command.args(arguments).current_dir(folder.path()).env("HOME", folder.path()).env_remove("TUTTI_CONFIG");
        let ended = command.stderr(full).stdout(std::process::Stdio::null()).status().unwrap();
        ended.code()
    };
    let file = keys.display().to_string();
    assert_eq!(end(&["key", "new", "--name", "n", "--tenant", "t", "--keys-file", &file]), Some(0));
    assert!(std::fs::read_to_string(&keys).unwrap().contains("sha256"));
    std::fs::write(folder.path().join("t.yaml"), "gateway: { lisen: x }\n").unwrap();
    assert_eq!(end(&["check", "--config", "t.yaml"]), Some(2));
    assert_eq!(end(&["check", "--config", "nothing.yaml"]), Some(1));
}

#[test]
fn status_wants_the_token_and_shows_the_replicas() {
    let ollama = simulator();
    let tutti = Tutti::before(&[ollama.url()]);
    let (admin, token) = (format!("http://{}", tutti.admin()), tutti.token_file());
    let ask = ["status", "--admin", &admin, "--token-file", token.to_str().unwrap()];
    let page = run(&ask, &[]).stdout;
    assert!(page.contains(&ollama.url()) && page.contains("reachable") && page.contains("m:latest"), "{page}");
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);

    // Who asks as another user, or before any gateway, is told where the token comes from.
    let ended = run(&["status", "--admin", &admin], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("at its first start") && ended.stderr.contains("--token-file"), "{}", ended.stderr);

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

/// Puts an `ollama` into the folder that says its process and answers nobody; yields a PATH with it.
fn silent_ollama(folder: &Path) -> io::Result<String> {
    // Written by another process: one that this one forks meanwhile must not hold it open.
    let script = r##"printf '#!/bin/sh\necho $$ > "$0.pid"\nexec sleep 600\n' > ollama && chmod +x ollama"##;
    assert!(std::process::Command::new("sh").args(["-c", script]).current_dir(folder).status()?.success());
    Ok(format!("{}:/usr/bin:/bin", folder.display()))
}

#[test]
fn up_leaves_no_ollama_behind_that_it_did_not_wait_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = silent_ollama(folder.path()).unwrap();
    let mut tutti = Tutti::spawn(&["up"], "", &[("OLLAMA_HOST", &nobody().unwrap()), ("PATH", &path)]);
    let pid = eventually("the Ollama", || {
        std::fs::read_to_string(folder.path().join("ollama.pid")).ok()?.trim().parse().ok()
    });
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_ok());
    tutti.signal(rustix::process::Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0));
    assert!(rustix::process::test_kill_process(pid).is_err(), "it is still there");
}

#[test]
fn up_starts_no_ollama_that_nobody_could_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = silent_ollama(folder.path()).unwrap();
    for (host, why) in [
        ("https://gpu.example", "does not begin with http://"),
        ("http://user:secret@127.0.0.1:1", "a password"),
        ("192.0.2.1:11434", "not this machine"),
    ] {
        let ended = run(&["up"], &[("OLLAMA_HOST", host), ("PATH", &path)]);
        assert_eq!(ended.code, Some(1), "{host}");
        assert!(ended.stderr.contains("OLLAMA_HOST") && ended.stderr.contains(why), "{host}: {}", ended.stderr);
        assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    }
    assert!(!folder.path().join("ollama.pid").exists());
    let ended = run(&["gateway"], &[("OLLAMA_HOST", "https://gpu.example")]);
    assert!(
        ended.stderr.contains("does not begin with http://") && !ended.stderr.contains("built-in"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_file_without_pools_serves_the_ollama_of_this_machine() {
    let ollama = simulator();
    let host = ("OLLAMA_HOST", &*ollama.url());
    for command in ["gateway", "up"] {
        let tutti = Tutti::start_with(&[command, "--config", "tutti.yaml"], "gateway: { drain: 5s }\n", &[host]);
        assert!(tutti.ask("GET", "/api/tags", "").text().contains("m:latest"), "{command}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.yaml");
    std::fs::write(&file, "").unwrap();
    let ended = run(&["check", "--config", file.to_str().unwrap()], &[host]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains(&ollama.url()), "{}", ended.stdout);
}

#[test]
fn up_says_no_model_is_missing_where_a_replica_is() {
    let up = |fields: &str| {
        let yaml = pool(&[format!("http://{}", nobody().unwrap())], fields);
        Tutti::start_with(&["up", "--config", "tutti.yaml"], &yaml, &[])
    };
    up("expose: all").wait_said("No replica answers yet");
    up("").wait_said("names no models");
}

#[test]
fn a_replica_that_does_not_answer_is_shown_so_before_anybody_asks_for_it() {
    let (ollama, dead) = (simulator(), format!("http://{}", nobody().unwrap()));
    let tutti = Tutti::before(&[ollama.url(), dead.clone()]);
    assert_eq!(tutti.metric("tutti_replica_reachable", &[&dead]), 0.0);
    assert_eq!(tutti.metric("tutti_replica_reachable", &[&ollama.url()]), 1.0);
    let (admin, token) = (tutti.admin(), tutti.token_file());
    let page = run(&["status", "--admin", &admin, "--token-file", token.to_str().unwrap()], &[]).stdout;
    let line = page.lines().find(|line| line.contains(&dead)).unwrap();
    assert!(line.contains("UNREACHABLE"), "{page}");
}

#[test]
fn an_admin_token_that_others_know_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "weak").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let named = ("TUTTI__GATEWAY__ADMIN__TOKENFILE", file.to_str().unwrap());
    let mut tutti = Tutti::spawn(&["gateway"], "", &[named]);
    assert_eq!(tutti.wait_ended(), Some(1));
    tutti.wait_said("others may read or write it");

    let homeless = [("HOME", ""), ("XDG_STATE_HOME", "")];
    let mut tutti = Tutti::spawn(&["gateway"], "", &homeless);
    assert_eq!(tutti.wait_ended(), Some(1));
    tutti.wait_said("gateway.admin.tokenFile");
}

#[test]
fn who_has_no_home_has_no_configuration_there() {
    let nowhere = [("HOME", "/dev/null"), ("XDG_CONFIG_HOME", "")];
    let ended = run(&["check"], &nowhere);
    assert!(ended.stderr.contains("there is no configuration to check"), "{}", ended.stderr);
    let ollama = simulator();
    Tutti::start_with(&["gateway"], "", &[&nowhere[..], &[("OLLAMA_HOST", &ollama.url())]].concat());
}

#[test]
fn arguments_that_say_nothing_are_refused() {
    for (arguments, why) in [
        (&["up", "--simulate", "--config", "nope"][..], "cannot be used with"),
        (&["gateway", "--cores", "0"], "0 is not in 1..=1024"),
    ] {
        let ended = run(arguments, &[]);
        assert_eq!(ended.code, Some(2));
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
    assert!(run(&["check", "--help"], &[]).stdout.contains("2 where it is wrong"));
}
