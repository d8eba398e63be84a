//! Line charts as SVG: axes, curves at three smoothings, bands, marks, labels at the line's end.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use super::rollouts::spread;
use super::scale::{Scale, Unit, escape, nice, path, px, step_ticks};
use super::series::{smooth, summary, thin};

/// Points drawn of one curve; a chart is at most some 600 pixels wide.
const POINTS: usize = 240;
/// Up to this many points each is drawn as a dot, and a moving average would say less than the points themselves.
const FEW: usize = 32;
/// Smoothing kernels' widths as shares of the run.
const LIGHT: f64 = 1.0 / 75.0;
const STRONG: f64 = 1.0 / 20.0;
/// Rows taken from each curve for the table behind a chart.
const TABLE_ROWS: usize = 16;

/// Where the vertical axis runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Extent {
    /// Round numbers about the data.
    #[default]
    Data,
    /// From zero, or from the data where it is negative.
    Zero,
    /// From 0 to 1 and no further.
    Unit,
    /// As `Zero`, but logarithmic when the largest value is more than 60 times the median.
    ZeroOrLog,
}

/// One curve.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) label: String,
    /// Index of the palette's colour.
    pub(super) colour: usize,
    /// `(step, value)` in step order; a value that is not finite breaks the line.
    pub(super) points: Vec<(f64, f64)>,
    /// `(step, low, high)` in step order.
    pub(super) band: Vec<(f64, f64, f64)>,
}

impl Line {
    /// `share` of the steps from the first point to the last.
    fn width(&self, share: f64) -> f64 {
        match (self.points.first(), self.points.last()) {
            (Some(first), Some(last)) => share * (last.0 - first.0),
            _ => 0.0,
        }
    }
}

/// A line chart before layout.
#[derive(Clone, Debug, Default)]
pub(super) struct LineChart {
    pub(super) id: String,
    pub(super) title: String,
    /// The line under the title: definition, unit.
    pub(super) note: String,
    pub(super) unit: Unit,
    pub(super) extent: Extent,
    pub(super) lines: Vec<Line>,
    /// Steps at which something changed, with a word for it.
    pub(super) marks: Vec<(f64, String)>,
    pub(super) wide: bool,
}

/// A chart as the page's template takes it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) note: String,
    pub(super) svg: String,
    pub(super) wide: bool,
    pub(super) chips: Vec<Chip>,
    pub(super) table: Table,
}

/// A curve's name and last value, above the chart.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Chip {
    pub(super) colour: usize,
    pub(super) label: String,
    pub(super) value: String,
}

/// The numbers behind a chart.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// A chart's box in its own pixels.
pub(super) struct Frame {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl LineChart {
    /// Whether any curve has a finite value.
    pub(super) fn has_data(&self) -> bool {
        self.lines.iter().any(|line| summary(&line.points).is_some())
    }

    /// The figure, or `None` when no curve has a finite value.
    pub(super) fn figure(mut self) -> Option<Figure> {
        self.lines.retain(|line| summary(&line.points).is_some());
        if self.lines.is_empty() {
            return None;
        }
        let bad = self.lines.iter().flat_map(|line| &line.points).filter(|p| !p.1.is_finite()).count();
        if bad > 0 {
            let _ = write!(
                self.note,
                "{}{bad} not finite, marked ×",
                if self.note.is_empty() { "" } else { "; " }
            );
        }
        let chips = self.lines.iter().map(|line| Chip {
            colour: line.colour,
            label: line.label.clone(),
            value: self.unit.show(summary(&line.points).map_or(f64::NAN, |s| s.last)),
        });
        Some(Figure {
            chips: chips.collect(),
            svg: self.svg(if self.wide { (560.0, 270.0) } else { (400.0, 210.0) }, ""),
            table: self.table(),
            id: self.id,
            title: self.title,
            note: self.note,
            wide: self.wide,
        })
    }

