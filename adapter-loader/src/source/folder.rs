//! A folder of adapters. Links are not followed, wherever they lead: each part of a path is opened from the folder before it,
//! so that nothing can be put in between.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};
use tokio::task::spawn_blocking;

use super::error::{SourceError, Trouble};
use super::walk::{Listed, Walk, odd_key};
use super::{Look, Object, Version, key};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// Deepest folder below an adapter's path. Unit: folders.
const MAX_DEPTH: usize = 8;

/// A folder of adapters.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    place: Arc<str>,
}

impl Folder {
    pub(super) fn new(root: &str) -> Self {
        let place = format!("{}/", root.trim_end_matches('/'));
        Self { root: PathBuf::from(&place), place: place.into() }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) async fn look(&self, paths: &[&str], most: usize) -> Result<Look, SourceError> {
        let (folder, paths) = (self.clone(), paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        let requests = u32::try_from(paths.len()).unwrap_or(u32::MAX);
        let look = move || {
            drop(folder.open_root()?);
            let names: Vec<&str> = paths.iter().map(String::as_str).collect();
            let mut walk = Walk::new(&folder.place, &names, most);
            let mut all = Vec::new();
            for path in paths.iter().filter(|path| key::check(path).is_ok()) {
                folder.below(path, most + 1, &mut all)?;
            }
            all.sort_by(|one: &Listed, other| one.key.cmp(&other.key));
            walk.take(all, true);
            Ok(Look { paths: walk.found(), requests })
        };
        blocking(look).await
    }

    pub(super) async fn list(&self, path: &str, most: usize) -> Result<Vec<Object>, SourceError> {
        let (folder, path) = (self.clone(), path.to_owned());
        let list = move || {
            drop(folder.open_root()?);
            let mut all = Vec::new();
            if !path.is_empty() {
                key::check(&path).map_err(|odd| odd_key(&folder.place, &path, odd))?;
            }
            folder.below(&path, most + 1, &mut all)?;
            if all.len() > most {
                let place = format!("{}{path}", folder.place);
                return Err(SourceError::new(Trouble::TooMany, place, format!("more than {most}")));
            }
            all.sort_by(|one, other| one.key.cmp(&other.key));
            let skip = if path.is_empty() { 0 } else { path.len() + 1 };
            let below = |Listed { key, object }| {
                key::check(&key).map_err(|odd| odd_key(&folder.place, &key, odd))?;
                Ok(Object { key: key[skip..].to_owned(), ..object })
            };
            all.into_iter().map(below).collect()
        };
        blocking(list).await
    }

    fn open_root(&self) -> Result<OwnedFd, SourceError> {
        // The root itself may be a link: who configures it says where it is.
        openat(CWD, &self.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| self.error("", error.into()))
    }

    /// Adds the regular files below a path, with their keys below the root, until there are `most`.
    fn below(&self, path: &str, most: usize, all: &mut Vec<Listed>) -> Result<(), SourceError> {
        let mut folder = self.open_root()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            folder = match open_below(&folder, part, OFlags::DIRECTORY) {
                Ok(folder) => folder,
                Err(error) if is_nothing(&error) => return Ok(()),
                Err(error) => return Err(self.error(path, error)),
            };
        }
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let full = all.len() + most;
        files(&folder, &prefix, MAX_DEPTH, full, all).map_err(|error| self.error(path, error))
    }

    pub(super) async fn read(&self, key: &str, object: &Object, range: Range<u64>) -> Result<Body, SourceError> {
        let (folder, key, version) = (self.clone(), key.to_owned(), object.version.clone());
        let open = move || {
            let file = folder.open(&key).map_err(|error| folder.error(&key, error))?;
            let body = Body { file: Arc::new(file), range, version, place: format!("{}{key}", folder.place) };
            body.same()?;
            Ok(body)
        };
        blocking(open).await
    }

