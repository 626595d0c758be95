//! A key as its holder has it: `tutti_` id `_` secret and checksum.
//!
//! The prefix and the checksum are for those who look for keys in places where none should be: a text of this form
//! whose last six characters fit is a key of some tutti, and nothing else is taken for one.

use std::fmt;
use std::io;

use sha2::{Digest, Sha256};

/// How every key begins.
const PREFIX: &str = "tutti_";
const SMALL: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// What ids begin with: in a keys file written by hand, without quotes, `79447732` or `1e234567` would be numbers.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const ALL: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Unit: characters, a letter and then of [`SMALL`], 40 bits: ids are told apart, and are no secret.
const ID: usize = 8;
/// Unit: characters of [`ALL`]: the least that hold 256 bits.
const SECRET: usize = 43;
/// Unit: characters of [`ALL`]: 32 bits.
const CHECKSUM: usize = 6;

/// A key that was made a moment ago. Nothing prints it but [`NewKey::text`].
pub struct NewKey {
    /// What it is called.
    pub id: String,
    text: String,
}

impl NewKey {
    /// Makes one of 256 bits that nobody could guess.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn make() -> io::Result<Self> {
        let id = random(LETTERS, 1)? + &random(SMALL, ID - 1)?;
        let mut text = format!("{PREFIX}{id}_{}", random(ALL, SECRET)?);
        text.push_str(&checksum(&text));
        Ok(Self { id, text })
    }

    /// The key itself: to be shown once, to its holder.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What a keys file holds of it.
    pub fn sha256(&self) -> String {
        hash(self.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKey({})", self.id)
    }
}

/// What a presented text is looked up by. A plain hash, and a quick one: there is no guessing 256 random bits, so
/// nothing would be gained by making each guess dear.
pub(super) fn hash(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The id in a text that looks like a key, where somebody gave it instead of its id.
pub fn id_in(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    (!secret.is_empty()).then_some(id)
}

/// The first 32 bits of the SHA-256 of a text.
fn checksum(text: &str) -> String {
    let [a, b, c, d, ..] = hash(text.as_bytes());
    let mut left = u32::from_be_bytes([a, b, c, d]);
    let mut digits = [0; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = ALL[(left % 62) as usize];
        left /= 62;
    }
    digits.iter().copied().map(char::from).collect()
}

/// Characters of an alphabet, each as likely as any other.
fn random(alphabet: &[u8], characters: usize) -> io::Result<String> {
    let fair = 256 - 256 % alphabet.len(); // above it, the first characters would be likelier
    let mut text = String::new();
    while text.len() < characters {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let picked = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        let left = characters - text.len();
        text.extend(picked.take(left).map(|byte| char::from(alphabet[byte % alphabet.len()])));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_key_has_its_form_and_its_checksum() {
        let key = NewKey::make().unwrap();
        let text = key.text();
        let (start, end) = text.split_at(text.len() - CHECKSUM);
        assert_eq!(end, checksum(start));
        assert_eq!(text.len(), 64);
        assert_eq!(id_in(text), Some(&*key.id));
        assert!(key.id.starts_with(|first: char| first.is_ascii_lowercase()), "{}", key.id);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        assert_eq!(key.id.len(), ID);
        assert!(!format!("{key:?}").contains(&text[15..]), "nothing prints it");
        for other in ["", "tutti_", "tutti_abc", "tutti_abc_", "sk-1_2", "abcdefgh"] {
            assert_eq!(id_in(other), None, "{other}");
        }
    }

    #[test]
    fn known_hashes() {
        // FIPS 180-2, appendix B.1, and its first four bytes in base 62.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let key = NewKey { id: String::new(), text: "abc".to_owned() };
        assert_eq!(key.sha256(), abc);
        assert_eq!(checksum("abc"), "3Pia9n");
    }

    #[test]
    fn all_characters_come_and_no_key_twice() {
        let keys: HashSet<String> = (0..200).map(|_| random(ALL, SECRET).unwrap()).collect();
        assert_eq!(keys.len(), 200);
        // 8,600 draws of 62: one that never comes is a chance of 1 in 10^58.
        let seen: HashSet<char> = keys.iter().flat_map(|key| key.chars()).collect();
        assert_eq!(seen.len(), 62);
    }
}
