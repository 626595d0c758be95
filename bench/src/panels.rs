//! Panels with lines over time, as a dashboard has them, as one SVG. It reads on a light and on a dark page.

use std::fmt::Write as _;

use crate::plot::escaped;

/// Widths and heights, in the picture's own units.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 190.0;
const GAP: f64 = 12.0;
const TOP: f64 = 62.0;
/// Of a panel, what lies around its lines.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TITLE: f64 = 26.0;
const LEGEND: f64 = 34.0;
/// Panels side by side.
const COLUMNS: usize = 3;
/// Entries of a legend that are shown.
const SHOWN: usize = 6;
/// Lines across a panel.
const GRID: usize = 4;

/// One colour a line, told apart on light and dark (Okabe and Ito's, for those who see few colours, as far as they go).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8250df", "#6e7781"];

const STYLE: &str = "<style>
text { font: 11px system-ui, sans-serif; fill: #57606a }
.title { font-size: 13px; font-weight: 600; fill: #24292f } .head { font-size: 17px; font-weight: 600; fill: #24292f }
.panel { fill: #f6f8fa; stroke: #d0d7de } .grid { stroke: #d0d7de } polyline { fill: none; stroke-width: 1.6 }
@media (prefers-color-scheme: dark) {
text { fill: #8d96a0 } .title, .head { fill: #e6edf3 } .panel { fill: #161b22; stroke: #30363d } .grid { stroke: #30363d }
}
</style>
";

/// A line over time.
#[derive(Clone, Debug)]
pub struct Series {
    /// What its legend says.
    pub name: String,
    /// Seconds from the begin, and the value then.
    pub points: Vec<(f64, f64)>,
}

/// A panel.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What is above it.
    pub title: String,
    /// What values are in, as Grafana calls it.
    pub unit: String,
    /// Its lines.
    pub series: Vec<Series>,
}

/// The picture of panels over so many seconds, in rows, under a heading and a caption.
pub fn drawn(heading: &str, caption: &str, seconds: f64, panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS as f64 * (WIDTH + GAP) + GAP, TOP + rows as f64 * (HEIGHT + GAP));
    let label = escaped(heading);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{label}\">\n{STYLE}"
    );
    let _ = writeln!(out, r#"<text class="head" x="{GAP}" y="26">{label}</text>"#);
    let _ = writeln!(out, r#"<text x="{GAP}" y="46">{}</text>"#, escaped(caption));
    for (number, panel) in panels.iter().enumerate() {
        let (column, row) = ((number % COLUMNS) as f64, (number / COLUMNS) as f64);
        panel.draw(&mut out, GAP + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP), seconds);
    }
    out.push_str("</svg>\n");
    out
}

impl Panel {
    fn draw(&self, out: &mut String, left: f64, top: f64, seconds: f64) {
        let _ = writeln!(out, r#"<rect class="panel" x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>"#);
        let _ = writeln!(
            out,
            r#"<text class="title" x="{}" y="{}">{}</text>"#,
            left + 10.0,
            top + 18.0,
            escaped(&self.title)
        );
        let most = self.series.iter().flat_map(|series| &series.points).map(|(_, value)| *value).fold(0.0, f64::max);
        let most = round_up(most);
        let (base, high) = (top + HEIGHT - LEGEND, HEIGHT - LEGEND - TITLE - 8.0);
        let (begin, wide) = (left + LEFT, WIDTH - LEFT - RIGHT);
        for line in 0..=GRID {
            let share = line as f64 / GRID as f64;
            let y = base - share * high;
            let _ = writeln!(
                out,
                r#"<line class="grid" x1="{begin:.1}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                begin + wide,
                begin - 6.0,
                y + 4.0,
                value(most * share, &self.unit)
            );
        }
        for (number, series) in self.series.iter().enumerate() {
            let at = |(time, value): &(f64, f64)| {
                let (x, y) = (begin + time / seconds.max(1.0) * wide, base - (value / most).clamp(0.0, 1.0) * high);
                format!("{x:.1},{y:.1}")
            };
            let points: Vec<String> = series.points.iter().map(at).collect();
            let colour = COLOURS[number % COLOURS.len()];
            let _ = writeln!(out, r#"<polyline stroke="{colour}" points="{}"/>"#, points.join(" "));
        }
        self.legend(out, left + 10.0, top + HEIGHT - LEGEND + 17.0);
    }

    /// Which colour is what, in two lines.
    fn legend(&self, out: &mut String, left: f64, top: f64) {
        let more = self.series.len().saturating_sub(SHOWN);
        let mut shown: Vec<(String, &str)> = self
            .series
            .iter()
            .take(SHOWN)
            .enumerate()
            .map(|(number, series)| (short(&series.name), COLOURS[number % COLOURS.len()]))
            .collect();
        if more > 0 {
            shown.push((format!("and {more} more"), "none"));
        }
        let each = shown.len().div_ceil(2).max(1);
        let wide = (WIDTH - 20.0) / each as f64;
        for (number, (name, colour)) in shown.iter().enumerate() {
            let (x, y) = (left + (number % each) as f64 * wide, top + (number / each) as f64 * 13.0);
            let room = (wide / 6.2) as usize;
            let name: String = name.chars().take(room.saturating_sub(2).max(4)).collect();
            let _ = writeln!(
                out,
                r#"<rect x="{x:.1}" y="{:.1}" width="8" height="3" fill="{colour}"/><text x="{:.1}" y="{y:.1}">{}</text>"#,
                y - 5.0,
                x + 12.0,
                escaped(&name)
            );
        }
    }
}

fn short(name: &str) -> String {
    let name = name.trim();
    if name.is_empty() { "all".to_owned() } else { name.to_owned() }
}

/// The next of 1, 2, 4, 5 and 10 times a power of ten: its quarters are short.
fn round_up(most: f64) -> f64 {
    if most.is_nan() || most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(most.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 10.0];
    steps.iter().map(|step| step * power).find(|step| most <= step * (1.0 + 1e-9)).unwrap_or(most)
}

/// A value in its unit.
fn value(value: f64, unit: &str) -> String {
    let scaled = |value: f64, unit: &str| {
        let text = format!("{value:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{unit}")
    };
    match unit {
        _ if value == 0.0 => "0".to_owned(),
        "s" if value < 1.0 => scaled(value * 1e3, " ms"),
        "s" => scaled(value, " s"),
        "percentunit" => scaled(value * 100.0, " %"),
        "bytes" if value >= f64::from(1 << 20) => scaled(value / f64::from(1 << 20), " MiB"),
        "reqps" => scaled(value, "/s"),
        _ if value >= 1e3 => scaled(value / 1e3, " k"),
        _ => scaled(value, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_or_above_its_greatest_value() {
        for most in [0.0, 0.003, 1.0, 1.01, 3.9, 4.1, 7.0, 10.0, 1234.0] {
            let end = round_up(most);
            assert!(end >= most && (most == 0.0 || end <= most * 2.0 + 1e-9), "{most}: {end}");
        }
        assert_eq!(
            (value(0.25, "s"), value(1.5, "s"), value(0.5, "percentunit")),
            ("250 ms".into(), "1.5 s".into(), "50 %".into())
        );
        assert_eq!((value(2.0, "reqps"), value(2_500.0, "short")), ("2/s".into(), "2.5 k".into()));
    }

    #[test]
    fn every_line_lies_within_its_panel_and_names_are_escaped() {
        let series = |name: &str, values: &[f64]| Series {
            name: name.to_owned(),
            points: values.iter().enumerate().map(|(at, value)| (at as f64, *value)).collect(),
        };
        let all: Vec<Series> =
            (0..9).map(|number| series(&format!("<{number}>"), &[0.0, 9.0, f64::from(number)])).collect();
        let panels = [Panel { title: "a & b".into(), unit: "short".into(), series: all }];
        let svg = drawn("<tutti>", "drawn", 2.0, &panels);
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;0&gt;") && svg.contains("and 3 more"), "{svg}");
        let points = svg.split("points=\"").skip(1).flat_map(|part| part.split('"').next().unwrap().split(' '));
        for point in points {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((GAP + LEFT..=GAP + WIDTH).contains(&x) && (TOP..=TOP + HEIGHT).contains(&y), "{point}");
        }
    }
}
