//! What is wrong with a configuration, and where.

use std::fmt;

/// Most that is shown of a line, a message or a name. Unit: characters.
const MAX_SHOWN: usize = 400;
/// What is shown of a line before the place. Unit: characters.
const BEFORE: usize = 200;
/// Most names that are offered. Unit: names.
const MAX_NAMES: usize = 20;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the file; both count from 1.
    File { line: usize, column: usize },
    /// In this environment variable.
    Env(String),
    /// In the whole.
    Whole,
}

/// One thing that is wrong, for a person to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(crate) place: Place,
    /// Which field, as `pools[0].queue.size`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that can be said.
    pub help: Option<String>,
    /// The name of the file.
    pub(crate) file: String,
    /// The line it stands in, to show, and the column of the place in it.
    pub(crate) source: Option<(String, usize)>,
}

impl Problem {
    pub(crate) fn new(
        place: &Place,
        path: impl Into<String>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Self {
        Self {
            place: place.clone(),
            path: path.into(),
            message: message.into(),
            help,
            file: String::new(),
            source: None,
        }
    }

    /// Line and column, from 1; `None` where it does not stand in the file.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        match self.place {
            Place::File { line, column } => Some((line, column)),
            Place::Env(_) | Place::Whole => None,
        }
    }

    /// Names the file, keeps the line to show from its text, if that may be shown, and makes everything fit for a
    /// terminal.
    pub(crate) fn shown_in(mut self, file: &str, text: Option<&str>) -> Self {
        file.clone_into(&mut self.file);
        if let (Place::File { line, column }, Some(text)) = (&self.place, text) {
            let (line, column) = (*line, *column);
            // A line with an `@` may hold a password.
            let source = text.lines().nth(line - 1).filter(|source| !source.contains('@'));
            let skipped = column.saturating_sub(BEFORE);
            self.source = source.map(|source| (printable(source, skipped), column - skipped));
        }
        self.path = printable(&self.path, 0);
        self.message = printable(&self.message, 0);
        self.help = self.help.map(|help| printable(&help, 0));
        self
    }
}

/// What a terminal can take: no control characters, no end of characters.
fn printable(text: &str, skipped: usize) -> String {
    let shown = |char: char| match char {
        '\t' => ' ',
        char if char.is_control() => char::REPLACEMENT_CHARACTER,
        char => char,
    };
    let mut rest = text.chars().skip(skipped).map(shown);
    let mut text: String = rest.by_ref().take(MAX_SHOWN).collect();
    if rest.next().is_some() {
        text.push('…');
    }
    text
}

/// The known name that was most likely meant.
pub(crate) fn meant<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let scored = known.into_iter().map(|known| (strsim::jaro_winkler(known, name), known));
    let (score, best) = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (score > 0.75).then_some(best)
}

/// Offers the known name that was most likely meant; else all of them.
pub(crate) fn offer<'k>(name: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> Option<String> {
    if let Some(meant) = meant(name, known.clone()) {
        return Some(format!("did you mean `{meant}`?"));
    }
    let mut known = known.into_iter();
    let names: Vec<&str> = known.by_ref().take(MAX_NAMES).collect();
    let more = if known.next().is_some() { ", …" } else { "" };
    (!names.is_empty()).then(|| format!("there are {}{more}", names.join(", ")))
}

impl fmt::Display for Problem {
    /// `tutti.yaml:12:5: pools[0].queue: unknown field …`, then the line with a mark below the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
            Place::Env(name) => write!(f, "environment variable {name}: ")?,
            Place::Whole => write!(f, "{}: ", self.file)?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        if let (Place::File { line, .. }, Some((source, column))) = (&self.place, &self.source) {
            write!(f, "\n{line:>5} | {source}\n      | {:>column$}", "^")?;
        }
        Ok(())
    }
}
