//! Certificates of this machine's names, made for a test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

/// A certificate that signed itself, and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Certificate {
    /// Of `localhost` and 127.0.0.1, for a day from yesterday on. `name` tells it from others.
    ///
    /// # Panics
    /// Where there is no randomness.
    pub fn new(name: &str) -> Self {
        Self::lasting(name, Duration::from_secs(2 * 86_400))
    }

    /// The same, expired an hour ago.
    ///
    /// # Panics
    /// Where there is no randomness.
    pub fn expired(name: &str) -> Self {
        Self::lasting(name, Duration::from_secs(23 * 3600))
    }

    fn lasting(name: &str, lasts: Duration) -> Self {
        let made = || {
            let mut params = rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.not_before = std::time::SystemTime::now().into();
            params.not_before -= Duration::from_secs(86_400);
            params.not_after = params.not_before + lasts;
            let key = rcgen::KeyPair::generate()?;
            Ok::<_, rcgen::Error>(Self { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
        };
        made().unwrap_or_else(|error| panic!("no certificate: {error}"))
    }
}

/// A folder with `tls.crt` and `tls.key`.
#[derive(Debug)]
pub struct Files(TempDir);

impl Files {
    /// With this certificate in them.
    ///
    /// # Panics
    /// Where they cannot be written.
    pub fn of(certificate: &Certificate) -> Self {
        let files = Self(TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}")));
        files.write(&certificate.cert, &certificate.key);
        files
    }

    /// Writes both anew.
    ///
    /// # Panics
    /// Where they cannot be written.
    pub fn write(&self, cert: &str, key: &str) {
        let written = fs::write(self.cert(), cert)
            .and_then(|()| fs::write(self.key(), key))
            .and_then(|()| fs::set_permissions(self.key(), fs::Permissions::from_mode(0o600)));
        written.unwrap_or_else(|error| panic!("cannot write: {error}"));
    }

    /// The certificate's file.
    pub fn cert(&self) -> PathBuf {
        self.0.path().join("tls.crt")
    }

    /// The key's file.
    pub fn key(&self) -> PathBuf {
        self.0.path().join("tls.key")
    }

    /// Another file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the configuration says of them.
    pub fn yaml(&self) -> String {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        format!("tls: {{ cert: {}, key: {} }}", quoted(&self.cert()), quoted(&self.key()))
    }
}
