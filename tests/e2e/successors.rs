//! A gateway that takes another's place while one of the two is stopped or ends, beside a third, and by another
//! configuration; and what it has open then.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tutti_simulator::Running;
use tutti_tests::{Certificate, Files, Tutti, eventually, pool, run, simulator};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
const TAKE_OVER: [&str; 4] = ["gateway", "--config", "tutti.yaml", "--take-over"];

/// A gateway, and one that is stopped while it has the other's ports and is not ready.
fn both(replica: &Running) -> (Tutti, Tutti) {
    let old = Tutti::before(&[replica.url()]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_url = format!("http://{}", silent.local_addr().expect("an address"));
    old.write_config(&pool(&[replica.url(), silent_url], "expose: all"));
    let new = old.beside(&TAKE_OVER, &[]);
    old.wait_said("a process has the ports"); // and it waits two seconds for what the silent one has
    new.signal(Signal::STOP);
    assert!(!new.has_said("tutti serves"));
    (old, new)
}

#[test]
fn one_that_is_stopped_leaves_once_it_goes_on() {
    let replica = simulator();
    let (mut old, new) = both(&replica);
    old.signal(Signal::STOP);
    new.signal(Signal::CONT);
    new.wait_said("does not leave yet");
    new.wait_said("tutti serves");
    assert_eq!(new.ask("POST", "/api/chat", CHAT).status, 200);
    old.signal(Signal::CONT);
    assert_eq!(old.wait_ended(), Some(0), "never two for good");
    new.wait_said("the one before drains");
    assert_eq!(new.ask("POST", "/api/chat", CHAT).status, 200);
}

#[test]
fn one_that_ends_before_the_other_is_ready_leaves_the_port_open() {
    let replica = simulator();
    for signal in [Signal::TERM, Signal::KILL] {
        let (mut old, new) = both(&replica);
        let address = old.listen();
        old.signal(signal);
        assert_eq!(old.wait_ended(), (signal == Signal::TERM).then_some(0));
        let mut waits = tutti_tests::Client::connect(&address).expect("the port is open");
        waits.send("POST", "/api/chat", &[], CHAT).expect("it is sent");
        new.signal(Signal::CONT);
        assert_eq!(waits.answer().expect("an answer").status, 200);
        new.wait_said("the one before has ended without a word");
        let third = new.beside(&TAKE_OVER, &[]);
        third.wait_said("tutti serves");
        new.wait_said("another process has taken over");
    }
}

#[test]
fn of_two_at_once_one_takes_over() {
    let replica = simulator();
    let (mut old, first) = both(&replica);
    let mut second = old.beside(&TAKE_OVER, &[]);
    assert_eq!(second.wait_ended(), Some(1));
    second.wait_said("another process is about to take over");
    first.signal(Signal::CONT);
    first.wait_said("tutti serves");
    assert_eq!(old.wait_ended(), Some(0));
    assert_eq!(first.ask("POST", "/api/chat", CHAT).status, 200);
}

#[test]
fn its_successor_may_want_keys_and_speak_tls() {
    let (replica, files) = (simulator(), Files::of(&Certificate::new("a")));
    let mut old = Tutti::before(&[replica.url()]);
    let mut kept = old.client();
    assert_eq!(kept.ask("POST", "/api/chat", &[], CHAT).status, 200);
    let file = old.folder().join("keys.yaml").display().to_string();
    let made = run(&["key", "new", "--name", "n", "--tenant", "t", "--keys-file", &file], &[]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let gateway = format!("gateway: {{ {}, auth: {{ keysFile: {file:?} }} }}\n", files.yaml());
    old.write_config(&format!("{gateway}{}", pool(&[replica.url()], "expose: all")));
    let new = old.beside(&TAKE_OVER, &[]);
    new.wait_said("tutti serves");
    old.wait_said("another process has taken over");
    let curl = |key: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--cacert"]).arg(files.cert());
        let key = format!("Authorization: Bearer {key}");
        curl.args(["-H", &key, "-d", CHAT, "-w", "%{http_code}", "-o", "/dev/null"]);
        let output = curl.arg(format!("https://{}/api/chat", new.listen())).output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!([curl(made.stdout.trim()), curl("wrong")], ["200", "401"]);
    assert_eq!(old.wait_ended(), Some(0));
    assert!(kept.closed_within(tutti_tests::PATIENCE));
}

/// What a process has open, by kind, and whether each socket would be closed in a program that it starts.
fn open(pid: u32) -> (BTreeMap<String, usize>, bool) {
    let (mut kinds, mut all_close) = (BTreeMap::new(), true);
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        *kinds.entry(target.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
        let number: u32 = entry.file_name().to_string_lossy().parse().expect("a number");
        all_close &=
            !target.starts_with("socket:") || closes(&Path::new("/proc").join(pid.to_string()).join("fdinfo"), number);
    }
    (kinds, all_close)
}

/// Whether `O_CLOEXEC` is among a file's flags.
fn closes(folder: &Path, number: u32) -> bool {
    let info = fs::read_to_string(folder.join(number.to_string())).unwrap_or_default();
    let flags = info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_none_or(|flags| flags & 0o2_000_000 != 0) // closed meanwhile
}

#[test]
fn no_file_is_left_open_by_it() {
    let replica = simulator();
    let mut runs = Tutti::before(&[replica.url()]);
    let (first, _) = open(runs.pid());
    for _ in 0..4 {
        let new = runs.beside(&TAKE_OVER, &[]);
        new.wait_said("tutti serves");
        assert_eq!(runs.wait_ended(), Some(0));
        runs = new;
    }
    eventually("as many files as the first had", || {
        let (now, all_close) = open(runs.pid());
        assert!(all_close, "{now:?}");
        (now.get("socket") <= first.get("socket") && now.len() <= first.len()).then_some(())
    });
}
