//! Figures and where they come from, as a page shows them.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Where and how a measurement was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    /// The day, UTC.
    pub date: String,
    /// Cores, CPU model, kernel.
    pub machine: String,
    /// The command that makes it again.
    pub command: String,
    /// What each contender says its version is.
    pub versions: Vec<String>,
}

impl Origin {
    /// Here and today.
    pub fn here(command: String, versions: Vec<String>) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
        let model = model.trim_start_matches([' ', '\t', ':']);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let date = Command::new("date").args(["-u", "+%F"]).output().map(|o| o.stdout).unwrap_or_default();
        Origin {
            date: String::from_utf8_lossy(&date).trim().to_owned(),
            machine: format!("{cores} cores of {model}, Linux {kernel}, shared by load, replica and contender"),
            command,
            versions,
        }
    }
}

/// The section's head: title and origin.
pub(crate) fn heading(title: &str, origin: &Origin) -> String {
    let mut text = format!("\n## {title}\n\n`{}`, {}, {}.", origin.command, origin.date, origin.machine);
    if !origin.versions.is_empty() {
        let _ = write!(text, " Versions: {}.", origin.versions.join("; "));
    }
    text + "\n\n"
}

/// The middle value; of an even number the lower one of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The median with the least and the greatest value.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let all: Vec<f64> = values.into_iter().collect();
    let (least, most) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), &v| (l.min(v), m.max(v)));
    format!("{} ({}–{})", short(median(all)), short(least), short(most))
}

/// Three digits or so.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What the project has set itself for a figure: at most (or at least) so much, and an aim below (above) it; or an aim alone.
#[derive(Debug)]
pub(crate) struct Bar<'a> {
    what: &'a str,
    figure: Option<f64>,
    most: Option<f64>,
    aim: Option<f64>,
    at_least: bool,
}

impl<'a> Bar<'a> {
    /// `None` is a figure that was not measured.
    pub(crate) fn new(what: &'a str, figure: Option<f64>, most: f64) -> Self {
        Bar { most: Some(most), ..Self::figure(what, figure) }
    }

    /// A figure that has an aim at most.
    pub(crate) fn figure(what: &'a str, figure: Option<f64>) -> Self {
        Bar { what, figure: figure.filter(|figure| figure.is_finite()), most: None, aim: None, at_least: false }
    }

    pub(crate) fn aim(self, aim: f64) -> Self {
        Bar { aim: Some(aim), ..self }
    }

    /// The more the better.
    pub(crate) fn at_least(self) -> Self {
        Bar { at_least: true, ..self }
    }

    /// A line of a list.
    pub(crate) fn line(&self) -> String {
        let bound = if self.at_least { "at least" } else { "at most" };
        let met = |figure: f64, bound| if self.at_least { figure >= bound } else { figure <= bound };
        let Some(figure) = self.figure else {
            let to_be = self.most.map(|most| format!("; to be {bound} {}", short(most))).unwrap_or_default();
            return format!("- {}: not measured{to_be}\n", self.what);
        };
        let mut line = format!("- {}: **{}**", self.what, short(figure));
        if let Some(most) = self.most {
            let said = if met(figure, most) { "met" } else { "**not met**" };
            let _ = write!(line, ", {bound} {}: {said}", short(most));
        }
        if let Some(aim) = self.aim {
            let _ = write!(line, "; aim {}: {}", short(aim), if met(figure, aim) { "met" } else { "not met" });
        }
        line + ".\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_at_its_value_and_not_above() {
        let line = |figure| Bar::new("x", figure, 40.0).aim(16.0).line();
        assert_eq!(line(Some(40.0)), "- x: **40.0**, at most 40.0: met; aim 16.0: not met.\n");
        assert_eq!(line(Some(16.0)), "- x: **16.0**, at most 40.0: met; aim 16.0: met.\n");
        let least = Bar::new("x", Some(1.9), 1.8).at_least().aim(1.95).line();
        assert_eq!(least, "- x: **1.90**, at least 1.80: met; aim 1.95: not met.\n");
        let hoped = Bar::figure("x", Some(0.9)).at_least().aim(0.95).line();
        assert_eq!(hoped, "- x: **0.90**; aim 0.95: not met.\n");
        assert_eq!(Bar::figure("x", None).aim(0.95).line(), "- x: not measured\n");
        assert!(line(Some(40.01)).contains("**not met**"));
        assert!(line(None).contains("not measured") && line(Some(f64::NAN)).contains("not measured"));
    }

    #[test]
    fn figures() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 1.0);
        assert!(median([]).is_nan());
        assert_eq!(spread([1.0, 123.4, 22.22]), "22.2 (1.00–123)");
    }
}
