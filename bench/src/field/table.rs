//! The section of RESULTS.md, its bars and its picture.

use std::fmt::Write as _;

use super::{CONNECTIONS, FieldResults, LONG, LONG_CONNECTIONS, Row, SHORT};
use crate::peers::Peer;
use crate::plot::{Dot, Panel, Plot};
use crate::report::{Bar, heading, median, short, spread};

/// The file of the picture, below the folder of RESULTS.md.
pub(crate) const PICTURE: &str = "results/field.svg";
/// The gateway as it is judged, where it ran so.
const KEYED: &str = "tutti, keys and limits";

impl FieldResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("The field: gateways side by side", &self.origin);
        let rounds = self.rows.first().map_or(0, |row| row.p50.len());
        let _ = write!(
            text,
            "Contenders in turn, the median of {rounds} rounds (least–greatest). Chats with an answer of about 300 bytes \
             that costs the replica nothing. Equal: the requests, {} threads or workers each, connections kept alive on \
             both sides. What differs: nginx and haproxy forward without looking at the body, and write a JSON access log \
             line a request; tutti does too, parses the body, routes by its model and counts; “keys and limits” also asks \
             for a key with limits of every kind; the others choose by round robin and have their own metrics, but log \
             warnings alone, which is less than their makers' default; litellm asks for its master key.\n\n",
            self.cores
        );
        text += &self.bars();
        let _ = write!(text, "\n![CPU, latency and memory of every contender]({PICTURE})\n\n");
        text += &self.short_chats();
        text += &self.long_chats();
        for why in &self.absent {
            let _ = writeln!(text, "\nNot measured: {why}.");
        }
        text
    }

    fn short_chats(&self) -> String {
        let mut text = format!(
            "{SHORT}-byte chats over {CONNECTIONS} connections, back to back; then over one connection, as p50 added to \
             the direct way's: with load, replica and contender on one core, and as the scheduler places them.\n\n\
             | | CPU µs a request | × nginx | requests/s | p50 µs | p99 µs | one core: added µs | free: added µs |\n\
             |---|---|---|---|---|---|---|---|\n"
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                if row.is_direct() { "–".to_owned() } else { spread(row.cpu_micros.iter().copied()) },
                self.ratio(row, "nginx", |r| &r.cpu_micros).map_or("–".to_owned(), short),
                spread(row.rate.iter().copied()),
                spread(row.p50.iter().copied()),
                spread(row.p99.iter().copied()),
                self.added(row, |r| &r.single_p50),
                self.added(row, |r| &r.free_p50),
            );
        }
        text
    }

    fn long_chats(&self) -> String {
        let mut text = format!(
            "\n{}-kilobyte chats over {LONG_CONNECTIONS} connections. Memory is the proportional set size of all its \
             processes: after its start, and at the end of this load while it is on.\n\n\
             | | p50 ms | × direct | p99 ms | memory at rest, MB | under load, MB |\n|---|---|---|---|---|---|\n",
            LONG / 1000
        );
        for row in &self.rows {
            let megabytes = |bytes: &[u64]| spread(bytes.iter().map(|&b| b as f64 / 1e6));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.name,
                spread(row.long_p50.iter().map(|p| p / 1e3)),
                self.ratio(row, "direct", |r| &r.long_p50).map_or("–".to_owned(), short),
                spread(row.long_p99.iter().map(|p| p / 1e3)),
                if row.is_direct() { "–".to_owned() } else { short(row.memory_bytes as f64 / 1e6) },
                if row.is_direct() { "–".to_owned() } else { megabytes(&row.loaded_bytes) },
            );
        }
        text
    }

    /// What the project has set itself, and whether it is so.
    fn bars(&self) -> String {
        let own = self.row(KEYED);
        let cpu = |than| own.and_then(|own| self.ratio(own, than, |r| &r.cpu_micros));
        let long = |than| own.and_then(|own| self.ratio(own, than, |r| &r.long_p50));
        let best = Peer::ALL.into_iter().filter_map(|peer| self.row(peer.name()));
        let best =
            best.min_by(|a, b| median(a.long_p50.iter().copied()).total_cmp(&median(b.long_p50.iter().copied())));
        let bars = [
            Bar::new("CPU a request with keys, limits, metrics and log, × nginx", cpu("nginx"), 1.4).aim(1.1),
            Bar::new("the same, × sglang-router", cpu(Peer::Sglang.name()), 0.2).aim(0.1),
            Bar::new("220-kilobyte chats, p50, × direct", long("direct"), 1.5).aim(1.2),
            Bar::new("the same, × the best of the peers", best.and_then(|best| long(&best.name)), 1.0),
        ];
        bars.iter().map(Bar::line).collect()
    }

    /// The picture: what a request costs, adds and takes, on logarithmic axes.
    pub(crate) fn picture(&self) -> String {
        let proxies = || self.rows.iter().filter(|row| !row.is_direct());
        let dots = |of: &dyn Fn(&Row) -> Vec<f64>, rows: Vec<&Row>| {
            let dot = |row: &Row| Dot { name: row.name.clone(), own: row.name.starts_with("tutti"), values: of(row) };
            rows.into_iter().map(dot).collect::<Vec<_>>()
        };
        let plot = Plot {
            title: "The same work through each: less is better".to_owned(),
            panels: vec![
                Panel {
                    title: format!("CPU µs a request, 1 KB chats, {CONNECTIONS} connections"),
                    dots: dots(&|row| row.cpu_micros.clone(), proxies().collect()),
                },
                Panel {
                    title: "added p50 µs, one connection, one core".to_owned(),
                    dots: dots(&|row| self.added_micros(row, |r| &r.single_p50), proxies().collect()),
                },
                Panel {
                    title: format!("p50 ms, {} KB chats, {LONG_CONNECTIONS} connections", LONG / 1000),
                    dots: dots(&|row| row.long_p50.iter().map(|p| p / 1e3).collect(), self.rows.iter().collect()),
                },
                Panel {
                    title: "memory MB under that load".to_owned(),
                    dots: dots(&|row| row.loaded_bytes.iter().map(|&b| b as f64 / 1e6).collect(), proxies().collect()),
                },
            ],
        };
        plot.svg()
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// The median of the rounds' ratios to another contender's; none to itself, and none of the direct way to others.
    fn ratio(&self, row: &Row, than: &str, of: fn(&Row) -> &[f64]) -> Option<f64> {
        let other = self.row(than).filter(|other| !row.is_direct() || other.is_direct())?;
        Some(median(of(row).iter().zip(of(other)).map(|(own, base)| own / base)))
    }

    fn added_micros(&self, row: &Row, of: fn(&Row) -> &[f64]) -> Vec<f64> {
        let direct = self.rows.first().map_or(&[][..], of);
        of(row).iter().zip(direct).map(|(own, base)| own - base).collect()
    }

    /// What it adds to the direct way's, round by round; for the direct way, that itself.
    fn added(&self, row: &Row, of: fn(&Row) -> &[f64]) -> String {
        if row.is_direct() {
            return format!("({} in all)", spread(of(row).iter().copied()));
        }
        spread(self.added_micros(row, of))
    }
}

