//! Charts of shares: stacked bars over steps, and a heat strip of a distribution by step.

use std::fmt::Write as _;

use super::chart::{Chip, Figure, Frame, Table, axes, open_svg};
use super::rollouts::spread;
use super::scale::{Scale, Unit, duration, escape, nice, path, px};

/// Bars and heat columns; more would be thinner than two pixels.
const COLUMNS: usize = 72;
/// Heat rows.
const BINS: usize = 18;
/// Shades of heat, each a class of its own.
const SHADES: usize = 7;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 270.0;

/// A stage's seconds, one a step, in step order; missing values are zero.
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) colour: usize,
    pub(super) seconds: Vec<f64>,
}

impl Stage {
    pub(super) fn total(&self) -> f64 {
        self.seconds.iter().sum()
    }
}

/// Consecutive steps of which one column shows the mean.
fn groups(steps: usize) -> Vec<std::ops::Range<usize>> {
    let size = steps.div_ceil(COLUMNS).max(1);
    (0..steps.div_ceil(size)).map(|i| i * size..((i + 1) * size).min(steps)).collect()
}

/// `3` or `3–5`.
fn span_text(steps: &[u64], group: &std::ops::Range<usize>) -> String {
    let (first, last) = (steps[group.start], steps[group.end - 1]);
    if first == last { first.to_string() } else { format!("{first}–{last}") }
}

fn frame() -> Frame {
    Frame { width: WIDTH, height: HEIGHT, left: 44.0, right: WIDTH - 12.0, top: 10.0, bottom: HEIGHT - 26.0 }
}

/// The steps' axis: every column takes the same width, so ticks name the first step of their column.
fn x_scale(frame: &Frame, steps: &[u64]) -> Scale {
    let (lo, hi) = (steps[0] as f64, steps[steps.len() - 1] as f64);
    let pad = 0.5 * (hi - lo).max(1.0) / steps.len() as f64;
    Scale::new((lo - pad, hi + pad), (frame.left, frame.right), false)
}

/// Mean seconds a step by stage. `None` when nothing was timed.
pub(super) fn stacked(id: &str, steps: &[u64], stages: &[Stage]) -> Option<Figure> {
    if steps.is_empty() || stages.iter().all(|stage| stage.total() <= 0.0) {
        return None;
    }
    let (frame, groups) = (frame(), groups(steps.len()));
    let mean = |stage: &Stage, group: &std::ops::Range<usize>| {
        stage.seconds[group.clone()].iter().sum::<f64>() / group.len() as f64
    };
    let height = |group| stages.iter().map(|stage| mean(stage, group)).sum::<f64>();
    let tallest = groups.iter().map(height).fold(0.0, f64::max);
    let x = x_scale(&frame, steps);
    let y = Scale::new(nice(0.0, tallest, 5), (frame.bottom, frame.top), false);
    let total: f64 = stages.iter().map(Stage::total).sum();
    let parts = stages.iter().map(|s| format!("{} {}", s.name, Unit::Share.show(s.total() / total)));
    let desc = format!(
        "Stacked bars over training steps. Share of all time: {}.",
        parts.collect::<Vec<_>>().join(", ")
    );
    let mut out = open_svg(id, &frame, "Seconds a step, by stage", &desc, "");
    out.push_str(&axes(&frame, &x, &y, Unit::Plain));
    let slot = (frame.right - frame.left) / groups.len() as f64;
    let gap = (slot * 0.16).min(3.0);
    for (column, group) in groups.iter().enumerate() {
        let (left, width) = (frame.left + column as f64 * slot + gap / 2.0, px(slot.min(60.0) - gap));
        let left = px(left + (slot - slot.min(60.0)) / 2.0);
        let mut title = format!("step {}", span_text(steps, group));
        let mut bars = String::new();
        let mut base = 0.0;
        for stage in stages {
            let seconds = mean(stage, group);
            let (top, bottom) = (y.at(base + seconds), y.at(base));
            base += seconds;
            if bottom - top >= 0.05 {
                let (top, size) = (px(top), px(bottom - top));
                let _ = write!(
                    bars,
                    "<rect class=\"s{}\" x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{size}\"/>",
                    stage.colour
                );
                let _ = write!(title, "\n{} {}", stage.name, duration(seconds));
            }
        }
        let _ = write!(out, "<g class=\"bar\"><title>{}</title>{bars}</g>", escape(&title));
    }
    out.push_str("</svg>");
    let row = |&g: &usize| {
        let mut row = vec![span_text(steps, &groups[g])];
        row.extend(stages.iter().map(|stage| duration(mean(stage, &groups[g]))));
        row
    };
    let per = groups[0].len();
    Some(Figure {
        id: id.to_owned(),
        title: "Seconds a step".into(),
        note: if per == 1 { "one bar a step".into() } else { format!("one bar is the mean of {per} steps") },
        svg: out,
        wide: true,
        chips: Vec::new(),
        table: Table {
            caption: "Seconds a step, by stage".into(),
            columns: std::iter::once("steps".to_owned())
                .chain(stages.iter().map(|s| s.name.clone()))
                .collect(),
            rows: spread(groups.len(), 24).iter().map(row).collect(),
        },
    })
}