    fn open(&self, key: &str) -> io::Result<File> {
        let (path, name) = key.rsplit_once('/').unwrap_or(("", key));
        let mut folder = openat(CWD, &self.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            folder = open_below(&folder, part, OFlags::DIRECTORY)?;
        }
        // A pipe would wait for who writes into it.
        let file = File::from(open_below(&folder, name, OFlags::NONBLOCK)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
    }

    pub(super) async fn put(&self, key: &str, from: &Path) -> io::Result<()> {
        let (to, from) = (self.root.join(key), from.to_owned());
        let put = move || {
            let (folder, part) = beside(&to)?;
            fs::copy(&from, &part)?;
            File::open(&part)?.sync_all()?;
            fs::rename(&part, &to)?;
            File::open(folder)?.sync_all()
        };
        spawn_blocking(put).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    pub(super) async fn put_new(&self, key: &str, bytes: Bytes) -> Result<(), SourceError> {
        let (to, place) = (self.root.join(key), format!("{}{key}", self.place));
        let put = move || {
            let (folder, part) = beside(&to)?;
            let mut file = File::create(&part)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            // A rename would take the place of what is there; a link does not.
            let put = fs::hard_link(&part, &to);
            fs::remove_file(&part)?;
            put?;
            File::open(folder)?.sync_all()
        };
        let put = spawn_blocking(put).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        put.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => SourceError::new(Trouble::Exists, place, ""),
            _ => SourceError::new(Trouble::Other, place, error.to_string()),
        })
    }

    fn error(&self, path: &str, error: io::Error) -> SourceError {
        let place = format!("{}{}", self.place, key::shown(path));
        let trouble = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory if path.is_empty() => Trouble::NoBucket,
            ErrorKind::NotFound | ErrorKind::NotADirectory => Trouble::NotFound,
            ErrorKind::PermissionDenied => Trouble::Forbidden,
            _ => Trouble::Other,
        };
        SourceError::new(trouble, place, error.to_string())
    }
}

/// The folder of a file to be, made if need be, and a name beside it for its first half.
fn beside(to: &Path) -> io::Result<(&Path, PathBuf)> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    Ok((folder, folder.join(format!(".{name}.{}.part", std::process::id()))))
}

/// Opens what is in a folder, unless it is a link.
fn open_below(folder: &impl AsFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::empty())?)
}

/// Whether nothing is there that is looked at: a link is nothing.
fn is_nothing(error: &io::Error) -> bool {
    let link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    link || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Adds the regular files of a folder and those below it, until there are `full`.
fn files(folder: &OwnedFd, prefix: &str, depth: usize, full: usize, all: &mut Vec<Listed>) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if all.len() >= full {
            return Ok(());
        }
        // What is still being written by `put`, or by a tool that hides what it has not done yet.
        if name == "." || name == ".." || name.starts_with('.') && name.ends_with(".part") {
            continue;
        }
        let key = format!("{prefix}{name}");
        let flags = if entry.file_type() == FileType::Directory { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
        let opened = match open_below(folder, &name, flags) {
            Ok(opened) => opened,
            Err(error) if is_nothing(&error) => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", key::shown(&key)))),
        };
        let file = File::from(opened);
        let meta = file.metadata()?;
        if meta.is_dir() && depth > 0 {
            files(&file.into(), &format!("{key}/"), depth - 1, full, all)?;
        } else if meta.is_file() {
            let object = Object { key: key.clone(), size: meta.len(), version: version(&meta) };
            all.push(Listed { key, object });
        }
    }
    Ok(())
}

fn version(meta: &fs::Metadata) -> Version {
    let modified = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    Version::File { modified, size: meta.len(), inode: meta.ino() }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let lost = |error: tokio::task::JoinError| SourceError::new(Trouble::Other, "a folder", error.to_string());
    spawn_blocking(work).await.map_err(lost)?
}

/// A range of a file, as it is read.
#[derive(Debug)]
pub struct Body {
    file: Arc<File>,
    range: Range<u64>,
    version: Version,
    place: String,
}

impl Body {
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.range.is_empty() {
            return self.same().map(|()| None);
        }
        let (file, from) = (self.file.clone(), self.range.start);
        let size = usize::try_from(self.range.end - from).unwrap_or(CHUNK).min(CHUNK);
        let read = move || {
            let mut bytes = vec![0; size];
            let read = file.read_at(&mut bytes, from)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        let read = spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let bytes = read.map_err(|error| SourceError::new(Trouble::Other, self.place.as_str(), error.to_string()))?;
        self.range.start += bytes.len() as u64;
        if bytes.is_empty() {
            self.range.start = self.range.end;
            return self.same().map(|()| None);
        }
        Ok(Some(bytes.into()))
    }

    /// Whether the file is still the version that was asked for.
    fn same(&self) -> Result<(), SourceError> {
        let meta = self.file.metadata();
        match meta.map(|meta| version(&meta)) {
            Ok(now) if now == self.version => Ok(()),
            Ok(_) => Err(SourceError::new(Trouble::Replaced, self.place.as_str(), "")),
            Err(error) => Err(SourceError::new(Trouble::Other, self.place.as_str(), error.to_string())),
        }
    }
}
