//! A real object store for a test, and the way to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tutti_adapter_loader::source::Source;
use tutti_api::S3Spec;
use tutti_rig::Minio;

use crate::Faulty;
use crate::site::files;

/// The bucket that it has.
pub const BUCKET: &str = "models";

/// A real MinIO with a bucket, behind a way that can be made faulty, and a folder for what a test fetches.
pub struct Store {
    /// The store.
    pub minio: Minio,
    /// The way to it.
    pub way: Faulty,
    /// A folder of the test's own.
    pub folder: TempDir,
}

impl Store {
    /// Starts it.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start() -> Self {
        let fail = |error: &dyn std::fmt::Display| -> ! { panic!("no object store: {error}") };
        let minio = Minio::start().unwrap_or_else(|error| fail(&error));
        minio.make_bucket(BUCKET).unwrap_or_else(|error| fail(&error));
        let way = Faulty::before(minio.port());
        let folder = TempDir::new().unwrap_or_else(|error| fail(&error));
        let store = Self { minio, way, folder };
        store.write_credentials();
        store
    }

    /// Writes the credentials that it takes now where [`Self::spec`] says they are.
    ///
    /// # Panics
    /// Where it cannot.
    pub fn write_credentials(&self) {
        self.minio
            .write_credentials(&self.credentials_file())
            .unwrap_or_else(|error| panic!("no credentials: {error}"));
    }

    /// Where they are.
    pub fn credentials_file(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    /// How it is reached, by the way that can be made faulty.
    pub fn spec(&self) -> S3Spec {
        let credentials_file = Some(self.credentials_file().display().to_string());
        S3Spec { endpoint: Some(self.way.url()), credentials_file, ..S3Spec::default() }
    }

    /// It as a source.
    ///
    /// # Panics
    /// Where that cannot be opened.
    pub fn source(&self) -> Arc<Source> {
        let source = Source::at(&format!("s3://{BUCKET}/"), &self.spec());
        Arc::new(source.unwrap_or_else(|error| panic!("no source: {error}")))
    }

    /// Puts an object.
    ///
    /// # Panics
    /// Where it is not taken.
    pub fn put(&self, key: &str, content: &[u8]) {
        self.minio.put(BUCKET, key, content).unwrap_or_else(|error| panic!("{key}: {error}"));
    }

    /// Puts a folder at a path, as a push does: the manifest, where there is one, last.
    ///
    /// # Panics
    /// Where it cannot be read, or is not taken.
    pub fn push(&self, folder: &Path, path: &str) {
        let read = |name: &str| {
            fs::read(folder.join(name)).unwrap_or_else(|error| panic!("cannot read {name} of {path}: {error}"))
        };
        let mut names = files(folder);
        names.sort_by_key(|name| name == "manifest.json");
        for name in names {
            self.put(&format!("{path}/{name}"), &read(&name));
        }
    }
}
