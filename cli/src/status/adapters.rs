//! What `tutti status` says of the adapters on a replica.

use std::collections::BTreeMap;

use tutti_gateway::status::{AdapterStatus, LoaderStatus};

use crate::print::plain;

/// As many that do not serve have a line of their own.
const LINES: usize = 20;

/// A line for the loader, and one for each adapter that does not serve.
pub(super) fn told(loader: &LoaderStatus, now: i64) -> Vec<String> {
    let mut lines = vec![format!("loader {}: {}", plain(&loader.url), whole(loader, now))];
    let serves = |of: &&AdapterStatus| of.phase == "Ready" && of.reason.is_none();
    let others = || loader.adapters.iter().filter(|of| !serves(of));
    lines.extend(others().take(LINES).map(adapter));
    match others().count().saturating_sub(LINES) {
        0 => {}
        more => lines.push(format!("and {more} more that do not serve: `--json` has them")),
    }
    lines
}

/// The loader, and how many adapters are how far.
fn whole(loader: &LoaderStatus, now: i64) -> String {
    let mut text = match (&loader.why, loader.at) {
        (Some(why), Some(at)) => {
            let since = (now - at).max(0);
            format!("SILENT for {since} s, and what was ready serves on ({}); ", plain(why))
        }
        (Some(why), None) => format!("it has not answered yet ({}); ", plain(why)),
        (None, None) => "it has not answered yet; ".to_owned(),
        (None, Some(_)) => String::new(),
    };
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    for of in &loader.adapters {
        *phases.entry(&of.phase).or_default() += 1;
    }
    let mut counts: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {}", plain(phase))).collect();
    if loader.more > 0 {
        counts.push(format!("{} more", loader.more));
    }
    text.push_str(&if counts.is_empty() { "no adapters".to_owned() } else { counts.join(", ") });
    if let Some(within) = loader.proven_in.filter(|_| loader.probes > 0) {
        text.push_str(&format!("; {} wait for their probes, which end in about {}", loader.probes, about(within)));
    }
    text
}

fn adapter(of: &AdapterStatus) -> String {
    let AdapterStatus { path, revisions, phase, reason, message, .. } = of;
    let who = if revisions.is_empty() { "no revision".to_owned() } else { revisions.join(", ") };
    let phase = if phase.is_empty() { "in a phase that this version does not know" } else { phase };
    let why = match (reason, message) {
        (Some(reason), Some(message)) => format!(" {reason}: {}", plain(message)),
        (Some(reason), None) => format!(" {reason}"),
        (None, message) => message.iter().map(|message| format!(": {}", plain(message))).collect(),
    };
    format!("adapter {} ({}) {}{why}", plain(path), plain(&who), plain(phase))
}

/// A time as people say it. Unit: seconds.
fn about(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, phase: &str, reason: Option<&str>) -> AdapterStatus {
        AdapterStatus {
            path: path.to_owned(),
            revisions: vec!["risk@v2".to_owned()],
            phase: phase.to_owned(),
            reason: reason.map(str::to_owned),
            message: reason.map(|_| "for another base".to_owned()),
            name: None,
        }
    }

    #[test]
    fn what_serves_is_counted_and_what_does_not_is_told() {
        let adapters = vec![
            of("risk/v1", "Quarantined", Some("WrongBase")),
            of("risk/v2", "Probing", None),
            of("risk/v3", "Ready", None),
        ];
        let url = "http://h:1".to_owned();
        let mut loader = LoaderStatus {
            url,
            at: Some(90),
            why: None,
            probes: 1,
            proven_in: Some(250),
            adapters,
            more: 0,
            leased: Vec::new(),
        };
        let expected = [
            "loader http://h:1: 1 Probing, 1 Quarantined, 1 Ready; 1 wait for their probes, which end in about 4 minutes",
            "adapter risk/v1 (risk@v2) Quarantined WrongBase: for another base",
            "adapter risk/v2 (risk@v2) Probing",
        ];
        assert_eq!(told(&loader, 100), expected);
        loader.why = Some("connection refused".to_owned());
        assert!(
            told(&loader, 100)[0].contains("SILENT for 10 s, and what was ready serves on (connection refused); 1 Pr")
        );
        loader.adapters = vec![of("a/b", "Pending", None); LINES + 2];
        assert_eq!(told(&loader, 100).len(), LINES + 2);
        assert!(told(&loader, 100)[LINES + 1].contains("and 2 more"));
    }
}
