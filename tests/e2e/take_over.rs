//! A gateway that takes another's place, and loses nothing; and one that cannot, which changes nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Fault, Model, Running, Scope};
use tutti_tests::{
    Client, Load, Loaded, Tutti, eventually, inference, pool, quick, reached, simulator, simulator_with,
};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
const STREAM: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const TAKE_OVER: [&str; 4] = ["gateway", "--config", "tutti.yaml", "--take-over"];

fn sockets(tutti: &Tutti) -> Vec<PathBuf> {
    let entries = fs::read_dir(tutti.folder().join("tutti/take-over")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The process that answers at the admin port.
fn pid(tutti: &Tutti) -> u64 {
    let token = fs::read_to_string(tutti.token_file()).expect("a token");
    let mut client = Client::connect(&tutti.admin()).expect("a connection");
    client.ask("GET", "/status", &[("authorization", &format!("Bearer {}", token.trim()))], "").json()["pid"]
        .as_u64()
        .unwrap_or_default()
}

fn ready(tutti: &Tutti) -> u16 {
    Client::connect(&tutti.ops()).expect("a connection").ask("GET", "/readyz", &[], "").status
}

#[test]
fn another_takes_its_place_and_what_was_begun_ends_well() {
    let machine = Machine { token_time: Duration::from_millis(20), ..Machine::instant() };
    let replica = simulator_with(Config { machine, answer_tokens: 150, ..quick() });
    let mut old = Tutti::before(&[replica.url()]);
    let mut streams = old.begin("/api/chat", STREAM); // for three seconds
    assert_eq!(streams.head().unwrap().status, 200);
    let (mut kept, mut kept_ops) = (old.client(), Client::connect(&old.ops()).unwrap());
    assert_eq!(kept.ask("GET", "/healthz", &[], "").status, 200);
    assert_eq!(kept_ops.ask("GET", "/readyz", &[], "").status, 200);
    assert_eq!(pid(&old), u64::from(old.pid()));

    let new = old.beside(&TAKE_OVER, &[]);
    new.wait_said("tutti serves");
    assert_eq!((new.listen(), new.ops(), new.admin()), (old.listen(), old.ops(), old.admin()));
    old.wait_said("another process has taken over");
    old.signal(Signal::TERM); // by whoever thinks that it would stay
    old.wait_said("draining already");
    assert_eq!(pid(&new), u64::from(new.pid()));
    for _ in 0..10 {
        assert_eq!((ready(&new), new.ask("GET", "/readyz", "").status), (200, 200));
        assert_eq!(new.ask("GET", "/v1/models", "").status, 200);
    }
    let answer = kept_ops.ask("GET", "/readyz", &[], "");
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close")),
        "the address is ready, whoever is there"
    );
    let answer = kept.ask("GET", "/readyz", &[], "");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let last = streams.last_chunk();
    assert!(String::from_utf8_lossy(&last).contains("\"done\":true"), "the stream ended whole");
    assert_eq!(old.wait_ended(), Some(0));
    let line = old.wait_logged("the stream's", |line| line["api"] == "/api/chat");
    assert_eq!(line["outcome"], "ok");
    assert_eq!(sockets(&new).len(), 1, "the new one can be taken over from, and the old one's socket is gone");
    assert_eq!(new.ask("POST", "/api/chat", CHAT).status, 200);
}

#[test]
fn who_is_drained_stays_drained() {
    let replicas = [simulator(), simulator()];
    let mut old = Tutti::before(&replicas.each_ref().map(Running::url));
    assert_eq!(old.command(&["drain", &replicas[0].url()]).code, Some(0));
    let new = old.beside(&TAKE_OVER, &[]);
    new.wait_said("tutti serves");
    assert_eq!(old.wait_ended(), Some(0));
    for _ in 0..6 {
        assert_eq!(new.ask("POST", "/api/chat", CHAT).status, 200);
    }
    assert_eq!(inference(&replicas[0].seen()).len(), 0);
    assert_eq!(new.metric("tutti_replica_drained", &[&replicas[0].url()]), 1.0);
    assert_eq!(new.command(&["undrain", &replicas[0].url()]).code, Some(0));
    for _ in 0..6 {
        assert_eq!(new.ask("POST", "/api/chat", CHAT).status, 200);
    }
    assert!(!inference(&replicas[0].seen()).is_empty());
}

#[test]
fn its_successor_drives_releases_at_once_and_goes_by_what_was_decided() {
    let [a, b] = ["ma", "mb"].map(|name| simulator_with(Config::quick(Model::chat(name, 1 << 20))));
    let old = Tutti::start(&format!(
        "pools: [{{ name: a, endpoints: [{{ url: '{}' }}] }}, {{ name: b, endpoints: [{{ url: '{}' }}] }}]\n\
         models: [{{ name: m, revisions: [{{ name: v1, pool: a, upstream: ma }}, {{ name: v2, pool: b, upstream: mb }}], \
         traffic: {{ revision: v1 }} }}]\n",
        a.url(),
        b.url()
    ));
    assert_eq!(old.command(&["traffic", "m", "--to", "v2"]).code, Some(0));
    b.set_fault(Some((Fault::Silent, Scope::Inference)));
    let _waits = old.begin("/api/chat", STREAM); // and the old one with it
    reached(&b, 1);
    let new = old.beside(&TAKE_OVER, &[]);
    new.wait_said("tutti serves");
    old.wait_said("another process has taken over");
    let rolled_back = eventually("it has let go", || {
        let ended = new.command(&["rollback", "m"]);
        assert!(ended.code == Some(0) || ended.stderr.contains("another driver is at work"), "{}", ended.stderr);
        (ended.code == Some(0)).then_some(ended.stdout)
    });
    assert_eq!(b.in_flight(), 1, "the old one still has its client");
    assert!(
        rolled_back.contains("v1 serves all: rolled back"),
        "from v2, which the old one had decided: {rolled_back}"
    );
    let history = new.command(&["traffic", "m", "--history"]).stdout;
    assert!(history.contains("v2 serves all: at once"), "{history}");
    let mut asks = new.begin("/api/chat", STREAM);
    assert_eq!(asks.head().unwrap().header("x-tutti-revision"), Some("v1"));
}

#[test]
fn one_that_fails_changes_nothing() {
    let (replica, silent) = (simulator(), TcpListener::bind("127.0.0.1:0").unwrap());
    let good = pool(&[replica.url()], "expose: all");
    let old = Tutti::start(&good);
    let serves_on = || {
        assert_eq!(old.ask("POST", "/api/chat", CHAT).status, 200);
        assert_eq!((pid(&old), ready(&old)), (u64::from(old.pid()), 200));
    };
    // Wrong before it asks for anything.
    fs::write(old.folder().join("wrong.yaml"), "pools: [ { nmae: x } ]").unwrap();
    let mut new = old.beside(&["gateway", "--config", "wrong.yaml", "--take-over"], &[]);
    assert_eq!(new.wait_ended(), Some(2));
    serves_on();
    // An address that it cannot have.
    let taken = silent.local_addr().unwrap().to_string();
    let mut new = old.beside(&TAKE_OVER, &[("TUTTI__GATEWAY__OPS", &taken)]);
    assert_eq!(new.wait_ended(), Some(1));
    new.wait_said("is in use by process");
    serves_on();
    // Wrong, and killed, while it has the ports.
    let itself = pool(&[format!("http://localhost:{}", old.listen().rsplit(':').next().unwrap_or_default())], "");
    let slow = pool(&[replica.url(), format!("http://{taken}")], "expose: all");
    for (yaml, kill) in [(itself, false), (slow, true)] {
        fs::write(old.folder().join("other.yaml"), yaml).unwrap();
        let mut new = old.beside(&["gateway", "--config", "other.yaml", "--take-over"], &[]);
        if kill {
            old.wait_said("a process has the ports");
            let _asked = silent.accept();
            new.signal(Signal::KILL);
        }
        assert_eq!(new.wait_ended(), if kill { None } else { Some(1) });
        let pid = u64::from(new.pid());
        eventually("that it was given up is said", || {
            old.has_said_with("it did not take over", "successor", pid).then_some(())
        });
        serves_on();
    }
    let new = old.beside(&TAKE_OVER, &[]);
    new.wait_said("tutti serves");
    old.wait_said("another process has taken over");
    assert_eq!(pid(&new), u64::from(new.pid()));
}

#[test]
fn where_nobody_runs_it_starts_and_what_was_left_behind_is_no_gateway() {
    let replica = simulator();
    let first = Tutti::start_with(&TAKE_OVER, &pool(&[replica.url()], "expose: all"), &[]);
    first.wait_said("no gateway runs with these addresses");
    first.signal(Signal::KILL);
    assert_eq!(sockets(&first).len(), 1, "left behind");
    let second = first.beside(&TAKE_OVER, &[]);
    second.wait_said("no gateway runs with these addresses");
    second.wait_said("tutti serves");
    assert_eq!(sockets(&first).len(), 1, "its own");
}

#[test]
fn addresses_that_have_changed_are_bound_and_the_others_taken() {
    let replica = simulator();
    let mut old = Tutti::before(&[replica.url()]);
    let new = old.beside(&TAKE_OVER, &[("TUTTI__GATEWAY__OPS", "localhost:0")]);
    new.wait_said("tutti serves");
    assert_eq!((new.listen(), new.admin()), (old.listen(), old.admin()));
    assert_ne!(new.ops(), old.ops());
    assert_eq!((ready(&new), new.ask("POST", "/api/chat", CHAT).status), (200, 200));
    assert_eq!(old.wait_ended(), Some(0));
    assert!(Client::connect(&old.ops()).is_err());
}

#[test]
fn another_version_and_a_folder_of_others_are_refused() {
    let replica = simulator();
    let old = Tutti::before(&[replica.url()]);
    let folder = old.folder().join("tutti/take-over");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut new = old.beside(&TAKE_OVER, &[]);
    assert_eq!(new.wait_ended(), Some(1));
    new.wait_said("only its user may enter");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();

    old.signal(Signal::KILL);
    let other = UnixListener::bind(folder.join("1.sock")).unwrap();
    std::thread::spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let mut hello = String::new();
            let _ = BufReader::new(&stream).read_line(&mut hello);
            let _ = stream.write_all(b"{\"tutti\":99,\"something\":\"else\"}\n");
        }
    });
    let mut new = old.beside(&TAKE_OVER, &[]);
    assert_eq!(new.wait_ended(), Some(1));
    new.wait_said("it takes over by protocol 99");
}

