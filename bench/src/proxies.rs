//! The contenders, each started as fairly as it can be: the same number of workers, connections to the replica kept
//! alive, bodies held in memory, a JSON line of access log for every request in a file.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a contender may take to listen, or to end.
const START_MAX: Duration = Duration::from_secs(20);

/// A running contender; it ends when this is dropped.
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
    child: Child,
    // Its configuration and logs; removed after the process has ended.
    dir: TempDir,
}

/// A contender, or why it cannot run here.
#[derive(Debug)]
pub enum Contender {
    /// It runs.
    Ready(Proxy),
    /// It is not installed; the text names it and says how to install it.
    Absent(String),
}

impl Proxy {
    /// The process id of its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Empties its logs: at full speed they grow by tens of megabytes a second.
    ///
    /// # Errors
    /// A log cannot be cut.
    pub fn empty_logs(&self) -> io::Result<()> {
        for log in ["stdout.log", "access.log"] {
            match File::options().write(true).open(self.dir.path().join(log)) {
                Ok(file) => file.set_len(0)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until something listens at `addr` and `ready` agrees.
    fn wait(&mut self, addr: SocketAddr, ready: impl Fn(SocketAddr) -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            if ready(addr) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.dir.path().join("stderr.log")).unwrap_or_default();
                bail!("{} ended while starting ({status}): {log}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} did not listen within {START_MAX:?}", self.name)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It has ended by itself if this fails.
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's nginx with `workers` worker processes.
///
/// # Errors
/// It is installed and does not start.
pub fn nginx(replica: SocketAddr, workers: usize) -> anyhow::Result<Contender> {
    let Some(program) = find("nginx") else { return Ok(absent("nginx")) };
    let (dir, addr) = (TempDir::with_prefix("tutti-bench-nginx-")?, free_addr()?);
    let path = dir.path().display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {path}/{kind};\n"))
        .concat();
    let config = format!(
        r#"daemon off;
{user}worker_processes {workers};
worker_rlimit_nofile 16384;
pid {path}/pid;
error_log {path}/error.log error;
events {{ worker_connections 8192; }}
http {{
{temp}  log_format json escape=json '{{"time":"$time_iso8601","method":"$request_method","path":"$uri",'
    '"status":$status,"bytes_in":$request_length,"bytes_out":$bytes_sent,"seconds":$request_time,'
    '"upstream":"$upstream_addr","upstream_seconds":"$upstream_response_time","request_id":"$request_id"}}';
  access_log {path}/access.log json buffer=64k flush=100ms;
  keepalive_requests 1000000000;
  upstream replica {{ server {replica}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen {addr} backlog=4096;
    client_body_buffer_size 1m;
    client_max_body_size 64m;
    location / {{
      proxy_pass http://replica;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host {replica};
      proxy_buffer_size 16k;
      proxy_buffers 8 64k;
      proxy_busy_buffers_size 128k;
    }}
  }}
}}
"#,
        user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" },
    );
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = guarded(&program);
    command.arg("-e").arg(dir.path().join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(file);
    start("nginx", version(&program, "-v"), addr, dir, command).map(Contender::Ready)
}

/// Debian's haproxy with `threads` threads.
///
/// # Errors
/// It is installed and does not start.
pub fn haproxy(replica: SocketAddr, threads: usize) -> anyhow::Result<Contender> {
    let Some(program) = find("haproxy") else { return Ok(absent("haproxy")) };
    let (dir, addr) = (TempDir::with_prefix("tutti-bench-haproxy-")?, free_addr()?);
    let config = format!(
        r#"global
  nbthread {threads}
  maxconn 4096
  tune.bufsize 65536
  log stdout format raw local0
defaults
  mode http
  log global
  option http-keep-alive
  option abortonclose
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  unique-id-format %{{+X}}o%ci:%cp_%Ts_%rt
  log-format '{{"time":"%tr","method":"%HM","path":"%HP","status":%ST,"bytes_in":%U,"bytes_out":%B,"ms":%Ta,"upstream":"%b/%s","upstream_ms":%Tr,"request_id":"%ID"}}'
frontend clients
  bind {addr} backlog 4096
  default_backend replicas
backend replicas
  http-request set-header Host {replica}
  server replica {replica} pool-max-conn 1024
"#
    );
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let mut command = guarded(&program);
    command.arg("-db").arg("-f").arg(file);
    start("haproxy", version(&program, "-v"), addr, dir, command).map(Contender::Ready)
}

/// The gateway itself, from a binary built in release mode; `arguments` follow `tutti gateway`.
///
/// # Errors
/// It does not start.
pub fn tutti(program: &Path, replica: SocketAddr, arguments: &[&str]) -> anyhow::Result<Proxy> {
    tutti_with(program, replica, arguments, 1024)
}

/// The gateway before a replica with this many slots.
///
/// # Errors
/// It does not start.
pub fn tutti_with(program: &Path, replica: SocketAddr, arguments: &[&str], slots: u16) -> anyhow::Result<Proxy> {
    let program = &program.canonicalize().with_context(|| program.display().to_string())?;
    let dir = TempDir::with_prefix("tutti-bench-tutti-")?;
    let (addr, ops, admin) = (free_addr()?, free_addr()?, free_addr()?);
    let config = format!(
        "gateway:\n  listen: {addr}\n  ops: {ops}\n  admin: {{ listen: {admin}, tokenFile: {} }}\n\
         pools:\n  - name: p\n    engine: ollama\n    endpoints:\n      - {{ url: http://{replica} }}\n    slots: {slots}\n\
         models:\n  - name: m\n    revisions:\n      - {{ name: base, pool: p, upstream: m }}\n\
         \x20   traffic: {{ revision: base }}\n",
        dir.path().join("token").display()
    );
    let file = dir.path().join("tutti.yaml");
    std::fs::write(&file, config)?;
    let mut command = guarded(program);
    command.arg("gateway").args(arguments).arg("--config").arg(file).current_dir(dir.path());
    let mut proxy = spawn("tutti", version(program, "--version"), addr, dir, command)?;
    proxy.ops = ops;
    proxy.wait(ops, |ops| get(ops, "/readyz").is_ok())?;
    Ok(proxy)
}

/// Builds the gateway in release mode and returns its binary.
///
/// # Errors
/// The build fails.
pub fn build_tutti() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", "tutti", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo build --release --package tutti")?;
    if !output.status.success() {
        bail!("cargo build --release --package tutti failed");
    }
    let messages =
        output.stdout.split(|&b| b == b'\n').filter_map(|l| serde_json::from_slice::<serde_json::Value>(l).ok());
    let mut programs = messages.filter_map(|m| m.get("executable")?.as_str().map(PathBuf::from));
    programs.next_back().context("cargo named no executable")
}

/// A command that gets SIGTERM when its parent ends in any way, where `setpriv` can arrange it.
fn guarded(program: &Path) -> Command {
    match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn start(
    name: &'static str,
    version: String,
    addr: SocketAddr,
    dir: TempDir,
    command: Command,
) -> anyhow::Result<Proxy> {
    let mut proxy = spawn(name, version, addr, dir, command)?;
    proxy.wait(addr, |addr| TcpStream::connect(addr).is_ok())?;
    Ok(proxy)
}

fn spawn(
    name: &'static str,
    version: String,
    addr: SocketAddr,
    dir: TempDir,
    mut command: Command,
) -> anyhow::Result<Proxy> {
    // Appended to, so that cutting a log leaves no hole before what follows.
    let log = |file: &str| File::options().create(true).append(true).open(dir.path().join(file));
    command.stdin(Stdio::null()).stdout(log("stdout.log")?).stderr(log("stderr.log")?);
    let child = command.spawn().with_context(|| format!("starting {name}"))?;
    Ok(Proxy { name, version, addr, ops: addr, child, dir })
}

/// Whether a GET is answered with 200.
/// GETs a page.
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

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    places.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn absent(name: &str) -> Contender {
    Contender::Absent(format!("{name} is not installed and is left out; on Debian: apt-get install {name}"))
}

fn version(program: &Path, flag: &str) -> String {
    let said = Command::new(program).arg(flag).output().map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
    // haproxy adds the date and the address of its home page.
    said.split(" - ").next().unwrap_or_default().to_owned()
}

fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use tutti_simulator::{Config, Model, Simulator};

    use super::*;

    #[test]
    fn a_contender_serves_the_replica_and_ends_when_dropped() {
        let replica = Simulator::start(Config::instant(Model::chat("m", 1))).unwrap();
        for started in [nginx(replica.addr(), 1), haproxy(replica.addr(), 1)] {
            let Contender::Ready(proxy) = started.unwrap() else { continue };
            assert!(get(proxy.addr, "/").is_ok(), "{}", proxy.name);
            assert!(!proxy.version.is_empty());
            let addr = proxy.addr;
            drop(proxy);
            assert!(TcpStream::connect(addr).is_err());
        }
    }
}
