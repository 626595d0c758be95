//! Things that are expensive to make, made once a machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Where made things lie: `TUTTI_CACHE`, else `tutti` in the user's cache folder. Never in the checkout.
///
/// # Errors
/// Neither `TUTTI_CACHE`, `XDG_CACHE_HOME` nor `HOME` is set, or the folder cannot be made.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("TUTTI_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("tutti")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/tutti")))
        .context("no folder for the cache: set TUTTI_CACHE or HOME")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The folder `name` of the cache, made by `make` in an empty folder if it is not there.
///
/// A folder is there whole or not at all: it is made under another name and renamed. Processes that want the same
/// one wait for the first.
pub(crate) fn made(name: &str, expected: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let wanted = cache.join(name);
    if wanted.exists() {
        return Ok(wanted);
    }
    let lock = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().context("cannot lock the cache")?;
    if wanted.exists() {
        return Ok(wanted);
    }
    eprintln!("making {name}, once: {expected}");
    let start = Instant::now();
    let half = tempfile::Builder::new().prefix(&format!("{name}.part-")).tempdir_in(&cache)?;
    make(half.path()).with_context(|| format!("cannot make {name}"))?;
    fs::rename(half.keep(), &wanted).with_context(|| format!("cannot move {name} into place"))?;
    eprintln!("made {name} in {:.0} s", start.elapsed().as_secs_f64());
    Ok(wanted)
}

/// A name for what was made from exactly these bytes: 12 hexadecimal digits of their SHA-256.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())[..12].to_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_making_leaves_nothing_and_the_next_one_makes_it_once() {
        let name = format!("test-{}", std::process::id());
        let failed = made(&name, "never", |half| {
            fs::write(half.join("x"), "half")?;
            anyhow::bail!("on purpose")
        });
        assert!(failed.is_err() && !cache_dir().unwrap().join(&name).exists());
        let mut times = 0;
        for _ in 0..2 {
            let folder = made(&name, "at once", |half| {
                times += 1;
                Ok(fs::write(half.join("x"), "whole")?)
            });
            assert_eq!(fs::read_to_string(folder.unwrap().join("x")).unwrap(), "whole");
        }
        assert_eq!(times, 1);
        fs::remove_dir_all(cache_dir().unwrap().join(&name)).unwrap();
        fs::remove_file(cache_dir().unwrap().join(format!("{name}.lock"))).unwrap();
    }

    #[test]
    fn a_key_depends_on_where_one_part_ends() {
        assert_ne!(key([b"ab".as_slice(), b"c"]), key([b"a".as_slice(), b"bc"]));
    }
}
