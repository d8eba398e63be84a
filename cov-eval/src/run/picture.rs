//! Pictures of a run: SVG text, the same for the same numbers.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 200.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 34.0;
const ROW: f64 = 22.0;
const HEAD: &str = "font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#1b1f24\"";
/// After Okabe and Ito, Color Universal Design (2008), darker.
const COLOURS: [&str; 7] = ["#0069aa", "#c25200", "#00805d", "#a8508a", "#947000", "#5b4bb0", "#7a5a3a"];

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" {HEAD}>\n<title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"18\" font-weight=\"600\">{title}</text>\n"
    )
}

fn label(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn rule(out: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x, y), (u, v)) = (from, to);
    let _ = writeln!(out, "<path d=\"M{x:.1} {y:.1}L{u:.1} {v:.1}\" stroke=\"#e3e6ea\"/>");
}

/// An axis: values with their texts, from end to end.
pub(super) struct Axis {
    pub(super) ticks: Vec<(f64, String)>,
    /// Whether equal ratios are equally far apart.
    pub(super) log: bool,
}

impl Axis {
    /// 0 to 1, as shares of 100.
    pub(super) fn shares() -> Self {
        let tick = |i: u32| (f64::from(i) / 5.0, (20 * i).to_string());
        Self { ticks: (0..=5).map(tick).collect(), log: false }
    }

    /// Where a value lies, from 0 to 1; what is beyond an end lies there.
    fn at(&self, value: f64) -> f64 {
        let scale = |x: f64| if self.log { x.max(f64::MIN_POSITIVE).ln() } else { x };
        let (first, last) = (self.ticks.first().map_or(0.0, |t| t.0), self.ticks.last().map_or(1.0, |t| t.0));
        let span = scale(last) - scale(first);
        if span > 0.0 { ((scale(value) - scale(first)) / span).clamp(0.0, 1.0) } else { 0.5 }
    }
}

/// A line of a [`strip`].
pub(super) struct Strip {
    pub(super) name: String,
    pub(super) dots: Vec<f64>,
    pub(super) mean: f64,
    /// Drawn where there is one.
    pub(super) interval: Option<(f64, f64)>,
}

/// A line of dots for each row, with its mean (a bar) and the interval of that.
pub(super) fn strip(title: &str, axis: &Axis, rows: &[Strip]) -> String {
    let bottom = TOP + ROW * rows.len() as f64;
    let mut out = open(title, bottom + 28.0);
    let x = |value: f64| LEFT + (RIGHT - LEFT) * axis.at(value);
    for (value, text) in &axis.ticks {
        rule(&mut out, (x(*value), TOP), (x(*value), bottom));
        label(&mut out, x(*value), bottom + 16.0, "middle", text);
    }
    for (i, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        label(&mut out, LEFT - 12.0, y + 4.0, "end", &row.name);
        for (j, dot) in row.dots.iter().enumerate() {
            // Equal values would hide each other.
            let y = y + ((j * 5) % 11) as f64 - 5.0;
            let x = x(*dot);
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"#0069aa\" fill-opacity=\".28\"/>"
            );
        }
        if let Some((low, high)) = row.interval {
            let (low, high) = (x(low), x(high));
            let _ = writeln!(
                out,
                "<path d=\"M{low:.1} {y:.1}H{high:.1}\" stroke=\"#c25200\" stroke-width=\"2\"/>"
            );
        }
        let (mean, top) = (x(row.mean), y - 6.0);
        let _ = writeln!(out, "<path d=\"M{mean:.1} {top:.1}v12\" stroke=\"#c25200\" stroke-width=\"3\"/>");
    }
    out + "</svg>\n"
}

