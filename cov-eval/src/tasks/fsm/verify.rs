//! Reading a trace, and scoring it.

use std::ops::Range;

use super::{FREE_LINES, FsmTargets, targets};
use crate::aggregate::{Outcome, unknown_kind};
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, Reason, Spans};
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

/// What a line of an answer is.
enum Line<'a> {
    Row([&'a str; 5]),
    /// Neither a row nor part of a table.
    Noise,
    Nothing,
}

/// How lines of a text are read.
fn reader(visible: &str) -> impl for<'a> Fn(&'a str) -> Line<'a> + use<> {
    // A vertical tab is white space to Unicode alone.
    let ascii = visible.is_ascii() && !visible.contains('\u{b}');
    move |line| {
        let row = if ascii { parse_ascii(line) } else { parse_row(line) };
        match row {
            Some(row) => Line::Row(row),
            None if line.trim().is_empty() || is_frame(line) => Line::Nothing,
            None => Line::Noise,
        }
    }
}

/// The rows of an answer.
pub(super) fn rows(visible: &str) -> Vec<[&str; 5]> {
    let read = reader(visible);
    let row = |(_, line)| if let Line::Row(row) = read(line) { Some(row) } else { None };
    lines(visible).filter_map(row).collect()
}

/// What was found in an answer.
struct Trace {
    /// Whether each row is the one that should stand in its place, and its bytes.
    rows: Vec<(bool, Range<u32>)>,
    noise: usize,
}

/// Bytes that two texts have in common at their start.
fn common(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0);
    let whole = 32 * blocks.take_while(|(a, b)| a == b).count();
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(a, b)| a == b).count()
}

