//! A small disk of a test's own, which can be full, read-only, and have room again: a tmpfs in a mount namespace of its own.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;

/// Where the ballast lies that a disk is filled with.
const BALLAST: &str = "ballast";

/// The disk. It goes with the process that holds it, and that with the test.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
    holder: Child,
    _open: Option<ChildStdin>,
}

/// Which way a disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// But for so many bytes, in whole pages.
    Bytes(u64),
    /// It takes no further file.
    Files,
}

impl Disk {
    /// One of so many bytes.
    ///
    /// # Panics
    /// Where the system gives nobody a mount namespace.
    pub fn of(bytes: u64) -> Self {
        let folder = TempDir::with_prefix("tutti-disk-").unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let mount = format!("mount -t tmpfs -o size={bytes},nr_inodes=200 none \"$0\" && echo there && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount]).arg(folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap_or_else(|error| panic!("no unshare: {error}"));
        let mut said = String::new();
        let _ = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
        assert_eq!(said.trim(), "there", "no disk of a test's own: user and mount namespaces are wanted");
        let open = holder.stdin.take();
        Self { folder, holder, _open: open }
    }

    /// Where it is for those who run inside.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where it is for the test.
    pub fn seen(&self) -> PathBuf {
        let at = self.folder.path().strip_prefix("/").unwrap_or(self.folder.path());
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(at)
    }

    /// The command that runs another one inside, in this folder.
    pub fn inside(&self, folder: &Path) -> Vec<String> {
        let target = self.holder.id().to_string();
        let enter = ["nsenter", "--user", "--mount", "--preserve-credentials", "--target", &target];
        let within = ["sh", "-c", "cd \"$0\" && exec \"$@\"", &folder.display().to_string()];
        enter.into_iter().chain(within).map(str::to_owned).collect()
    }

    /// Fills it.
    ///
    /// # Panics
    /// Where that fails otherwise than by being full.
    pub fn fill(&self, full: Full) {
        let fill = || -> io::Result<()> {
            let ballast = self.seen().join(BALLAST);
            fs::create_dir_all(&ballast)?;
            match full {
                Full::Files => (0..).try_for_each(|number| File::create(ballast.join(format!("{number}"))).map(drop)),
                Full::Bytes(spare) => {
                    fs::write(ballast.join("spare"), vec![1; usize::try_from(spare).unwrap_or_default()])?;
                    let mut rest = File::create(ballast.join("rest"))?;
                    let filled = (0..).try_for_each(|_: u64| rest.write_all(&[1; 4096]));
                    fs::remove_file(ballast.join("spare"))?;
                    filled
                }
            }
        };
        match fill() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            other => panic!("a disk that cannot be filled: {other:?}"),
        }
    }

    /// Makes room again.
    ///
    /// # Panics
    /// Where it does not.
    pub fn empty(&self) {
        let removed = fs::remove_dir_all(self.seen().join(BALLAST));
        removed.unwrap_or_else(|error| panic!("no room: {error}"));
    }

    /// Has it take nothing, as a system does with a disk that fails; or take everything again.
    ///
    /// # Panics
    /// Where somebody writes there just now.
    pub fn set_read_only(&self, read_only: bool) {
        let inside = self.inside(Path::new("/"));
        let mut command = Command::new(&inside[0]);
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        command.args(&inside[1..]).args(["mount", "-o", how]).arg(self.path());
        let done = command.status().unwrap_or_else(|error| panic!("no nsenter: {error}"));
        assert!(done.success(), "the disk cannot be mounted {how}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