/// Shares by row and column, as shades with the number (of 100) on them; `None` is left white.
pub(super) fn heat(title: &str, columns: &[String], rows: &[(String, Vec<Option<f64>>)]) -> String {
    let top = TOP + 18.0;
    let mut out = open(title, top + ROW * rows.len() as f64 + 10.0);
    let width = ((RIGHT - LEFT) / columns.len().max(1) as f64).min(110.0);
    for (j, column) in columns.iter().enumerate() {
        label(&mut out, LEFT + width * (j as f64 + 0.5), top - 6.0, "middle", column);
    }
    for (i, (name, shares)) in rows.iter().enumerate() {
        let y = top + ROW * i as f64;
        label(&mut out, LEFT - 12.0, y + 15.0, "end", name);
        for (j, share) in shares.iter().enumerate() {
            let Some(share) = share else { continue };
            let (x, w, h) = (LEFT + width * j as f64, width - 2.0, ROW - 2.0);
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"#0069aa\" \
                 fill-opacity=\"{:.2}\"/>",
                0.06 + 0.84 * share
            );
            let ink = if *share > 0.5 { "#ffffff" } else { "#1b1f24" };
            let (x, y) = (x + w / 2.0, y + 14.5);
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"{ink}\">{:.0}</text>",
                100.0 * share
            );
        }
    }
    out + "</svg>\n"
}

/// Both axes of a plane, with room for the names of what is drawn on it.
struct Plane<'a> {
    x: &'a Axis,
    y: &'a Axis,
}

impl Plane<'_> {
    const LEFT: f64 = 60.0;
    const RIGHT: f64 = WIDTH - 130.0;
    const BOTTOM: f64 = 330.0;

    /// A picture with the axes.
    fn open(&self, title: &str) -> String {
        let mut out = open(title, Self::BOTTOM + 28.0);
        for (value, text) in &self.y.ticks {
            let y = self.y(*value);
            rule(&mut out, (Self::LEFT, y), (Self::RIGHT, y));
            label(&mut out, Self::LEFT - 8.0, y + 4.0, "end", text);
        }
        for (value, text) in &self.x.ticks {
            label(&mut out, self.x(*value), Self::BOTTOM + 16.0, "middle", text);
        }
        out
    }

    fn x(&self, value: f64) -> f64 {
        Self::LEFT + (Self::RIGHT - Self::LEFT) * self.x.at(value)
    }

    fn y(&self, value: f64) -> f64 {
        Self::BOTTOM - (Self::BOTTOM - TOP) * self.y.at(value)
    }
}

/// The name of the `i`th thing on a plane, in its colour.
fn name(out: &mut String, i: usize, text: &str) {
    let (x, y, colour) = (Plane::RIGHT + 16.0, TOP + 18.0 * i as f64 + 12.0, COLOURS[i % COLOURS.len()]);
    let text = escape(text);
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\" font-weight=\"600\">{text}</text>");
}

/// A line of [`curves`]: for each point `x`, `y` and the interval of `y`.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64, (f64, f64))>,
}

/// Shares over `axis`, each with the band of its intervals.
pub(super) fn curves(title: &str, axis: &Axis, curves: &[Curve]) -> String {
    let plane = Plane { x: axis, y: &Axis::shares() };
    let mut out = plane.open(title);
    for (i, curve) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
            let point = |(a, b)| format!("{:.1} {:.1}", plane.x(a), plane.y(b));
            points.map(point).collect::<Vec<_>>().join("L")
        };
        let line = path(&mut curve.points.iter().map(|p| (p.0, p.1)));
        let above = curve.points.iter().map(|p| (p.0, p.2.1));
        let band = path(&mut above.chain(curve.points.iter().rev().map(|p| (p.0, p.2.0))));
        let _ = writeln!(out, "<path d=\"M{band}Z\" fill=\"{colour}\" fill-opacity=\".12\"/>");
        let _ = writeln!(out, "<path d=\"M{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        for (a, b, _) in &curve.points {
            let (x, y) = (plane.x(*a), plane.y(*b));
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        name(&mut out, i, &curve.name);
    }
    out + "</svg>\n"
}

/// Dots of [`scatter`]: `x` and `y`.
pub(super) struct Cloud {
    pub(super) name: String,
    pub(super) dots: Vec<(f64, f64)>,
}

/// A dot for each pair of numbers.
pub(super) fn scatter(title: &str, x: &Axis, y: &Axis, clouds: &[Cloud]) -> String {
    let plane = Plane { x, y };
    let mut out = plane.open(title);
    for (i, cloud) in clouds.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        for (a, b) in &cloud.dots {
            let (x, y) = (plane.x(*a), plane.y(*b));
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\" fill-opacity=\".4\"/>"
            );
        }
        name(&mut out, i, &cloud.name);
    }
    out + "</svg>\n"
}
