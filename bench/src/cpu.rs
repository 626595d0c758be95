//! What processes cost, by the operating system's accounting in `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The length of a clock tick in `/proc`: `USER_HZ` is 100 on every Linux that Rust's standard library supports.
const TICK: Duration = Duration::from_millis(10);

/// CPU time, user and system, of a process and all its descendants.
pub fn tree_time(root: u32) -> Duration {
    tree(root).into_iter().map(|(_, stat)| stat.time).sum()
}

fn tree(root: u32) -> Vec<(u32, Stat)> {
    let all: HashMap<u32, Stat> =
        numbers("/proc").filter_map(|pid| Some((pid, stat(&format!("/proc/{pid}"))?))).collect();
    let belongs = |mut pid: u32| {
        while pid > 1 {
            if pid == root {
                return true;
            }
            let Some(stat) = all.get(&pid) else { return false };
            pid = stat.parent;
        }
        false
    };
    all.iter().filter(|&(&pid, _)| belongs(pid)).map(|(&pid, &stat)| (pid, stat)).collect()
}

/// A process and all its descendants.
pub(crate) fn tree_pids(root: u32) -> Vec<u32> {
    tree(root).into_iter().map(|(pid, _)| pid).collect()
}

/// Whether a process is there and has not ended.
#[cfg(test)]
pub(crate) fn is_running(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Memory in bytes of a process and all its descendants: what they share counts once, split among them
/// (proportional set size). Pages of the kernel, sockets among them, do not count.
pub fn tree_memory(root: u32) -> u64 {
    tree_pids(root).into_iter().filter_map(proportional).sum()
}

/// Every thread of a process and its descendants held on the first core it may use, until this is dropped.
///
/// Where the scheduler puts threads decides a lone request's latency more than any code does: a wake-up on another,
/// sleeping core costs as much as a proxy. On one core what is left is the work.
#[derive(Debug)]
pub struct OneCore(Vec<(Pid, CpuSet)>);

impl OneCore {
    /// Holds the tree that begins at `root`. Threads that cannot be moved stay as they are.
    pub fn hold(root: u32) -> Self {
        let threads =
            tree(root).into_iter().flat_map(|(pid, _)| numbers(&format!("/proc/{pid}/task")).collect::<Vec<_>>());
        let pids = threads.filter_map(|tid| Pid::from_raw(i32::try_from(tid).ok()?));
        let before: Vec<_> = pids.filter_map(|pid| Some((pid, sched_getaffinity(Some(pid)).ok()?))).collect();
        let mut first = CpuSet::new();
        if let Some(core) = before.first().and_then(|(_, set)| (0..CpuSet::MAX_CPU).find(|&core| set.is_set(core))) {
            first.set(core);
            for (pid, _) in &before {
                // A thread that ended meanwhile needs no core.
                let _ = sched_setaffinity(Some(*pid), &first);
            }
        }
        OneCore(before)
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        for (pid, set) in &self.0 {
            let _ = sched_setaffinity(Some(*pid), set);
        }
    }
}

/// Files that a process has open, sockets among them.
pub(crate) fn files(pid: u32) -> usize {
    numbers(&format!("/proc/{pid}/fd")).count()
}

/// Resident memory in bytes of one process.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    kibibytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

pub(crate) fn proportional(pid: u32) -> Option<u64> {
    kibibytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The bytes behind `name` in a page of `/proc` that counts in `kB`.
fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[derive(Clone, Copy)]
struct Stat {
    parent: u32,
    time: Duration,
}

fn stat(dir: &str) -> Option<Stat> {
    let text = fs::read_to_string(format!("{dir}/stat")).ok()?;
    // The second field is the name in brackets, and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    // proc_pid_stat(5) counts from 1, and two fields are cut off: ppid is 4, utime 14, stime 15.
    Some(Stat { parent: number(1)?, time: TICK * (number(11)? + number(12)?) })
}

fn numbers(dir: &str) -> impl Iterator<Item = u32> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_child_counts_for_its_parent() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; cat'; true"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 5];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let alone = stat(&format!("/proc/{}", shell.id())).unwrap().time;
        assert!(tree_time(shell.id()) > alone);
        assert!(tree_memory(shell.id()) > 1 << 16);
        drop(shell.stdin.take());
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn threads_are_held_and_let_go() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&sleeper);
        let cores = || sched_getaffinity(Some(pid)).unwrap().count();
        let before = cores();
        let held = OneCore::hold(sleeper.id());
        assert_eq!(cores(), 1);
        drop(held);
        assert_eq!(cores(), before);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }

    #[test]
    fn a_busy_process_is_seen() {
        let until = Instant::now() + Duration::from_secs(20);
        while tree_time(std::process::id()) < TICK {
            assert!(Instant::now() < until, "no CPU time was accounted");
        }
    }
}
