//! What is wrong with a configuration, and where.

use std::fmt;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the file; both count from 1.
    File { line: usize, column: usize },
    /// In this environment variable.
    Env(String),
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
    /// The line it stands in, to show.
    pub(crate) source: Option<String>,
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

    /// Line and column, from 1; `None` where it stands in the environment.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        match self.place {
            Place::File { line, column } => Some((line, column)),
            Place::Env(_) => None,
        }
    }

    /// Names the file, and keeps the line to show.
    pub(crate) fn shown_in(mut self, file: &str, text: &str) -> Self {
        file.clone_into(&mut self.file);
        if let Place::File { line, .. } = self.place {
            self.source = text.lines().nth(line - 1).map(str::to_owned);
        }
        self
    }
}

impl fmt::Display for Problem {
    /// `tutti.yaml:12:5: pools[0].queue: unknown field …`, then the line with a mark below the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
            Place::Env(name) => write!(f, "environment variable {name}: ")?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        if let (Place::File { line, column }, Some(source)) = (&self.place, &self.source) {
            write!(f, "\n{line:>5} | {source}\n      | {:>column$}", "^")?;
        }
        Ok(())
    }
}