/// What is known of a distribution at one step: smallest value, 10th, 50th and 90th percentile, largest value.
pub(super) type Quantiles = [f64; 5];

/// Mass of a distribution in each of `bins` equal bins over `domain`, from its quantiles: the 10, 40, 40 and 10 % of
/// mass between neighbouring quantiles are spread evenly, or put whole where two quantiles meet.
pub(super) fn histogram(quantiles: &Quantiles, domain: (f64, f64), bins: usize) -> Vec<f64> {
    let position =
        |value: f64| ((value - domain.0) / (domain.1 - domain.0) * bins as f64).clamp(0.0, bins as f64);
    let mut mass = vec![0.0; bins];
    for (pair, share) in quantiles.windows(2).zip([0.1, 0.4, 0.4, 0.1]) {
        let (from, to) = (position(pair[0]), position(pair[1]));
        if to - from < 1e-9 {
            mass[(from.floor() as usize).min(bins - 1)] += share;
            continue;
        }
        for (bin, mass) in mass.iter_mut().enumerate() {
            let overlap = (to.min(bin as f64 + 1.0) - from.max(bin as f64)).max(0.0);
            *mass += share * overlap / (to - from);
        }
    }
    mass
}

/// A distribution by step as a strip of shaded cells with the median on top. Steps without finite quantiles stay
/// empty; `None` when all do.
pub(super) fn heat(id: &str, title: &str, steps: &[u64], quantiles: &[Option<Quantiles>]) -> Option<Figure> {
    let known = || quantiles.iter().flatten();
    let (lo, hi) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), q| (a.min(q[0]), b.max(q[4])));
    known().next()?;
    let frame = frame();
    let domain = if hi > lo { nice(lo, hi, 5) } else { (lo - 0.5, lo + 0.5) };
    let (x, y) = (x_scale(&frame, steps), Scale::new(domain, (frame.bottom, frame.top), false));
    let groups = groups(steps.len());
    let slot = (frame.right - frame.left) / groups.len() as f64;
    let cell = (frame.bottom - frame.top) / BINS as f64;
    let mut shades = vec![String::new(); SHADES];
    let mut medians = Vec::new();
    let mut rows = Vec::new();
    for (column, group) in groups.iter().enumerate() {
        let known: Vec<&Quantiles> = quantiles[group.clone()].iter().flatten().collect();
        let centre = frame.left + (column as f64 + 0.5) * slot;
        if known.is_empty() {
            medians.push((centre, f64::NAN));
            continue;
        }
        let mean =
            |f: &dyn Fn(&Quantiles) -> f64| known.iter().map(|q| f(q)).sum::<f64>() / known.len() as f64;
        medians.push((centre, y.at(mean(&|q| q[2]))));
        rows.push(
            std::iter::once(span_text(steps, group))
                .chain((0..5).map(|i| Unit::Plain.show(mean(&|q| q[i]))))
                .collect::<Vec<_>>(),
        );
        for bin in 0..BINS {
            let mass = mean(&|q| histogram(q, domain, BINS)[bin]);
            if mass >= 0.004 {
                // Square root: small shares stay visible beside a bin that holds nearly everything.
                let shade = ((mass.min(1.0).sqrt() * SHADES as f64).ceil() as usize).clamp(1, SHADES) - 1;
                let (left, top) =
                    (px(frame.left + column as f64 * slot), px(frame.bottom - (bin + 1) as f64 * cell));
                let _ = write!(shades[shade], "M{left} {top}h{}v{}h-{0}z", px(slot - 0.4), px(cell - 0.4));
            }
        }
    }
    let desc = format!(
        "Heat strip over training steps, from {} to {}; darker cells hold more samples; the line is the median.",
        Unit::Plain.show(lo),
        Unit::Plain.show(hi)
    );
    let mut out = open_svg(id, &frame, title, &desc, "");
    out.push_str(&axes(&frame, &x, &y, Unit::Plain));
    for (shade, data) in shades.iter().enumerate().filter(|(_, data)| !data.is_empty()) {
        let _ = write!(out, "<path class=\"h{shade}\" d=\"{data}\"/>");
    }
    let _ = write!(out, "<path class=\"median\" d=\"{}\"/></svg>", path(medians));
    let last = known().last().map_or(f64::NAN, |q| q[2]);
    Some(Figure {
        id: id.to_owned(),
        title: title.to_owned(),
        note: "darker = more samples; interpolated from min, p10, p50, p90 and max of each step".into(),
        svg: out,
        wide: true,
        chips: vec![Chip { colour: 8, label: "median".into(), value: Unit::Plain.show(last) }],
        table: Table {
            caption: title.to_owned(),
            columns: ["steps", "min", "p10", "p50", "p90", "max"].map(str::to_owned).to_vec(),
            rows: spread(rows.len(), 24).into_iter().map(|i| rows[i].clone()).collect(),
        },
    })
}

