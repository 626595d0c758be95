//! A configuration that changes under a running gateway.

use tutti_simulator::{Config, Model, Running};
use tutti_tests::{Client, Tutti, eventually, pool, run, simulator_with};

fn simulator(model: &str) -> Running {
    simulator_with(Config::quick(Model::chat(model, 1 << 20)))
}

/// Pools `a` and `b` of a replica each; the model `risk` on one of them.
fn yaml(a: &Running, b: &Running, on: &str, fields: &str) -> String {
    let url = |of: &Running| of.url();
    format!(
        "pools:\n  - {{ name: a, endpoints: [{{ url: \"{}\" }}], slots: 1{fields} }}\n  - {{ name: b, endpoints: [{{ url: \"{}\" }}], slots: 1{fields} }}\n\
         models:\n  - name: risk\n    aliases: [risk-model]\n    revisions:\n      - {{ name: on-a, pool: a, upstream: ma }}\n      - {{ name: on-b, pool: b, upstream: mb }}\n    traffic: {{ revision: on-{on} }}\n",
        url(a),
        url(b)
    )
}

const CHAT: &str = r#"{"model":"Risk:latest","messages":[{"role":"user","content":"hi"}],"stream":false}"#;

#[test]
fn a_changed_file_is_taken_up_and_a_broken_one_is_not() {
    let (a, b) = (simulator("ma"), simulator("mb"));
    let tutti = Tutti::start(&yaml(&a, &b, "a", ""));
    let asked = |revision: &str| {
        let answer = tutti.ask("POST", "/api/chat", CHAT);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["model"], "Risk:latest", "the name the client asked for");
        answer.header("x-tutti-revision") == Some(revision)
    };
    assert!(asked("on-a"));

    tutti.write_config(&yaml(&a, &b, "b", ""));
    tutti.wait_said("the changed configuration is in force");
    assert!(asked("on-b"));
    let generation = tutti.metric("tutti_config_generation", &[]);

    tutti.write_config("pools: [ { nmae: x } ]");
    let line = tutti.wait_said("the changed configuration is refused")["fields"]["message"].to_string();
    assert!(line.contains("did you mean `name`"), "{line}");
    assert!(asked("on-b"));
    assert_eq!(tutti.metric("tutti_config_last_reload_successful", &[]), 0.0);
    assert_eq!(tutti.metric("tutti_config_generation", &[]), generation);

    tutti.write_config(&yaml(&a, &b, "a", ""));
    eventually("the good file in force", || asked("on-a").then_some(()));
    assert_eq!(tutti.metric("tutti_config_last_reload_successful", &[]), 1.0);
}

/// One request holds the only slot of pool a for good, one waits behind it.
fn one_holds_one_waits(tutti: &Tutti, a: &Running) -> (Client, Client) {
    a.set_fault(Some((tutti_simulator::Fault::Silent, tutti_simulator::Scope::Inference)));
    let holds = tutti.begin("/api/chat", CHAT);
    eventually("the first at the replica", || {
        (tutti.metric("tutti_requests_in_flight", &[&a.url()]) == 1.0).then_some(())
    });
    let waits = tutti.begin("/api/chat", CHAT);
    eventually("the second in the queue", || {
        (tutti.metric("tutti_requests_queued", &["pool=\"a\""]) == 1.0).then_some(())
    });
    (holds, waits)
}

#[test]
fn who_waits_goes_where_the_new_table_says() {
    let (a, b) = (simulator("ma"), simulator("mb"));
    let tutti = Tutti::start(&yaml(&a, &b, "a", ""));
    let (_holds, mut waits) = one_holds_one_waits(&tutti, &a);

    tutti.write_config(&yaml(&a, &b, "b", ""));
    let answer = waits.answer().unwrap();
    assert_eq!((answer.status, answer.header("x-tutti-revision")), (200, Some("on-b")));
    assert_eq!(tutti.metric("tutti_requests_queued", &["pool=\"a\""]), 0.0);
}

