//! Replicas that are found: by DNS and in files, which change, fail and lie.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Running, Simulator};
use tutti_tests::{Dns, Says, Tutti, eventually, inference, quick, run, simulator};

/// Simulated replicas at these addresses, all on one port.
fn replicas(addresses: &[&str], config: &Config) -> (Vec<Running>, u16) {
    let at = |address: &str, port| SocketAddr::new(address.parse().expect("an address"), port);
    let start = |listen| Simulator::start(Config { listen, ..config.clone() });
    let all = || {
        let first = start(at(addresses[0], 0)).ok()?;
        let port = first.addr().port();
        let others = addresses[1..].iter().map(|address| start(at(address, port)));
        Some((std::iter::once(Ok(first)).chain(others).collect::<Result<Vec<_>, _>>().ok()?, port))
    };
    (0..20).find_map(|_| all()).expect("a port that is free on all addresses")
}

/// A gateway with the model `m` on these endpoints.
fn yaml(dns: &Dns, endpoints: &str) -> String {
    format!(
        "gateway: {{ allowedHosts: [self.internal], nameservers: [\"{}\"] }}\npools:\n  - {{ name: p, endpoints: [{endpoints}], timeouts: {{ connect: 2s }}, queue: {{ coldWait: 100ms }} }}\n\
         models:\n  - {{ name: m, revisions: [{{ name: v1, pool: p, upstream: m }}] }}\n",
        dns.address()
    )
}

fn chat() -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": false }).to_string()
}

fn status_of(tutti: &Tutti) -> Value {
    let (admin, token) = (tutti.admin(), tutti.token_file());
    let page = run(&["status", "--json", "--admin", &admin, "--token-file", &token.display().to_string()], &[]).stdout;
    serde_json::from_str(&page).unwrap_or_else(|error| panic!("{error}: {page}"))
}

/// The replicas that the gateway has now: where each is and who said so.
fn known(tutti: &Tutti) -> Vec<(String, String)> {
    let status = status_of(tutti);
    let replicas = status["pools"][0]["replicas"].as_array().expect("replicas");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let named = replicas.iter().filter(|replica| replica["leaving"] == false);
    named.map(|replica| (text(&replica["url"]), text(&replica["from"]))).collect()
}

/// Waits until it has exactly the replicas at these addresses.
fn has(tutti: &Tutti, addresses: &[&str], port: u16) {
    let expected: Vec<String> = addresses.iter().map(|address| format!("http://{address}:{port}")).collect();
    eventually(&format!("{expected:?}"), || {
        let known: Vec<String> = known(tutti).into_iter().map(|(url, _)| url).collect();
        (known == expected).then_some(())
    });
}

fn count(replica: &Running) -> usize {
    inference(&replica.seen()).len()
}

fn ask(tutti: &Tutti) -> u16 {
    tutti.ask("POST", "/api/chat", &chat()).status
}

#[test]
fn a_name_is_as_many_replicas_as_it_has_addresses_now() {
    let slow = Machine { token_time: Duration::from_millis(40), ..Machine::instant() };
    let config = Config { machine: slow, answer_tokens: 100, ..quick() };
    let (replicas, port) = replicas(&["127.0.0.1", "127.0.0.2", "127.0.0.3"], &config);
    let dns = Dns::start();
    dns.set_addresses("gpus.test", &["127.0.0.1"]);
    let tutti = Tutti::start(&yaml(&dns, &format!("{{ dns: \"gpus.test:{port}\" }}")));
    assert_eq!(known(&tutti), [(format!("http://127.0.0.1:{port}"), format!("dns gpus.test:{port}"))]);

    let mut stream = tutti.begin("/api/chat", &chat().replace("false", "true"));
    stream.head().unwrap();
    assert!(!stream.chunk().unwrap().is_empty());
    dns.set_addresses("gpus.test", &["127.0.0.3", "127.0.0.2"]);
    has(&tutti, &["127.0.0.2", "127.0.0.3"], port);
    for replica in &replicas[1..] {
        let asked = replica.seen().iter().any(|seen| seen.path == "/api/tags");
        assert!(asked, "asked what it has before anybody is sent there");
    }
    let waiting: Vec<_> = (0..4).map(|_| tutti.begin("/api/chat", &chat())).collect();
    eventually("requests at both of the new ones", || {
        let counts = [count(&replicas[1]), count(&replicas[2])];
        (counts.iter().sum::<usize>() == 4 && !counts.contains(&0)).then_some(())
    });
    drop(waiting);
    assert_eq!(count(&replicas[0]), 1);
    let mut last = Vec::new();
    loop {
        match stream.chunk().unwrap() {
            end if end.is_empty() => break,
            chunk => last = chunk,
        }
    }
    let last: Value = serde_json::from_slice(&last).unwrap();
    assert_eq!(last["done"], true, "the stream of one that is gone ends in peace");
}

