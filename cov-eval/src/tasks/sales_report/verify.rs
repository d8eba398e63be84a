//! Scoring a report by its tagged sentences.

use std::ops::Range;

use super::answer::Mentions;
use super::{SalesTargets, targets};
use crate::aggregate::{Outcome, harmonic, unknown_kind};
use crate::evidence::Evidence;
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, Reason, Spans};

/// Words of a sentence that answers, without its tags.
const WORDS: std::ops::RangeInclusive<usize> = 5..=60;
const MOST_TAGS: usize = 2;

/// A tag `[Q12]` and the sentence that it closes.
pub(super) struct Tagged {
    /// From 1, as it is written.
    pub(super) number: usize,
    pub(super) sentence: Range<usize>,
    pub(super) tag: Range<usize>,
    /// Tags in the sentence.
    together: usize,
}

/// Tags as they are written: `[Q` or `[q`, at most four digits, `]`.
fn tags(text: &str) -> Vec<(usize, Range<usize>)> {
    let read = |at: usize| {
        let rest = text[at + 1..].strip_prefix(['Q', 'q'])?;
        let digits = rest.bytes().take(5).take_while(u8::is_ascii_digit).count();
        let number = rest[..digits].parse().ok().filter(|_| digits <= 4)?;
        rest[digits..].starts_with(']').then_some((number, at..at + digits + 3))
    };
    text.match_indices('[').filter_map(|(at, _)| read(at)).collect()
}

/// The tagged sentences in their order. A sentence runs from the end of the one before it, or from the tag before it; tags
/// side by side close the same one, and a tag may stand after the period.
pub(super) fn tagged(evidence: &Evidence) -> Vec<Tagged> {
    let text = &evidence.text;
    let mut found: Vec<Tagged> = Vec::new();
    let mut starts = evidence.sentences.iter().map(|s| s.start).peekable();
    let (mut start, mut last_end) = (0, 0);
    for (number, tag) in tags(text) {
        let end =
            last_end + text[last_end..tag.start].trim_end_matches([' ', '\n', '\t', '.', '!', '?']).len();
        // The start of the sentence that holds what is before the tag.
        while let Some(next) = starts.next_if(|&s| s < end) {
            start = next;
        }
        let fresh = start.max(last_end);
        let blank = !text[fresh.min(end)..end].contains(|c: char| c.is_alphanumeric());
        let sentence = match found.last() {
            Some(previous) if blank => previous.sentence.clone(),
            _ => fresh.min(end)..end,
        };
        found.push(Tagged { number, sentence, tag: tag.clone(), together: 1 });
        last_end = tag.end;
    }
    // Tags that share a sentence are counted together.
    let same = |a: &Tagged, b: &Tagged, text: &str| {
        a.sentence == b.sentence
            || !text[a.tag.end..b.sentence.start.max(a.tag.end)].contains(['.', '!', '?', '\n'])
    };
    let mut from = 0;
    while from < found.len() {
        let mut to = from + 1;
        while to < found.len() && same(&found[to - 1], &found[to], text) {
            to += 1;
        }
        found[from..to].iter_mut().for_each(|t| t.together = to - from);
        from = to;
    }
    found
}

/// What became of a question.
#[derive(Clone)]
struct Found {
    answered: Result<(), Reason>,
    correct: bool,
    span: Spans,
}

fn judge(targets: &SalesTargets, evidence: &Evidence, all: &[Tagged]) -> Vec<Found> {
    let lookup = targets.lookup();
    let mut places: Vec<Vec<&Tagged>> = vec![Vec::new(); targets.questions.len()];
    for t in all {
        if let Some(list) = t.number.checked_sub(1).and_then(|i| places.get_mut(i)) {
            list.push(t);
        }
    }
    let one = |(question, places): (&super::Question, &Vec<&Tagged>)| {
        let refuse = |reason, span| Found { answered: Err(reason), correct: false, span };
        let [tagged] = places[..] else {
            let reason = if places.is_empty() { Reason::Missing } else { Reason::Repeated };
            return refuse(reason, places.iter().take(4).map(|t| evidence.span(&t.tag)).collect());
        };
        let from = tagged.sentence.start;
        let span = Spans::from_iter([evidence.span(&(from..tagged.tag.end.max(from)))]);
        let text = &evidence.text[tagged.sentence.clone()];
        // Longer texts are no sentences; they are not looked at.
        let fits = text.len() <= 4000 && WORDS.contains(&crate::words(text).len());
        if tagged.together > MOST_TAGS || !fits {
            return refuse(Reason::Format, span);
        }
        let mentions = Mentions::read(text, &lookup);
        let correct = question.parts.iter().all(|part| mentions.gives(part));
        Found { answered: Ok(()), correct, span }
    };
    targets.questions.iter().zip(&places).map(one).collect()
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let evidence = Evidence::read(instance, visible);
    let empty = SalesTargets::default();
    let targets = targets(instance).unwrap_or(&empty);
    let all = tagged(&evidence);
    let found = judge(targets, &evidence, &all);
    let asked = found.len().max(1) as f64;
    let answered = found.iter().filter(|f| f.answered.is_ok()).count() as f64 / asked;
    let correct = found.iter().filter(|f| f.correct).count() as f64 / asked;
    let (known, once) = {
        let known = all.iter().filter(|t| (1..=found.len()).contains(&t.number)).count();
        (
            known,
            found.iter().filter(|f| !matches!(f.answered, Err(Reason::Missing | Reason::Repeated))).count(),
        )
    };
    let strangers = all.len() - known;
    let crowded = all.iter().filter(|t| t.together > MOST_TAGS).count();
    let tags = once as f64 / (asked + strangers as f64 + crowded as f64);
    let length = evidence.length;
    let mut flags = evidence.flags();
    flags.set(FlagSet::TAG_STUFFING, crowded > 0 || known > found.len());
    Outcome {
        gate: Gate::Open,
        base: harmonic(&[(answered, 1.0), (correct, 1.0)]),
        components: vec![("answered", answered), ("correct", correct)],
        multipliers: evidence.multipliers(),
        flags,
        may_echo: false,
        verdict: Box::new(move |c| {
            let question = found.get(c.target as usize).cloned();
            match (&*c.kind, question) {
                ("answered", Some(Found { answered, span, .. })) => match answered {
                    Ok(()) => (1.0, Reason::Met, span),
                    Err(reason) => (0.0, reason, span),
                },
                ("correct", Some(Found { answered, correct, span })) => {
                    (f64::from(correct), answered.err().unwrap_or(Reason::Wrong), span)
                }
                ("tags", _) => (tags, Reason::Count, Spans::new()),
                ("length", _) => (length, Reason::Count, Spans::new()),
                _ => unknown_kind(),
            }
        }),
    }
}

/// Numbers (from 1) of the questions that an answer gets right, with the sentence and the tag of each.
pub(super) fn right(targets: &SalesTargets, evidence: &Evidence) -> Vec<(usize, Range<usize>, Range<usize>)> {
    let all = tagged(evidence);
    let found = judge(targets, evidence, &all);
    let right = all.iter().filter(|t| found.get(t.number.wrapping_sub(1)).is_some_and(|f| f.correct));
    right.map(|t| (t.number, t.sentence.clone(), t.tag.clone())).collect()
}