/// A word-sized line for tables.
pub(super) fn spark(id: &str, name: &str, points: &[(f64, f64)]) -> String {
    let frame = Frame { width: 96.0, height: 20.0, left: 1.0, right: 95.0, top: 2.0, bottom: 18.0 };
    let kept = super::series::thin(points, 48);
    let Some(s) = super::series::summary(points) else { return String::new() };
    let x = Scale::new((points[0].0, points[points.len() - 1].0), (frame.left, frame.right), false);
    let y = Scale::new((s.min, s.max), (frame.bottom, frame.top), false);
    let desc = format!("from {} to {}", Unit::Plain.show(s.first), Unit::Plain.show(s.last));
    let mut out = open_svg(id, &frame, name, &desc, " class=\"spark\"");
    let data = path(kept.iter().map(|&i| (x.at(points[i].0), y.at(points[i].1))));
    let _ = write!(out, "<path d=\"{data}\"/></svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_quantiles_are_one_full_bin() {
        let mass = histogram(&[1.0; 5], (0.0, 1.0), 10);
        assert!((mass[9] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn mass_lies_between_its_quantiles() {
        let mass = histogram(&[0.0, 0.0, 0.5, 1.0, 1.0], (0.0, 1.0), 4);
        // 10 % at each end, 40 % over each half.
        for (got, want) in mass.iter().zip([0.3, 0.2, 0.2, 0.3]) {
            assert!((got - want).abs() < 1e-12, "{mass:?}");
        }
    }

    #[test]
    fn columns_cover_every_step_once() {
        for n in [1, 2, 71, 72, 73, 150, 10_000] {
            let groups = groups(n);
            assert!(groups.len() <= COLUMNS);
            assert_eq!((groups[0].start, groups[groups.len() - 1].end), (0, n));
            assert!(groups.windows(2).all(|w| w[0].end == w[1].start));
        }
    }

    #[test]
    fn nothing_timed_and_nothing_known_draw_nothing() {
        let stage = Stage { name: "update".into(), colour: 0, seconds: vec![0.0] };
        assert!(stacked("x", &[0], &[stage]).is_none());
        assert!(heat("x", "t", &[0, 1], &[None, None]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn histogram_mass_is_one(mut q in proptest::array::uniform5(-2.0_f64..3.0), bins in 1_usize..30) {
            q.sort_by(f64::total_cmp);
            let mass: f64 = histogram(&q, (-2.0, 3.0), bins).iter().sum();
            prop_assert!((mass - 1.0).abs() < 1e-9);
        }
    }
}
