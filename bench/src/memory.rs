//! What a process takes of the machine, the kernel's part included: its pages, its sockets and what lies in them.
//!
//! A memory cgroup of its own says it best. Where none can be made, what `/proc` says has to do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cpu;

/// A limit that is never met. Setting one makes version 1 count what lies in TCP sockets. Unit: bytes.
const NO_LIMIT: u64 = 1 << 40;

/// Bytes of a process, by who holds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Its own pages that no file backs.
    pub(crate) pages: u64,
    /// What the kernel keeps for it: socket structures, files, page tables, stacks.
    pub(crate) kernel: u64,
    /// What lies in its sockets, to be read or sent.
    pub(crate) sockets: u64,
}

impl Memory {
    /// All of it.
    pub(crate) fn total(self) -> u64 {
        self.pages + self.kernel + self.sockets
    }
}

/// Where the figures come from.
#[derive(Debug)]
pub(crate) enum Account {
    /// A cgroup that the process is born into.
    Group(Group),
    /// `/proc`, and why there is no cgroup.
    Process(String),
}

impl Account {
    /// The best that this machine allows.
    pub(crate) fn open() -> Self {
        match Group::make() {
            Ok(group) => Account::Group(group),
            Err(why) => Account::Process(why.to_string()),
        }
    }

    /// A program with its first arguments that puts itself into the account and becomes the program after them.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        match self {
            Account::Group(group) => {
                let join = r#"echo $$ > "$0" && exec "$@""#;
                vec!["sh".into(), "-c".into(), join.into(), group.dir.join("cgroup.procs").display().to_string()]
            }
            Account::Process(_) => Vec::new(),
        }
    }

    /// What the process takes now.
    ///
    /// # Errors
    /// It has ended, or the kernel does not say.
    pub(crate) fn read(&self, pid: u32) -> io::Result<Memory> {
        match self {
            Account::Group(group) => group.read(),
            Account::Process(_) => {
                let pages = cpu::proportional(pid).ok_or_else(|| io::Error::other("the process has ended"))?;
                let sockstat = fs::read_to_string("/proc/net/sockstat")?;
                Ok(Memory { pages, kernel: 0, sockets: tcp_bytes(&sockstat) })
            }
        }
    }

    /// How the figures were taken, for people.
    pub(crate) fn says(&self) -> String {
        match self {
            Account::Group(group) => format!(
                "by a memory cgroup (version {}) of its own: its pages, what the kernel keeps for it (socket structures \
                 among it), what lies in its TCP sockets; pages of files are not counted",
                if group.is_v2 { 2 } else { 1 }
            ),
            Account::Process(why) => format!(
                "without a cgroup ({why}): its proportional set size, and what lies in all TCP sockets of the machine, \
                 those of load and replica included; socket structures are not counted"
            ),
        }
    }
}

/// A memory cgroup for one process; removed when this is dropped after the process has ended.
#[derive(Debug)]
pub(crate) struct Group {
    dir: PathBuf,
    is_v2: bool,
}

impl Group {
    fn make() -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let (parent, is_v2) = place(&own).ok_or_else(|| io::Error::other("no memory cgroup here"))?;
        let dir = parent.join(format!("tutti-bench-{}", std::process::id()));
        fs::create_dir(&dir)?;
        let group = Group { dir, is_v2 };
        if is_v2 {
            group.number("memory.current")?; // the parent may not hand the controller on
        } else {
            fs::write(group.dir.join("memory.kmem.tcp.limit_in_bytes"), NO_LIMIT.to_string())?;
        }
        Ok(group)
    }

    fn read(&self) -> io::Result<Memory> {
        let stat = fs::read_to_string(self.dir.join("memory.stat"))?;
        if self.is_v2 {
            let of = |name| line(&stat, name).ok_or_else(|| io::Error::other(format!("no {name} in memory.stat")));
            return Ok(Memory { pages: of("anon")?, kernel: of("kernel")?, sockets: of("sock")? });
        }
        Ok(Memory {
            pages: line(&stat, "rss").ok_or_else(|| io::Error::other("no rss in memory.stat"))?,
            kernel: self.number("memory.kmem.usage_in_bytes")?,
            sockets: self.number("memory.kmem.tcp.usage_in_bytes")?,
        })
    }

    fn number(&self, file: &str) -> io::Result<u64> {
        fs::read_to_string(self.dir.join(file))?.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It stays where the process does not end.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The folder of the memory cgroup that `/proc/self/cgroup` names, and whether it is of version 2.
fn place(own: &str) -> Option<(PathBuf, bool)> {
    let lines = || own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let below = |root: &str, path: &str| Path::new(root).join(path.trim_start_matches('/'));
    let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|c| c == "memory"));
    match v1 {
        Some((_, path)) => Some((below("/sys/fs/cgroup/memory", path), false)),
        None => {
            lines().find(|(controllers, _)| controllers.is_empty()).map(|(_, p)| (below("/sys/fs/cgroup", p), true))
        }
    }
}

/// The number behind a name.
fn line(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Bytes in all TCP sockets, from `/proc/net/sockstat`, which counts pages.
fn tcp_bytes(sockstat: &str) -> u64 {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split(' ').skip_while(|word| *word != "mem").nth(1).and_then(|word| word.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_cgroup_is_found_where_it_is() {
        let hybrid = "9:name=systemd:/\n4:memory:/jobs/a\n1:cpu,cpuacct:/\n0::/\n";
        assert_eq!(place(hybrid), Some(("/sys/fs/cgroup/memory/jobs/a".into(), false)));
        assert_eq!(place("0::/user.slice\n"), Some(("/sys/fs/cgroup/user.slice".into(), true)));
        assert_eq!(place("1:cpu:/\n"), None);
    }

    #[test]
    fn figures_are_read_by_their_whole_name() {
        assert_eq!(line("rss_huge 5\nrss 7\n", "rss"), Some(7));
        assert_eq!(line("anon_thp 5\n", "anon"), None);
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 1 alloc 5 mem 3\nUDP: inuse 2 mem 9\n";
        assert_eq!(tcp_bytes(sockstat), 3 * rustix::param::page_size() as u64);
    }

    #[test]
    fn a_process_is_in_the_account_from_its_birth() {
        let account = Account::open();
        let mut words = account.wrapper();
        // It holds 8 MiB of its own and says when.
        words.extend(
            ["sh", "-c", "x=$(head -c 8388608 /dev/zero | tr '\\0' a); echo ready; read end"].map(String::from),
        );
        let mut child =
            Command::new(&words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let memory = account.read(child.id()).unwrap();
        assert!((8 << 20..64 << 20).contains(&memory.pages), "{memory:?} {}", account.says());
        drop(child.stdin.take());
        child.wait().unwrap();
        if let Account::Group(group) = &account {
            let dir = group.dir.clone();
            drop(account);
            assert!(!dir.exists());
        }
    }
}
