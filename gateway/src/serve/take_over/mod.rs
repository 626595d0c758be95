//! Taking over: a gateway that starts gets the listening sockets of one that runs, and nothing is lost between the two.
//!
//! The one that runs offers them at a unix socket in a folder that only its user may enter, beside the admin token. The new
//! one asks for those whose addresses are its own, builds everything, and says that it serves; then the old one stops
//! accepting, drains and ends. Connections that nobody has accepted yet stay with the sockets. Until it has said so the
//! old one serves on, whatever becomes of the new one: the kernel closes the sockets of a process that dies.

mod offer;
mod take;
mod wire;

use std::fs::{self, DirBuilder};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

pub(super) use offer::{Offering, start};
pub(super) use take::{Predecessor, take};

/// How long the other side may take for a word that needs no work.
const WITHIN: Duration = Duration::from_secs(5);

/// A listening socket that can be passed on.
#[derive(Debug)]
pub(super) struct Port {
    /// `listen`, `ops`, `admin` or `peer`.
    pub(super) name: &'static str,
    /// The address as it is configured.
    pub(super) configured: String,
    pub(super) listener: TcpListener,
}

impl Port {
    /// A copy to pass on.
    pub(super) fn copy(&self) -> io::Result<Self> {
        Ok(Self { name: self.name, configured: self.configured.clone(), listener: self.listener.try_clone()? })
    }
}

/// The folder that the sockets are in, by where the admin token is.
fn folder(token_file: &Path) -> PathBuf {
    token_file.parent().unwrap_or(Path::new(".")).join("take-over")
}

/// Makes the folder if it is not there.
///
/// # Errors
/// What the system says, or that others may enter it.
fn private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || !is_ours(found.uid()) || found.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("{} is not a folder that only its user may enter", folder.display())));
    }
    Ok(())
}

/// Whether a user may give us sockets, or get ours.
fn is_ours(user: u32) -> bool {
    user == rustix::process::geteuid().as_raw() || user == 0
}

/// Refuses who is another user.
fn same_user(stream: &UnixStream) -> io::Result<()> {
    match stream.peer_cred()?.uid() {
        user if is_ours(user) => Ok(()),
        user => Err(io::Error::other(format!("it is user {user}'s"))),
    }
}
