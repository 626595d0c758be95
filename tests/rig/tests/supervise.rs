//! The supervisor ends everything, whatever happens to its parent.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

/// A shell with a child, a grandchild that nobody waits for, and one that left its session; each says its pid.
const FAMILY: &str = "echo $$; sleep 300 & echo $!; (sh -c 'echo $$; exec sleep 300' &); \
                      setsid sh -c 'echo $$; exec sleep 300' & wait";

fn pids(output: impl std::io::Read, count: usize) -> Vec<Pid> {
    let lines = BufReader::new(output).lines().take(count).map_while(Result::ok);
    let pids: Vec<Pid> = lines.filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    assert_eq!(pids.len(), count, "not everyone started");
    pids
}

/// A zombie nobody has waited for yet is as gone as can be.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn all_gone(pids: &[Pid]) {
    let until = Instant::now() + Duration::from_secs(20);
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < until, "still alive: {pids:?}");
        std::thread::sleep(Duration::from_millis(5)); // between two looks: they are not our children
    }
}

#[test]
fn closing_its_input_ends_grandchildren_too() {
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_tutti-rig-supervise"));
    supervisor.args(["sh", "-c", FAMILY]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut supervisor = supervisor.spawn().unwrap();
    let pids = pids(supervisor.stdout.take().unwrap(), 4);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    drop(supervisor.stdin.take());
    supervisor.wait().unwrap();
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "the supervisor ends last");
}

#[test]
fn a_parent_killed_with_9_takes_all_with_it() {
    // The shell is the parent that holds the leash: a pipe whose other end the supervisor reads.
    let parent = "sleep 300 | \"$0\" sh -c \"$1\"";
    let mut parent = Command::new("sh")
        .args(["-c", &format!("exec 3>&1; {parent}"), env!("CARGO_BIN_EXE_tutti-rig-supervise"), FAMILY])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pids = pids(parent.stdout.take().unwrap(), 4);
    // `sleep`, which holds the pipe's writing end, is the shell's child and no descendant of the supervisor.
    let holder = children(parent.id()).into_iter().find(|pid| {
        fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).is_ok_and(|name| name.trim() == "sleep")
    });
    rustix::process::kill_process(holder.unwrap(), rustix::process::Signal::KILL).unwrap();
    all_gone(&pids);
    parent.wait().unwrap();
}

fn children(pid: u32) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

#[test]
fn the_programs_exit_code_is_its_own_and_its_children_go_with_it() {
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_tutti-rig-supervise"));
    supervisor.args(["sh", "-c", "sleep 300 & echo $!; exit 7"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut supervisor = supervisor.spawn().unwrap();
    let pids = pids(supervisor.stdout.take().unwrap(), 1);
    let leash = supervisor.stdin.take(); // `wait` would close it, and may be faster than the shell's `exit`
    let status = supervisor.wait().unwrap();
    drop(leash);
    assert_eq!(status.code(), Some(7));
    assert!(!is_alive(pids[0]));
}

#[test]
fn what_cannot_be_run_is_said() {
    let supervisor = Command::new(env!("CARGO_BIN_EXE_tutti-rig-supervise")).arg("/no/such/program").output().unwrap();
    assert_eq!(supervisor.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&supervisor.stderr).contains("/no/such/program"));
}
