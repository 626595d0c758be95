//! The word that gateways show a loader.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest token. Unit: bytes.
const MAX: u64 = 4096;

/// How long the one before is taken beside a changed one: gateways and loaders of other machines, which have files of their own,
/// come to have the new one some time later (a kubelet brings a changed Secret within about a minute and a half).
const GRACE: Duration = Duration::from_secs(120);
/// Most earlier ones that are remembered: a file that is written in pieces holds some that were never meant.
const MAX_BEFORE: usize = 8;

/// Where the token is, and what it was. The file is read at each question, so that a changed one counts at once: gateways ask
/// twice a minute.
pub struct Token {
    path: PathBuf,
    known: Mutex<Known>,
}

/// The token, and those before it with the time when each was seen to be replaced.
struct Known {
    now: String,
    before: VecDeque<(String, Instant)>,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the loader's token (adapters.tokenFile) {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
    /// It holds none.
    #[error("the loader's token (adapters.tokenFile) {} is none: write one line of 16 to 4096 visible characters", .0.display())]
    NoToken(PathBuf),
}

impl Token {
    /// Of this file, which has a token now.
    ///
    /// # Errors
    /// It has not.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let known = Known { now: read(path)?, before: VecDeque::new() };
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    /// The same, where another file held it before: what that had is taken for a while.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_after(path: &Path, other: &Self, at: Instant) -> Result<Self, TokenError> {
        let mut token = Self::open(path)?;
        let known = token.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        let other = other.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.before.clone_from(&other.before);
        known.before.push_back((other.now.clone(), at));
        drop(other);
        Ok(token)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the token, or was until a moment ago. What a file comes to hold that is none changes nothing.
    pub(crate) fn is(&self, given: &[u8], at: Instant) -> bool {
        let read = read(&self.path).inspect_err(|error| tracing::warn!("{error}: the one before counts"));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(token) = read
            && token != known.now
        {
            let old = std::mem::replace(&mut known.now, token);
            known.before.push_back((old, at));
            let surplus = known.before.len().saturating_sub(MAX_BEFORE);
            known.before.drain(..surplus);
            tracing::info!(file = %self.path.display(), "the changed token is in force");
        }
        known.before.retain(|(_, replaced)| at < *replaced + GRACE);
        let all = std::iter::once(&known.now).chain(known.before.iter().map(|(token, _)| token));
        all.fold(false, |is, token| is | same(token.as_bytes(), given))
    }
}

/// Whether two are the same. It takes a time that says nothing about where they differ.
fn same(token: &[u8], given: &[u8]) -> bool {
    let differ = |differ, (a, b): (&u8, &u8)| differ | (a ^ b);
    given.len() == token.len() && given.iter().zip(token).fold(0, differ) == 0
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.path).finish()
    }
}

fn read(path: &Path) -> Result<String, TokenError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX + 2).read_to_string(&mut text));
    read.map_err(|error| TokenError::Unreadable { path: path.to_owned(), error: error.to_string() })?;
    let token = text.trim_end_matches(['\r', '\n']);
    let is_token = (16..=MAX as usize).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(token.to_owned()) } else { Err(TokenError::NoToken(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_line_is_the_token_and_a_changed_one_counts_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let why = Token::open(&file).unwrap_err().to_string();
        assert!(why.contains("tokenFile"), "{why}");
        std::fs::write(&file, "short\n").unwrap();
        assert_eq!(Token::open(&file).unwrap_err(), TokenError::NoToken(file.clone()));
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let (token, now) = (Token::open(&file).unwrap(), Instant::now());
        let is = |given: &[u8], seconds| token.is(given, now + Duration::from_secs(seconds));
        assert!(is(b"0123456789abcdef", 0) && !is(b"0123456789abcdeF", 0) && !is(b"", 0));
        std::fs::write(&file, "fedcba9876543210").unwrap();
        assert!(is(b"fedcba9876543210", 1) && !is(b"fedcba987654321", 1));
        // The one before is taken for a while, whatever comes in between.
        assert!(is(b"0123456789abcdef", 119));
        std::fs::remove_file(&file).unwrap();
        assert!(is(b"fedcba9876543210", 120) && is(b"0123456789abcdef", 120), "what is none changes nothing");
        assert!(!is(b"0123456789abcdef", 121));
        for number in 0..20 {
            std::fs::write(&file, format!("one of many tokens {number:02}").replace(' ', "-")).unwrap();
            assert!(is(format!("one-of-many-tokens-{number:02}").as_bytes(), 200));
        }
        assert!(is(b"one-of-many-tokens-12", 200) && !is(b"one-of-many-tokens-10", 200), "so many are remembered");
        assert!(is(b"one-of-many-tokens-19", 400) && !is(b"one-of-many-tokens-18", 400));
        let (elsewhere, at) = (folder.path().join("elsewhere"), now + Duration::from_secs(400));
        std::fs::write(&elsewhere, "a-token-of-another-file").unwrap();
        let moved = Token::open_after(&elsewhere, &token, at).unwrap();
        assert!(moved.is(b"a-token-of-another-file", at) && moved.is(b"one-of-many-tokens-19", at));
        assert!(!moved.is(b"one-of-many-tokens-19", at + GRACE));
    }
}