#[test]
fn while_dns_fails_the_last_addresses_stay_and_that_there_are_none_is_believed() {
    let (_replicas, port) = replicas(&["127.0.0.1", "127.0.0.2"], &quick());
    let dns = Dns::start();
    let both = ["127.0.0.1", "127.0.0.2"];
    dns.set_addresses("gpus.test", &both);
    let tutti = Tutti::start(&yaml(&dns, &format!("{{ dns: \"gpus.test:{port}\" }}")));
    let failing = |is: f64| {
        eventually(&format!("failing: {is}"), || {
            (tutti.metric("tutti_discovery_failing", &["gpus.test"]) == is).then_some(())
        });
    };
    for failure in [Says::Fails, Says::Silence, Says::Garbage] {
        dns.set("gpus.test", failure.clone());
        failing(1.0);
        let source = status_of(&tutti)["discovery"][0].clone();
        assert!(source["why"].as_str().unwrap().starts_with("no name server can tell"), "{failure:?}: {source}");
        has(&tutti, &both, port);
        assert_eq!(ask(&tutti), 200, "{failure:?}");
        dns.set_addresses("gpus.test", &both);
        failing(0.0);
    }
    assert!(tutti.metric("tutti_discovery_failures_total", &["gpus.test"]) >= 3.0);
    tutti.wait_said("discovery fails; what was known stays");
    for nothing in [Says::NoSuchName, Says::Nothing(1)] {
        dns.set("gpus.test", nothing.clone());
        has(&tutti, &[], port);
        let answer = tutti.ask("POST", "/v1/chat/completions", &chat());
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("no_replica")), "{nothing:?}");
        assert_eq!(answer.header("x-should-retry"), Some("true"));
        failing(0.0);
        dns.set_addresses("gpus.test", &both[..1]);
        has(&tutti, &both[..1], port);
        assert_eq!(ask(&tutti), 200, "{nothing:?}");
    }
}

#[test]
fn the_gateway_starts_before_its_names_are_known() {
    let (_replicas, port) = replicas(&["127.0.0.2"], &quick());
    for first in [Says::NoSuchName, Says::Fails, Says::Silence] {
        let dns = Dns::start();
        dns.set("gpus.test", first.clone());
        let tutti = Tutti::start(&yaml(&dns, &format!("{{ dns: \"gpus.test:{port}\" }}")));
        assert_eq!(ask(&tutti), 503, "{first:?}");
        dns.set_addresses("gpus.test", &["127.0.0.2"]);
        eventually("the first replica", || (ask(&tutti) == 200).then_some(()));
    }
}

#[test]
fn who_answers_for_one_family_alone_is_heard() {
    let (_replicas, port) = replicas(&["127.0.0.1", "127.0.0.2"], &quick());
    let all = [(); 3].map(|()| Dns::start());
    let say = |address: &str| {
        all.iter().for_each(|dns| dns.set("gpus.test", Says::OnlyV4(vec![address.parse().unwrap()], 1)));
    };
    say("127.0.0.1");
    let servers = all.each_ref().map(|dns| format!("\"{}\"", dns.address())).join(", ");
    let config = yaml(&all[0], &format!("{{ dns: \"gpus.test:{port}\" }}"));
    let tutti = Tutti::start(&config.replace(&format!("\"{}\"", all[0].address()), &servers));
    assert_eq!(ask(&tutti), 200, "it is known from the start");
    say("127.0.0.2");
    has(&tutti, &["127.0.0.2"], port);
    assert_eq!(tutti.metric("tutti_discovery_failing", &["gpus.test"]), 0.0);
}

