//! A candidate and the gold calls of its step: the scored candidate.

use crate::json;
use crate::msg::Call;
use crate::parse::{Format, Mode, Parsing, parse_with};
use crate::record::{Candidate, GOLD_ORIGIN, Scored, Step};
use crate::rule::{Rational, ScoreOptions, rule_score};
use crate::value::Map;

/// Parses a candidate ([`Mode::Lenient`] unless said otherwise) and scores it against the gold calls of its step. Calls with a
/// value that JSON does not have (NaN) count as unparsable, since no tool can be sent them.
///
/// ```
/// use toolrm::{Format, Mode, ScoreOptions, parse, record, score_candidate};
/// let gold = parse("[weather(city='Paris', unit='celsius')]", Format::Pythonic, Mode::Strict)?.calls;
/// let said = record::read(r#"{"step_id":"s","origin":"m","text":"[weather(city='Paris')]"}"#).unwrap();
/// let out = score_candidate(said, "a", &gold, &ScoreOptions::default(), Mode::Lenient);
/// assert_eq!((out.score.num, out.score.den, out.message.as_str()), (1, 2, "ok"));
/// # Ok::<(), toolrm::ParseFail>(())
/// ```
pub fn score_candidate(
    candidate: Candidate,
    source: &str,
    gold: &[Call],
    options: &ScoreOptions,
    mode: Mode,
) -> Scored {
    let parsing = Parsing { think_split: true, tools: &[] };
    let parsed = parse_with(&candidate.text, candidate.format, mode, &parsing).ok();
    let parsed = parsed.filter(|p| p.calls.iter().all(has_json));
    let (content, calls) = match parsed {
        Some(p) => (p.text.trim().to_owned(), Some(p.calls)),
        None => (candidate.text.clone(), None),
    };
    let out = rule_score(gold, calls.as_deref(), options);
    Scored {
        source: source.to_owned(),
        content,
        calls,
        score: out.ratio,
        message: out.message.to_owned(),
        per_gold: out.per_gold.iter().map(|(i, sim)| (i.map(|i| i as u64), *sim)).collect(),
        candidate,
    }
}

fn has_json(call: &Call) -> bool {
    json::write_map(&call.args, &mut String::new()).is_ok()
}

/// The gold response of a step as a scored candidate: origin [`GOLD_ORIGIN`], score 1.
pub fn score_gold(step: &Step) -> Scored {
    Scored {
        candidate: Candidate {
            step_id: step.id.clone(),
            origin: GOLD_ORIGIN.to_owned(),
            text: step.content.clone(),
            format: Format::Auto,
            meta: Map::default(),
        },
        source: step.source.clone(),
        content: step.content.clone(),
        calls: Some(step.calls.clone()),
        score: Rational::ONE,
        message: "ok".to_owned(),
        per_gold: (0..step.calls.len()).map(|i| (Some(i as u64), 1.0)).collect(),
    }
}
