//! Reading blocks, and scoring their order.

use std::ops::Range;

use super::{ParaOrderTargets, distance, targets, tau};
use crate::aggregate::{Outcome, unknown_kind};
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, Reason, Spans};

/// A tag at the start of `text`: the number in it and its length. `[[ segment 12 ]]`, in any case.
pub(super) fn read_tag(text: &str) -> Option<(usize, usize)> {
    let inner = text.strip_prefix("[[")?;
    // No tag is longer, whatever white space is in it.
    let close = inner.bytes().take(64).position(|b| b == b']')?;
    let word = inner.get(..close)?.trim_start();
    let name = word.get(..7).filter(|name| name.eq_ignore_ascii_case("segment"))?;
    let number = &word[name.len()..];
    let digits = number.trim();
    let spaced = number.starts_with(char::is_whitespace);
    let valid = spaced && (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (valid && inner[close..].starts_with("]]")).then(|| Some((digits.parse().ok()?, close + 4)))?
}

/// Tagged blocks: the number and the text up to the next tag, without fences.
pub(super) fn read_blocks(visible: &str) -> Vec<(usize, String, Range<u32>)> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(found) = visible[at..].find("[[") {
        at += found;
        match read_tag(&visible[at..]) {
            Some((number, length)) => {
                tags.push((number, at, at + length));
                at += length;
            }
            None => at += 1,
        }
    }
    let ends = tags.iter().skip(1).map(|&(_, start, _)| start).chain([visible.len()]);
    let block = |(&(number, start, text), end): (&(usize, usize, usize), usize)| {
        let text = visible[text..end].trim();
        let fence = |line: &&str| !line.trim_start().starts_with("```");
        let text = match text.contains("```") {
            true => text.lines().filter(fence).collect::<Vec<_>>().join("\n").trim().to_owned(),
            false => text.to_owned(),
        };
        (number, text, start as u32..end as u32)
    };
    tags.iter().zip(ends).map(block).collect()
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let empty = ParaOrderTargets { segments: Vec::new(), numbers: Vec::new() };
    let ParaOrderTargets { segments, numbers } = targets(instance).unwrap_or(&empty);
    let n = segments.len();
    let blocks = read_blocks(visible);
    let mut times = vec![0usize; n];
    let mut fidelity = vec![0.0; n];
    let mut spans = vec![Spans::new(); n];
    let mut order = Vec::new();
    for (number, text, span) in &blocks {
        let Some(segment) = numbers.iter().position(|x| x == number) else { continue };
        times[segment] += 1;
        if times[segment] == 1 {
            fidelity[segment] = distance::fidelity(&segments[segment], text);
            if fidelity[segment] > 0.0 {
                order.push(segment);
            }
        }
        spans[segment].push(span.clone());
    }
    let mut adjacent = vec![false; n];
    order.windows(2).filter(|pair| pair[0] + 1 == pair[1]).for_each(|pair| adjacent[pair[0]] = true);
    let pairs = n.saturating_sub(1).max(1);
    let concordant = tau(&order).max(0.0);
    let neighbors = adjacent.iter().filter(|&&kept| kept).count() as f64 / pairs as f64;
    let copied = fidelity.iter().sum::<f64>() / n.max(1) as f64;
    let economy = n as f64 / n.max(blocks.len()).max(1) as f64;
    let mut flags = FlagSet::default();
    flags.set(FlagSet::DUPLICATE_BLOCKS, blocks.len() > n);
    Outcome {
        gate: if blocks.is_empty() { Gate::NoBlocks } else { Gate::Open },
        base: (6.0 * concordant + 4.0 * neighbors) / 10.0,
        components: vec![("order", concordant), ("neighbors", neighbors)],
        multipliers: vec![("copied", copied), ("economy", economy)],
        flags,
        may_echo: true,
        verdict: Box::new(move |c| {
            let i = c.target as usize;
            let span = || spans.get(i).cloned().unwrap_or_default();
            match (&*c.kind, times.get(i)) {
                ("exactly_once", Some(0)) => (0.0, Reason::Missing, Spans::new()),
                ("exactly_once", Some(&times)) => (f64::from(times == 1), Reason::Repeated, span()),
                ("verbatim", Some(&times)) => {
                    let loss = if times == 0 { Reason::Missing } else { Reason::Wrong };
                    (fidelity[i], loss, span())
                }
                ("adjacent", Some(_)) => (f64::from(adjacent[i]), Reason::Misplaced, span()),
                ("global_order", _) => (concordant, Reason::Misplaced, Spans::new()),
                _ => unknown_kind(),
            }
        }),
    }
}
