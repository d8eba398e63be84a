//! What every chart needs: scales, ticks, numbers as text, path data.

use std::fmt::Write as _;

/// A map from values to pixels, linear or logarithmic (base 10).
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) domain: (f64, f64),
    pub(super) range: (f64, f64),
    pub(super) log: bool,
}

impl Scale {
    /// A domain of no width is widened, so that a single value lands in the middle.
    pub(super) fn new(domain: (f64, f64), range: (f64, f64), log: bool) -> Self {
        let (lo, hi) = domain;
        let domain = match (hi > lo, log) {
            (true, _) => domain,
            (false, true) => (lo / 2.0, lo * 2.0),
            (false, false) => {
                let half = if lo == 0.0 { 0.5 } else { lo.abs() / 2.0 };
                (lo - half, lo + half)
            }
        };
        Self { domain, range, log }
    }

    /// The pixel of a value; NaN for what has no place (NaN, infinities, non-positive values on a log scale).
    pub(super) fn at(&self, value: f64) -> f64 {
        let position = if self.log {
            let (lo, hi) = (self.domain.0.log10(), self.domain.1.log10());
            (value.log10() - lo) / (hi - lo)
        } else {
            (value - self.domain.0) / (self.domain.1 - self.domain.0)
        };
        let pixel = self.range.0 + position * (self.range.1 - self.range.0);
        if pixel.is_finite() { pixel } else { f64::NAN }
    }

    /// Ticks within the domain, about `count` of them.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        let (lo, hi) = self.domain;
        if !self.log {
            return linear_ticks(lo, hi, count);
        }
        let (first, last) = (lo.log10().ceil() as i32, hi.log10().floor() as i32);
        if last - first < 1 {
            return linear_ticks(lo, hi, count);
        }
        let stride = ((last - first) as usize / count.max(1) + 1).max(1);
        (first..=last).step_by(stride).map(|power| 10_f64.powi(power)).collect()
    }
}

/// The largest of 1, 2, 5 × 10ⁿ that gives at most about `count` steps from `lo` to `hi`.
fn tick_step(lo: f64, hi: f64, count: usize) -> f64 {
    let rough = (hi - lo) / count.max(1) as f64;
    let base = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * base >= rough * 0.999).unwrap_or(10.0);
    factor * base
}

fn linear_ticks(lo: f64, hi: f64, count: usize) -> Vec<f64> {
    let step = tick_step(lo, hi, count);
    if !step.is_finite() || step <= 0.0 {
        return vec![lo];
    }
    let (first, last) = ((lo / step - 1e-6).ceil(), (hi / step + 1e-6).floor());
    (0..=(last - first).max(0.0) as usize).map(|i| (first + i as f64) * step).collect()
}

/// Ticks for training steps: whole numbers only.
pub(super) fn step_ticks(scale: &Scale, count: usize) -> Vec<f64> {
    let (lo, hi) = scale.domain;
    let ticks = linear_ticks(lo, hi, count.min(((hi - lo).floor() as usize).max(1)));
    ticks.into_iter().filter(|tick| tick.fract().abs() < 1e-9).collect()
}

/// The domain widened outwards to whole tick steps, so that the axis ends on a tick.
pub(super) fn nice(lo: f64, hi: f64, count: usize) -> (f64, f64) {
    let (mut low, mut high) = (lo, hi);
    // Widening can make the next larger tick step the right one, so that the ends must be moved once more.
    for _ in 0..4 {
        let step = tick_step(low, high, count);
        if !step.is_finite() || step <= 0.0 {
            break;
        }
        low = (low / step + 1e-9).floor() * step;
        high = (high / step - 1e-9).ceil() * step;
    }
    (low, high)
}

/// How a metric's values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Unit {
    /// A plain number.
    #[default]
    Plain,
    /// A share of one, written in per cent.
    Share,
}

