//! Listening sockets, and what to say when there can be none.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};
use tutti_api::Address;

use crate::keys::file::Unusable;

/// Connections the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 4096;
/// Longest token file that is read. Unit: bytes.
const MAX_TOKEN: u64 = 4096;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken.
    #[error("{address} is in use{}: stop that process, choose another address, or, where it is a tutti gateway, take its place with `tutti gateway --take-over`", .holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    InUse {
        /// The address that was asked for.
        address: String,
        /// Who listens there, where that can be seen.
        holder: Option<u32>,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address that was asked for.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// Who may ask cannot be told.
    #[error("gateway.auth.keysFile: {0}")]
    Keys(Unusable),
    /// An endpoint is none, or leads back here.
    #[error("{0}")]
    Endpoint(String),
    /// There is no serving TLS by these files.
    #[error("{0}")]
    Tls(String),
    /// The admin token can be neither read nor made.
    #[error("admin token file {path}: {error}")]
    Token {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The gateway that runs does not give its ports.
    #[error("--take-over: {0}")]
    TakeOver(String),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl StartError {
    /// The same for who tried to take over: it need not be told to try.
    pub(super) fn for_successor(self) -> Self {
        match self {
            Self::InUse { address, holder } => Self::TakeOver(format!(
                "{address} is in use{}, which gives its place to nobody: it is a `tutti up`, a gateway with another admin \
                 token, or no tutti; stop it first",
                holder.map(|pid| format!(" by process {pid}")).unwrap_or_default()
            )),
            other => other,
        }
    }
}

impl From<String> for StartError {
    fn from(why: String) -> Self {
        Self::TakeOver(why)
    }
}

/// Listens on `host:port`. A port that somebody listens on is refused, naming them.
pub(super) fn bind(address: &str) -> Result<TcpListener, StartError> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            StartError::InUse { address: address.to_owned(), holder: port_of(address).and_then(holder) }
        }
        _ => StartError::Listen { address: address.to_owned(), error },
    };
    // localhost is known: a static binary has no other way to it than the system's.
    let known = address.parse::<Address>().ok().and_then(|address| address.addresses().into_iter().next());
    let at = match known {
        Some(known) => Some(known),
        None => address.to_socket_addrs().map_err(refused)?.next(),
    };
    let at = at.ok_or_else(|| refused(io::Error::other("the name has no address")))?;
    let listen = || {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?; // a restart need not wait for old connections to time out
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    };
    listen().map_err(refused)
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit(':').next()?.parse().ok()
}

/// The process that listens on a TCP port, by the kernel's socket table and the processes' open files; `None` where
/// it is another user's.
fn holder(port: u16) -> Option<u32> {
    let listens = |table: &str| -> Option<String> {
        let listening = "0A";
        fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields.get(1)?.rsplit(':').next()?;
            let matches = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == listening;
            matches.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
        })
    };
    let socket = listens("/proc/net/tcp").or_else(|| listens("/proc/net/tcp6"))?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target == Path::new(&socket))
    })
}

/// The token in a file that nobody else could have written or read.
fn known_token(file: fs::File) -> io::Result<String> {
    let found = file.metadata()?;
    let ours = rustix::process::geteuid();
    if !(found.uid() == ours.as_raw() || found.uid() == 0) {
        return Err(io::Error::other("the file is another user's: name one of your own as gateway.admin.tokenFile"));
    }
    // A mounted Kubernetes Secret is root's, and our group may read it.
    let strangers = if found.uid() == ours.as_raw() { 0o077 } else { 0o037 };
    if found.mode() & strangers != 0 {
        return Err(io::Error::other("others may read or write it: chmod 600, with a token that they have not seen"));
    }
    let mut token = String::new();
    file.take(MAX_TOKEN).read_to_string(&mut token)?;
    match token.trim() {
        "" => Err(io::Error::other("the file is empty: delete it, and a new token is made")),
        token => Ok(token.to_owned()),
    }
}

/// The admin token; made at the first start, readable by its owner alone.
pub(crate) fn token(path: &Path) -> Result<String, StartError> {
    let failed = |error| StartError::Token { path: path.to_owned(), error };
    match fs::File::open(path) {
        Ok(file) => known_token(file).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_token(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Makes a token. The file is there with all of it or not at all, so that neither a full disk nor one that starts at the
/// same time meets half of it; of two that make one, both go by the first.
fn new_token(path: &Path) -> io::Result<String> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}", crate::random()));
    let new = PathBuf::from(name);
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| writeln!(file, "{token}").and_then(|()| file.sync_all()))
        .and_then(|()| match fs::hard_link(&new, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => fs::rename(&new, path), // no links there
            linked => linked,
        });
    let _ = fs::remove_file(&new);
    match made {
        Ok(()) => Ok(token),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => known_token(fs::File::open(path)?),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_those_that_start_at_once_all_go_by_one_token() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tutti/admin-token");
            let tokens: Vec<String> = std::thread::scope(|scope| {
                let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| token(&path).unwrap())).collect();
                starting.into_iter().map(|token| token.join().unwrap()).collect()
            });
            assert!(tokens.iter().all(|token| *token == tokens[0] && token.len() == 64), "{tokens:?}");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        }
    }
}
