//! A clock that a test sets, for one process.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::Tutti;

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

/// The wall clock of a process that is started with [`Clock::env`].
#[derive(Debug)]
pub struct Clock(TempDir);

impl Clock {
    /// One that is right.
    ///
    /// # Panics
    /// Where the linker makes no library.
    pub fn right() -> Self {
        let clock = Self(TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}")));
        clock.set(0);
        let source = clock.file("clock.c");
        fs::write(&source, SHIM).unwrap_or_else(|error| panic!("cannot write: {error}"));
        let mut cc = Command::new("cc");
        let made = cc.args(["-shared", "-fPIC", "-o"]).args([clock.file("clock.so"), source]).status();
        assert!(made.as_ref().is_ok_and(std::process::ExitStatus::success), "{made:?}");
        clock
    }

    /// A file beside it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Off by so many seconds from now on.
    ///
    /// # Panics
    /// Where that cannot be written.
    pub fn set(&self, seconds: i64) {
        let (new, off) = (self.file("new"), self.file("off"));
        let written = fs::write(&new, seconds.to_string()).and_then(|()| fs::rename(&new, &off));
        written.unwrap_or_else(|error| panic!("cannot write: {error}"));
    }

    /// The environment of who goes by it.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let shown = |name: &str| self.file(name).display().to_string();
        [("LD_PRELOAD", shown("clock.so")), ("CLOCK_OFF_BY", shown("off"))]
    }

    /// Starts a gateway that goes by it.
    pub fn start(&self, yaml: &str) -> Tutti {
        let env = self.env();
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        Tutti::start_with(&["gateway", "--config", "tutti.yaml"], yaml, &env)
    }
}
