//! Finding statements in an article, and their style.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::FixedState;

use super::sheet::global;
use super::{NewsTargets, targets};
use crate::aggregate::{Outcome, harmonic, unknown_kind};
use crate::evidence::Evidence;
use crate::model::{Gate, Instance, Reason, Spans};
use crate::words::words;

/// Windows of each statement: sentences with its name and its noun, else pairs of neighbours that have one each.
fn windows(targets: &NewsTargets, evidence: &Evidence) -> Vec<Vec<Range<usize>>> {
    let mut by_word: HashMap<&str, Vec<usize>, FixedState> = HashMap::default();
    for (i, range) in evidence.sentences.iter().enumerate() {
        let sentence = &evidence.text[range.clone()];
        for word in words(sentence) {
            for piece in sentence[word].split(['\'', '-']) {
                let list = by_word.entry(piece).or_default();
                if list.last() != Some(&i) {
                    list.push(i);
                }
            }
        }
    }
    let having = |word: &str| by_word.get(word).map_or(&[][..], Vec::as_slice);
    let one = |statement: &super::Statement| {
        let names = having(&statement.surname);
        let first = crate::prose::capital(&statement.noun);
        let forms =
            [statement.noun.clone(), format!("{}s", statement.noun), first.clone(), format!("{first}s")];
        let mut nouns: Vec<usize> = forms.iter().flat_map(|f| having(f)).copied().collect();
        nouns.sort_unstable();
        nouns.dedup();
        let sentence = |i: usize| evidence.sentences[i].clone();
        let both: Vec<usize> = names.iter().copied().filter(|i| nouns.binary_search(i).is_ok()).collect();
        if !both.is_empty() {
            return both.into_iter().map(sentence).collect();
        }
        let mut pairs: Vec<Range<usize>> = Vec::new();
        for &i in names {
            for j in [i.wrapping_sub(1), i + 1] {
                if nouns.binary_search(&j).is_ok() {
                    pairs.push(sentence(i.min(j)).start..sentence(i.max(j)).end);
                }
            }
        }
        pairs
    };
    targets.statements.iter().map(one).collect()
}

/// What became of a statement: its windows, and for each rule whether it is kept.
struct Found {
    windows: Vec<Range<usize>>,
    styled: Vec<bool>,
}

fn read(targets: &NewsTargets, evidence: &Evidence) -> Vec<Found> {
    let one = |(statement, windows): (&super::Statement, Vec<Range<usize>>)| {
        let text = |w: &Range<usize>| &evidence.text[w.clone()];
        let kept = |style: &super::Style| {
            windows.iter().any(|w| style.must.matches(text(w)))
                && !windows.iter().any(|w| style.must_not.matches(text(w)))
        };
        Found { styled: statement.styles.iter().map(kept).collect(), windows }
    };
    targets.statements.iter().zip(windows(targets, evidence)).map(one).collect()
}

/// Violations of the active categories outside all windows.
fn strays(targets: &NewsTargets, evidence: &Evidence, found: &[Found]) -> usize {
    let mut taken: Vec<&Range<usize>> = found.iter().flat_map(|f| &f.windows).collect();
    taken.sort_unstable_by_key(|w| w.start);
    // The furthest end of the windows up to each.
    let mut ends: Vec<usize> = Vec::with_capacity(taken.len());
    taken.iter().for_each(|w| ends.push(ends.last().copied().unwrap_or(0).max(w.end)));
    let outside = |at: usize| match taken.partition_point(|w| w.start <= at) {
        0 => true,
        i => ends[i - 1] <= at,
    };
    let active = global().iter().filter(|(category, _)| targets.categories.contains(category));
    active.map(|(_, regex)| regex.find_iter(&evidence.text).filter(|m| outside(m.start())).count()).sum()
}

/// The mean over categories of a share.
fn mean(targets: &NewsTargets, share: impl Fn(usize) -> f64) -> f64 {
    let of = |category: &usize| {
        let members = targets.statements.iter().enumerate().filter(|(_, s)| s.category == *category);
        let (n, sum) = members.fold((0, 0.0), |(n, sum), (i, _)| (n + 1, sum + share(i)));
        sum / f64::from(n.max(1))
    };
    targets.categories.iter().map(of).sum::<f64>() / targets.categories.len().max(1) as f64
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let evidence = Evidence::read(instance, visible);
    let empty = NewsTargets::default();
    let targets = targets(instance).unwrap_or(&empty);
    let found = read(targets, &evidence);
    let strays = strays(targets, &evidence, &found);
    let included = mean(targets, |i| f64::from(u8::from(!found[i].windows.is_empty())));
    let styled = mean(targets, |i| {
        found[i].styled.iter().filter(|&&kept| kept).count() as f64 / found[i].styled.len().max(1) as f64
    });
    let per_thousand = strays as f64 * 1000.0 / evidence.words.len().max(1) as f64;
    let clean = 1.0 / (1.0 + per_thousand / 10.0);
    let length = evidence.length;
    let mut multipliers = vec![("clean", clean)];
    multipliers.extend(evidence.multipliers());
    let spans: Vec<Spans> =
        found.iter().map(|f| f.windows.iter().take(2).map(|w| evidence.span(w)).collect()).collect();
    // Rules by their number over all statements.
    let rules: Vec<(usize, bool)> =
        found.iter().enumerate().flat_map(|(i, f)| f.styled.iter().map(move |&kept| (i, kept))).collect();
    let there: Vec<bool> = found.iter().map(|f| !f.windows.is_empty()).collect();
    Outcome {
        gate: Gate::Open,
        base: harmonic(&[(included, 1.0), (styled, 1.0)]),
        components: vec![("included", included), ("styled", styled)],
        multipliers,
        flags: evidence.flags(),
        may_echo: false,
        verdict: Box::new(move |c| {
            let i = c.target as usize;
            match (&*c.kind, there.get(i), rules.get(i)) {
                ("include", Some(&there), _) => {
                    (f64::from(u8::from(there)), Reason::Missing, spans[i].clone())
                }
                ("style", _, Some(&(statement, kept))) => {
                    let reason = if there[statement] { Reason::Wrong } else { Reason::Missing };
                    (f64::from(u8::from(kept)), reason, spans[statement].clone())
                }
                ("global_style", ..) => (clean, Reason::Extra, Spans::new()),
                ("length", ..) => (length, Reason::Count, Spans::new()),
                _ => unknown_kind(),
            }
        }),
    }
}

/// For each statement its first window, and which of its rules are kept.
pub(super) fn found(targets: &NewsTargets, evidence: &Evidence) -> Vec<(Option<Range<usize>>, Vec<bool>)> {
    read(targets, evidence).into_iter().map(|f| (f.windows.into_iter().next(), f.styled)).collect()
}
