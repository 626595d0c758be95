//! Names of objects: whoever may write into the bucket may choose them, so only plain ones become files.

use std::fmt;

/// Longest key below a prefix. Unit: bytes; an object store's own bound.
const MAX: usize = 1024;
/// Longest part between two slashes. Unit: bytes; what file systems take.
const MAX_PART: usize = 200;
/// Most parts.
const MAX_PARTS: usize = 16;

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Odd {
    Empty,
    Long,
    Climbs,
    Backslash,
    Control,
    Unicode,
    Character(char),
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Odd::Empty => f.write_str("a part of it is empty"),
            Odd::Long => write!(
                f,
                "it is longer than {MAX} bytes, one of its parts is than {MAX_PART}, or it has more than {MAX_PARTS} parts"
            ),
            Odd::Climbs => f.write_str("a part of it is `.` or `..`"),
            Odd::Backslash => f.write_str("it holds a backslash"),
            Odd::Control => f.write_str("it holds a control character"),
            Odd::Unicode => {
                f.write_str("it holds characters beyond ASCII, which can look alike and be written in two ways")
            }
            Odd::Character(char) => write!(f, "it holds {char:?}"),
        }
    }
}

/// Looks at a key below a prefix: parts with slashes between them, none at either end.
pub(crate) fn check(key: &str) -> Result<(), Odd> {
    if key.len() > MAX || key.split('/').count() > MAX_PARTS {
        return Err(Odd::Long);
    }
    key.split('/').try_for_each(check_part)
}

fn check_part(part: &str) -> Result<(), Odd> {
    match part {
        "" => return Err(Odd::Empty),
        "." | ".." => return Err(Odd::Climbs),
        _ if part.len() > MAX_PART => return Err(Odd::Long),
        _ => {}
    }
    match part.chars().find(|char| !is_plain(*char)) {
        None => Ok(()),
        Some('\\') => Err(Odd::Backslash),
        Some(char) if char.is_control() => Err(Odd::Control),
        Some(char) if !char.is_ascii() => Err(Odd::Unicode),
        Some(char) => Err(Odd::Character(char)),
    }
}

/// What every file system takes as it stands and no shell reads as something else, but for the brackets and the blank of
/// people's copies, `a (1).gguf`: those are told apart from what hides something.
fn is_plain(char: char) -> bool {
    char.is_ascii_alphanumeric() || "._-+=@,~()[] ".contains(char)
}

/// A key as it is shown: what a terminal would obey, and what is not ASCII, as escapes; long ones cut.
pub(crate) fn shown(key: &str) -> String {
    const SHOWN: usize = 200;
    let escaped: String = key.chars().take(SHOWN).flat_map(char::escape_default).collect();
    let more = if key.chars().nth(SHOWN).is_some() { "…" } else { "" };
    escaped.replace("\\\'", "'").replace("\\\"", "\"") + more
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_keys_are_refused_by_name() {
        for (key, odd) in [
            ("", Odd::Empty),
            ("/a", Odd::Empty),
            ("a//b", Odd::Empty),
            ("a/", Odd::Empty),
            ("..", Odd::Climbs),
            ("a/../b", Odd::Climbs),
            ("./a", Odd::Climbs),
            (r"a\..\b", Odd::Backslash),
            ("a\0", Odd::Control),
            ("a\u{1b}[2J", Odd::Control),
            ("模型", Odd::Unicode),
            ("a\u{202e}b", Odd::Unicode),
            ("a\u{85}", Odd::Control),
            ("a:b", Odd::Character(':')),
            ("a*", Odd::Character('*')),
        ] {
            assert_eq!(check(key), Err(odd), "{key:?}");
        }
        for long in
            ["a".repeat(MAX_PART + 1), ["a"; MAX_PARTS + 1].join("/"), format!("{}/", "a".repeat(200)).repeat(6)]
        {
            assert_eq!(check(&long), Err(Odd::Long), "{long}");
        }
        for plain in ["adapter_model.safetensors", "a/b.c/d-e", ".gitattributes", "a (1).gguf", "..a", "a.."] {
            assert_eq!(check(plain), Ok(()), "{plain}");
        }
    }

    #[test]
    fn what_is_shown_cannot_play_tricks() {
        assert_eq!(shown("a'\"\u{202e}\u{1b}[2J/模"), "a'\"\\u{202e}\\u{1b}[2J/\\u{6a21}");
        assert_eq!(shown(&"a".repeat(300)).chars().count(), 201);
    }

    proptest! {
        #[test]
        fn what_is_taken_stays_below_its_folder(key in "[a./\\\\ ~\u{0}-\u{7f}é]{0,24}") {
            if check(&key).is_ok() {
                let path = Path::new(&key);
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{:?}", path);
                prop_assert_eq!(path.components().count(), key.split('/').count());
            }
        }
    }
}