    /// The chart as an `svg` element of the given size, `head` put in front of its content.
    pub(super) fn svg(&self, (width, height): (f64, f64), head: &str) -> String {
        let labelled = self.lines.len() > 1;
        let longest = self.lines.iter().map(|line| short(&line.label).chars().count()).max().unwrap_or(0);
        let right = width - if labelled { 14.0 + 6.4 * longest as f64 } else { 12.0 };
        let top = if self.marks.is_empty() { 10.0 } else { 22.0 };
        let frame = Frame { width, height, left: 44.0, right, top, bottom: height - 26.0 };
        let (x, y) = (self.x_scale(&frame), self.y_scale(&frame));
        let mut out = self.open(&frame, &x, &y);
        out.push_str(head);
        out.push_str(&axes(&frame, &x, &y, self.unit));
        self.draw_marks(&mut out, &frame, &x);
        for line in &self.lines {
            draw_line(&mut out, line, &frame, &x, &y);
        }
        if labelled {
            self.draw_labels(&mut out, &frame, &y);
            let (x, y) = (px(frame.right + 4.0), px(frame.bottom + 16.0));
            let _ = write!(out, "<text x=\"{x}\" y=\"{y}\" aria-hidden=\"true\">step</text>");
        }
        out.push_str("</svg>");
        out
    }

    fn x_scale(&self, frame: &Frame) -> Scale {
        let steps = self.lines.iter().flat_map(|line| &line.points).map(|p| p.0);
        let (lo, hi) = steps.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        let domain = if lo < hi { (lo, hi) } else { (lo - 0.5, lo + 0.5) };
        Scale::new(domain, (frame.left + 4.0, frame.right - 4.0), false)
    }

    fn y_scale(&self, frame: &Frame) -> Scale {
        let lines = self.lines.iter();
        let values =
            lines.flat_map(|l| l.points.iter().map(|p| p.1).chain(l.band.iter().flat_map(|b| [b.1, b.2])));
        let values: Vec<(f64, f64)> = values.map(|y| (0.0, y)).collect();
        let (lo, hi, median) = summary(&values).map_or((0.0, 1.0, 0.5), |s| (s.min, s.max, s.median));
        let range = (frame.bottom, frame.top);
        let linear = |lo: f64, hi: f64| Scale::new(nice(lo, hi, 5), range, false);
        match self.extent {
            Extent::Unit => Scale::new((lo.min(0.0), hi.max(1.0)), range, false),
            Extent::ZeroOrLog if lo > 0.0 && hi > 60.0 * median => {
                Scale::new((10_f64.powf(lo.log10().floor()), 10_f64.powf(hi.log10().ceil())), range, true)
            }
            Extent::Zero | Extent::ZeroOrLog if lo == 0.0 && hi == 0.0 => linear(0.0, 1.0),
            Extent::Zero | Extent::ZeroOrLog => linear(lo.min(0.0), if hi > 0.0 { hi } else { 0.0 }),
            Extent::Data if lo == hi => Scale::new((lo, hi), range, false),
            Extent::Data => linear(lo, hi),
        }
    }

    fn open(&self, frame: &Frame, x: &Scale, y: &Scale) -> String {
        // Four significant digits: enough for a read-out, and half the bytes.
        let round = |v: f64| if v.is_finite() { format!("{v:.3e}").parse::<f64>().ok() } else { None };
        let series = self.lines.iter().map(|line| {
            let kept = thin(&line.points, POINTS);
            let (xs, ys): (Vec<f64>, Vec<_>) =
                kept.iter().map(|&i| (line.points[i].0, round(line.points[i].1))).unzip();
            json!({ "x": xs.iter().map(|x| *x as u64).collect::<Vec<_>>(), "y": ys, "c": line.colour })
        });
        let data = json!({
            "x": [x.domain.0, x.domain.1, x.range.0, x.range.1],
            "y": [y.domain.0, y.domain.1, y.range.0, y.range.1],
            "log": y.log, "unit": format!("{:?}", self.unit), "series": series.collect::<Vec<_>>(),
        });
        open_svg(
            &self.id,
            frame,
            &self.title,
            &self.description(),
            &format!(" data-chart=\"{}\"", escape(&data.to_string())),
        )
    }

    fn description(&self) -> String {
        let mut text = format!("Line chart over training steps. {}.", self.note.trim_end_matches('.'));
        for line in &self.lines {
            if let Some(s) = summary(&line.points) {
                let show = |v| self.unit.show(v);
                let (first, last, min, max) = (show(s.first), show(s.last), show(s.min), show(s.max));
                let _ =
                    write!(text, " {}: first {first}, last {last}, lowest {min}, highest {max}.", line.label);
            }
        }
        text
    }