fn trace(targets: &FsmTargets, visible: &str) -> Trace {
    let written = targets.written();
    let mut trace = Trace { rows: Vec::with_capacity(visible.len() / 16), noise: 0 };
    // A right row mostly stands there as we would write it, and need not be taken apart: most often, all do.
    let same = common(visible.as_bytes(), written.text.as_bytes());
    let ends = |end: usize| visible.as_bytes().get(end).is_none_or(|&b| b == b'\n');
    let is_whole = |(_, row): &&(_, Range<usize>)| row.end < same || (row.end == same && ends(same));
    let whole = written.rows.iter().take_while(is_whole);
    trace.rows.extend(whole.map(|(_, row)| (true, row.start as u32..row.end as u32)));
    let begin = trace.rows.last().map_or(0, |(_, row)| row.end as usize + 1);
    let Some(rest) = visible.get(begin..) else { return trace };

    let read = reader(visible);
    for (start, line) in lines(rest) {
        let step = trace.rows.len();
        let expected = written.rows.get(step);
        let right = match expected.is_some_and(|(_, row)| line == &written.text[row.clone()]) {
            true => true,
            false => match read(line) {
                Line::Row(row) => expected.is_some_and(|(f, _)| targets.is_row(&row, step + 1, *f)),
                Line::Nothing => continue,
                Line::Noise => {
                    trace.noise += 1;
                    continue;
                }
            },
        };
        let start = begin + start;
        trace.rows.push((right, start as u32..(start + line.len()) as u32));
    }
    trace
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let empty = FsmTargets::default();
    let targets = targets(instance).unwrap_or(&empty);
    let trace = trace(targets, visible);
    let (n, m) = (targets.written().rows.len(), trace.rows.len());
    let prefix = trace.rows.iter().take_while(|row| row.0).count();
    let correct = trace.rows.iter().filter(|row| row.0).count();
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
            "step" => match trace.rows.get(c.target as usize).filter(|_| (c.target as usize) < n) {
                Some((right, span)) => (f64::from(*right), Reason::Wrong, Spans::from_iter([span.clone()])),
                None => (0.0, Reason::Missing, Spans::new()),
            },
            "row_count" => (count, Reason::Count, Spans::new()),
            "no_extra_text" => (clean, Reason::Extra, Spans::new()),
            _ => unknown_kind(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InstanceKey, Intake, Split, Task, TaskConfig, TaskId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_readings_agree(line in r"[|]?( ?[0-9]{1,8} ?\|){0,2}( ?S?[0-9a ]{0,2}[ \t]?[|]?){0,6}") {
            prop_assert_eq!(parse_ascii(&line), parse_row(&line), "{:?}", line);
        }
    }

    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "|", " | ", "\n", "\r", "\t", " ", "\u{b}", "\u{a0}", "1", "2", "0000001", "99999999", "S0", "S1", "a", "b", "x", "é", "\u{301}", "\0", "---",
        "|---|", "```", "~~~", "step | state | input | next | output", "1 | S0 | a | S1 | x", "| 2 | S1 | b | S0 | y |", ":", "\u{feff}",
    ];

    fn hostile() -> impl Strategy<Value = String> {
        let task = crate::task(TaskId::Fsm);
        let right = [0, 1].map(|difficulty| task.oracle(&instance(difficulty))).to_vec();
        crate::fuzz::texts(PIECES, right)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::fuzz::CASES))]

        /// Rows are five cells of their line, and what is scored has no more rows than the text has lines, one behind the other.
        #[test]
        fn any_text_is_read(text in hostile(), difficulty in 0..2u8) {
            let rows = rows(&text);
            prop_assert!(rows.len() <= text.split('\n').count());
            for row in &rows {
                prop_assert!(row.iter().all(|cell| !cell.is_empty() && !cell.contains(|c: char| c == '|' || c.is_whitespace())));
                prop_assert!(row[0].len() <= 7 && row[0].bytes().all(|b| b.is_ascii_digit()));
            }
            let instance = instance(difficulty);
            let found = trace(targets(&instance).unwrap(), &text);
            prop_assert_eq!(found.rows.len(), rows.len());
            let mut end = 0;
            for (_, range) in &found.rows {
                let (from, to) = (range.start as usize, range.end as usize);
                prop_assert!(from >= end && text.get(from..to).is_some_and(|line| line.contains('|')));
                end = to;
            }
        }
    }

    fn instance(difficulty: u8) -> Instance {
        let key = InstanceKey {
            task: TaskId::Fsm,
            version: super::super::VERSION,
            split: Split::Test,
            length: 1024,
            difficulty,
            base_seed: 3,
            index: 0,
        };
        super::super::Fsm.generate(&key, &TaskConfig::default()).unwrap()
    }

    const JUNK: [&str; 12] =
        ["\n", "|", " ", "S", "0", "a", "-", "\u{b}", "\u{a0}", "é", "note\n", "1 | S0 | a | S1 | z\n"];

    proptest! {
        /// Of any answer near to a right one, each row is right where its fields are those of the trace, taken apart in full.
        #[test]
        fn rows_are_compared_as_their_fields(
            difficulty in 0u8..4,
            edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0usize..JUNK.len(), 0usize..3), 0..6),
        ) {
            let instance = instance(difficulty);
            let targets = targets(&instance).unwrap();
            let mut text = super::super::Fsm.oracle(&instance);
            for (at, junk, what) in edits {
                let at = text.floor_char_boundary(at.index(text.len() + 1));
                match what {
                    0 => text.insert_str(at, JUNK[junk]),
                    1 => text.truncate(at.max(text.len() / 2)),
                    _ if at < text.len() => drop(text.remove(at)),
                    _ => {}
                }
            }
            let expected = targets.rows();
            let (mut rows, mut noise) = (Vec::new(), 0);
            for (start, line) in lines(&text) {
                if let Some(row) = parse_row(line) {
                    let right = expected.get(rows.len()).is_some_and(|fields| *fields == row);
                    rows.push((right, start as u32..(start + line.len()) as u32));
                } else {
                    noise += usize::from(!line.trim().is_empty() && !is_frame(line));
                }
            }
            let found = trace(targets, &text);
            prop_assert_eq!((found.rows, found.noise), (rows, noise), "{}", text);
        }
    }

    /// Rows as they are written are right, and nothing else that says the same is taken for another row.
    #[test]
    fn right_rows_are_right_in_every_form() {
        for difficulty in 0..=3 {
            let instance = instance(difficulty);
            let targets = targets(&instance).unwrap();
            let oracle = super::super::Fsm.oracle(&instance);
            let written: Vec<String> = (targets.steps().enumerate())
                .map(|(i, fields)| {
                    let mut text = String::new();
                    targets.write_row(i + 1, fields, &mut text);
                    text
                })
                .collect();
            assert_eq!(written.join("\n"), oracle);
            for other in
                [oracle.replace(" | ", "|"), oracle.replace('\n', " |\n| "), oracle.replace('|', "|\t")]
            {
                let right = trace(targets, &other).rows.into_iter().map(|row| row.0).collect::<Vec<_>>();
                assert_eq!(right, vec![true; written.len()], "{other}");
                assert_eq!(super::super::Fsm.verify(&instance, &Intake::from(other.as_str())).score, 1.0);
            }
        }
    }
}