impl Row {
    fn is_direct(&self) -> bool {
        self.memory_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Origin;

    fn row(name: &str, cpu: f64, long: f64, memory_bytes: u64) -> Row {
        let three = |value: f64| vec![value, value * 1.1, value * 0.9];
        Row {
            name: name.to_owned(),
            memory_bytes,
            loaded_bytes: vec![memory_bytes * 2; 3],
            cpu_micros: three(cpu),
            rate: three(1e6 / cpu.max(1.0)),
            p50: three(cpu * 32.0),
            p99: three(cpu * 64.0),
            single_p50: three(20.0 + cpu),
            free_p50: three(60.0 + cpu),
            long_p50: three(long),
            long_p99: three(long * 2.0),
        }
    }

    fn results() -> FieldResults {
        let rows = vec![
            row("direct", 0.0, 3000.0, 0),
            row("nginx", 20.0, 4000.0, 2_000_000),
            row("tutti, keys and limits", 26.0, 5000.0, 6_000_000),
            row("sglang-router", 200.0, 20_000.0, 80_000_000),
            row("smg", 150.0, 4000.0, 80_000_000),
        ];
        let absent = vec!["litellm==1.106.2 did not run here: no registry".to_owned()];
        FieldResults { origin: Origin::here("a test".into(), Vec::new()), cores: 2, rows, absent }
    }

    #[test]
    fn bars_are_judged_by_the_medians_of_ratios() {
        let bars = results().bars();
        let lines: Vec<&str> = bars.lines().collect();
        assert!(lines[0].contains("**1.30**") && lines[0].contains("at most 1.40: met"), "{bars}");
        assert!(lines[0].ends_with("aim 1.10: not met."), "{bars}");
        assert!(lines[1].contains("**0.13**") && lines[1].contains("0.20: met"), "{bars}");
        assert!(lines[2].contains("**1.67**") && lines[2].contains("1.50: **not met**"), "{bars}");
        assert!(lines[3].contains("**1.25**") && lines[3].contains("1.00: **not met**"), "{bars}");
    }

    #[test]
    fn what_did_not_run_is_said_and_not_judged() {
        let mut results = results();
        results.rows.retain(|row| row.name != "tutti, keys and limits");
        assert_eq!(results.bars().matches("not measured").count(), 4, "{}", results.bars());
        assert!(results.markdown().contains("Not measured: litellm==1.106.2 did not run here: no registry."));
    }

    #[test]
    fn the_direct_way_has_no_cpu_and_adds_nothing() {
        let text = results().markdown();
        let line = text.lines().find(|line| line.starts_with("| direct")).unwrap();
        assert!(line.starts_with("| direct | – | – |") && line.contains("in all"), "{line}");
        assert!(text.contains("| nginx | 20.0 (18.0–22.0) | 1.00 |"), "{text}");
    }

    #[test]
    fn the_picture_names_every_contender() {
        let picture = results().picture();
        for name in ["nginx", "tutti, keys and limits", "sglang-router", "smg"] {
            assert!(picture.matches(&format!(">{name}<")).count() >= 4, "{name}");
        }
    }
}
