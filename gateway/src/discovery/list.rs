//! A file that lists replicas: a URL a line.

use std::collections::HashSet;

use tutti_api::{InvalidAddress, ReplicaUrl};

use crate::limits::{self, Limit};

/// Largest file. Unit: bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// Most replicas in it. Unit: URLs.
pub const MAX_URLS: usize = 1024;
/// Most wrong lines that are told. Unit: lines.
const MAX_TOLD: usize = 5;

/// The replicas that a text lists, each once, in its order. Blank lines and what follows a `#` are nothing.
///
/// # Errors
/// Which lines are wrong and why, without what they say: a password may be in it. A text without a line is wrong: it is
/// a save that went wrong.
pub fn parse(text: &str) -> Result<Vec<ReplicaUrl>, String> {
    if text.trim().is_empty() {
        return Err("the file is empty: where no replica is meant, write a comment (# none)".to_owned());
    }
    let mut urls = Vec::new();
    let mut seen = HashSet::new();
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.parse::<ReplicaUrl>() {
            _ if line.is_empty() => {}
            Ok(url) if seen.insert(url.clone()) => urls.push(url),
            Ok(_) => {}
            Err(error) => wrong.push(wrong_line(number + 1, error)),
        }
    }
    if wrong.len() > MAX_TOLD {
        let more = wrong.len() - MAX_TOLD;
        wrong.truncate(MAX_TOLD);
        wrong.push(format!("{more} further lines are wrong"));
    }
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    if urls.len() > MAX_URLS {
        limits::hit(Limit::ListedReplicas);
        return Err(format!("it lists {} replicas, and at most {MAX_URLS} are taken", urls.len()));
    }
    Ok(urls)
}

fn wrong_line(number: usize, error: InvalidAddress) -> String {
    format!("line {number}: this is no replica's URL: {error}; write http://host:port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<String>, String> {
        parse(text).map(|urls| urls.iter().map(ReplicaUrl::to_string).collect())
    }

    #[test]
    fn a_url_a_line() {
        let text = "# the GPUs\n\nhttp://10.0.0.7:11434\n  http://gpu:11434/  # in rack 2\r\nhttp://10.0.0.7:11434\n";
        assert_eq!(of(text).unwrap(), ["http://10.0.0.7:11434", "http://gpu:11434"]);
        assert_eq!(of("# none\n").unwrap(), <[&str; 0]>::default());
        assert_eq!(of("http://[::1]:1").unwrap(), ["http://[::1]:1"]);
    }

    #[test]
    fn every_wrong_line_is_told_and_none_is_shown() {
        let error = of("http://h:1\nhttp://u:secretpw@h:1\n10.0.0.7:1").unwrap_err();
        assert!(error.contains("line 2: ") && error.contains("line 3: ") && !error.contains("line 1:"), "{error}");
        assert!(!error.contains("secretpw"), "{error}");
        let error = of(&"x\n".repeat(20)).unwrap_err();
        assert!(error.contains("line 5: ") && error.ends_with("15 further lines are wrong"), "{error}");
    }

    #[test]
    fn what_was_emptied_by_mistake_is_not_meant() {
        for text in ["", "\n \n"] {
            assert!(of(text).unwrap_err().contains("empty"), "{text:?}");
        }
    }

    #[test]
    fn there_is_a_most() {
        let lines = |count: usize| (1..=count).map(|port| format!("http://h:{port}\n")).collect::<String>();
        assert_eq!(of(&lines(MAX_URLS)).unwrap().len(), MAX_URLS);
        assert!(of(&lines(MAX_URLS + 1)).unwrap_err().contains("1025 replicas"));
    }
}
