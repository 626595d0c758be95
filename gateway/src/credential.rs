//! The key that a replica wants of whoever asks it, read from a file that is followed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;

use crate::follow::{Followed, Text};

/// Largest file with a key. Unit: bytes.
const MAX_FILE: u64 = 8 << 10;
/// How often who follows a file looks whether anybody still wants it.
const LOOK: Duration = Duration::from_secs(60);

/// How long the one before is of use: whoever wants the key has a file of its own, which may come to hold the new one later.
const GRACE: Duration = Duration::from_secs(120);

/// A key, as a header has it. Nothing prints it.
pub(crate) struct Credential {
    path: PathBuf,
    header: ArcSwap<HeaderValue>,
    /// The one before, and since when it is that.
    before: ArcSwapOption<(HeaderValue, Instant)>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.path.display())
    }
}

impl Credential {
    /// The key in this file, which is followed for as long as anybody has the key. Called on the control thread's
    /// runtime.
    ///
    /// # Errors
    /// Why the file holds no key.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, String> {
        let (followed, text) = Followed::open(path.to_owned(), MAX_FILE);
        let header = read(path, text)?;
        let (header, before) = (ArcSwap::from_pointee(header), ArcSwapOption::empty());
        let credential = Arc::new(Self { path: path.to_owned(), header, before });
        tokio::spawn(follow(followed, Arc::downgrade(&credential)));
        Ok(credential)
    }

    /// What `Authorization` says.
    pub(crate) fn header(&self) -> HeaderValue {
        HeaderValue::clone(&self.header.load())
    }

    /// What it said until a moment ago, for one who does not take the key that is in force yet.
    pub(crate) fn before(&self, now: Instant) -> Option<HeaderValue> {
        let before = self.before.load_full()?;
        (now < before.1 + GRACE).then(|| before.0.clone())
    }

    fn change(&self, header: HeaderValue, now: Instant) {
        let before = self.header.swap(Arc::new(header));
        self.before.store(Some(Arc::new((HeaderValue::clone(&before), now))));
    }
}

/// Takes up each key that the file comes to hold. What is none changes nothing: the last one may still open.
async fn follow(mut file: Followed, credential: Weak<Credential>) {
    loop {
        let changed = tokio::time::timeout(LOOK, file.changed(async || std::future::pending().await)).await;
        let Some(credential) = credential.upgrade() else { return };
        let Ok(text) = changed else { continue };
        match read(&credential.path, text) {
            Ok(header) => {
                credential.change(header, Instant::now());
                tracing::info!(file = %credential.path.display(), "the changed key for a replica is in force");
            }
            Err(error) => tracing::error!(error, "the key for a replica stays as it was"),
        }
    }
}

/// The header of what a file holds; the error does not say what that is.
fn read(path: &Path, text: Text) -> Result<HeaderValue, String> {
    let text = text.map_err(|error| format!("the key for a replica cannot be read: {error}"))?;
    let key = text.trim();
    let one_word = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let header = HeaderValue::try_from(format!("Bearer {key}")).ok().filter(|_| one_word);
    let mut header = header
        .ok_or_else(|| format!("{} holds no key: write one line of visible ASCII without spaces", path.display()))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_and_an_error_does_not_say_it() {
        let path = Path::new("/keys/replica");
        assert_eq!(read(path, Ok("sk-1\n".to_owned())).unwrap(), "Bearer sk-1");
        for wrong in ["", "\n", "secret one", "secret\nsecret", "sécret", "secret\u{7f}"] {
            let error = read(path, Ok(wrong.to_owned())).unwrap_err();
            assert!(error.contains("/keys/replica holds no key") && !error.contains("cret"), "{error}");
        }
        assert!(read(path, Err("gone".to_owned())).unwrap_err().contains("gone"));
    }

    #[tokio::test]
    async fn nothing_prints_it() {
        let folder = std::env::temp_dir().join(format!("tutti-credential-{:016x}", crate::random()));
        std::fs::write(&folder, "sk-secret").unwrap();
        let credential = Credential::open(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(credential.header(), "Bearer sk-secret");
        assert!(!format!("{credential:?} {:?}", credential.header()).contains("secret"));
        // The one before is known for a while.
        let now = Instant::now();
        assert_eq!(credential.before(now), None);
        credential.change(read(Path::new("/keys"), Ok("sk-other".to_owned())).unwrap(), now);
        assert_eq!(
            (credential.header(), credential.before(now)),
            ("Bearer sk-other".parse().unwrap(), Some("Bearer sk-secret".parse().unwrap()))
        );
        assert_eq!(credential.before(now + GRACE), None);
    }
}
