//! A keys file as it is read and written.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::ser::Formatter;
use tutti_api::{KeysFile, MAX_KEYS_TEXT, Problem, load_keys};

use crate::follow::{Followed, Text};

/// Why a keys file cannot be gone by.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is none.
    #[error(
        "there is no keys file {0}: make the first key with `tutti key new --name NAME --tenant TENANT --keys-file {0}`"
    )]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("the keys file cannot be read: {0}")]
    Unreadable(String),
    /// Who writes into it lets himself in.
    #[error("others may write the keys file {path} (mode {mode:03o}), and so let themselves in: chmod 600 {path}")]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It says what no keys file says.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problem>),
}

/// Reads a keys file. Yields what it says, and what should be mended.
///
/// # Errors
/// Why it cannot be gone by.
pub fn read(path: &Path) -> Result<(KeysFile, Option<String>), Unusable> {
    taken(path, Followed::open(path.to_owned(), MAX_KEYS_TEXT as u64).1)
}

/// What a text from a keys file says, and what should be mended about the file.
///
/// # Errors
/// Why it cannot be gone by.
pub(super) fn taken(path: &Path, text: Text) -> Result<(KeysFile, Option<String>), Unusable> {
    let text = text.map_err(|why| match path.try_exists() {
        Ok(false) => Unusable::Missing(path.to_owned()),
        _ => Unusable::Unreadable(why),
    })?;
    let found = fs::metadata(path).map_err(|error| Unusable::Unreadable(format!("{}: {error}", path.display())))?;
    let mode = found.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(Unusable::Writable { path: path.to_owned(), mode });
    }
    let ours = rustix::process::geteuid().as_raw();
    let owner = found.uid();
    let mend = if owner != ours && owner != 0 {
        Some(format!("the keys file {} is another user's (uid {owner}), who can let anybody in", path.display()))
    } else if mode & 0o004 != 0 && owner == ours {
        let path = path.display();
        Some(format!(
            "anybody on this machine may read the keys file {path}; it holds hashes only, but: chmod 600 {path}"
        ))
    } else {
        None
    };
    let file = load_keys(&text, &path.display().to_string()).map_err(Unusable::Wrong)?;
    Ok((file, mend))
}

/// The text of a keys file, a line a key: JSON where the file is called so, else YAML.
pub(super) fn render(path: &Path, file: &KeysFile) -> io::Result<String> {
    let lines = file.keys.iter().map(line).collect::<io::Result<Vec<String>>>()?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return Ok(format!("{{ \"keys\": [\n{}\n] }}\n", lines.join(",\n")));
    }
    let head = "# Written by `tutti key`, which keeps no comments. It holds hashes: no key can be read from it.\n";
    if lines.is_empty() {
        return Ok(format!("{head}keys: []\n"));
    }
    Ok(format!("{head}keys:\n{}", lines.iter().map(|line| format!("  - {line}\n")).collect::<String>()))
}

fn line(key: &tutti_api::KeySpec) -> io::Result<String> {
    let mut line = Vec::new();
    key.serialize(&mut serde_json::Serializer::with_formatter(&mut line, OneLine))?;
    String::from_utf8(line).map_err(io::Error::other)
}

/// JSON on a line, with room to breathe.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use tutti_api::{KeySpec, Priority, Timestamp};

    use super::*;

    fn key() -> impl Strategy<Value = KeySpec> {
        let models = prop::option::of(prop::collection::vec("[^\\x00-\\x1f\\x7f-\\x9f*]{1,20}\\*?", 1..3));
        let number = || prop::option::of(1..u32::MAX);
        let time = || prop::option::of((0..4_000_000_000i64).prop_map(Timestamp::from_unix));
        let class = prop::sample::select(&Priority::ALL[..]);
        (
            ("[^\\x00-\\x1f\\x7f-\\x9f]{1,20}", "[A-Za-z0-9._-]{1,20}"),
            models,
            (number(), number(), number()),
            (class, 1..=KeySpec::MOST_WEIGHT),
            time(),
        )
            .prop_map(|((name, tenant), models, (requests, tokens, concurrency), (priority, weight), time)| {
                KeySpec {
                    pin_revisions: false,
                    id: String::new(),
                    name,
                    tenant,
                    sha256: String::new(),
                    models,
                    requests_per_minute: requests,
                    tokens_per_minute: tokens,
                    concurrency,
                    priority,
                    weight,
                    created: time,
                    expires: time,
                    revoked: time,
                }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mut keys in prop::collection::vec(key(), 0..4), json: bool) {
            for (number, key) in keys.iter_mut().enumerate() {
                key.id = format!("key-{number}");
                key.sha256 = format!("{number:064x}");
            }
            let file = KeysFile { keys };
            let text = render(Path::new(if json { "k.JSON" } else { "k.yaml" }), &file).unwrap();
            prop_assert_eq!(load_keys(&text, "k"), Ok(file), "{}", text);
            prop_assert!(!json || serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }

    #[test]
    fn who_may_write_it_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        assert!(read(&path).unwrap_err().to_string().contains("tutti key new"));
        fs::write(&path, "keys: []").unwrap();
        for (mode, fine) in [(0o600, true), (0o640, true), (0o644, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let (file, mend) = read(&path).unwrap();
            assert!(file.keys.is_empty());
            assert_eq!(mend.is_none(), fine, "{mode:o}: {mend:?}");
        }
        for mode in [0o660, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(Unusable::Writable { mode: said, .. }) if said == mode), "{mode:o}");
        }
        assert!(read(folder.path()).unwrap_err().to_string().contains("no regular file"));
    }
}
