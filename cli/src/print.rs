//! What commands print.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;

/// Prints a page to standard output. A reader that has had enough of it (`| head`) is none to complain to.
pub(crate) fn page(text: &str) -> Result<ExitCode> {
    next_page(text)?;
    Ok(ExitCode::SUCCESS)
}

/// The same of one of many; whether anybody wants the next.
pub(crate) fn next_page(text: &str) -> Result<bool> {
    Ok(write_to(&mut io::stdout(), text)?)
}

/// Says something on standard error, as `eprintln!` does; but where nobody can hear it (a full disk, a reader that has
/// gone) that macro ends the process with code 101, and what was to be done stays undone.
macro_rules! say {
    ($($said:tt)*) => { $crate::print::told(format_args!($($said)*)) };
}

pub(crate) use say;

/// What [`say!`] does.
pub(crate) fn told(said: std::fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("{said}\n").as_bytes()); // whom else to tell?
}

/// Whether there is a reader still.
fn write_to(output: &mut impl Write, text: &str) -> io::Result<bool> {
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// A name that a replica gave, without what a terminal would obey.
pub(crate) fn plain(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

/// A word as a shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_error_and_a_full_disk_is() {
        assert!(matches!(write_to(&mut Fails(ErrorKind::BrokenPipe), "x"), Ok(false)));
        assert!(matches!(write_to(&mut Vec::new(), "x"), Ok(true)));
        assert!(write_to(&mut Fails(ErrorKind::StorageFull), "x").is_err());
    }

    #[test]
    fn words_come_through_a_shell_as_they_were() {
        for word in ["plain", "it's", r#"a "b" $c `d` \"#, "'", "a'; rm -rf ~ #'"] {
            let echoed = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
            assert_eq!(String::from_utf8(echoed.unwrap().stdout).unwrap(), word);
        }
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(plain("m\u{1b}[2J\n模型"), "m\u{fffd}[2J\u{fffd}模型");
    }
}
