//! Curves over a share as SVG: both axes from 0 to 1. It reads on a light and on a dark page.

use std::fmt::Write as _;

/// Widths and heights, in the picture's own units.
const LEFT: f64 = 60.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
/// Beside the axes: for the curves' names, and for what lies below.
const NAMES: f64 = 150.0;
const BELOW: f64 = 50.0;
/// The least space between two names.
const LINE: f64 = 17.0;

/// Colours by the reader's preference; `own` is what the eye shall find first, `most` what nobody can reach.
const STYLE: &str = "<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .tick { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de } polyline { fill: none; stroke: #8c959f; stroke-width: 1.5 }
.own polyline { stroke: #0969da; stroke-width: 3 } .own text { font-weight: 600 } .most polyline { stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .tick { fill: #8d96a0 } .grid { stroke: #30363d } polyline { stroke: #8d96a0 }
.own polyline { stroke: #58a6ff }
}
</style>
";

/// A picture.
pub(super) struct Curves {
    pub(super) title: String,
    /// What lies to the right, and what upwards.
    pub(super) axes: (String, String),
    pub(super) curves: Vec<Curve>,
}

/// One of them.
pub(super) struct Curve {
    pub(super) name: String,
    /// `own`, `most`, or nothing.
    pub(super) kind: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

fn at(point: (f64, f64)) -> (f64, f64) {
    (LEFT + WIDTH * point.0.clamp(0.0, 1.0), TOP + HEIGHT * (1.0 - point.1.clamp(0.0, 1.0)))
}

impl Curves {
    /// The picture as a document.
    pub(super) fn svg(&self) -> String {
        let (width, height) = (LEFT + WIDTH + NAMES, TOP + HEIGHT + BELOW);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" aria-label=\"{0}\">\n{STYLE}<text class=\"title\" x=\"10\" y=\"22\">{0}</text>\n",
            self.title
        );
        for tick in 0..=5 {
            let share = f64::from(tick) / 5.0;
            let (x, y) = at((share, share));
            let (end, bottom) = (LEFT + WIDTH, TOP + HEIGHT);
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{end}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{share:.1}</text>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{share:.1}</text>",
                LEFT - 6.0,
                y + 4.0,
                bottom + 16.0
            );
        }
        let (right, up) = &self.axes;
        let _ = writeln!(
            text,
            "<text class=\"tick\" x=\"{LEFT}\" y=\"{:.1}\">{up}</text>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{right}</text>",
            TOP - 10.0,
            LEFT + WIDTH,
            TOP + HEIGHT + 36.0
        );
        self.draw(&mut text);
        text + "</svg>\n"
    }

    /// The curves, and their names at their ends, none upon another.
    fn draw(&self, text: &mut String) {
        let end = |curve: &Curve| curve.points.last().map_or(f64::NAN, |point| at(*point).1);
        let mut curves: Vec<&Curve> = self.curves.iter().filter(|curve| !curve.points.is_empty()).collect();
        curves.sort_by(|a, b| end(a).total_cmp(&end(b)));
        let mut above = f64::NEG_INFINITY;
        for curve in curves {
            above = end(curve).max(above + LINE);
            let points: Vec<String> =
                curve.points.iter().map(|point| at(*point)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                text,
                "<g class=\"{}\"><polyline points=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                curve.kind,
                points.join(" "),
                LEFT + WIDTH + 8.0,
                above + 4.0,
                curve.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_lie_upon_each_other_and_points_where_they_belong() {
        let curve = |name: &str, last| Curve { name: name.to_owned(), kind: "", points: vec![(0.0, 1.0), (1.0, last)] };
        let axes = ("right".to_owned(), "up".to_owned());
        let svg = Curves { title: "t".into(), axes, curves: vec![curve("b", 0.49), curve("a", 0.5)] }.svg();
        assert!(svg.contains(r#"points="60.0,50.0 540.0,200.0"/><text x="548.0" y="204.0">a<"#), "{svg}");
        assert!(svg.contains(r#"y="221.0">b<"#), "{svg}");
    }
}
