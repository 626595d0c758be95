//! Where adapters come from: a bucket of an object store, or a folder. Both are looked at in the same way: listed, and read
//! by ranges of a version that was listed, so that what is read is one thing even while somebody writes.

mod error;
mod folder;
pub(crate) mod key;
mod s3;
mod walk;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tutti_api::{AdaptersSpec, Digest, S3Spec};

pub use error::{SourceError, Trouble};
pub use folder::Folder;
pub use s3::S3;
pub use walk::Listing;

/// Most objects below one adapter's path: a manifest and a few files, and what a trainer leaves beside them.
pub const MAX_OBJECTS: usize = 1000;

/// Where adapters come from.
#[derive(Debug)]
pub enum Source {
    /// A bucket, and a prefix in it.
    S3(S3),
    /// A folder.
    Folder(Folder),
}

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Its key below the path that was listed.
    pub key: String,
    /// Unit: bytes.
    pub size: u64,
    /// Tells its content from what may come to stand there.
    pub version: Version,
}

/// Tells what is at a place now from what was there. It says nothing of what the content is: only a digest does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Version {
    /// An object store's word for it, as it gave it.
    Etag(String),
    /// A file's.
    #[serde(rename_all = "camelCase")]
    File {
        /// When it was last written. Unit: nanoseconds since 1970.
        modified: i64,
        /// Unit: bytes.
        size: u64,
        /// Its number in its file system: another file has another.
        inode: u64,
    },
}

/// What lies below some paths of a source.
#[derive(Debug)]
pub struct Look {
    /// By path. One that is not there is there with nothing in it.
    pub paths: BTreeMap<String, Listing>,
    /// Questions that it took.
    pub requests: u32,
}

/// The clock that requests are signed by, and that says when credentials are over.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

impl Source {
    /// What a pool's adapters come from. Nothing is asked yet.
    ///
    /// # Errors
    /// The address, or a file that it names, is not right.
    pub fn open(spec: &AdaptersSpec) -> Result<Self, SourceError> {
        Self::at(&spec.from, &spec.s3)
    }

    /// A bucket and prefix, `s3://bucket/prefix/`, or a folder.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn at(from: &str, s3: &S3Spec) -> Result<Self, SourceError> {
        Self::with_clock(from, s3, Arc::new(SystemTime::now))
    }

    /// The same by another clock than the system's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_clock(from: &str, s3: &S3Spec, clock: Clock) -> Result<Self, SourceError> {
        match from.split_once("://") {
            Some(("s3", _)) => S3::open(from, s3, clock).map(Source::S3),
            Some(_) => Err(SourceError::new(
                Trouble::Configuration,
                key::shown(from),
                "write s3://bucket/prefix/, or the path of a folder",
            )),
            None => Ok(Source::Folder(Folder::new(from))),
        }
    }

    /// Where it is, for people, with a slash at its end: a key behind it makes the place of an object.
    pub fn place(&self) -> &str {
        match self {
            Source::S3(s3) => s3.place(),
            Source::Folder(folder) => folder.place(),
        }
    }

    /// Looks at what lies below each of these paths: lists, and reads nothing. What is wrong below one path is in its own
    /// listing; two looks of which a path's listings are equal saw nothing change there. Of an object store it takes at most
    /// one question for 1,000 keys between the first path and the last, and at most one more for each path.
    ///
    /// # Errors
    /// The source cannot be listed at all.
    pub async fn look(&self, paths: &[&str]) -> Result<Look, SourceError> {
        match self {
            Source::S3(s3) => s3.look(paths, MAX_OBJECTS).await,
            Source::Folder(folder) => folder.look(paths, MAX_OBJECTS).await,
        }
    }

    /// What lies below a path (the whole source, where it is empty), in the order of its keys, which are given below that
    /// path; at most `most` of them.
    ///
    /// # Errors
    /// It cannot be listed, there are more, or one has a name that is not taken.
    pub async fn list(&self, path: &str, most: usize) -> Result<Vec<Object>, SourceError> {
        match self {
            Source::S3(s3) => s3.list(path, most).await,
            Source::Folder(folder) => folder.list(path, most).await,
        }
    }

    /// Reads bytes `from..to` of what is at `key` (below the source), if it is still that version. An empty range is
    /// never asked for.
    ///
    /// # Errors
    /// It is gone or another, or cannot be read.
    pub async fn read(&self, key: &str, object: &Object, range: std::ops::Range<u64>) -> Result<Body, SourceError> {
        key::check(key).map_err(|odd| walk::odd_key(self.place(), key, odd))?;
        match self {
            Source::S3(s3) => s3.read(key, object, range).await.map(Body::S3),
            Source::Folder(folder) => folder.read(key, object, range).await.map(Body::File),
        }
    }

    /// Reads a small file whole.
    ///
    /// # Errors
    /// As [`Self::read`]; it has more than `most` bytes; or it broke off.
    pub async fn read_whole(&self, key: &str, object: &Object, most: usize) -> Result<Bytes, SourceError> {
        let place = || format!("{}{}", self.place(), key::shown(key));
        if object.size > most as u64 {
            let detail = format!("{} bytes, at most {most} are read", object.size);
            return Err(SourceError::new(Trouble::TooLarge, place(), detail));
        }
        if object.size == 0 {
            return Ok(Bytes::new());
        }
        let mut body = self.read(key, object, 0..object.size).await?;
        let mut bytes = BytesMut::with_capacity(usize::try_from(object.size).unwrap_or(most));
        while let Some(chunk) = body.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() as u64 != object.size {
            return Err(SourceError::new(Trouble::Cut, place(), format!("{} of {} bytes", bytes.len(), object.size)));
        }
        Ok(bytes.freeze())
    }

    /// Puts a file at `key` (below the source), from a path on this machine.
    ///
    /// # Errors
    /// It cannot be read or put.
    pub async fn put(
        &self,
        key: &str,
        file: &PathBuf,
        sha256: &Digest,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), SourceError> {
        key::check(key).map_err(|odd| walk::odd_key(self.place(), key, odd))?;
        let place = format!("{}{key}", self.place());
        let cannot = |error: std::io::Error| {
            SourceError::new(Trouble::Configuration, file.display().to_string(), error.to_string())
        };
        let size = fs::metadata(file).map_err(cannot)?.len();
        match self {
            Source::S3(s3) => s3.put(key, file, size, sha256, sent).await,
            Source::Folder(folder) => folder
                .put(key, file)
                .await
                .map(|()| sent(size))
                .map_err(|error| SourceError::new(Trouble::Other, place, error.to_string())),
        }
    }

    /// Puts a few bytes at `key`, unless there is something already.
    ///
    /// # Errors
    /// There is, or they cannot be put.
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<(), SourceError> {
        key::check(key).map_err(|odd| walk::odd_key(self.place(), key, odd))?;
        match self {
            Source::S3(s3) => s3.put_new(key, bytes).await,
            Source::Folder(folder) => folder.put_new(key, bytes).await,
        }
    }
}

/// The bytes of a range, as they come.
#[derive(Debug)]
pub enum Body {
    /// From an object store.
    S3(s3::Body),
    /// From a file.
    File(folder::Body),
}

impl Body {
    /// The next bytes; none at the end, which may come before that of the range where the answer broke off.
    ///
    /// # Errors
    /// The answer broke off, or the file is another now.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        match self {
            Body::S3(body) => body.chunk().await,
            Body::File(body) => body.chunk().await,
        }
    }
}
