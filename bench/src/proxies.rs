//! nginx and haproxy, each started as fairly as it can be: the same number of workers, connections to the replica kept
//! alive, bodies held in memory, a JSON line of access log for every request in a file.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use crate::contender::{Contender, Plan, find, free_addr, guarded, version};

/// How long one of these may take to be ready.
const START_MAX: Duration = Duration::from_secs(20);

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
    let plan = Plan { name: "nginx", version: version(&program, "-v"), addr, dir, command };
    plan.start(START_MAX).map(Contender::Ready)
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
    let plan = Plan { name: "haproxy", version: version(&program, "-v"), addr, dir, command };
    plan.start(START_MAX).map(Contender::Ready)
}

fn absent(name: &str) -> Contender {
    Contender::Absent(format!("{name} is not installed; on Debian: apt-get install {name}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use tutti_simulator::{Config, Model, Simulator};

    use super::*;
    use crate::contender::get;
    use crate::http;

    #[test]
    fn a_contender_serves_the_replica_and_ends_when_dropped() {
        let replica = Simulator::start(Config::instant(Model::chat(http::MODEL, 1))).unwrap();
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
