//! Where a load goes, and what it costs there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::contender::{Contender, Proxy};
use crate::load::{self, Pace, Plan};
use crate::{cpu, http};

/// Load before what is measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// A contender, or the replica itself.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) proxy: Option<Proxy>,
    /// Bytes after its start, all its processes together; 0 for the replica itself.
    pub(crate) memory_bytes: u64,
}

/// A load on a target: chats over connections that are kept alive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) body_bytes: usize,
    pub(crate) pace: Pace,
    pub(crate) seconds: f64,
}

/// What a load was like.
pub(crate) struct Measured {
    /// CPU microseconds a request, user and system, of the contender's processes.
    pub(crate) cpu_micros: f64,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Microseconds.
    pub(crate) p50: f64,
    /// Microseconds.
    pub(crate) p99: f64,
    /// Bytes of the contender's processes at the end of the load, while it was still on.
    pub(crate) memory_bytes: u64,
}

impl Target {
    /// The replica, without anything before it.
    pub(crate) fn direct(addr: SocketAddr) -> Self {
        Target { name: "direct", addr, proxy: None, memory_bytes: 0 }
    }

    /// A contender that runs.
    pub(crate) fn of(proxy: Proxy) -> Self {
        let memory_bytes = cpu::tree_memory(proxy.pid());
        Target { name: proxy.name, addr: proxy.addr, proxy: Some(proxy), memory_bytes }
    }

    /// Puts a load on it.
    pub(crate) fn measure(&self, load: Load) -> anyhow::Result<Measured> {
        let plan = self.plan(load);
        let pid = self.proxy.as_ref().map(Proxy::pid);
        let probe = || {
            let cpu = pid.map_or(Duration::ZERO, cpu::tree_time);
            (cpu, pid.map_or(0, cpu::tree_memory))
        };
        let report = load::run(&plan, probe).with_context(|| self.name)?;
        let failed = report.errors + report.unanswered;
        let all = report.requests + failed;
        ensure!(failed == 0, "{}: {failed} of {all} requests failed, the last with {}", self.name, report.last_error);
        let cpu = report.after.0 - report.before.0;
        Ok(Measured {
            cpu_micros: cpu.as_secs_f64() * 1e6 / report.requests.max(1) as f64,
            rate: report.rate(),
            p50: report.micros(0.5),
            p99: report.micros(0.99),
            memory_bytes: report.after.1,
        })
    }

    /// What it wants in `Authorization`.
    pub(crate) fn key(&self) -> Option<&str> {
        self.proxy.as_ref()?.key.as_deref()
    }

    fn plan(&self, load: Load) -> Plan {
        let body = http::chat_body(load.body_bytes);
        Plan {
            addr: self.addr,
            request: http::post(&self.addr.to_string(), "/v1/chat/completions", &body, self.key()),
            connections: load.connections,
            pace: load.pace,
            warm_up: WARM_UP,
            duration: Duration::from_secs_f64(load.seconds),
        }
    }

    /// Empties its logs.
    pub(crate) fn tidy(&self) -> anyhow::Result<()> {
        Ok(self.proxy.as_ref().map_or(Ok(()), Proxy::empty_logs)?)
    }
}

/// Those that run, behind the replica itself; why the others do not.
pub(crate) fn targets(replica: SocketAddr, contenders: Vec<Contender>) -> (Vec<Target>, Vec<String>) {
    let (mut targets, mut absent) = (vec![Target::direct(replica)], Vec::new());
    for contender in contenders {
        match contender {
            Contender::Ready(proxy) => targets.push(Target::of(proxy)),
            Contender::Absent(why) => {
                eprintln!("not measured: {why}");
                absent.push(why);
            }
        }
    }
    (targets, absent)
}

/// What the contenders say their versions are, each once.
pub(crate) fn versions(targets: &[Target]) -> Vec<String> {
    let mut versions: Vec<String> = targets.iter().filter_map(|t| Some(t.proxy.as_ref()?.version.clone())).collect();
    versions.dedup();
    versions
}
