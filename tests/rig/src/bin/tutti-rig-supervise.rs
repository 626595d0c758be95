//! `tutti-rig-supervise PROGRAM [ARGUMENT…]`: runs a program until it ends or our standard input does; then kills
//! everything that descends from it, and ends with the program's exit code.
//!
//! Descendants whose parent died are handed to us, as we are their subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): none
//! gets away by forking twice. Nobody needs to be alive to close our standard input: the kernel does when the process
//! at its other end is gone.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait};

/// What a shell answers for a program that cannot be run.
const NOT_RUN: u8 = 127;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: tutti-rig-supervise PROGRAM [ARGUMENT…]");
        return ExitCode::from(2);
    };
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        eprintln!("tutti-rig-supervise: cannot become a subreaper: {error}");
        return ExitCode::FAILURE;
    }
    let child = match Command::new(&program).args(arguments).stdin(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("tutti-rig-supervise: cannot run {}: {error}", program.display());
            return ExitCode::from(NOT_RUN);
        }
    };
    std::thread::spawn(kill_all_at_the_end_of_input);
    let main = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut code = ExitCode::FAILURE;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == main => {
                code = exit_code(status);
                kill_children();
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return code, // ECHILD: all are gone
        }
    }
}

fn exit_code(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn kill_all_at_the_end_of_input() {
    let _ = std::io::copy(&mut std::io::stdin().take(u64::MAX), &mut std::io::sink());
    // A child killed hands us its own children, which may be forking: again until the main thread has seen the last.
    loop {
        kill_children();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Kills the children we have now.
fn kill_children() {
    let me = getpid();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        if parent(&entry.path().join("stat")) == Some(me.as_raw_nonzero().get()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The parent's pid: the second field after the parenthesised name, which may hold anything (proc_pid_stat(5)).
fn parent(stat: &std::path::Path) -> Option<i32> {
    let stat = std::fs::read_to_string(stat).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
