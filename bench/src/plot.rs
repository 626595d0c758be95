//! A picture of figures as SVG: one panel below the other, a logarithmic axis each, a dot at the median with the rounds'
//! range through it. It reads on a light and on a dark page.

use std::fmt::Write as _;

use crate::report::{median, short};

/// Widths and heights, in the picture's own units.
const NAMES: f64 = 190.0;
const AXIS: f64 = 430.0;
const VALUES: f64 = 70.0;
const LINE: f64 = 22.0;
const TITLE: f64 = 34.0;

/// Colours by the reader's preference; `own` is what the eye shall find first.
const STYLE: &str = "<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .tick { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de } .range { stroke: #6e7781; stroke-width: 2 } circle { fill: #6e7781 }
.own .range { stroke: #0969da } .own circle { fill: #0969da } .own text { font-weight: 600 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .tick { fill: #8d96a0 }
.grid { stroke: #30363d } .range { stroke: #8d96a0 } circle { fill: #8d96a0 }
.own .range { stroke: #58a6ff } .own circle { fill: #58a6ff }
}
</style>
";

/// A whole picture.
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

/// One quantity of all contenders.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) dots: Vec<Dot>,
}

/// A contender's rounds.
pub(crate) struct Dot {
    pub(crate) name: String,
    /// It stands out.
    pub(crate) own: bool,
    pub(crate) values: Vec<f64>,
}

impl Plot {
    /// The picture as a document.
    pub(crate) fn svg(&self) -> String {
        let (mut body, mut y) = (String::new(), 26.0);
        let _ = writeln!(body, r#"<text class="title" x="10" y="{y}">{}</text>"#, escaped(&self.title));
        for panel in &self.panels {
            y = panel.draw(&mut body, y + 18.0);
        }
        let (width, height) = (NAMES + AXIS + VALUES, y + 12.0);
        let title = escaped(&self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n{STYLE}{body}</svg>\n"
        )
    }
}

impl Panel {
    /// Draws it from `top`; yields where it ends.
    fn draw(&self, out: &mut String, top: f64) -> f64 {
        let axis = Axis::over(self.dots.iter().flat_map(|dot| dot.values.iter().copied()));
        let (first, end) = (top + TITLE, top + TITLE + LINE * self.dots.len() as f64);
        let _ = writeln!(out, r#"<text class="title" x="10" y="{:.1}">{}</text>"#, top + 14.0, escaped(&self.title));
        for power in axis.low..=axis.high {
            let (value, x) = (10f64.powi(power), axis.at(10f64.powi(power)));
            let _ = writeln!(out, r#"<line class="grid" x1="{x:.1}" y1="{first:.1}" x2="{x:.1}" y2="{end:.1}"/>"#);
            let tick = if value < 1.0 { value.to_string() } else { format!("{value:.0}") };
            let _ = writeln!(
                out,
                r#"<text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"#,
                first - 5.0
            );
        }
        for (number, dot) in self.dots.iter().enumerate() {
            dot.draw(out, &axis, first + LINE * (number as f64 + 0.5));
        }
        end
    }
}

impl Dot {
    fn draw(&self, out: &mut String, axis: &Axis, y: f64) {
        let middle = median(self.values.iter().copied());
        let least = axis.at(self.values.iter().copied().fold(f64::INFINITY, f64::min));
        let most = axis.at(self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        let (x, text) = (axis.at(middle), y + 4.5);
        let _ = writeln!(
            out,
            "<g{}><text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
             <line class=\"range\" x1=\"{least:.1}\" y1=\"{y:.1}\" x2=\"{most:.1}\" y2=\"{y:.1}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/><text x=\"{:.1}\" y=\"{text:.1}\">{}</text></g>",
            if self.own { r#" class="own""# } else { "" },
            NAMES - 12.0,
            escaped(&self.name),
            x.max(most) + 9.0,
            short(middle),
        );
    }
}

/// Powers of ten from the one below the least value to the one above the greatest.
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let powers: Vec<f64> = values.filter(|value| *value > 0.0).map(f64::log10).collect();
        let low = powers.iter().copied().fold(f64::INFINITY, f64::min).floor();
        let high = powers.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
        if powers.is_empty() {
            return Axis { low: 0, high: 1 };
        }
        Axis { low: low as i32, high: (high as i32).max(low as i32 + 1) }
    }

    /// Where a value is; what is not positive lies at the axis's beginning.
    fn at(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        NAMES + AXIS * if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(name: &str, values: &[f64]) -> Dot {
        Dot { name: name.to_owned(), own: false, values: values.to_vec() }
    }

    #[test]
    fn an_axis_spans_whole_powers_of_ten_and_holds_every_value() {
        let axis = Axis::over([20.0, 18.0, 3000.0].into_iter());
        assert_eq!((axis.low, axis.high), (1, 4));
        assert_eq!((axis.at(10.0), axis.at(10_000.0)), (NAMES, NAMES + AXIS));
        assert!((axis.at(100.0) - NAMES - AXIS / 3.0).abs() < 1e-9, "{}", axis.at(100.0));
        assert_eq!(axis.at(-5.0), NAMES, "a difference may be negative");
        let one = Axis::over([10.0].into_iter());
        assert_eq!((one.low, one.high), (1, 2));
    }

    #[test]
    fn every_element_is_closed_and_names_are_escaped() {
        let panels = vec![Panel { title: "a & b".into(), dots: vec![dot("<x>", &[1.0, 2.0]), dot("none", &[])] }];
        let svg = Plot { title: "\"t\"".into(), panels }.svg();
        assert!(svg.contains(">&lt;x&gt;<") && svg.contains("a &amp; b") && svg.contains("&quot;t&quot;"), "{svg}");
        for name in ["svg", "g", "text", "style"] {
            let opened = svg.matches(&format!("<{name} ")).count() + svg.matches(&format!("<{name}>")).count();
            assert_eq!(opened, svg.matches(&format!("</{name}>")).count(), "{name}");
        }
        assert_eq!(svg.matches("<line ").count() + svg.matches("<circle ").count(), svg.matches("/>").count());
    }
}