/// Gateways that take each other's place under load, so many times.
fn rounds(rounds: usize) -> Loaded {
    let replica = simulator();
    let first = Tutti::start(&pool(&[replica.url()], "expose: all\n    slots: 64"));
    let address = first.listen();
    let load = Load::start(8, Arc::new(move || Some(address.clone())));
    let mut runs = first;
    for _ in 0..rounds {
        let before = load.asked();
        eventually("work for it", || (load.asked() > before + 200).then_some(()));
        let new = runs.beside(&TAKE_OVER, &[]);
        new.wait_said("tutti serves");
        assert_eq!(runs.wait_ended(), Some(0));
        runs = new;
    }
    load.end()
}

#[test]
fn under_load_nothing_is_lost() {
    let Loaded { asked, failed } = rounds(3);
    assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());
}

#[test]
#[ignore = "50 rounds: cargo test -p tutti-tests --test take_over -- --ignored --nocapture"]
fn fifty_times_under_load_nothing_is_lost() {
    let Loaded { asked, failed } = rounds(50);
    println!("take-over: 50 rounds, {asked} requests, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
}

/// Two gateways that are restarted in turn under load, with clients that connect to whichever is ready, as behind a
/// Service of Kubernetes.
fn restarts(rounds: usize) -> Loaded {
    let replica = simulator();
    let config =
        format!("gateway: {{ shutdownDelay: 500ms }}\n{}", pool(&[replica.url()], "expose: all\n    slots: 64"));
    let start = || Tutti::start(&config);
    let mut both = [start(), start()];
    let endpoints: Arc<Mutex<Vec<(String, String)>>> =
        Arc::new(Mutex::new(both.iter().map(|tutti| (tutti.listen(), tutti.ops())).collect()));
    let ready: Arc<Mutex<Vec<String>>> = Arc::default();
    let (looks, sees) = (endpoints.clone(), ready.clone());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    // The kubelet and kube-proxy, somewhat faster.
    let balancer = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(50)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let known = looks.lock().expect("no panic").clone();
            let is_ready = |ops: &str| {
                Client::connect(ops).is_ok_and(|mut ops| {
                    ops.send("GET", "/readyz", &[], "")
                        .and_then(|()| ops.answer())
                        .is_ok_and(|answer| answer.status == 200)
                })
            };
            *sees.lock().expect("no panic") =
                known.into_iter().filter(|(_, ops)| is_ready(ops)).map(|(listen, _)| listen).collect();
        }
    });
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let (choose, chosen) = (ready.clone(), move |from: &[String]| {
        let turn = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        from.get(turn % from.len().max(1)).cloned()
    });
    let load = Load::start(8, Arc::new(move || chosen(&choose.lock().expect("no panic"))));
    for round in 0..rounds {
        eventually("both are ready", || (ready.lock().expect("no panic").len() == 2).then_some(()));
        let before = load.asked();
        eventually("work", || (load.asked() > before + 200).then_some(()));
        let one = round % 2;
        both[one].signal(Signal::TERM);
        assert_eq!(both[one].wait_ended(), Some(0));
        both[one] = start();
        endpoints.lock().expect("no panic")[one] = (both[one].listen(), both[one].ops());
    }
    let loaded = load.end();
    drop(stop);
    balancer.join().expect("no panic");
    loaded
}

#[test]
fn restarts_under_load_lose_nothing() {
    let Loaded { asked, failed } = restarts(3);
    assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());
}

#[test]
#[ignore = "50 rounds: cargo test -p tutti-tests --test take_over -- --ignored --nocapture"]
fn fifty_restarts_under_load_lose_nothing() {
    let Loaded { asked, failed } = restarts(50);
    println!("SIGTERM: 50 rounds, {asked} requests, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
}