    fn draw_marks(&self, out: &mut String, frame: &Frame, x: &Scale) {
        let mut free_from = f64::NEG_INFINITY;
        for (step, label) in &self.marks {
            let at = x.at(*step);
            if !(frame.left..=frame.right).contains(&at) {
                continue;
            }
            let (at_px, top, bottom) = (px(at), px(frame.top - 6.0), px(frame.bottom));
            let _ = write!(out, "<path class=\"mark\" d=\"M{at_px} {top}V{bottom}\"/>");
            // A label that would run over the one before is left out; the events table has them all.
            let half = 3.2 * label.chars().count() as f64;
            if at - half > free_from {
                let middle = px(at.clamp(frame.left + half, (frame.width - half).max(frame.left + half)));
                let text = escape(label);
                let _ = write!(
                    out,
                    "<text class=\"marked\" x=\"{middle}\" y=\"{}\">{text}</text>",
                    px(frame.top - 10.0)
                );
                free_from = at + half + 6.0;
            }
        }
    }

    /// Names at the ends of the lines, moved apart where they would overlap.
    fn draw_labels(&self, out: &mut String, frame: &Frame, y: &Scale) {
        const GAP: f64 = 14.0;
        let mut labels: Vec<(f64, &Line)> = self
            .lines
            .iter()
            .filter_map(|line| {
                let last = line.points.iter().rposition(|p| y.at(p.1).is_finite())?;
                // Beside the strong line where there is one: that is the line the eye follows.
                let end = if line.points.len() > FEW {
                    smooth(&line.points, &[last], line.width(LIGHT))[0]
                } else {
                    line.points[last]
                };
                Some((y.at(end.1), line))
            })
            .collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        for i in 1..labels.len() {
            labels[i].0 = labels[i].0.max(labels[i - 1].0 + GAP);
        }
        for i in (0..labels.len()).rev() {
            let limit = if i + 1 < labels.len() { labels[i + 1].0 - GAP } else { frame.bottom };
            labels[i].0 = labels[i].0.min(limit);
        }
        for (at, line) in labels {
            let (x, y, text) = (px(frame.right + 4.0), px(at + 4.0), escape(&short(&line.label)));
            let _ = write!(out, "<text class=\"direct s{}\" x=\"{x}\" y=\"{y}\">{text}</text>", line.colour);
        }
    }