#[test]
fn a_name_in_a_url_is_one_replica_wherever_it_is() {
    let (replicas, port) = replicas(&["127.0.0.2", "127.0.0.3"], &quick());
    let dns = Dns::start();
    dns.set_addresses("gpu.internal", &["127.0.0.1", "127.0.0.2"]);
    let tutti = Tutti::start(&yaml(&dns, &format!("{{ url: \"http://gpu.internal:{port}\" }}")));
    assert_eq!(known(&tutti), [(format!("http://gpu.internal:{port}"), "url".to_owned())]);
    assert_eq!(ask(&tutti), 200, "the first address refuses, and the next is tried");
    assert_eq!([count(&replicas[0]), count(&replicas[1])], [1, 0]);
    let host = inference(&replicas[0].seen())[0].header("host").next().map(<[u8]>::to_vec);
    assert_eq!(host, Some(format!("gpu.internal:{port}").into_bytes()));

    dns.set_addresses("gpu.internal", &["127.0.0.3"]);
    eventually("requests where the name leads now, over no older connection", || {
        (ask(&tutti) == 200 && count(&replicas[1]) > 0).then_some(())
    });
    let before = count(&replicas[0]);
    assert_eq!(ask(&tutti), 200);
    assert_eq!(count(&replicas[0]), before);

    dns.set("gpu.internal", Says::NoSuchName);
    let answer = eventually("an error", || {
        let answer = tutti.ask("POST", "/api/chat", &chat());
        (answer.status == 503).then_some(answer)
    });
    assert!(answer.text().contains("its name cannot be resolved: there is no such name"), "{}", answer.text());
    dns.set_addresses("gpu.internal", &["127.0.0.2"]);
    eventually("the replica again", || (ask(&tutti) == 200).then_some(()));
}

#[test]
fn a_replica_that_moved_is_found_before_its_ttl_ends() {
    let (mut replicas, port) = replicas(&["127.0.0.2", "127.0.0.3"], &quick());
    let dns = Dns::start();
    let at = |address: &str| Says::Addresses(vec![address.parse().unwrap()], 3600);
    dns.set("gpu.internal", at("127.0.0.2"));
    let tutti = Tutti::start(&yaml(&dns, &format!("{{ url: \"http://gpu.internal:{port}\" }}")));
    assert_eq!(ask(&tutti), 200);
    dns.set("gpu.internal", at("127.0.0.3"));
    drop(replicas.remove(0)); // it started again elsewhere, as a container does
    let begun = std::time::Instant::now();
    eventually("the replica where it is now", || (ask(&tutti) == 200).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(20), "its TTL was taken for 30 s");
}

#[test]
fn a_list_that_is_not_right_is_told_by_check_too() {
    let list = List::new("http://h:1\nh:2\n");
    let config =
        List::new(&format!("pools: [{{ name: p, endpoints: [{{ file: \"{}\" }}], expose: all }}]", list.path()));
    let checked = run(&["check", "--config", &config.path()], &[]);
    assert_eq!(checked.code, Some(0), "the list may be another machine's");
    assert!(checked.stderr.contains("line 2: this is no replica's URL"), "{}", checked.stderr);
}

#[test]
fn other_name_servers_are_asked_once_the_configuration_names_them() {
    let (_replicas, port) = replicas(&["127.0.0.1", "127.0.0.2"], &quick());
    let (one, other) = (Dns::start(), Dns::start());
    one.set_addresses("gpus.test", &["127.0.0.1"]);
    other.set_addresses("gpus.test", &["127.0.0.2"]);
    let endpoints = format!("{{ dns: \"gpus.test:{port}\" }}");
    let tutti = Tutti::start(&yaml(&one, &endpoints));
    has(&tutti, &["127.0.0.1"], port);
    tutti.write_config(&yaml(&other, &endpoints));
    has(&tutti, &["127.0.0.2"], port);
    // The first one that cannot tell is not the last that is asked.
    one.set("gpus.test", Says::Fails);
    other.set_addresses("gpus.test", &["127.0.0.1", "127.0.0.2"]);
    let both = yaml(&one, &endpoints).replace("\"]", &format!("\", \"{}\"]", other.address()));
    tutti.write_config(&both);
    has(&tutti, &["127.0.0.1", "127.0.0.2"], port);
}

#[test]
fn localhost_and_addresses_are_asked_of_nobody() {
    let replica = simulator();
    let port = replica.addr().port();
    let dns = Dns::start();
    dns.set("localhost", Says::Fails);
    let endpoints = format!("{{ url: \"http://localhost:{port}\" }}, {{ url: \"http://127.0.0.1:{port}\" }}");
    let tutti = Tutti::start(&yaml(&dns, &endpoints));
    assert_eq!(ask(&tutti), 200);
    assert_eq!(dns.asked("localhost"), 0);
    assert_eq!(status_of(&tutti)["discovery"], json!([]));
}