#[test]
fn who_waits_for_what_is_gone_is_told() {
    let (a, b) = (simulator("ma"), simulator("mb"));
    let tutti = Tutti::start(&yaml(&a, &b, "a", ""));
    let (_holds, mut waits) = one_holds_one_waits(&tutti, &a);
    tutti.write_config(
        &yaml(&a, &b, "b", "").replace("name: risk\n", "name: other\n").replace("aliases: [risk-model]", "aliases: []"),
    );
    let answer = waits.answer().unwrap();
    assert_eq!(answer.status, 404, "{}", answer.text());
}

#[test]
fn an_endpoint_that_leads_back_is_refused() {
    let (a, b) = (simulator("ma"), simulator("mb"));
    let tutti = Tutti::start(&yaml(&a, &b, "a", ""));
    tutti.write_config(&yaml(&a, &b, "a", "").replace(&b.url(), &format!("http://{}", tutti.listen())));
    let line = tutti.wait_said("the changed configuration is refused")["fields"]["message"].to_string();
    assert!(line.contains("is this gateway itself"), "{line}");
    assert_eq!(tutti.ask("POST", "/api/chat", CHAT).status, 200);
}

#[test]
fn a_file_that_was_emptied_takes_nothing_away() {
    let replica = simulator("ma");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.yaml");
    std::fs::write(&file, pool(&[replica.url()], "expose: all")).unwrap();
    let tutti = Tutti::start_with(&["gateway", "--config", file.to_str().unwrap()], "", &[]);
    std::fs::write(&file, "").unwrap();
    let line = tutti.wait_said("the changed configuration is refused")["fields"]["message"].to_string();
    assert!(line.contains("no pools any more"), "{line}");
    assert!(tutti.ask("GET", "/api/tags", "").text().contains("ma:latest"));
    std::fs::write(&file, pool(&[replica.url()], "expose: all\n    slots: 2")).unwrap();
    tutti.wait_said("the changed configuration is in force");
}

#[test]
fn what_comes_through_a_pipe_is_read_once() {
    let replica = simulator("ma");
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (to, yaml) = (pipe.clone(), pool(&[replica.url()], "expose: all"));
    let writes = std::thread::spawn(move || std::fs::write(to, yaml));
    let mut tutti = Tutti::start_with(&["gateway", "--config", pipe.to_str().unwrap()], "", &[]);
    writes.join().unwrap().unwrap();
    tutti.wait_said("it is read once and not followed");
    assert!(tutti.ask("GET", "/api/tags", "").text().contains("ma:latest"));
    tutti.signal(rustix::process::Signal::TERM);
    assert_eq!(tutti.wait_ended(), Some(0));
}

#[test]
fn what_only_a_start_takes_is_said() {
    let (a, b) = (simulator("ma"), simulator("mb"));
    let tutti = Tutti::start(&yaml(&a, &b, "a", ""));
    tutti.write_config(&format!("gateway: {{ admin: {{ tokenFile: other }} }}\n{}", yaml(&a, &b, "a", "")));
    let line = tutti.wait_said("taken at the next start")["fields"]["message"].to_string();
    assert!(line.contains("gateway.admin.tokenFile"), "{line}");
    let (admin, token) = (tutti.admin(), tutti.token_file());
    let page = run(&["status", "--admin", &admin, "--token-file", token.to_str().unwrap()], &[]).stdout;
    assert!(page.contains("taken at the next start: gateway.admin.tokenFile"), "{page}");
}

#[test]
fn status_tells_of_a_broken_file_though_it_is_broken() {
    let (a, b) = (simulator("ma"), simulator("mb"));
    let tutti = Tutti::start(&yaml(&a, &b, "a", ""));
    let (admin, token) = (tutti.admin(), tutti.token_file());
    let token = token.to_str().unwrap();
    let broken =
        format!("gateway:\n  admin: {{ listen: \"{admin}\", tokenFile: \"{token}\" }}\npools: [ {{ nmae: x }} ]\n");
    tutti.write_config(&broken);
    tutti.wait_said("the changed configuration is refused");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.yaml");
    std::fs::write(&file, &broken).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [vec!["--config", file, "--admin", &admin, "--token-file", token], vec!["--config", file]] {
        let ended = run(&[&["status"], &arguments[..]].concat(), &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains("configuration was refused"), "{}", ended.stdout);
        assert!(ended.stdout.contains(&a.url()), "{}", ended.stdout);
    }
}
