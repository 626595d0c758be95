//! The two text formats that Prometheus reads: its own (0.0.4), and OpenMetrics 1.0.0.
//!
//! They differ in what a counter's family is called, in units, and in the line at the end. Labels without a value are
//! left out: to Prometheus the two are one.

use std::fmt::{Display, Write};

use super::cells::Sums;
use super::family::{Kind, Metric};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, 0.0.4.
    Plain,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What an Accept header wants most; [`Format::Plain`] where it says nothing of either.
    pub fn accepted(accept: &str) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0, "");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "q" => quality = value.trim().parse::<f32>().unwrap_or(0.0),
                    "version" => version = value.trim().trim_matches('"'),
                    _ => {}
                }
            }
            match kind.to_ascii_lowercase().as_str() {
                "application/openmetrics-text" if matches!(version, "" | "1.0.0") => open = quality.max(open),
                "text/plain" | "text/*" | "*/*" => plain = quality.max(plain),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Plain }
    }

    /// The content type of a page.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page that is being written.
#[derive(Debug)]
pub(crate) struct Page {
    format: Format,
    text: String,
}

impl Page {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// Begins a family; all its samples are written before the next begins.
    pub(crate) fn family(&mut self, metric: &'static Metric) -> Family<'_> {
        let sample = metric.sample();
        let (name, kind) = match (self.format, metric.kind) {
            (Format::Plain, Kind::Counter) => (&*sample, "counter"),
            (Format::Plain, Kind::Info) => (&*sample, "gauge"),
            (_, Kind::Counter) => (metric.name, "counter"),
            (_, Kind::Info) => (metric.name, "info"),
            (_, Kind::Gauge) => (metric.name, "gauge"),
            (_, Kind::Histogram) => (metric.name, "histogram"),
        };
        self.text.extend(["# HELP ", name, " ", metric.help, "\n# TYPE ", name, " ", kind, "\n"]);
        if self.format == Format::OpenMetrics && !metric.unit.is_empty() {
            self.text.extend(["# UNIT ", name, " ", metric.unit, "\n"]);
        }
        Family { text: &mut self.text, metric, sample, labels: String::new() }
    }

    /// The page.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A family that is being written.
#[derive(Debug)]
pub(crate) struct Family<'p> {
    text: &'p mut String,
    metric: &'static Metric,
    sample: String,
    /// Those of the sample at hand, printed.
    labels: String,
}

impl Family<'_> {
    /// Writes a sample, with a value for each of the metric's labels.
    pub(crate) fn value<const N: usize>(&mut self, labels: [&str; N], value: impl Display) {
        self.label(&labels);
        self.text.push_str(&self.sample);
        if !self.labels.is_empty() {
            self.text.extend(["{", &self.labels, "}"]);
        }
        let _ = writeln!(self.text, " {value}"); // a String takes all
    }

    /// Writes the one sample of a metric without labels, where there is a value.
    pub(crate) fn maybe(&mut self, value: Option<impl Display>) {
        value.into_iter().for_each(|value| self.value([], value));
    }

    /// Writes the samples of a histogram.
    pub(crate) fn histogram<const N: usize>(&mut self, labels: [&str; N], sums: &Sums) {
        self.label(&labels);
        let comma = if self.labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bound, more) in sums.buckets() {
            count += more;
            self.text.extend([self.metric.name, "_bucket{", &self.labels, comma, "le=\"", bound, "\"} "]);
            let _ = writeln!(self.text, "{count}");
        }
        let (open, close) = if self.labels.is_empty() { ("", "") } else { ("{", "}") };
        self.text.extend([self.metric.name, "_sum", open, &self.labels, close, " "]);
        let _ = writeln!(self.text, "{}", sums.sum());
        self.text.extend([self.metric.name, "_count", open, &self.labels, close, " "]);
        let _ = writeln!(self.text, "{count}");
    }

    fn label(&mut self, values: &[&str]) {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "{}", self.metric.name);
        self.labels.clear();
        for (name, value) in self.metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            if !self.labels.is_empty() {
                self.labels.push(',');
            }
            self.labels.extend([name, "=\""]);
            for char in value.chars() {
                match char {
                    '\\' => self.labels.push_str("\\\\"),
                    '"' => self.labels.push_str("\\\""),
                    '\n' => self.labels.push_str("\\n"),
                    char => self.labels.push(char),
                }
            }
            self.labels.push('"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::cells::{Bounds, Histogram};

    static COUNTER: Metric =
        Metric { name: "x_tokens", kind: Kind::Counter, unit: "tokens", labels: &["a", "b"], help: "Help" };
    static VALUES: Metric = Metric { name: "y", kind: Kind::Histogram, unit: "", labels: &["a"], help: "Help" };
    static TWO: Bounds<2> = crate::metrics::cells::bounds!(1e6; 0.25, 1.0);

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        let mut family = page.family(&COUNTER);
        family.value(["q\"\\\n", ""], 3);
        family.value(["", ""], 4);
        let histogram = Histogram::new(&TWO);
        for micros in [250_000, 250_001, 5_000_000] {
            histogram.observe(micros);
        }
        let mut family = page.family(&VALUES);
        family.histogram(["v"], &Sums::of([&histogram, &histogram]));
        page.finish()
    }

    #[test]
    fn both_formats_say_the_same_in_their_own_way() {
        let open = "# HELP x_tokens Help\n# TYPE x_tokens counter\n# UNIT x_tokens tokens\n";
        let plain = "# HELP x_tokens_total Help\n# TYPE x_tokens_total counter\n";
        let rest = "x_tokens_total{a=\"q\\\"\\\\\\n\"} 3\nx_tokens_total 4\n\
            # HELP y Help\n# TYPE y histogram\n\
            y_bucket{a=\"v\",le=\"0.25\"} 2\ny_bucket{a=\"v\",le=\"1.0\"} 4\ny_bucket{a=\"v\",le=\"+Inf\"} 6\n\
            y_sum{a=\"v\"} 11.000002\ny_count{a=\"v\"} 6\n";
        assert_eq!(page(Format::OpenMetrics), [open, rest, "# EOF\n"].concat());
        assert_eq!(page(Format::Plain), [plain, rest].concat());
    }

    #[test]
    fn who_asks_gets_the_format_that_it_wants_most() {
        for (accept, expected) in [
            ("", Format::Plain),
            ("*/*", Format::Plain),
            ("text/plain", Format::Plain),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=0.0.1", Format::Plain),
            ("application/openmetrics-text;q=0", Format::Plain),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.5", Format::Plain),
            // Prometheus 2.42, and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.2",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }
}