#[test]
fn a_thousand_addresses_are_taken_and_the_one_that_lives_is_found() {
    let (replicas, port) = replicas(&["127.7.0.77"], &quick());
    let thousand = |from: u8| -> Vec<IpAddr> {
        (0..1000)
            .map(|number: u16| Ipv4Addr::new(127, from, (number / 250) as u8, (number % 250) as u8).into())
            .collect()
    };
    let dns = Dns::start();
    dns.set("gpus.test", Says::Addresses(thousand(7), 1));
    let tutti = Tutti::start(&yaml(&dns, &format!("{{ dns: \"gpus.test:{port}\" }}")));
    assert_eq!(tutti.metric("tutti_discovery_endpoints", &["gpus.test"]), 1000.0, "by TCP, as a datagram has no room");
    for _ in 0..3 {
        assert_eq!(ask(&tutti), 200);
    }
    assert_eq!(count(&replicas[0]), 3);
    let more = [thousand(7), thousand(8)].concat();
    dns.set("gpus.test", Says::Addresses(more, 1));
    eventually("a most", || (tutti.metric("tutti_discovery_endpoints", &["gpus.test"]) == 1024.0).then_some(()));
    assert!(tutti.metric("tutti_limit_hits_total", &["\"addresses\""]) >= 1.0);
    assert_eq!(ask(&tutti), 200);
}

#[test]
fn the_gateway_itself_is_no_replica_of_its_own() {
    let replica = simulator();
    let dns = Dns::start();
    let written = format!("{{ url: \"{}\" }}", replica.url());
    let tutti = Tutti::start(&yaml(&dns, &written));
    let port = tutti.listen().rsplit(':').next().unwrap().to_owned();
    dns.set_addresses("self.internal", &["127.0.0.1"]);
    tutti.write_config(&yaml(&dns, &format!("{written}, {{ dns: \"self.internal:{port}\" }}")));
    tutti.wait_said("the changed configuration is in force");
    tutti.wait_said("this is the gateway itself");
    assert_eq!(known(&tutti).len(), 1);
    assert_eq!(ask(&tutti), 200);
    tutti.write_config(&yaml(&dns, &format!("{written}, {{ url: \"http://self.internal:{port}\" }}")));
    let line = tutti.wait_said("the changed configuration is refused")["fields"]["message"].to_string();
    assert!(line.contains("is this gateway itself"), "{line}");
    assert_eq!(ask(&tutti), 200);
}

/// A list of replicas in a folder of its own.
struct List(TempDir);

impl List {
    fn new(text: &str) -> Self {
        let list = Self(tempfile::tempdir().expect("a folder"));
        list.write(text);
        list
    }

    fn path(&self) -> String {
        self.0.path().join("replicas").display().to_string()
    }

    fn write(&self, text: &str) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(new, self.path())).expect("a list that is written");
    }
}

#[test]
fn a_list_in_a_file_is_followed_and_a_broken_one_changes_nothing() {
    let (_replicas, port) = replicas(&["127.0.0.1", "127.0.0.2"], &quick());
    let list = List::new(&format!("# rack 1\nhttp://127.0.0.1:{port}\n"));
    let dns = Dns::start();
    let path = list.path();
    let tutti = Tutti::start(&yaml(&dns, &format!("{{ file: \"{path}\" }}")));
    assert_eq!(known(&tutti), [(format!("http://127.0.0.1:{port}"), format!("file {path}"))]);

    list.write(&format!("http://127.0.0.2:{port}\nhttp://u:secretpw@127.0.0.1:{port}\n"));
    let line = tutti.wait_said("discovery fails; what was known stays");
    assert!(line["fields"]["why"].as_str().unwrap().contains("line 2: this is no replica's URL"), "{line}");
    assert!(!line.to_string().contains("secretpw"), "{line}");
    assert_eq!(tutti.metric("tutti_discovery_failing", &["kind=\"file\""]), 1.0);
    let source = status_of(&tutti)["discovery"][0].clone();
    assert!(source["why"].as_str().unwrap().contains("line 2"), "{source}");
    has(&tutti, &["127.0.0.1"], port);
    assert_eq!(ask(&tutti), 200);

    list.write(&format!("http://127.0.0.2:{port}\n"));
    has(&tutti, &["127.0.0.2"], port);
    assert_eq!(tutti.metric("tutti_discovery_failing", &["kind=\"file\""]), 0.0);
    std::fs::remove_file(&path).unwrap();
    eventually("that it is gone", || {
        (tutti.metric("tutti_discovery_failing", &["kind=\"file\""]) == 1.0).then_some(())
    });
    assert_eq!(ask(&tutti), 200);
    let (admin, token) = (tutti.admin(), tutti.token_file());
    let page = run(&["status", "--admin", &admin, "--token-file", token.to_str().unwrap()], &[]).stdout;
    assert!(page.contains(&format!("in flight, from file {path}")) && page.contains("FAILING (2 times)"), "{page}");
}

