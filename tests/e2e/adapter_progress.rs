//! What is seen of an adapter that takes its time on the way: on a terminal one line that is drawn again, in a log whole lines.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;
use tutti_tests::site::{FILES, peft};
use tutti_tests::{BUCKET, Fault, Faulty, Store, eventually, run};

/// One of the rig's adapters, packed.
fn packed() -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in FILES {
        fs::copy(peft("risk-v1").join(file), folder.path().join(file)).unwrap();
    }
    let packed = run(&["adapter", "pack", &folder.path().display().to_string()], &[]);
    assert_eq!(packed.code, Some(0), "{}", packed.stderr);
    folder
}

/// A way to the store on which weights wait until they are let through.
fn held(store: &Store) -> (Faulty, Arc<AtomicBool>) {
    let (way, open) = (Faulty::before(store.minio.port()), Arc::new(AtomicBool::new(false)));
    let is_open = open.clone();
    way.set(move |line, _| {
        while line.contains(FILES[1]) && !is_open.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(5)); // that is the fault
        }
        Fault::Pass
    });
    (way, open)
}

/// A command and what it has said so far.
struct Told {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Told {
    /// Runs `tutti adapter …` whose standard error is a terminal, or a pipe.
    fn start(store: &Store, way: &Faulty, terminal: bool, arguments: &[&str]) -> Self {
        let mut command = Command::new(tutti_tests::binary());
        command.arg("adapter").args(arguments).args(["--endpoint", &way.url()]);
        command.arg("--credentials-file").arg(store.credentials_file());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let (mut child, from): (Child, Box<dyn Read + Send>) = if terminal {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let name = ptsname(&master, Vec::new()).unwrap();
            let slave = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
            let child = command.stderr(slave).spawn().unwrap();
            drop(command); // it holds the terminal's other end
            (child, Box::new(File::from(master)))
        } else {
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            let from = child.stderr.take().unwrap();
            (child, Box::new(from))
        };
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = said.clone();
        std::thread::spawn(move || gather(from, &kept));
        assert!(child.try_wait().is_ok());
        Self { child, said }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits until it has said this.
    fn says(&self, what: &str) {
        eventually(&format!("{what:?} in {:?}", self.text()), || self.text().contains(what).then_some(()));
    }

    /// All that it has said, once it has ended well and said this at last.
    fn ended(mut self, last: &str) -> String {
        let status = eventually("its end", || self.child.try_wait().unwrap());
        self.says(last);
        assert!(status.success(), "{}", self.text());
        self.text()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps what comes, until the other end is closed: of a terminal that is an error.
fn gather(mut from: Box<dyn Read + Send>, kept: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        kept.lock().unwrap().extend_from_slice(&chunk[..read]);
    }
}

/// Runs a command on a terminal and another beside it with a pipe, holds the weights up until both have said how far they are,
/// and yields what each has said.
fn seen(store: &Store, what: &str, on_terminal: &[&str], in_log: &[&str], last: &str) -> (String, String) {
    let ((way, open), (other_way, other_open)) = (held(store), held(store));
    let terminal = Told::start(store, &way, true, &[&[what], on_terminal].concat());
    let log = Told::start(store, &other_way, false, &[&[what], in_log].concat());
    // Drawn again, and again.
    eventually("a bar that is drawn twice", || {
        (terminal.text().matches(&format!("\r{what}: ")).count() > 1).then_some(())
    });
    terminal.says("% of 198 KiB");
    log.says(&format!("{what}: "));
    for open in [open, other_open] {
        open.store(true, Relaxed);
    }
    (terminal.ended(last), log.ended(last))
}

fn looks_right(what: &str, terminal: &str, log: &str) {
    let (bars, rest) = terminal.rsplit_once("\r\x1b[K").expect("the bar is erased");
    assert!(bars.starts_with(&format!("\r{what}: ")) && !bars.contains('\n'), "one line, drawn again: {bars:?}");
    assert_eq!(rest.trim_end().lines().count(), 1, "{rest:?}");
    assert!(!log.contains('\r') && !log.contains('\x1b'), "a log has whole lines: {log:?}");
    assert!(
        log.lines().next().is_some_and(|line| line.starts_with(&format!("{what}: ")) && line.ends_with("s left")),
        "{log:?}"
    );
}

fn place(path: &str) -> String {
    format!("s3://{BUCKET}/{path}/")
}

#[test]
fn a_terminal_has_a_bar_and_a_log_has_lines() {
    let (store, folder) = (Store::start(), packed());
    let shown = |path: &Path| path.display().to_string();
    let from = shown(folder.path());
    let (one, other) = (place("risk/v1"), place("risk/v2"));
    let (terminal, log) = seen(&store, "push", &[&from, &one], &[&from, &other], "3 files");
    looks_right("push", &terminal, &log);
    let (into, beside) = (shown(&folder.path().join("one")), shown(&folder.path().join("other")));
    let (terminal, log) = seen(&store, "pull", &[&one, &into], &[&other, &beside], "3 files");
    looks_right("pull", &terminal, &log);
}