impl Unit {
    /// A value for a read-out or table, about three significant digits.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => number(value),
            Self::Plain => number(value),
            // Near none and near all, a whole per cent hides what there is to see.
            Self::Share => {
                let fine = value != 0.0 && value != 1.0 && !(0.0995..0.8995).contains(&value.abs());
                percent(value, usize::from(fine))
            }
        }
    }

    /// A tick label; all ticks of an axis share their decimals.
    pub(super) fn tick(self, value: f64, ticks: &[f64], log: bool) -> String {
        let largest = ticks.iter().fold(0.0_f64, |m, t| m.max(t.abs()));
        let gap = ticks.windows(2).map(|w| (w[1] - w[0]).abs()).fold(f64::INFINITY, f64::min);
        let decimals = |gap: f64| {
            let places = (0..9)
                .find(|&d| (gap * 10_f64.powi(d)).fract().min(1.0 - (gap * 10_f64.powi(d)).fract()) < 1e-4);
            places.unwrap_or(0) as usize
        };
        let gap = if gap.is_finite() { gap } else { largest };
        match self {
            Self::Share if value == 0.0 => "0%".to_owned(),
            Self::Share => percent(value, decimals(gap * 100.0).min(2)),
            _ if value == 0.0 => "0".to_owned(),
            _ if log || largest < 0.001 => scientific(value, usize::from(!log && decimals_of(value) > 0)),
            _ if largest >= 1e9 => scientific(value, 1),
            _ if largest >= 1e6 => format!("{}M", fixed(value / 1e6, decimals(gap / 1e6))),
            _ if largest >= 1e4 => format!("{}k", fixed(value / 1e3, decimals(gap / 1e3))),
            _ => fixed(value, decimals(gap)),
        }
    }
}

/// Whether a number in scientific form needs a decimal.
fn decimals_of(value: f64) -> usize {
    let mantissa = value.abs() / 10_f64.powf(value.abs().log10().floor());
    usize::from((mantissa - mantissa.round()).abs() > 0.05)
}

/// About three significant digits, thousands separated, scientific when very large or small.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value.is_infinite() => if value > 0.0 { "∞" } else { "−∞" }.to_owned(),
        _ if value == 0.0 => "0".to_owned(),
        _ if !(5e-4..1e9).contains(&size) => scientific(value, 2),
        _ if size >= 999.5 => grouped(value),
        _ if size >= 99.95 => fixed(value, 0),
        _ if size >= 9.995 => fixed(value, 1),
        _ if size >= 0.0995 => fixed(value, 2),
        _ if size >= 0.00995 => fixed(value, 3),
        _ => fixed(value, 4),
    }
}

/// `value` with `decimals` places and a true minus sign.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().any(|c| ('1'..='9').contains(&c)) => format!("−{digits}"),
        Some(digits) => digits.to_owned(),
        None => text,
    }
}

fn percent(value: f64, decimals: usize) -> String {
    format!("{}%", fixed(value * 100.0, decimals))
}

fn scientific(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let superscript = |c: char| match c.to_digit(10) {
        Some(digit) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize],
        None => '⁻',
    };
    let exponent: String = exponent.chars().map(superscript).collect();
    match mantissa {
        "1" => format!("10{exponent}"),
        "-1" => format!("−10{exponent}"),
        _ => format!("{}×10{exponent}", mantissa.replace('-', "−")),
    }
}

/// A rounded whole number with thousands separated.
pub(super) fn grouped(value: f64) -> String {
    let digits = fixed(value, 0);
    let (sign, digits) = match digits.strip_prefix('−') {
        Some(rest) => ("−", rest),
        None => ("", digits.as_str()),
    };
    let mut text = String::from(sign);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(c);
    }
    text
}

/// Seconds as a person says them: `840 ms`, `48.2 s`, `12 min 5 s`, `3 h 20 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round();
    match seconds {
        s if !s.is_finite() || s < 0.0 => format!("{} s", number(s)),
        0.0 => "0 s".to_owned(),
        s if s < 0.0995 => format!("{} ms", number(s * 1e3)),
        s if s < 0.9995 => format!("{} ms", fixed(s * 1e3, 0)),
        s if s < 59.95 => format!("{} s", number(s)),
        s if s < 3599.5 => format!("{} min {} s", (whole / 60.0).floor(), whole % 60.0),
        s => {
            let minutes = (s / 60.0).round();
            format!("{} h {} min", grouped((minutes / 60.0).floor()), minutes % 60.0)
        }
    }
}

/// SVG path data through pixels; a pixel that is NaN ends the line, the next one starts anew.
pub(super) fn path(pixels: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut data = String::new();
    let mut open = false;
    for (x, y) in pixels {
        if x.is_nan() || y.is_nan() {
            open = false;
            continue;
        }
        let command = if open { 'L' } else { 'M' };
        let _ = write!(data, "{command}{} {}", px(x), px(y));
        open = true;
    }
    data
}

/// A pixel with at most one decimal.
pub(super) fn px(pixel: f64) -> String {
    let text = format!("{pixel:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Text for SVG and HTML, within elements and attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}