    fn table(&self) -> Table {
        let mut steps: Vec<f64> = Vec::new();
        for line in &self.lines {
            steps.extend(spread(line.points.len(), TABLE_ROWS).into_iter().map(|i| line.points[i].0));
        }
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let cell = |line: &Line, step: f64| {
            let found = line.points.binary_search_by(|p| p.0.total_cmp(&step));
            found.map_or_else(|_| "–".to_owned(), |i| self.unit.show(line.points[i].1))
        };
        let row = |&step: &f64| {
            let mut row = vec![format!("{step}")];
            row.extend(self.lines.iter().map(|line| cell(line, step)));
            row
        };
        let recorded = self.lines.iter().map(|line| line.points.len()).max().unwrap_or(0);
        Table {
            caption: format!("{}: {} of {recorded} recorded steps", self.title, steps.len().min(recorded)),
            columns: std::iter::once("step".to_owned())
                .chain(self.lines.iter().map(|l| l.label.clone()))
                .collect(),
            rows: steps.iter().map(row).collect(),
        }
    }
}

/// An end-of-line label that keeps the plot wide.
fn short(label: &str) -> String {
    const LONGEST: usize = 14;
    if label.chars().count() <= LONGEST {
        return label.to_owned();
    }
    label.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// The opening tag with title and description, the accessible name of every chart.
pub(super) fn open_svg(id: &str, frame: &Frame, title: &str, desc: &str, attributes: &str) -> String {
    let (id, w, h, title, desc) =
        (escape(id), px(frame.width), px(frame.height), escape(title), escape(desc));
    format!(
        "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-labelledby=\"{id}-t\" aria-describedby=\"{id}-d\"{attributes}>\
         <title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{desc}</desc>"
    )
}

/// Grid lines and tick labels.
pub(super) fn axes(frame: &Frame, x: &Scale, y: &Scale, unit: Unit) -> String {
    let mut out = String::from("<g class=\"axis\" aria-hidden=\"true\">");
    let (left, right, bottom) = (px(frame.left), px(frame.right), px(frame.bottom));
    let ticks = y.ticks(5);
    let mut grid = String::new();
    for &tick in &ticks {
        let at = y.at(tick);
        let _ = write!(grid, "M{left} {}H{right}", px(at));
        let label = unit.tick(tick, &ticks, y.log);
        let _ = write!(
            out,
            "<text class=\"yt\" x=\"{}\" y=\"{}\">{label}</text>",
            px(frame.left - 6.0),
            px(at + 3.8)
        );
    }
    let _ = write!(
        out,
        "<path class=\"grid\" d=\"{grid}\"/><path class=\"base\" d=\"M{left} {bottom}H{right}\"/>"
    );
    let steps = step_ticks(x, if frame.width > 500.0 { 9 } else { 5 });
    for &tick in &steps {
        let (at, label) = (px(x.at(tick)), Unit::Plain.tick(tick, &steps, false));
        let _ = write!(out, "<text class=\"xt\" x=\"{at}\" y=\"{}\">{label}</text>", px(frame.bottom + 16.0));
    }
    out.push_str("</g>");
    out
}

fn draw_line(out: &mut String, line: &Line, frame: &Frame, x: &Scale, y: &Scale) {
    let kept = thin(&line.points, POINTS);
    let place = |points: Vec<(f64, f64)>| path(points.into_iter().map(|p| (x.at(p.0), y.at(p.1))));
    let _ = write!(out, "<g class=\"line s{}\">", line.colour);
    let band = band_path(&line.band, x, y);
    if !band.is_empty() {
        let _ = write!(out, "<path class=\"band\" d=\"{band}\"/>");
    }
    let n = line.points.len();
    let only = if n <= FEW { " only" } else { "" };
    let _ = write!(
        out,
        "<path class=\"raw{only}\" d=\"{}\"/>",
        place(kept.iter().map(|&i| line.points[i]).collect())
    );
    if n > FEW {
        for (class, share) in [("light", LIGHT), ("strong", STRONG)] {
            let width = line.width(share);
            let _ =
                write!(out, "<path class=\"{class}\" d=\"{}\"/>", place(smooth(&line.points, &kept, width)));
        }
    }
    // A point with a gap on both sides draws no line, so dots are not only decoration.
    let alone = |i: usize| {
        let finite =
            |i: Option<usize>| i.and_then(|i| line.points.get(i)).is_some_and(|p| y.at(p.1).is_finite());
        !finite(i.checked_sub(1)) && !finite(Some(i + 1))
    };
    let mut crosses = String::new();
    for (i, &(step, value)) in line.points.iter().enumerate() {
        let (at, height) = (px(x.at(step)), y.at(value));
        if height.is_nan() {
            if !value.is_finite() && crosses.len() < 4000 {
                let _ = write!(crosses, "M{at} {}m-3 -3l6 6m0 -6l-6 6", px(frame.bottom - 5.0));
            }
        } else if n <= FEW || alone(i) {
            let _ = write!(out, "<circle class=\"dot\" cx=\"{at}\" cy=\"{}\" r=\"2.2\"/>", px(height));
        }
    }
    if !crosses.is_empty() {
        let _ = write!(out, "<path class=\"nonfinite\" d=\"{crosses}\"/>");
    }
    out.push_str("</g>");
}

/// Closed outlines of a band, one for each run of finite values.
fn band_path(band: &[(f64, f64, f64)], x: &Scale, y: &Scale) -> String {
    let middle: Vec<(f64, f64)> = band.iter().map(|b| (b.0, b.2)).collect();
    let kept: Vec<_> = thin(&middle, POINTS).into_iter().map(|i| band[i]).collect();
    let mut out = String::new();
    for run in kept.split(|b| y.at(b.1).is_nan() || y.at(b.2).is_nan()).filter(|run| run.len() > 1) {
        let upper = run.iter().map(|b| (x.at(b.0), y.at(b.2)));
        let lower = run.iter().rev().map(|b| (x.at(b.0), y.at(b.1)));
        out.push_str(&path(upper.chain(lower)));
        out.push('Z');
    }
    out
}
