//! Reading a trace, and scoring it.

use std::ops::Range;

use super::{FREE_LINES, FsmTargets, targets};
use crate::aggregate::{Outcome, unknown_kind};
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, Reason};
use crate::text::lines;

/// The fields of a line that is a row: five cells between bars, the first of them a number of at most 7 digits.
fn parse_row(line: &str) -> Option<[&str; 5]> {
    let inner = line.trim();
    let inner = inner.strip_prefix('|').unwrap_or(inner);
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    let mut fields = inner.split('|').map(str::trim);
    let row = [fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    let number = (1..=7).contains(&row[0].len()) && row[0].bytes().all(|b| b.is_ascii_digit());
    let whole = row.iter().all(|f| !f.is_empty() && !f.contains(char::is_whitespace));
    (fields.next().is_none() && number && whole).then_some(row)
}

/// [`parse_row`] of a line that is ASCII, in one pass.
fn parse_ascii(line: &str) -> Option<[&str; 5]> {
    let line = line.trim_ascii();
    let line = line.strip_prefix('|').unwrap_or(line);
    let mut rest = line.strip_suffix('|').unwrap_or(line);
    let mut fields = [""; 5];
    for (i, field) in fields.iter_mut().enumerate() {
        let cell = match (rest.bytes().position(|b| b == b'|'), i) {
            (Some(bar), 0..4) => {
                let cell = &rest[..bar];
                rest = &rest[bar + 1..];
                cell
            }
            (None, 4) => rest,
            _ => return None,
        };
        *field = cell.trim_ascii();
        if field.is_empty() || field.bytes().any(|b| b.is_ascii_whitespace() || b == 0x0b) {
            return None;
        }
    }
    let number = (1..=7).contains(&fields[0].len()) && fields[0].bytes().all(|b| b.is_ascii_digit());
    number.then_some(fields)
}

/// Lines that are part of a table or fence but no rows: fences, separators, the header.
fn is_frame(line: &str) -> bool {
    let line = line.trim();
    let bars = |c: char| matches!(c, '|' | '-' | ':' | '+' | ' ');
    let header = || {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_lowercase());
        cells.eq(["step", "state", "input", "next", "output"])
    };
    line.starts_with("```") || line.starts_with("~~~") || line.chars().all(bars) || header()
}

/// What was read of an answer.
pub(super) struct Trace<'a> {
    pub(super) rows: Vec<([&'a str; 5], Range<u32>)>,
    noise: usize,
}

pub(super) fn read(visible: &str) -> Trace<'_> {
    let mut trace = Trace { rows: Vec::with_capacity(visible.len() / 20), noise: 0 };
    // A vertical tab is white space to Unicode alone.
    let ascii = visible.is_ascii() && !visible.contains('\u{b}');
    for (start, line) in lines(visible) {
        let start = start as u32;
        let row = if ascii { parse_ascii(line) } else { parse_row(line) };
        if let Some(row) = row {
            trace.rows.push((row, start..start + line.len() as u32));
        } else if !line.trim().is_empty() && !is_frame(line) {
            trace.noise += 1;
        }
    }
    trace
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let trace = read(visible);
    let is_right = |targets: &FsmTargets, (i, step): (usize, [usize; 4])| {
        trace.rows.get(i).is_some_and(|(row, _)| targets.is_row(row, i + 1, step))
    };
    let right: Vec<bool> = match targets(instance) {
        Some(targets) => targets.steps().enumerate().map(|step| is_right(targets, step)).collect(),
        None => Vec::new(),
    };
    let (n, m) = (right.len(), trace.rows.len());
    let prefix = right.iter().take_while(|&&r| r).count();
    let correct = right.iter().filter(|&&r| r).count();
    let clean = match n {
        0 => 0.0,
        _ => (1.0 - trace.noise.saturating_sub(FREE_LINES) as f64 / n as f64).max(0.0),
    };
    let mut flags = FlagSet::default();
    flags.set(FlagSet::EXTRA_ROWS, m > n);
    let scale = n.max(m).max(1);
    let count = n.min(m) as f64 / scale as f64;
    Outcome {
        gate: if m == 0 { Gate::NoRows } else { Gate::Open },
        base: (7 * prefix + 3 * correct) as f64 / (10 * scale) as f64,
        components: vec![("prefix", prefix as f64 / scale as f64), ("rows", correct as f64 / scale as f64)],
        multipliers: vec![("clean", clean)],
        flags,
        may_echo: false,
        verdict: Box::new(move |c| match &*c.kind {
            "step" => match (right.get(c.target as usize), trace.rows.get(c.target as usize)) {
                (Some(&right), Some((_, span))) => (f64::from(right), Reason::Wrong, vec![span.clone()]),
                _ => (0.0, Reason::Missing, Vec::new()),
            },
            "row_count" => (count, Reason::Count, Vec::new()),
            "no_extra_text" => (clean, Reason::Extra, Vec::new()),
            _ => unknown_kind(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_readings_agree(line in r"[|]?( ?[0-9]{1,8} ?\|){0,2}( ?S?[0-9a ]{0,2}[ \t]?[|]?){0,6}") {
            prop_assert_eq!(parse_ascii(&line), parse_row(&line), "{:?}", line);
        }
    }
}