#[test]
fn a_mixed_list_counts_each_replica_once_and_names_may_stand_in_files() {
    let (replicas, port) = replicas(&["127.0.0.1", "127.0.0.2", "127.0.0.3"], &quick());
    let dns = Dns::start();
    dns.set_addresses("gpus.test", &["127.0.0.1", "127.0.0.2"]);
    dns.set_addresses("third.internal", &["127.0.0.3"]);
    let list = List::new(&format!("http://127.0.0.2:{port}\nhttp://third.internal:{port}\n"));
    let path = list.path();
    let mixed =
        format!("{{ url: \"http://127.0.0.1:{port}\" }}, {{ dns: \"gpus.test:{port}\" }}, {{ file: \"{path}\" }}");
    let tutti = Tutti::start(&yaml(&dns, &mixed));
    let expected = [
        (format!("http://127.0.0.1:{port}"), format!("url, dns gpus.test:{port}")),
        (format!("http://127.0.0.2:{port}"), format!("dns gpus.test:{port}, file {path}")),
        (format!("http://third.internal:{port}"), format!("file {path}")),
    ];
    assert_eq!(known(&tutti), expected);
    let mut client = tutti.client(); // one, so that the replicas take turns
    (0..6).for_each(|_| assert_eq!(client.ask("POST", "/api/chat", &[], &chat()).status, 200));
    assert_eq!(replicas.iter().map(count).collect::<Vec<_>>(), [2, 2, 2]);
    let source = status_of(&tutti);
    let replica = &source["pools"][0]["replicas"][2];
    assert_eq!(replica["addresses"], json!([format!("127.0.0.3:{port}")]));
}

/// Endpoints come and go, one of them dies, all under load. Nobody's request fails: one that meets the dead replica is
/// tried on another.
#[test]
fn nothing_fails_while_the_list_changes() {
    let config =
        Config { machine: Machine { token_time: Duration::from_micros(500), ..Machine::instant() }, ..quick() };
    let addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let (mut replicas, port) = replicas(&addresses, &config);
    let (dns, list) = (Dns::start(), List::new("# none\n"));
    dns.set_addresses("gpus.test", &addresses);
    let path = list.path();
    let tutti = Tutti::start(&yaml(&dns, &format!("{{ dns: \"gpus.test:{port}\" }}, {{ file: \"{path}\" }}")));
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let changed = |before: f64| {
        eventually("another table", || (tutti.metric("tutti_config_generation", &[]) > before).then_some(()));
    };
    std::thread::scope(|scope| {
        for streams in [true, false, true, false] {
            let (tutti, done, sent) = (&tutti, &done, &sent);
            scope.spawn(move || {
                let body = chat().replace("false", if streams { "true" } else { "false" });
                let mut client = tutti.client();
                while !done.load(Relaxed) {
                    let answer = client.ask("POST", "/api/chat", &[], &body);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert!(answer.complete && answer.lines().last().unwrap().contains("\"done\":true"), "{answer:?}");
                    sent.fetch_add(1, Relaxed);
                }
            });
        }
        let rounds = [vec![0, 1], vec![2, 3], vec![1], vec![0, 1, 2, 3], vec![3]];
        for (round, living) in rounds.iter().enumerate() {
            let before = tutti.metric("tutti_config_generation", &[]);
            let named: Vec<&str> = living.iter().map(|at| addresses[*at]).collect();
            dns.set_addresses("gpus.test", &named);
            let urls: String = named.iter().rev().map(|at| format!("http://{at}:{port}\n")).collect();
            list.write(&format!("# {round}\n{}", if round % 2 == 0 { &urls } else { "" }));
            changed(before);
        }
        has(&tutti, &["127.0.0.4"], port);
        eventually("the last answers of one that is gone", || {
            inference(&replicas[0].seen()).iter().all(|seen| seen.finished.is_some()).then_some(())
        });
        let before = sent.load(Relaxed);
        drop(replicas.remove(0)); // 127.0.0.1 dies, and DNS names it all the same
        dns.set_addresses("gpus.test", &addresses);
        has(&tutti, &["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"], port);
        eventually("more requests", || (sent.load(Relaxed) > before + 100).then_some(()));
        done.store(true, Relaxed);
    });
}
