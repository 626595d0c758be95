//! The machine's clock is set while a gateway runs: forward, back, and to before 1970. What lasts is measured by the
//! monotonic clock, which nobody sets; only what is said as a time of day goes by the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tutti_simulator::Config;
use tutti_simulator::engine::Machine;
use tutti_tests::{Answer, Client, Tutti, eventually, inference, pool, quick, reached, run, simulator_with};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}"#;
const DAY: i64 = 86_400;

/// `clock_gettime` as a process sees it: the wall clock is off by the seconds in a file. The linker that Rust itself
/// needs makes it.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    const char *path = getenv("CLOCK_OFF_BY");
    if (failed || clock != CLOCK_REALTIME || !path) return failed;
    char text[32] = { 0 };
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && read(file, text, sizeof text - 1) > 0) now->tv_sec += atoll(text);
    if (file >= 0) close(file);
    return 0;
}
"#;

/// A clock that a test sets.
struct Clock(TempDir);

impl Clock {
    fn new() -> Self {
        let clock = Self(tempfile::tempdir().expect("a folder"));
        clock.set(0);
        let source = clock.file("clock.c");
        fs::write(&source, SHIM).expect("written");
        let mut cc = Command::new("cc");
        let made = cc.args(["-shared", "-fPIC", "-o"]).args([clock.file("clock.so"), source]).status().expect("cc");
        assert!(made.success(), "{made}");
        clock
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Off by so many seconds from now on.
    fn set(&self, seconds: i64) {
        fs::write(self.file("new"), seconds.to_string()).expect("written");
        fs::rename(self.file("new"), self.file("off")).expect("renamed");
    }

    fn start(&self, yaml: &str) -> Tutti {
        let (shim, off) = (self.file("clock.so").display().to_string(), self.file("off").display().to_string());
        let env = [("LD_PRELOAD", &*shim), ("CLOCK_OFF_BY", &off)];
        Tutti::start_with(&["gateway", "--config", "tutti.yaml"], yaml, &env)
    }
}

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
    let clock = Clock::new();
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
