//! A contender as a process: started, waited for, ended with whoever holds it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cpu;

/// How long a contender may take to end by itself.
const END_MAX: Duration = Duration::from_secs(3);
/// How much is told of what a contender said last. Unit: bytes.
const LAST_SAID: usize = 600;

/// A running contender; it ends when this is dropped, with all that it has started.
#[derive(Debug)]
pub struct Proxy {
    /// Its name in the tables.
    pub name: &'static str,
    /// What it says its version is.
    pub version: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where its metrics are; the same address where it has none.
    pub ops: SocketAddr,
    /// What it wants in `Authorization`, where it wants anything.
    pub key: Option<String>,
    child: Child,
    // Its configuration and logs; removed after the process has ended.
    dir: TempDir,
}

/// A contender, or why it cannot run here.
#[derive(Debug)]
pub enum Contender {
    /// It runs.
    Ready(Proxy),
    /// It does not; the text names it and says why.
    Absent(String),
}

/// A contender that is about to be started.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) addr: SocketAddr,
    pub(crate) dir: TempDir,
    pub(crate) command: Command,
}

impl Plan {
    /// Starts it, with its outputs in files.
    pub(crate) fn spawn(mut self) -> anyhow::Result<Proxy> {
        // Appended to, so that cutting a log leaves no hole before what follows.
        let log = |file: &str| File::options().create(true).append(true).open(self.dir.path().join(file));
        self.command.stdin(Stdio::null()).stdout(log("stdout.log")?).stderr(log("stderr.log")?);
        let child = self.command.spawn().with_context(|| format!("starting {}", self.name))?;
        let Plan { name, version, addr, dir, .. } = self;
        Ok(Proxy { name, version, addr, ops: addr, key: None, child, dir })
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(self, within: Duration) -> anyhow::Result<Proxy> {
        let mut proxy = self.spawn()?;
        let addr = proxy.addr;
        // A port that nobody listens on may be the one that is connected from: then that is who answers.
        let is_itself = |stream: &TcpStream| stream.local_addr().is_ok_and(|from| from == addr);
        proxy.wait(within, || TcpStream::connect(addr).is_ok_and(|stream| !is_itself(&stream)))?;
        Ok(proxy)
    }
}

impl Proxy {
    /// The process id of its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file of its own folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Empties its logs: at full speed they grow by tens of megabytes a second.
    ///
    /// # Errors
    /// A log cannot be cut.
    pub fn empty_logs(&self) -> io::Result<()> {
        for log in ["stdout.log", "access.log"] {
            match File::options().write(true).open(self.file(log)) {
                Ok(file) => file.set_len(0)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// It ended, or was not ready in time; with what it said last.
    pub(crate) fn wait(&mut self, within: Duration, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if ready() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended while starting ({status}): {}", self.name, self.last_said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} was not ready within {within:?}: {}", self.name, self.last_said())
    }

    /// The end of what it said, to either output, as one line.
    fn last_said(&self) -> String {
        let said = |log: &str| std::fs::read(self.file(log)).unwrap_or_default();
        last(&[said("stdout.log"), said("stderr.log")].concat())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Who ends in order ends what it has started; of who does not, all are known by now.
        let all = cpu::tree_pids(self.child.id());
        signal(self.child.id(), Signal::TERM);
        let until = Instant::now() + END_MAX;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        all.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process; one that has ended needs none.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The last of some output as one line: no colours, no runs of white space.
fn last(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let mut plain = String::new();
    let mut rest = text.as_ref();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain += before;
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').get(1..).unwrap_or_default();
    }
    plain += rest;
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let from = line.len().saturating_sub(LAST_SAID);
    let from = (from..=line.len()).find(|&at| line.is_char_boundary(at)).unwrap_or(line.len());
    line[from..].to_owned()
}

/// A command that gets SIGTERM when its parent ends in any way, where `setpriv` can arrange it.
pub(crate) fn guarded(program: &Path) -> Command {
    match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// GETs a page, head and all.
///
/// # Errors
/// No answer, or not a 200.
pub(crate) fn get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    if page.starts_with("HTTP/1.1 200") { Ok(page) } else { Err(io::Error::other(page)) }
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    places.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The first line of what a program says of its version.
pub(crate) fn version(program: &Path, flag: &str) -> String {
    let said = Command::new(program).arg(flag).output().map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
    // haproxy adds the date and the address of its home page.
    said.split(" - ").next().unwrap_or_default().to_owned()
}

/// An address that nobody listens on.
pub(crate) fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(script: &str) -> Plan {
        let mut command = guarded(&find("sh").unwrap());
        command.args(["-c", script]);
        let dir = TempDir::new().unwrap();
        Plan { name: "shell", version: String::new(), addr: free_addr().unwrap(), dir, command }
    }

    #[test]
    fn who_does_not_start_is_quoted() {
        let mut plan = plan("echo starting; printf '\\033[31mno key\\033[0m is set\\n' >&2; exit 3");
        plan.addr = (Ipv4Addr::LOCALHOST, 1).into(); // a free port may be another's meanwhile
        let error = plan.start(Duration::from_secs(20)).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("exit status: 3") && said.ends_with("starting no key is set"), "{said}");
    }

    #[test]
    fn the_end_of_a_long_text_is_told() {
        let told = last("é".repeat(1000).as_bytes());
        assert!(told.len() <= LAST_SAID && told.len() > LAST_SAID - 4, "{}", told.len());
        assert_eq!(last(b" a \n\n b\t"), "a b");
    }

    #[test]
    fn what_a_contender_has_started_ends_with_it() {
        let mut proxy = plan("trap '' TERM; sleep 600 & wait; sleep 600").spawn().unwrap();
        let pid = proxy.pid();
        proxy.wait(Duration::from_secs(20), || cpu::tree_pids(pid).len() > 1).unwrap();
        let all = cpu::tree_pids(pid);
        drop(proxy);
        let runs = |pid: &u32| cpu::is_running(*pid);
        let until = Instant::now() + Duration::from_secs(20);
        while all.iter().any(runs) {
            assert!(Instant::now() < until, "still there: {all:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
